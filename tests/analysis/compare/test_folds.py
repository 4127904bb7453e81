"""Rows of folds: the corrected t by hand, what folds into one row, and what is never averaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from cnnbench.analysis.compare.formats import comparison_text
from cnnbench.analysis.compare.plots import plot_comparison
from cnnbench.analysis.compare.report import render_report
from cnnbench.analysis.compare.tables import Comparison, compare_runs
from cnnbench.cli import main as cli
from tests.recorded_runs import write_run

LENET = [0.91, 0.95, 0.90, 0.93, 0.92]
MLP = [0.85, 0.90, 0.86, 0.87, 0.88]
TRAIN, TEST = 1300, 360


def write(
    root: Path,
    model: str,
    values: list[float],
    *,
    seed: int = 0,
    num_folds: int = 5,
    is_val: bool = False,
    skip: tuple[int, ...] = (),
    **settings: Any,
) -> None:
    """Write a run for each fold, of digits, or of data that has a test part of its own."""
    counts = {"num_train": TRAIN, "num_val": 140, "num_test": TEST}
    if is_val:
        counts |= {"num_val": TEST, "num_test": 999, "measured": "val"}
    for fold, value in enumerate(values):
        if fold in skip:
            continue
        keys = {"data.fold": fold, "data.num_folds": num_folds, **settings}
        change = {"data": counts}
        run = write_run(root, model=model, seed=seed, test=value, settings=keys, change=change)
        if is_val:
            record = json.loads((run / "run.json").read_text())
            results = record["results"]
            results |= {"val/accuracy": value, "test_reads": 0, "selection": "last"}
            results = {k: v for k, v in results.items() if not k.startswith("test/")}
            (run / "run.json").write_text(json.dumps({**record, "results": results}))


def by_model(found: Comparison) -> dict[str, dict[str, Any]]:
    return {row.values["model"]: dict(row.verdict) for table in found.tables for row in table.rows}


def corrected(differences: Any, ratio: float) -> tuple[float, tuple[float, float]]:
    """Return p and interval of Nadeau and Bengio's test, by their formula."""
    k = len(differences)
    mean, variance = np.mean(differences), np.var(differences, ddof=1)
    error = np.sqrt((1 / k + ratio) * variance)
    half = stats.t.ppf(0.975, k - 1) * error
    return 2 * stats.t.sf(abs(mean / error), k - 1), (mean - half, mean + half)


@pytest.mark.parametrize("is_val", [False, True])
def test_folds_are_one_row_judged_by_the_corrected_t(tmp_path: Path, is_val: bool) -> None:
    write(tmp_path, "lenet", LENET, is_val=is_val)
    write(tmp_path, "mlp", MLP, is_val=is_val)
    found = compare_runs([tmp_path])
    [table] = found.tables
    assert [(row.values["model"], row.values["n"]) for row in table.rows] == [
        ("lenet", 5),
        ("mlp", 5),
    ]
    assert not found.left_out
    worse = by_model(found)["mlp"]
    p, interval = corrected(np.subtract(MLP, LENET), TEST / TRAIN)
    assert (worse["verdict"], worse["verdict_basis"]) == ("worse", "folds")
    assert worse["verdict_method"] == "corrected t-test over folds"
    assert worse["p"] == pytest.approx(p)
    assert worse["interval"] == pytest.approx(interval)
    assert worse["seeds_needed"] is None
    low, high = by_model(found)["lenet"]["accuracy_interval"]
    centre = np.mean(LENET)
    assert [low - centre, high - centre] == pytest.approx(
        np.subtract(corrected(LENET, TEST / TRAIN)[1], centre)
    )
    # The margin is of all folds' images.
    assert table.margin == pytest.approx(max(0.002, 2 / (5 * TEST)))
    assert table.sentences[0].startswith("Most accurate: lenet, 0.9220 (")
    assert table.sentences[0].endswith(", 5 folds).")
    assert table.sentences[-1] == "This rests on the corrected t-test over folds."
    assert any(note.startswith("Of row 2: the corrected t-test") for note in table.notes)
    text = comparison_text(found, "text")
    assert f"Δ {'val' if is_val else 'test'}/accuracy" in text
    assert "Of rows of folds, n counts folds and seeds." in text
    rows = json.loads(comparison_text(found, "json"))["rows"]
    assert rows[0]["folds"] == [0, 1, 2, 3, 4]
    assert rows[0]["test_reads"] == (0 if is_val else 1)
    # Differences that are not tested have no p of a test that folds break.
    differences = compare_runs([tmp_path], baseline="lenet").tables[0].rows[1].differences
    name = "val/accuracy" if is_val else "test/accuracy"
    assert differences[name]["n"] == 5
    assert differences[name]["p"] is None


def test_six_folds_are_never_flipped(tmp_path: Path) -> None:
    write(tmp_path, "lenet", [*LENET, 0.94], num_folds=6)
    write(tmp_path, "mlp", [*MLP, 0.89], num_folds=6)
    assert by_model(compare_runs([tmp_path]))["mlp"]["verdict_basis"] == "folds"


