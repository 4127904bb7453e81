"""What a run writes grows with what it logs and saves, not with its steps or its interruptions."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import info, stop_when, tiny, train

import cnnbench
from cnnbench.errors import Interrupted

LENGTH = ("num_epochs=2", "log_every_steps=1000")


def written(run: Path) -> dict[str, int]:
    """Return the bytes of what TensorBoard and the metrics take."""
    events = sum(file.stat().st_size for file in run.rglob("events.out.tfevents.*"))
    return {"events": events, "metrics": (run / "metrics.jsonl").stat().st_size}


def test_eight_times_the_steps_take_no_more(tmp_path: Path) -> None:
    few = written(train(tmp_path, *LENGTH, "data.batch_size=16"))
    many = written(train(tmp_path, *LENGTH, "data.batch_size=2"))
    # Digits differ, and which epochs were the best; 63 more steps would be seen at 8 bytes each.
    assert many["events"] - few["events"] == pytest.approx(0, abs=500)
    assert many["metrics"] - few["metrics"] == pytest.approx(0, abs=500)


def test_each_logged_step_takes_the_same(tmp_path: Path) -> None:
    sizes = [
        written(train(tmp_path, f"num_epochs={epochs}", "log_every_steps=1"))["events"]
        for epochs in (2, 4, 8)
    ]
    assert sizes[2] - sizes[1] == pytest.approx(2 * (sizes[1] - sizes[0]), rel=0.2)


def test_going_on_again_and_again_adds_a_few_lines_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ("num_epochs=6", "log_every_steps=1")
    whole = written(train(tmp_path / "whole", *settings))
    for epoch in range(1, 6):
        [*begun] = (tmp_path / "cut").rglob("run.json")
        more = [f"resume={begun[0].parent}"] if begun else tiny(tmp_path / "cut", *settings)
        with monkeypatch.context() as patch:
            stop_when(patch, lambda training, epoch=epoch: training.state.epoch == epoch)
            with pytest.raises(Interrupted):
                cnnbench.train(more)
    run = cnnbench.train([f"resume={begun[0].parent}"])
    assert info(run)["status"] == "done"
    cut = written(run)
    assert cut["metrics"] == pytest.approx(whole["metrics"], rel=0.02)
    assert (cut["events"] - whole["events"]) / 5 < 600
