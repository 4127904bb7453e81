"""Checked plans of tiny runs, with other sizes and devices than this machine has."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

from tiny import TINY

from cnnbench.config.compose import Composer
from cnnbench.training.launch import check

SOFTMAX = (*TINY, "model=softmax", "data.native_size=8", "num_epochs=1")


def plan(macs: int = 10**6, device: str = "cpu", **changes: Any) -> Any:
    """A checked plan, with another size or device."""
    composer = Composer()
    words = [*SOFTMAX, "device.num_threads=null", *(f"{k}={v}" for k, v in changes.items())]
    found = check(composer.compose({s.key: s.values[0] for s in composer.parse(words)}))
    network = dataclasses.replace(found.network, macs=macs)
    # A device that this machine may lack is known by its type alone.
    return dataclasses.replace(found, network=network, device=SimpleNamespace(type=device))
