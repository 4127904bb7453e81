"""Each network learns from the command line with nothing but its name, by what its YAML says.

Longer than the suite allows: `python -m pytest -m slow tests/models/test_learning.py`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import series

import cnnbench
from cnnbench.models import MODELS

# Epochs of 81 steps on the digits, for those that need more than two.
EPOCHS = {"nin": 5, "nin_cifar": 3}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_network_learns_as_it_comes(name: str, tmp_path: Path) -> None:
    epochs = EPOCHS.get(name, 2)
    run = cnnbench.train([f"model={name}", f"num_epochs={epochs}", f"output_root={tmp_path}"])
    assert max(series(run, "val/accuracy")) > 0.7
