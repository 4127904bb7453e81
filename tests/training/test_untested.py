"""Runs that leave the test images unread, and runs that a search gave up."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from key_effects import composed
from tiny import info, records, tiny, train

import cnnbench
from cnnbench.cli.main import run as cli
from cnnbench.data.splits import Splits
from cnnbench.errors import UsageError
from cnnbench.runs.directory import RunDir
from cnnbench.training import launch


def test_the_test_images_are_read_where_they_are_wanted_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    original = Splits.batches

    def noted(self: Splits, split: str, batch_size: int) -> Iterator[object]:
        read.append(split)
        return original(self, split, batch_size)

    monkeypatch.setattr(Splits, "batches", noted)
    with_test, without = train(tmp_path / "a"), train(tmp_path / "b", "evaluate_test=false")
    assert read == ["val", "val", "test", "val", "val"]
    left, right = info(with_test)["results"], info(without)["results"]
    assert [name for name in right if name.startswith("test/")] == []
    assert (left["test_reads"], right["test_reads"]) == (1, 0)
    assert left["val/accuracy"] == right["val/accuracy"]
    assert "test_confusion" not in info(without)
    assert not (without / "predictions.npz").exists()
    assert not any("test/loss" in record for record in records(without))
    # A later reading gives what the other run found, is counted, and makes its row complete.
    measured = cnnbench.evaluate(without)
    assert measured["accuracy"] == left["test/accuracy"]
    assert info(without)["results"]["test/accuracy"] == left["test/accuracy"]
    assert info(without)["results"]["test_reads"] == 1
    assert (without / "predictions.npz").exists()
    cnnbench.evaluate(without, split="val")
    assert info(without)["results"]["test_reads"] == 1
    assert info(with_test)["results"] == left


def test_a_row_without_test_images_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path, "evaluate_test=false")
    train(tmp_path, "evaluate_test=false", "optimizer.lr=0.1")
    capsys.readouterr()
    assert cli(["compare", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "2 rows whose test images are unread" in " ".join(out.split())
    assert "undecided" not in out
    rows = cnnbench.compare(tmp_path)["rows"]
    accuracies = [row["val/accuracy"]["mean"] for row in rows]
    assert accuracies == sorted(accuracies, reverse=True)
    assert [row["test/accuracy"]["mean"] for row in rows] == [None, None]
    assert [row["test_reads"] for row in rows] == [0, 0]
    assert cli(["compare", str(tmp_path), "--html", str(tmp_path / "page.html")]) == 0
    assert cli(["compare", str(tmp_path), "--plots", str(tmp_path / "plots")]) == 0


def test_the_epoch_cannot_be_selected_on_images_that_stay_unread(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="selection=test: reads the test images"):
        train(tmp_path, "evaluate_test=false", "selection=test")


def test_a_run_that_was_given_up_is_done_after_its_epoch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "outputs"
    whole = train(root, "num_epochs=3", "evaluate_test=false")
    run = RunDir(root / "given_up")
    config = composed(*tiny(root, "num_epochs=3", "evaluate_test=false", "optimizer.lr=0.01"))
    asked = []

    def is_pruned() -> bool:
        asked.append(1)
        return len(asked) > 1  # not before the second epoch

    launch.resume(config, run, ["a", "test"], is_pruned=is_pruned)
    record = info(run.path)
    assert (record["status"], record["reason"]) == ("done", "pruned")
    epochs = [line["epoch"] for line in records(run.path) if "train/loss" in line]
    assert epochs == [1, 2]
    assert record["results"]["best_epoch"] in (1, 2)
    assert record["results"]["test_reads"] == 0
    capsys.readouterr()
    # It is finished: nothing resumes it.
    assert cnnbench.train([f"resume={run.path}"]) == run.path
    assert info(run.path) == record
    # Compare leaves it out, and says how it is seen.
    assert cli(["compare", str(root), "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["runs"] for row in found["rows"]] == [[str(whole)]]
    assert [(left["run"], left["status"]) for left in found["left_out"]] == [
        (str(run.path), "pruned")
    ]
    assert cli(["compare", str(root)]) == 0
    assert "--pruned shows" in capsys.readouterr().out
    assert len(cnnbench.compare(root, pruned=True)["rows"]) == 2
    assert cli(["compare", str(root), "--pruned"]) == 0


def test_how_much_tuning_came_before_a_run_is_a_column(tmp_path: Path) -> None:
    run = train(tmp_path, "tuning.trials=50", "tuning.seconds=812.5")
    [row] = cnnbench.compare(run)["rows"]
    assert row["tuning_trials"]["mean"] == 50
    assert row["tuning_seconds"]["mean"] == 812.5
    # It decides no result: the run is the same.
    other = train(tmp_path)
    keys = [info(path)["provenance"]["run_key"] for path in (run, other)]
    assert keys[0] == keys[1]
    [row] = cnnbench.compare(tmp_path)["rows"]
    assert row["n"] == 1  # of one seed the newer counts
