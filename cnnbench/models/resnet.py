"""Residual networks for images of any size.

ResNet: He et al., https://arxiv.org/abs/1512.03385, table 1. ResNeXt: Xie et al.,
https://arxiv.org/abs/1611.05431, table 1. Wide ResNet: Zagoruyko and Komodakis,
https://arxiv.org/abs/1605.07146.

Departures are in the cards below.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor, nn

from cnnbench.config.schema import Count
from cnnbench.errors import UsageError
from cnnbench.layers import (
    BasicBlock,
    BottleneckBlock,
    StemName,
    Step,
    build_stem,
    smallest_image,
    zero_last_norms,
)
from cnnbench.models.row import SMALL_STEM, Card, Departure, ModelRow, NumClasses

_WIDTHS = (64, 128, 256, 512)
_EXPANSION = {"basic": 1, "bottleneck": 4}


class ResNet(nn.Module):
    """A stem, four stages of residual blocks, the average of each feature map, one linear layer.

    Args:
        in_channels: channels of the images.
        num_classes: logits to give.
        block: `basic` or `bottleneck`.
        num_blocks: blocks of each stage.
        groups: groups of each bottleneck's 3x3 convolution.
        width_per_group: channels of a group in the first stage; 64 in the plain network.
        stem: `imagenet` (7x7/2 and max pool) or `small` (3x3/1).
        pool_ceil_mode: the stem's pool pads by nothing and rounds sizes up; otherwise it pads by 1.
        stride_in_1x1: put a bottleneck's stride into its first 1x1.
        zero_init: start the last norm of each block at zero.
    """

    def __init__(
        self,
        *,
        in_channels: Count,
        num_classes: NumClasses,
        block: Literal["basic", "bottleneck"],
        num_blocks: tuple[Count, Count, Count, Count],
        groups: Count = 1,
        width_per_group: Count = 64,
        stem: StemName = "small",
        pool_ceil_mode: bool = False,
        stride_in_1x1: bool = False,
        zero_init: bool = True,
    ) -> None:
        super().__init__()
        if pool_ceil_mode and stem == "small":
            raise UsageError("pool_ceil_mode=true: stem=small has no pool; expected stem=imagenet")
        self.min_image_size, self.min_image_layer = smallest_image(_steps(stem, pool_ceil_mode))
        self.stem = build_stem(in_channels, _WIDTHS[0], stem, pool_ceil_mode=pool_ceil_mode)
        stages = []
        channels = _WIDTHS[0]
        for index, (depth, width) in enumerate(zip(num_blocks, _WIDTHS, strict=True)):
            blocks: list[nn.Module] = []
            out_channels = width * _EXPANSION[block]
            for number in range(depth):
                stride = 2 if index > 0 and number == 0 else 1
                if block == "basic":
                    blocks.append(BasicBlock(channels, out_channels, stride=stride))
                else:
                    hidden_channels = width * width_per_group // 64 * groups
                    blocks.append(
                        BottleneckBlock(
                            channels,
                            hidden_channels,
                            out_channels,
                            stride=stride,
                            groups=groups,
                            stride_in_1x1=stride_in_1x1,
                        )
                    )
                channels = out_channels
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(channels, num_classes)
        if zero_init:
            zero_last_norms(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, num_classes) for x (N, in_channels, H, W)."""
        x = self.stem(x)  # (N, 64, H', W'), H' = H / 4 with the imagenet stem, else H
        # expansion times 64, 128, 256, 512 channels of H', H'/2, H'/4, H'/8
        x = self.stages(x)
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


def _steps(stem: StemName, pool_ceil_mode: bool) -> list[Step]:
    if stem == "small":
        return [Step("stem conv", 3, 1, 1)]
    padding = 0 if pool_ceil_mode else 1
    return [Step("stem conv", 7, 2, 3), Step("stem pool", 3, 2, padding, pool_ceil_mode)]


_STRIDE = Departure(
    "the stride of a bottleneck is in its 3x3, which is more accurate at little cost",
    "model.stride_in_1x1=true",
)
_ZERO_INIT = Departure(
    "the last norm of each block starts at zero, so that a deep network starts as a shallow one "
    "(Goyal et al., https://arxiv.org/abs/1706.02677, section 5.1)",
    "model.zero_init=false",
)
_IMAGENET_STEM = {"stem": "imagenet"}


def _resnet_card(depth: int, macs: str, args: Mapping[str, Any], *departures: Departure) -> Card:
    return Card(
        title=f"ResNet-{depth} (2015)",
        source="He et al., Deep Residual Learning for Image Recognition",
        link="https://arxiv.org/abs/1512.03385",
        rows="table 1",
        paper_macs=macs,
        args={**_IMAGENET_STEM, **args},
        departures=(SMALL_STEM, *departures, _ZERO_INIT),
    )


def _basic(depth: int, num_blocks: tuple[int, int, int, int], macs: str) -> ModelRow:
    # A basic block has no 1x1 that could hold the stride.
    fixed = {"block": "basic", "stride_in_1x1": False, "groups": 1, "width_per_group": 64}
    return ModelRow(ResNet, _resnet_card(depth, macs, {}), {**fixed, "num_blocks": num_blocks})


def _deep(depth: int, num_blocks: tuple[int, int, int, int], macs: str) -> ModelRow:
    return _bottleneck(
        _resnet_card(depth, macs, {"stride_in_1x1": True}, _STRIDE), num_blocks, 1, 64
    )


def _bottleneck(
    card: Card, num_blocks: tuple[int, int, int, int], groups: int, width_per_group: int
) -> ModelRow:
    fixed = {"block": "bottleneck", "groups": groups, "width_per_group": width_per_group}
    return ModelRow(ResNet, card, {**fixed, "num_blocks": num_blocks})


# Table 1 of the three papers: blocks of each stage.
MODELS = {
    "resnet18": _basic(18, (2, 2, 2, 2), "1.8 billion"),
    "resnet34": _basic(34, (3, 4, 6, 3), "3.6 billion"),
    "resnet50": _deep(50, (3, 4, 6, 3), "3.8 billion"),
    "resnet101": _deep(101, (3, 4, 23, 3), "7.6 billion"),
    "resnet152": _deep(152, (3, 8, 36, 3), "11.3 billion"),
    "resnext50_32x4d": _bottleneck(
        Card(
            "ResNeXt-50 32x4d (2016)",
            "Xie et al., Aggregated Residual Transformations for Deep Neural Networks",
            link="https://arxiv.org/abs/1611.05431",
            rows="table 1",
            paper_params="25.0 million",
            paper_macs="4.2 billion",
            args=_IMAGENET_STEM,
            departures=(SMALL_STEM, _ZERO_INIT),
        ),
        (3, 4, 6, 3),
        32,
        4,
    ),
    "wide_resnet50_2": _bottleneck(
        Card(
            "Wide ResNet-50-2 (2016)",
            "Zagoruyko and Komodakis, Wide Residual Networks",
            link="https://arxiv.org/abs/1605.07146",
            rows="section 3.4",
            paper_params="68.9 million",
            args=_IMAGENET_STEM,
            departures=(SMALL_STEM, _STRIDE, _ZERO_INIT),
        ),
        (3, 4, 6, 3),
        1,
        128,
    ),
}
