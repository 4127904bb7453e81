"""Figures that course notes print, each computed anew."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from network_cases import meta_model
from torch import nn

import cnnbench
from cnnbench.engine.loop import loss_of, training_loss
from cnnbench.errors import UsageError
from cnnbench.geometry.trace import analyze
from cnnbench.losses import LOSSES


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


def test_mean_squared_error():
    x = torch.tensor([[1.0], [2.0], [3.0]])
    found, _ = loss_of(LOSSES["mse"])(nn.Identity(), x, torch.tensor([1.0, 2.0, 5.0]))
    assert round(found.item(), 4) == 1.3333


def test_a_sequential_at_229_pixels():
    """Two plain convolutions, a pool, two with strides, a pool: 227 225 112 55 19 9."""
    layers = nn.Sequential(
        *(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(4, 16, 5, 2, 1), nn.ReLU(), nn.Conv2d(16, 3, 5, 3, 2), nn.ReLU()),
        nn.MaxPool2d(2),
    )
    assert layers(torch.zeros(10, 3, 229, 229)).shape == (10, 3, 9, 9)
    shapes = [layer["output_shape"] for layer in cnnbench.summary(layers, (3, 229, 229))["layers"]]
    sides = list(dict.fromkeys(side for _, side, _ in shapes))
    assert shapes[-1] == [3, 9, 9]
    assert sides == [227, 225, 112, 55, 19, 9]


def test_memory_of_the_first_stage():
    """What convolutions and norms give, kept for both passes: 9.634 MB an image, 192.68 for 10."""
    stage = nn.Sequential(*(Unit(64, 64, 1) for _ in range(3)))
    layers = cnnbench.summary(stage, (64, 56, 56))["layers"]
    kept = [layer for layer in layers if layer["kind"] in ("Conv2d", "BatchNorm2d")]
    megabytes = sum(4 * math.prod(layer["output_shape"]) for layer in kept) / 1e6
    assert round(megabytes, 3) == 9.634
    assert round(megabytes * 10 * 2, 2) == 192.68


def test_three_groups_of_four_channels_are_refused():
    with pytest.raises(UsageError, match="divisible by groups"):
        cnnbench.summary(blocks=["grouped 4 8 3 3"])
