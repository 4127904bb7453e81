"""Seconds of runs that shared the machine are marked, and neither ranked nor compared."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from recorded_runs import write_run
from tiny import info, train

import cnnbench
from cnnbench.cli.main import run as cli


def test_times_of_runs_that_had_company(tmp_path: Path, capsys) -> None:
    alone = train(tmp_path / "runs", "num_epochs=1", "model=softmax")
    with_company = tmp_path / "runs" / "company"
    for seed, path in ((0, with_company), (1, tmp_path / "runs" / "mixed")):
        shutil.copytree(alone, path)
        record = info(path)
        record["seed"] = record["config"]["seed"] = seed
        if path is with_company:
            record["config"]["optimizer"]["lr"] = 0.5
        record["provenance"]["processes"][0]["beside"] = ["seed=9-abcdef"]
        (path / "run.json").write_text(json.dumps(record))
    capsys.readouterr()
    assert cli(["compare", str(tmp_path / "runs"), "--baseline", str(alone)]) == 0
    text = capsys.readouterr().out
    assert "* measured beside other jobs of its sweep" in text
    rows = cnnbench.compare(tmp_path / "runs", baseline=str(alone))["rows"]
    shared, mixed = sorted(rows, key=lambda row: row["n"])
    # Of two seeds, one had company: the other's seconds are the row's.
    seconds = [json.loads(line) for line in (alone / "metrics.jsonl").read_text().splitlines()]
    [mine] = [line["perf/epoch_seconds"] for line in seconds if "perf/epoch_seconds" in line]
    assert mixed["epoch_seconds"] == {"mean": mine, "std": None}
    assert shared["difference"]["epoch_seconds"]["n"] == 0
    assert shared["difference"]["test/accuracy"]["n"] == 1
    ordered = cnnbench.compare(tmp_path / "runs", sort="epoch_seconds")["rows"]
    assert [row["n"] for row in ordered] == [2, 1]
    lines = text.splitlines()
    assert sum("*" in line.replace("* measured", "") for line in lines) == 1


def test_seconds_of_different_devices_are_told_and_not_paired(tmp_path: Path, capsys) -> None:
    def computed(seed: int, capability: str, **more: Any) -> None:
        effective = {"device": "cpu", "device_name": "AMD EPYC", "cpu_capability": capability}
        process = {"started": f"2026-01-01T00:00:0{seed}+0000", "effective": effective}
        change = {"provenance": {"processes": [process]}}
        write_run(tmp_path, seed=seed, change=change, **more)

    def told() -> tuple[str, str]:
        assert cli(words) == 0
        return " ".join(capsys.readouterr().out.split()), page.read_text(encoding="utf-8")

    page = tmp_path / "page.html"
    words = ["compare", str(tmp_path), "--baseline", "lenet", "--html", str(page)]
    for seed in (0, 1):
        computed(seed, "AVX2")
        computed(seed, "AVX2", model="mlp")
    computed(2, "AVX2", model="mlp")
    text, html = told()
    assert "different devices" not in text + html
    assert "Fastest: lenet" in text
    assert "<option>train_seconds</option>" in html
    computed(2, "AVX512")
    text, html = told()
    note = "do not compare the rows: rows 1, 2 on AMD EPYC (AVX2); row 1 on AMD EPYC (AVX512)."
    assert note in text
    assert note in html
    assert "Fastest" not in text
    assert "<option>train_seconds</option>" not in html
    [_, other] = cnnbench.compare(tmp_path, baseline="lenet")["rows"]
    assert other["difference"]["epoch_seconds"]["n"] == 2
    assert other["difference"]["test/accuracy"]["n"] == 3
    computed(0, "AVX512", model="nin")
    text, _ = told()
    assert "not measured alike" in text
