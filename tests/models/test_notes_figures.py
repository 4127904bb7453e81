"""Figures that course notes print, each computed anew."""

from __future__ import annotations

import itertools

import pytest
import torch
from network_cases import meta_model
from torch import nn

from cnnbench.engine.loop import training_loss
from cnnbench.errors import UsageError
from cnnbench.geometry.trace import analyze


class Unit(nn.Module):
    """A basic block whose projection is built always, and used where shapes change."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.shortcut = nn.Sequential(
            nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
        )
        self.changes = before != after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + (self.shortcut(x) if self.changes else x))


@pytest.mark.parametrize(
    ("widths", "stride", "side", "num_params", "macs"),
    [
        ((64, 64, 64, 64), 1, 56, 234_624, "6.94"),
        ((128, 256, 256, 256, 256, 256, 256), 2, 14, 7_152_640, "3.34"),
    ],
)
def test_resnet_stages(widths, stride, side, num_params, macs):
    units = [
        Unit(before, after, stride if before != after else 1)
        for before, after in itertools.pairwise(widths)
    ]
    found = analyze(nn.Sequential(*units), (widths[0], side, side))
    assert found.num_params == num_params
    assert f"{10 * found.macs / 1e9:.2f}" == macs


@pytest.mark.parametrize(
    ("block", "num_params"), [("3a", 164_064), ("3b", 389_376), ("4a", 376_800)]
)
def test_googlenet_blocks(block, num_params):
    model = meta_model("googlenet", 96, args={"norm": "conv", "stem": "imagenet"})
    found = model.get_submodule(f"blocks.inception{block}")
    assert sum(parameter.numel() for parameter in found.parameters()) == num_params


def test_a_pool_with_ceil_and_with_floor():
    x = [[1, 2, 0, 3, 1], [0, 1, 2, 3, 1], [1, 2, 1, 0, 0], [5, 2, 3, 1, 1], [2, 1, 0, 1, 1]]
    image = torch.tensor(x, dtype=torch.float32)[None, None]
    assert nn.MaxPool2d(3, ceil_mode=True)(image).flatten().tolist() == [2, 3, 5, 1]
    assert nn.MaxPool2d(3, ceil_mode=False)(image).flatten().tolist() == [2]


@pytest.mark.parametrize(
    ("logits", "targets", "loss"),
    [
        ([[0.2, 0.1, -0.1]], [0], 0.9729),
        ([[0.1, 0.2, 0.9], [1.1, 0.1, 0.2], [0.2, 2.1, 0.1]], [2, 0, 1], 0.4966),
        ([[0.8, 0.2, 0.3], [0.2, 0.3, 0.5], [0.2, 0.2, 0.5]], [2, 0, 1], 1.2389),
    ],
)
def test_cross_entropy(logits, targets, loss):
    found, _ = training_loss(nn.Identity(), torch.tensor(logits), torch.tensor(targets))
    assert round(found.item(), 4) == loss


def test_three_groups_of_four_channels_are_refused():
    import cnnbench

    with pytest.raises(UsageError, match="divisible by groups"):
        cnnbench.summary(blocks=["grouped 4 8 3 3"])
