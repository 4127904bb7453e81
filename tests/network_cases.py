"""Networks for tests: built without memory, and which of them each run of the suite leaves out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest
import torch
from torch import nn

from cnnbench.models import create_model

# What only `pytest -m slow` tests, and why.
SLOW = {
    "training": {
        **dict.fromkeys(("resnet34", "resnet101", "resnet152"), "resnet18 and 50 with more blocks"),
        **dict.fromkeys(("resnet50", "resnext50_32x4d", "wide_resnet50_2"), "seconds per step"),
    },
    "export": {
        **dict.fromkeys(("resnet34", "resnet101", "resnet152"), "7 s for what resnet18 and 50 do"),
        "resnext50_32x4d": "resnet50 with groups",
        "wide_resnet50_2": "resnet50 with other widths",
        "densenet121": "120 layers take 6 s",
    },
    "logits": dict.fromkeys(("vgg13", "vgg16", "vgg19"), "vgg11 with more layers; .5 GB each"),
}


def cases(names: Iterable[str], test: str) -> list[Any]:
    """Return names as parameters of a test, the slow ones marked."""
    return [
        pytest.param(name, marks=pytest.mark.slow if name in SLOW[test] else ()) for name in names
    ]


def meta_model(
    name: str,
    image_size: int,
    *,
    in_channels: int = 3,
    num_classes: int = 10,
    args: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build a network on the meta device."""
    with torch.device("meta"):
        return create_model(
            name,
            in_channels=in_channels,
            num_classes=num_classes,
            image_size=image_size,
            args=args,
        )
