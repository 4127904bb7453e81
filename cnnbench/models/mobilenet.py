"""MobileNets, made of depthwise and 1x1 convolutions.

V1: Howard et al., https://arxiv.org/abs/1704.04861, table 1. V2: Sandler et al.,
https://arxiv.org/abs/1801.04381, table 2. V1's activation is ReLU as in its paper, V2's ReLU6.
The departure is in the cards below.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from cnnbench.config.schema import Count, Probability, RatioNumber
from cnnbench.layers import StemName, Step, conv_unit, scale_channels, smallest_image
from cnnbench.models.row import Card, Departure, ModelRow, NumClasses

# V1, table 1: output channels and stride of each depthwise-separable block.
_V1_ROWS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *[(512, 1)] * 5,
    (1024, 2),
    # The paper's table says stride 2 here, its sizes say 1.
    (1024, 1),
)


class _V2Row(NamedTuple):
    expansion: int
    channels: int
    num_blocks: int
    stride: int


# V2, table 2.
_V2_ROWS = (
    _V2Row(1, 16, 1, 1),
    _V2Row(6, 24, 2, 2),
    _V2Row(6, 32, 3, 2),
    _V2Row(6, 64, 4, 2),
    _V2Row(6, 96, 3, 1),
    _V2Row(6, 160, 3, 2),
    _V2Row(6, 320, 1, 1),
)
_SMALLEST = smallest_image([Step("stem", 3, 2, 1)])


class MobileNetV1(nn.Module):
    """A stem, thirteen depthwise-separable blocks, a global average, one linear layer.

    Args:
        in_channels: channels of the images.
        num_classes: logits to give.
        stem: `imagenet`, or `small` without the first two strides.
        width_multiplier: scales every layer but the last.
    """

    min_image_size, min_image_layer = _SMALLEST

    def __init__(
        self,
        *,
        in_channels: Count,
        num_classes: NumClasses,
        stem: StemName = "small",
        width_multiplier: RatioNumber = 1.0,
    ) -> None:
        super().__init__()
        is_small = stem == "small"
        channels = scale_channels(32, width_multiplier)
        self.stem = conv_unit(
            in_channels, channels, 3, stride=1 if is_small else 2, padding=1, norm=True
        )
        blocks = []
        for index, (paper_width, paper_stride) in enumerate(_V1_ROWS):
            width = scale_channels(paper_width, width_multiplier)
            stride = 1 if is_small and index == 1 else paper_stride
            depthwise = conv_unit(
                channels, channels, 3, stride=stride, padding=1, groups=channels, norm=True
            )
            blocks.append(nn.Sequential(depthwise, conv_unit(channels, width, 1, norm=True)))
            channels = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, num_classes) for x (N, in_channels, H, W)."""
        x = self.stem(x)  # (N, 32, H/2, W/2) with the imagenet stem
        # (N, 128, H/4, W/4), (N, 256, H/8, W/8), (N, 512, H/16, W/16), (N, 1024, H/32, W/32)
        x = self.blocks(x)
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class InvertedResidualBlock(nn.Module):
    """1x1 that widens, depthwise 3x3, and 1x1 without activation, beside an identity if it fits.

    Args:
        in_channels: input channels.
        out_channels: output channels.
        stride: of the depthwise convolution.
        expansion: how many times the first 1x1 widens; with 1 it is left out.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        units = []
        if expansion != 1:
            units.append(conv_unit(in_channels, hidden, 1, norm=True, act=nn.ReLU6))
        units.append(
            conv_unit(
                hidden,
                hidden,
                3,
                stride=stride,
                padding=1,
                groups=hidden,
                norm=True,
                act=nn.ReLU6,
            )
        )
        units.append(conv_unit(hidden, out_channels, 1, norm=True, act=None))
        self.layers = nn.Sequential(*units)
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, out_channels, H / stride, W / stride) for x (N, in_channels, H, W)."""
        y: Tensor = self.layers(x)
        return x + y if self.has_shortcut else y


class MobileNetV2(nn.Module):
    """A stem, seventeen inverted residual blocks, a 1x1 to 1280 channels, one linear layer.

    Args:
        in_channels: channels of the images.
        num_classes: logits to give.
        stem: `imagenet`, or `small` without the first two strides.
        dropout: probability before the last layer.
        width_multiplier: scales the layers to multiples of 8; the 1280 channels never shrink.
    """

    min_image_size, min_image_layer = _SMALLEST

    def __init__(
        self,
        *,
        in_channels: Count,
        num_classes: NumClasses,
        stem: StemName = "small",
        dropout: Probability = 0.2,
        width_multiplier: RatioNumber = 1.0,
    ) -> None:
        super().__init__()
        is_small = stem == "small"
        channels = _round_to_8(32 * width_multiplier)
        self.stem = conv_unit(
            in_channels,
            channels,
            3,
            stride=1 if is_small else 2,
            padding=1,
            norm=True,
            act=nn.ReLU6,
        )
        blocks = []
        for index, row in enumerate(_V2_ROWS):
            width = _round_to_8(row.channels * width_multiplier)
            first_stride = 1 if is_small and index == 1 else row.stride
            for number in range(row.num_blocks):
                stride = first_stride if number == 0 else 1
                blocks.append(
                    InvertedResidualBlock(channels, width, stride=stride, expansion=row.expansion)
                )
                channels = width
        self.blocks = nn.Sequential(*blocks)
        last_channels = _round_to_8(1280 * max(1.0, width_multiplier))
        self.last = conv_unit(channels, last_channels, 1, norm=True, act=nn.ReLU6)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(last_channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, num_classes) for x (N, in_channels, H, W)."""
        x = self.stem(x)  # (N, 32, H/2, W/2) with the imagenet stem
        # (N, 24, H/4, W/4), (N, 32, H/8, W/8), (N, 96, H/16, W/16), (N, 320, H/32, W/32)
        x = self.last(self.blocks(x))  # (N, 1280, H/32, W/32)
        logits: Tensor = self.head(self.dropout(x.mean((2, 3))))
        return logits


def _round_to_8(channels: float) -> int:
    """Return the nearest multiple of 8 that takes away at most a tenth."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


_NO_STRIDES = Departure(
    "the first two strides are 1, so that the sides of a small image shrink to an eighth, not to a "
    "32nd",
    "model.stem=imagenet",
)

MODELS = {
    "mobilenet_v1": ModelRow(
        MobileNetV1,
        Card(
            "MobileNet v1 (2017)",
            "Howard et al., MobileNets: Efficient Convolutional Neural Networks for Mobile Vision "
            "Applications",
            link="https://arxiv.org/abs/1704.04861",
            rows="table 1",
            paper_params="4.2 million",
            paper_macs="569 million",
            args={"stem": "imagenet"},
            departures=(_NO_STRIDES,),
        ),
    ),
    "mobilenet_v2": ModelRow(
        MobileNetV2,
        Card(
            "MobileNet v2 (2018)",
            "Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks",
            link="https://arxiv.org/abs/1801.04381",
            rows="table 2",
            paper_params="3.4 million",
            paper_macs="300 million",
            args={"stem": "imagenet"},
            departures=(_NO_STRIDES,),
        ),
    ),
}
