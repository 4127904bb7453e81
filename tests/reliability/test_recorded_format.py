"""Runs as version 1 of the format wrote them go on, evaluate and predict; see their README."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny import info, series

import cnnbench
from cnnbench.runs import checkpoint, record

RECORDED = Path(__file__).parents[1] / "data" / "run_v1"


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    return Path(shutil.copytree(RECORDED, tmp_path / "runs"))


def test_a_new_format_brings_new_recorded_runs() -> None:
    assert (checkpoint.FORMAT, record.FORMAT) == (1, 1), "record runs of the new format beside"
    size = sum(file.stat().st_size for file in RECORDED.rglob("*") if file.is_file())
    assert size < 200_000


def test_an_interrupted_run_goes_on(recorded: Path) -> None:
    run = recorded / "interrupted"
    before = (run / "metrics.jsonl").read_text()
    assert info(run)["status"] == "interrupted"
    assert cnnbench.train([f"resume={run}", "max_seconds=1000"]) == run
    assert info(run)["status"] == "done"
    assert (run / "metrics.jsonl").read_text().startswith(before)
    assert len(series(run, "train/step_loss")) == 10
    assert len(series(run, "train/loss")) == 2
    # Another version of the code computed the rest, so to the last bit only the beginning is equal.
    whole = series(recorded / "done", "train/step_loss")
    assert series(run, "train/step_loss")[:5] == pytest.approx(whole, rel=1e-4)


def test_a_finished_run_is_evaluated_predicts_and_is_extended(recorded: Path) -> None:
    run = recorded / "done"
    results = info(run)["results"]
    scores = cnnbench.evaluate(run)
    assert scores["accuracy"] == results["test/accuracy"]
    assert scores["loss"] == pytest.approx(results["test/loss"], rel=1e-5)
    images = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    assert len(cnnbench.predict(run, images)) == 2
    assert cnnbench.train([f"resume={run}", "extend_epochs=1"]) == run
    assert json.loads((run / "checkpoints/manifest.json").read_text())["last"] == "epoch_0002"
