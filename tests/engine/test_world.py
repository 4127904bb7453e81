"""Several processes compute what one does, in float64, where only rounding is left."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def losses(size: int) -> dict[str, Any]:
    script = Path(__file__).with_name("two_ranks.py")
    done = subprocess.run(
        [sys.executable, script, str(size)], capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_an_epoch_in_two_processes_is_that_of_one() -> None:
    """No network of these has batch norm; two have dropout, and all class weights."""
    one, two = losses(1), losses(2)
    for name, expected in one.items():
        assert len(expected["steps"]) == 5
        for ours, theirs in zip(two[name]["steps"], expected["steps"], strict=True):
            assert ours == pytest.approx(theirs, rel=0, abs=1e-9)
        assert two[name]["sums"] == pytest.approx(expected["sums"], rel=0, abs=1e-9)
        assert two[name]["weights"] == pytest.approx(expected["weights"], rel=0, abs=1e-9)
