"""DenseNet: Huang et al., https://arxiv.org/abs/1608.06993, table 1 (DenseNet-BC).

The departure is in the card below; the paper's own networks for 32-pixel images have that stem.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from cnnbench.config.schema import Count, Probability
from cnnbench.layers import StemName, Step, build_stem, smallest_image
from cnnbench.models.row import SMALL_STEM, Card, ModelRow, NumClasses

_BOTTLENECK = 4  # section 3: a layer's 1x1 gives four times the growth rate


class DenseLayer(nn.Module):
    """Norm, ReLU and 1x1, then norm, ReLU and 3x3; its channels are appended to its input.

    Args:
        in_channels: input channels.
        growth_rate: channels that are added.
        dropout: probability after the 3x3.
    """

    def __init__(self, in_channels: int, growth_rate: int, *, dropout: float) -> None:
        super().__init__()
        hidden_channels = _BOTTLENECK * growth_rate
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.act1 = nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, hidden_channels, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(hidden_channels)
        self.act2 = nn.ReLU()
        self.conv2 = nn.Conv2d(hidden_channels, growth_rate, 3, padding=1, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, in_channels + growth_rate, H, W) for x (N, in_channels, H, W)."""
        y = self.conv1(self.act1(self.norm1(x)))
        y = self.conv2(self.act2(self.norm2(y)))
        return torch.cat([x, self.dropout(y)], dim=1)


class DenseNet(nn.Module):
    """A stem, four dense stages with halving transitions between, one linear layer.

    Args:
        in_channels: channels of the images, of at least 8 pixels (29 with the imagenet stem).
        num_classes: logits to give.
        num_layers: dense layers of each stage.
        growth_rate: channels that each layer adds.
        stem: `imagenet` (7x7/2 and max pool) or `small` (3x3/1).
        dropout: probability in each dense layer.
    """

    def __init__(
        self,
        *,
        in_channels: Count,
        num_classes: NumClasses,
        num_layers: tuple[Count, ...],
        growth_rate: Count = 32,
        stem: StemName = "small",
        dropout: Probability = 0.0,
    ) -> None:
        super().__init__()
        self.min_image_size, self.min_image_layer = smallest_image(_steps(stem, len(num_layers)))
        channels = 2 * growth_rate
        self.stem = build_stem(in_channels, channels, stem)
        stages: OrderedDict[str, nn.Module] = OrderedDict()
        for number, depth in enumerate(num_layers, 1):
            layers = [
                DenseLayer(channels + index * growth_rate, growth_rate, dropout=dropout)
                for index in range(depth)
            ]
            channels += depth * growth_rate
            stages[f"stage{number}"] = nn.Sequential(*layers)
            if number < len(num_layers):
                stages[f"transition{number}"] = _transition(channels)
                channels //= 2
        self.stages = nn.Sequential(stages)
        self.norm = nn.BatchNorm2d(channels)
        self.act = nn.ReLU()
        self.head = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, num_classes) for x (N, in_channels, H, W)."""
        x = self.stem(x)  # (N, 64, H', W'), H' = H / 4 with the imagenet stem, else H
        # (N, 256, H', W'), (N, 512, H'/2, W'/2), (N, 1024, H'/4, W'/4), (N, 1024, H'/8, W'/8)
        x = self.act(self.norm(self.stages(x)))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


def _transition(in_channels: int) -> nn.Sequential:
    """Halve channels and sides."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    parts["norm"] = nn.BatchNorm2d(in_channels)
    parts["act"] = nn.ReLU()
    parts["conv"] = nn.Conv2d(in_channels, in_channels // 2, 1, bias=False)
    parts["pool"] = nn.AvgPool2d(2)
    return nn.Sequential(parts)


def _steps(stem: StemName, num_stages: int) -> list[Step]:
    steps = [Step(f"transition{number}", 2, 2) for number in range(1, num_stages)]
    if stem == "imagenet":
        return [Step("stem conv", 7, 2, 3), Step("stem pool", 3, 2, 1), *steps]
    return [Step("stem conv", 3, 1, 1), *steps]


MODELS = {
    "densenet121": ModelRow(
        DenseNet,
        Card(
            "DenseNet-121 (2016)",
            "Huang et al., Densely Connected Convolutional Networks",
            link="https://arxiv.org/abs/1608.06993",
            rows="table 1",
            args={"stem": "imagenet"},
            departures=(SMALL_STEM,),
        ),
        {"num_layers": (6, 12, 24, 16)},
    )
}
