"""Numbers that are not finite under loss scaling: skipped while the scale can fall, then told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import info, series, tiny

from cnnbench.cli.main import run as cli
from cnnbench.engine import loop

SMALL = ("model=softmax", "data.native_size=8", "num_epochs=3")


@pytest.fixture
def scale(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Train with a loss scaler, as fp16 does, on the CPU; the scale it begins with."""
    start = [4.0]
    monkeypatch.setattr(
        "cnnbench.training.setup.grad_scaler",
        lambda *args: torch.amp.GradScaler("cpu", init_scale=start[0]),
    )
    return start


def overflow(monkeypatch: pytest.MonkeyPatch, num_steps: int) -> None:
    """Make gradients of the first steps infinite while the loss is not."""
    original, calls = loop.training_loss, [0]

    def overflowing(
        *args: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        loss, logits = original(*args)
        calls[0] += 1
        if calls[0] <= num_steps:
            loss.register_hook(lambda grad: grad * float("inf"))
        return loss, logits

    monkeypatch.setattr(loop, "training_loss", overflowing)


def test_steps_that_loss_scaling_skips_are_normal(
    scale: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scale[0] = 2.0**16
    overflow(monkeypatch, 3)
    assert cli(["train", *tiny(tmp_path, *SMALL)]) == 0
    [path] = [file.parent for file in tmp_path.rglob("run.json")]
    assert len(series(path, "train/step_loss")) == 15


def test_a_scale_that_cannot_fall_further_ends_in_one_sentence(
    scale: list[float],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    overflow(monkeypatch, 100)
    assert cli(["train", *tiny(tmp_path, *SMALL, "optimizer=sgd", "optimizer.lr=0.1")]) == 76
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    # 4, 2, 1, 1/2: the third step is the last that halves a scale of at least 1.
    assert "epoch 1, step 3" in err
    assert "learning rate" in err
    [path] = [file.parent for file in tmp_path.rglob("run.json")]
    assert info(path)["status"] == "failed"
    assert not list(path.rglob("*.pt"))
