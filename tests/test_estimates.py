"""What a run will take, against what it took."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import tiny

import cnnbench
from cnnbench import estimates


@pytest.mark.parametrize(
    "settings",
    [
        ("optimizer=adamw", "optimizer.ema_decay=0.9"),
        ("optimizer=sgd", "checkpoint.keep_last=1"),
        ("optimizer=rmsprop", "optimizer.centered=true", "optimizer.momentum=0.9"),
    ],
)
def test_disk_use_is_foretold(
    settings: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foretold: list[int] = []
    reckon = estimates.disk_bytes

    def recorded(*args: int) -> int:
        foretold.append(reckon(*args))
        return foretold[-1]

    monkeypatch.setattr(estimates, "disk_bytes", recorded)
    wide = ("model=mlp", "model.hidden=[300]", "num_epochs=4")
    run = cnnbench.train(tiny(tmp_path, *wide, *settings))
    took = sum(file.stat().st_size for file in (run / "checkpoints").iterdir())
    assert 0.5 * foretold[0] < took <= 1.05 * foretold[0]


def test_a_disk_and_a_memory_too_small_are_said_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("cnnbench.estimates.shutil.disk_usage", lambda path: few)
    monkeypatch.setattr("cnnbench.estimates.memory_bytes", lambda: 1000)
    cnnbench.train(tiny(tmp_path, "num_epochs=1"))
    out, err = capsys.readouterr()
    assert "of checkpoints" in out
    assert "lower checkpoint.keep_last" in err
    assert "lower data.batch_size" in err


def test_nothing_is_said_where_both_will_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cnnbench.train(tiny(tmp_path, "num_epochs=1"))
    assert "may take" not in capsys.readouterr().err


def test_memory_grows_with_the_batch() -> None:
    model = torch.nn.Linear(10, 10)
    small, large = (estimates.training_bytes(model, 0, 1000, size) for size in (1, 11))
    assert large - small == 3 * 1000 * 10
