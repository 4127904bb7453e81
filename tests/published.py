"""Weights as torchvision publishes them, made here: nothing is fetched."""

from __future__ import annotations

import dataclasses
import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision


def publish(monkeypatch: pytest.MonkeyPatch, home: Path, state: Mapping[str, Any]) -> Path:
    """Put a file of ResNet-18's weights into torch's cache, under the name that it is known by.

    Args:
        monkeypatch: undoes it.
        home: `TORCH_HOME` from now on.
        state: what the file holds.
    """
    monkeypatch.setenv("TORCH_HOME", str(home))
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)  # noqa: TID251
    name = f"resnet18-{hashlib.sha256(buffer.getvalue()).hexdigest()[:8]}.pth"
    weights = torchvision.models.ResNet18_Weights.DEFAULT
    url = f"https://download.pytorch.org/models/{name}"
    monkeypatch.setattr(weights, "_value_", dataclasses.replace(weights.value, url=url))
    file = home / "hub" / "checkpoints" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(buffer.getvalue())
    return file
