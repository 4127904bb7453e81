"""Whether an epoch of ``benchmarks/contenders.py`` is one, however often it is its turn."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
from tiny import TINY

import cnnbench.analysis.bench  # noqa: F401 - before a test has imported what its Triton crashes on
from cnnbench.config.command import single_config
from cnnbench.config.compose import Composer
from cnnbench.training.launch import check, read
from cnnbench.training.setup import set_up

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_cnnbench_trains_in_every_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    contenders: Any = importlib.import_module("contenders")
    composer = Composer()
    plan = check(single_config(composer, composer.parse([*TINY, "num_epochs=1"])))
    setup = set_up(plan, read(plan))
    monkeypatch.setattr(contenders, "make_setup", lambda work: setup)
    _, epoch = contenders.cnnbench(None)
    for turn in (1, 2, 3):
        assert epoch() > 0
        assert setup.state.global_step == turn * setup.data.steps_per_epoch
    contenders._LOGS.close()
