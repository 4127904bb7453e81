"""Recorded results: written from runs, read as data, and what a new run is measured against."""

from __future__ import annotations

import json
import re
import shutil
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from tiny import info, train

import cnnbench
from cnnbench.analysis import recorded as files
from cnnbench.analysis.recorded import read_recorded, record_runs, write_recorded
from cnnbench.analysis.reproduce import judge_run, prediction_interval
from cnnbench.cli.main import run as command
from cnnbench.config.compose import Composer
from cnnbench.config.groups import conf_dir
from cnnbench.errors import CnnbenchError, DataError

FAST = ("model=softmax", "num_epochs=1")
# Presets that show how a thing is done; nobody asks what they reach.
WITHOUT_CLAIM = ("hours_to_pass", "sigmoid_mlp")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("runs")
    return [train(root, *FAST, f"seed={seed}") for seed in (0, 1, 2)]


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory that stands for the committed results."""
    (tmp_path / "results").mkdir()
    monkeypatch.setattr(files, "results_dir", lambda: tmp_path / "results")
    return tmp_path / "results"


def recorded(results: Path, paths: list[Path], **changes: object) -> str:
    result = replace(record_runs("mine", paths), **changes)
    write_recorded(result, results / "mine.json")
    return "mine"


def test_the_interval_holds_one_new_value_as_often_as_it_says() -> None:
    draw = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        values = draw.normal(0.9, 0.01, size=6)
        low, high = prediction_interval(list(values[:5]))
        hits += low <= values[5] <= high
    assert 0.935 < hits / 2000 < 0.965
    values = [0.91, 0.93, 0.92]
    expected = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values) * np.sqrt(3 + 1))
    assert prediction_interval(values) == pytest.approx(expected)


def test_a_file_says_what_was_run(results: Path, runs: list[Path]) -> None:
    name = recorded(results, runs)
    tree = json.loads((results / "mine.json").read_text())
    records = [info(run) for run in runs]
    assert [run["seed"] for run in tree["runs"]] == [0, 1, 2]
    for run, record in zip(tree["runs"], records, strict=True):
        assert run["test"] == record["results"]["test/accuracy"]
        assert run["val"] == record["results"]["val/accuracy"]
        assert run["tflop"] == record["results"]["train_tflop"]
    assert tree["metric"] == "test/accuracy"
    assert tree["torch"] == torch.__version__
    assert tree["config"]["model"] == {**tree["config"]["model"], "name": "softmax"}
    assert not {"seed", "output_root", "resume"} & tree["config"].keys()
    assert read_recorded(name).values == [run["test"] for run in tree["runs"]]


def test_a_recorded_seed_gives_equal_bits(results: Path, runs: list[Path], tmp_path: Path) -> None:
    name = recorded(results, runs)
    found = cnnbench.reproduce(name, f"seed=1 output_root={tmp_path} device=cpu")
    assert found["verdict"] == "equal"
    result = read_recorded(name)
    other = replace(result.runs[1], weights_sha256="0" * 64)
    write_recorded(replace(result, runs=(result.runs[0], other)), results / "mine.json")
    assert judge_run(name, found["run"])["verdict"] == "different"


def test_a_new_seed_is_judged_by_the_interval(
    results: Path, runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    near = [
        replace(run, test=value)
        for run, value in zip(record_runs("mine", runs).runs, (0.5, 0.9, 0.7), strict=True)
    ]
    name = recorded(results, runs, runs=tuple(near))
    found = cnnbench.reproduce(name, f"output_root={tmp_path} device=cpu")
    assert (found["seed"], found["verdict"]) == (3, "inside")
    # Of .5, .9 and .7 it would be from -.29 to 1.69.
    assert found["interval"] == [0, 1]
    far = [replace(run, test=run.test / 1e6) for run in near]
    name = recorded(results, runs, runs=tuple(far))
    capsys.readouterr()
    assert command(["reproduce", name, "--run", found["run"]]) == 1
    assert "outside: not reproduced" in capsys.readouterr().out


def test_one_run_and_other_machines_are_only_reported(results: Path, runs: list[Path]) -> None:
    new = runs[2]
    name = recorded(results, runs[:1])
    found = judge_run(name, new)
    assert (found["verdict"], found["interval"]) == ("reported", None)
    assert "one run alone" in found["reason"]
    name = recorded(results, runs[:2], device="Another CPU")
    found = judge_run(name, new)
    assert found["verdict"] == "reported"
    assert "another kind of machine (Another CPU)" in found["reason"]
    assert command(["reproduce", name, "--run", str(new)]) == 0


def test_a_cpu_of_the_same_name_with_other_instructions_is_another_machine(
    results: Path, runs: list[Path], tmp_path: Path
) -> None:
    copies = [shutil.copytree(run, tmp_path / "copies" / run.name) for run in runs]
    record = json.loads((copies[0] / "run.json").read_text())
    effective = record["provenance"]["processes"][0]["effective"]
    here = record_runs("mine", runs).device
    assert here is not None
    assert here.startswith(f"{effective['device_name']} ({effective['cpu_capability']}")
    effective["cpu_capability"] = "of another"
    (copies[0] / "run.json").write_text(json.dumps(record))
    with pytest.raises(CnnbenchError, match="several kinds of machine"):
        record_runs("mine", copies)
    # With a recorded seed and another result, which would be different on one kind of machine.
    name = recorded(results, runs)
    found = judge_run(name, copies[0])
    assert found["verdict"] == "reported"
    assert f"another kind of machine ({here})" in found["reason"]


def test_seconds_are_the_steps_that_they_paid_for(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cnnbench.training import estimates

    more = ("model=softmax", "num_epochs=5", "budget.seconds=9")
    monkeypatch.setattr(estimates, "affordable_steps", lambda setup, seconds: 7)
    run = train(tmp_path / "first", *more)
    monkeypatch.setattr(estimates, "affordable_steps", lambda setup, seconds: 70)
    name = recorded(results, [run])
    found = cnnbench.reproduce(name, f"seed=0 output_root={tmp_path} device=cpu")
    assert found["verdict"] == "equal"
    assert judge_run(name, run)["verdict"] == "equal"


def test_what_would_be_another_recipe_is_refused(results: Path, runs: list[Path]) -> None:
    name = recorded(results, runs)
    with pytest.raises(CnnbenchError, match="would be another recipe"):
        cnnbench.reproduce(name, "optimizer.lr=0.1")
    with pytest.raises(CnnbenchError, match="no recorded result of that name; did you mean 'mine'"):
        cnnbench.reproduce("mina")


def test_runs_of_several_recipes_are_no_result(runs: list[Path], tmp_path: Path) -> None:
    other = train(tmp_path, *FAST, "optimizer.lr=0.5")
    with pytest.raises(CnnbenchError, match=r"of one recipe, found 2: .*optimizer.lr"):
        record_runs("mine", [*runs, other])


def test_runs_of_two_kinds_of_machine_are_no_result(runs: list[Path], tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(runs[0], moved)
    record = json.loads((moved / "run.json").read_text())
    record["provenance"]["processes"][0]["effective"]["device_name"] = "Another CPU"
    (moved / "run.json").write_text(json.dumps(record))
    with pytest.raises(CnnbenchError, match="differ in device"):
        record_runs("mine", [moved, *runs[1:]])


def test_a_run_that_has_not_read_the_test_images_is_no_result(tmp_path: Path) -> None:
    unread = train(tmp_path, *FAST, "evaluate_test=false")
    with pytest.raises(CnnbenchError, match="has no test/accuracy: it was trained"):
        record_runs("mine", [unread])


def test_a_run_of_another_recipe_is_not_judged(
    results: Path, runs: list[Path], tmp_path: Path
) -> None:
    name = recorded(results, runs)
    other = train(tmp_path, *FAST, "optimizer.lr=0.5")
    with pytest.raises(CnnbenchError, match=r"not a run of mine: optimizer.lr=0.5, recorded 0.001"):
        judge_run(name, other)


def test_a_presets_name_is_for_its_runs(runs: list[Path]) -> None:
    with pytest.raises(CnnbenchError, match="not of experiment=hours_to_pass"):
        record_runs("hours_to_pass", runs)


def test_files_of_this_machine_are_not_recorded(runs: list[Path], tmp_path: Path) -> None:
    run = train(tmp_path, *FAST, f"model.weights={runs[0]}")
    with pytest.raises(CnnbenchError, match="nobody could reproduce it"):
        record_runs("mine", [run])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no JSON"),
        ("[]", "it is no JSON object"),
        ("{}", "it has no 'format'"),
        ('{"format": 1}', "it has no 'runs'"),
        ('{"format": 2}', "its format is 2"),
        ("[" * 100000, ""),
    ],
)
def test_a_damaged_file_is_one_sentence(text: str, why: str, tmp_path: Path) -> None:
    file = tmp_path / "damaged.json"
    file.write_text(text)
    with pytest.raises(DataError, match=f"not a recorded result: {why}"):
        read_recorded(str(file))


def test_a_file_that_names_code_runs_none(results: Path, runs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nNet = None\n")
    result = record_runs("mine", runs)
    model = {"name": "custom", "path": f"{tmp_path}/evil.py:Net", "args": {}}
    write_recorded(replace(result, config={**result.config, "model": model}), results / "mine.json")
    with pytest.raises(CnnbenchError, match="names code to run"):
        cnnbench.reproduce("mine")
    assert not (tmp_path / "ran").exists()


def test_every_committed_result_is_of_its_preset_as_it_is() -> None:
    for name in files.known_results():
        assert files.changed_keys(read_recorded(name)) == [], name


@pytest.mark.parametrize("name", Composer().groups.choices("experiment"))
def test_a_presets_header_says_what_was_measured(name: str) -> None:
    text = (conf_dir() / "experiment" / f"{name}.yaml").read_text()
    title, *notes = re.findall(r"(?m)^# (?!@)(.*)", text)
    if name in files.known_results():
        found = read_recorded(name)
        assert "not measured" not in title
        assert f"{statistics.fmean(found.values):.4f}"[1:] in " ".join(notes)
        assert f"n={len(found.runs)}" in " ".join(notes)
    elif name not in WITHOUT_CLAIM:
        assert title.endswith("not measured here")


def test_the_script_writes_a_file(results: Path, runs: list[Path]) -> None:
    assert files.main(["mine", *map(str, runs)]) == 0
    assert read_recorded("mine").command.startswith("cnnbench")
    assert files.main(["other", "/no/where"]) == 2
