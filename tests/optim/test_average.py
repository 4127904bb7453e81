"""The moving average of the weights, warmed up so that a short run ends with what it learnt."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import info
from torch import nn

import cnnbench
from cnnbench.optim.average import MovingAverage


def test_the_decay_rises_to_what_was_asked_for() -> None:
    average = MovingAverage(nn.Linear(1, 1), 0.9)
    decays = []
    for _ in range(100):
        average.update_parameters(nn.Linear(1, 1))
        decays.append(average.effective_decay())
    assert decays[:3] == [2 / 11, 3 / 12, 4 / 13]
    assert decays[79] == pytest.approx(81 / 90)
    assert decays[78] < decays[79] == decays[-1] == 0.9


def test_of_a_weight_that_moves_one_up_each_update() -> None:
    model = nn.Linear(1, 1, bias=False)
    average = MovingAverage(model, 0.999)
    expected = 0.0
    for step in range(50):
        nn.init.constant_(model.weight, step)
        average.update_parameters(model)
        share = (1 + step) / (10 + step)
        expected = step if step == 0 else share * expected + (1 - share) * step
        assert average.module.weight.item() == pytest.approx(expected, rel=1e-5)
    # A lag of a tenth of the run, where a plain 0.999 would still stand near the beginning.
    assert average.module.weight.item() > 43


def test_no_step_waits_for_the_count() -> None:
    assert MovingAverage(nn.Linear(1, 1), 0.5).n_averaged.device == torch.device("cpu")


def test_a_short_run_is_as_right_with_it_as_without(tmp_path: Path) -> None:
    settings = ["num_epochs=3", "data.batch_size=32", "device=cpu", "device.num_threads=1"]
    plain, averaged = (
        info(cnnbench.train([*settings, *more, f"output_root={tmp_path}"]))["results"]
        for more in ([], ["optimizer.ema_decay=0.999"])
    )
    assert plain["test/accuracy"] > 0.85
    assert averaged["test/accuracy"] > plain["test/accuracy"] - 0.04
