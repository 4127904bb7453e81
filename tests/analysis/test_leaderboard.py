"""The page of all networks: its order, its verdicts, and what it does not judge."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from cnnbench.analysis.leaderboard import committed, page, plot
from cnnbench.analysis.recorded import RecordedResult, RecordedRun
from cnnbench.config.compose import Composer
from cnnbench.config.run_config import to_tree
from cnnbench.config.settings import leaves
from cnnbench.errors import CnnbenchError
from cnnbench.sweeps.jobs import expand

PAGE = Path(__file__).parents[2] / "docs" / "leaderboard.md"


def result(name: str, values: list[float], **config: object) -> RecordedResult:
    runs = tuple(RecordedRun(n, v, v, 60.0, 24.0, "0" * 64) for n, v in enumerate(values))
    return RecordedResult(
        name=f"leaderboard/{name}",
        command="cnnbench train",
        commit=None,
        date="2026-11-26",
        code_version="1",
        device="A CPU",
        torch="2.14",
        num_threads=2,
        precision="fp32",
        metric="test/accuracy",
        num_test=10_000,
        model={"name": name, "num_params": 1000, "macs": 20_000},
        config={
            "model": {"name": name},
            "data": {"batch_size": 64},
            "optimizer": {"lr": 0.001},
            **config,
        },
        runs=runs,
    )


def cells(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|") and "`" in line]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_rows_are_ranked_and_judged_over_seeds() -> None:
    near = [0.930, 0.931, 0.929, 0.9305, 0.9295, 0.930, 0.931, 0.929]
    rows = cells(
        page(
            [
                result("worse", [value - 0.05 for value in near]),
                result("best", near),
                result(
                    "equal", [value + d for value, d in zip(near, [1e-4, -1e-4] * 4, strict=True)]
                ),
            ]
        )
    )
    assert sorted(row[1] for row in rows[:2]) == ["`best`", "`equal`"]
    assert rows[2][:2] == ["3", "`worse`"]
    assert [row[4] for row in rows] == ["best", "equivalent", "worse"]
    assert rows[2][5] == "-0.0500"
    assert rows[0][6:] == ["0.001", "64", "1,000", "20,000", "24.0", "60"]


def test_single_runs_have_a_table_without_verdicts() -> None:
    text = page([result("several", [0.9, 0.91, 0.92]), result("single", [0.99])])
    before, after = text.split("## One run each")
    assert "`several`" in before
    assert "`single`" not in before
    assert cells(after) == [
        ["`single`", "0.9900", "1", "0.001", "64", "1,000", "20,000", "24.0", "60"]
    ]
    assert "verdict" not in after


def test_rows_name_their_machine_where_there_are_several() -> None:
    one = result("one", [0.9, 0.91])
    other = replace(result("other", [0.8]), device="Another")
    assert [row[-1] for row in cells(page([one, other]))] == ["A CPU", "Another"]
    assert "machine |" not in page([one, result("other", [0.8])])


def test_the_figure_is_an_image_of_every_network(tmp_path: Path) -> None:
    (file,) = plot([result("one", [0.9, 0.91]), result("other", [0.8])], tmp_path / "figure")
    (larger,) = plot([result(name, [0.8]) for name in "abcdefgh"], tmp_path / "larger")
    with Image.open(file) as small, Image.open(larger) as large:
        assert small.width == large.width
        assert small.height < large.height


def test_results_of_other_recipes_have_no_page() -> None:
    other = result("other", [0.9], budget={"tflop": 40})
    with pytest.raises(CnnbenchError, match=r"differ in budget.tflop"):
        page([result("one", [0.9]), other])
    with pytest.raises(CnnbenchError, match="test images"):
        page([result("one", [0.9]), replace(result("two", [0.9]), num_test=500)])


def test_the_committed_results_are_of_the_study() -> None:
    composer = Composer()
    study = {
        job.config.model.name: dict(leaves(to_tree(job.config)))
        for job in expand(composer, composer.parse(["study=leaderboard"])).jobs
    }
    for found in committed():
        now = study[found.model["name"]]
        then = dict(leaves(dict(found.config)))
        changed = [key for key in then if now[key] != then[key]]
        # Threads change no recipe.
        allowed = {"device.num_threads"}
        # A CPU that would emulate bfloat16 computed in float32, as the study's file says.
        if then["device.precision"] == "fp32" and "bf16" not in (found.device or ""):
            allowed.add("device.precision")
        assert set(changed) <= allowed, found.name


def test_the_committed_page_is_of_the_committed_results() -> None:
    expected = "python -m cnnbench.analysis.leaderboard > docs/leaderboard.md"
    assert PAGE.read_text() == page(committed()), expected