def test_several_seeds_of_a_fold_count_as_their_mean(tmp_path: Path) -> None:
    for seed, shift in enumerate((0.0, 0.02, -0.01)):
        write(tmp_path, "lenet", [value + shift for value in LENET], seed=seed)
        write(tmp_path, "mlp", MLP, seed=seed)
    found = compare_runs([tmp_path])
    means = np.add(LENET, 0.01 / 3)
    p, interval = corrected(np.subtract(MLP, means), TEST / TRAIN)
    verdict = by_model(found)["mlp"]
    assert verdict["p"] == pytest.approx(p)
    assert verdict["interval"] == pytest.approx(interval)
    assert found.tables[0].rows[0].values["n"] == 15
    assert found.tables[0].sentences[0].endswith(", 5 folds, 15 runs).")
    assert not any("other seeds" in note for note in found.tables[0].notes)
    write(tmp_path, "lenet", LENET, seed=3, skip=(1, 2, 3, 4))
    notes = compare_runs([tmp_path]).tables[0].notes
    assert any(note.startswith("Row 1: its folds have other seeds") for note in notes)


def test_two_runs_of_a_fold_and_seed_are_told_and_the_newer_counts(tmp_path: Path) -> None:
    write(tmp_path, "lenet", LENET)
    write(tmp_path, "lenet", [0.5], skip=())
    found = compare_runs([tmp_path])
    [gone] = found.left_out
    assert gone.reason.startswith("fold 0, seed 0 was run again: ")


def test_a_larger_training_part_does_not_make_a_smaller_variance(tmp_path: Path) -> None:
    write(tmp_path, "lenet", LENET)
    write(tmp_path, "mlp", MLP, **{"data.val_fraction": 0.0})
    for run in tmp_path.rglob("run.json"):
        record = json.loads(run.read_text())
        if record["model"]["name"] == "mlp":
            record["data"]["num_train"] = 1440
            run.write_text(json.dumps(record))
    p, _ = corrected(np.subtract(MLP, LENET), TEST / TRAIN)
    assert by_model(compare_runs([tmp_path]))["mlp"]["p"] == pytest.approx(p)


def test_missing_folds_and_too_few_are_said(tmp_path: Path) -> None:
    write(tmp_path, "lenet", LENET)
    write(tmp_path, "mlp", MLP, skip=(2,))
    found = compare_runs([tmp_path])
    verdict = by_model(found)["mlp"]
    assert (verdict["verdict"], verdict["verdict_basis"]) == ("undecided", None)
    notes = found.tables[0].notes
    assert "Row 2: 4 of 5 folds; missing: 2." in notes
    assert any("Nothing can be tested of row 2: below 3 folds, or other folds" in n for n in notes)
    # The same four folds of both are compared, with what four folds are worth.
    four = tmp_path / "four"
    write(four, "lenet", LENET, skip=(2,))
    write(four, "mlp", MLP, skip=(2,))
    p, _ = corrected(np.delete(np.subtract(MLP, LENET), 2), TEST / TRAIN)
    assert by_model(compare_runs([four]))["mlp"]["p"] == pytest.approx(p)
    two = tmp_path / "two"
    write(two, "lenet", LENET[:2], num_folds=2)
    write(two, "mlp", MLP[:2], num_folds=2)
    assert by_model(compare_runs([two]))["mlp"]["verdict"] == "undecided"


@pytest.mark.parametrize("odd", ["whole test set", "other number", "other draw", "val"])
def test_other_folds_and_none_are_not_judged_beside_folds(odd: str, tmp_path: Path) -> None:
    write(tmp_path, "lenet", LENET)
    write(tmp_path, "nin", MLP)
    if odd == "whole test set":
        for seed in range(3):
            write_run(tmp_path, model="mlp", seed=seed, test=0.99)
    elif odd == "other number":
        write(tmp_path, "mlp", [0.99] * 4, num_folds=4)
    elif odd == "other draw":
        write(tmp_path, "mlp", [0.99] * 5, **{"data.split_seed": 1})
    else:
        write(tmp_path, "mlp", [0.99] * 5, is_val=True)
    found = compare_runs([tmp_path])
    verdicts = by_model(found)
    assert verdicts["mlp"]["verdict"] is None
    assert (verdicts["lenet"]["verdict"], verdicts["nin"]["verdict"]) == ("best", "worse")
    assert found.tables[0].notes[0].startswith("Not judged: row 1: ")


def test_an_epoch_chosen_on_the_fold_itself_is_marked(tmp_path: Path) -> None:
    write(tmp_path, "lenet", LENET, is_val=True)
    [row] = compare_runs([tmp_path]).tables[0].rows
    assert row.not_comparable == []
    for file in tmp_path.rglob("run.json"):
        file.write_text(file.read_text().replace('"selection": "last"', '"selection": "val/loss"'))
    [row] = compare_runs([tmp_path]).tables[0].rows
    assert row.not_comparable == ["epoch selected on the fold that it is measured on"]


def test_the_self_test_refuses_folds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "lenet", [0.9] * 12, num_folds=12)
    assert cli.run(["compare", str(tmp_path), "--self-test"]) == 2
    assert "folds, which share training images" in capsys.readouterr().err


@pytest.mark.parametrize("is_val", [False, True])
def test_page_plots_and_every_format_show_folds(tmp_path: Path, is_val: bool) -> None:
    write(tmp_path, "lenet", LENET, is_val=is_val)
    write(tmp_path, "mlp", MLP, is_val=is_val)
    found = compare_runs([tmp_path])
    for kind in ("text", "markdown", "csv", "json", "latex"):
        assert "0.92" in comparison_text(found, kind)
    assert "0.9220" in render_report(found)
    assert plot_comparison(found, tmp_path / "plots")
