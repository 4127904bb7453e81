"""Residual networks for images of any size.

ResNet: He et al., https://arxiv.org/abs/1512.03385, table 1. ResNeXt: Xie et al.,
https://arxiv.org/abs/1611.05431, table 1. Wide ResNet: Zagoruyko and Komodakis,
https://arxiv.org/abs/1605.07146.

Departures: `stem=small`, the default, is a 3x3 convolution of stride 1 without pool, because the
7x7/2 stem and its pool throw away most of a 32-pixel image; the stride of a bottleneck is in its
3x3, which is more accurate at equal cost (`stride_in_1x1=true` is the paper's); each block's last
norm starts at zero (`zero_init`), so that a deep network starts as a shallow one
(Goyal et al., https://arxiv.org/abs/1706.02677, section 5.1).
"""

from __future__ import annotations

from torch import Tensor, nn

from cnnbench.layers import (
    BasicBlock,
    BottleneckBlock,
    Step,
    build_stem,
    check_choice,
    check_counts,
    smallest_image,
    zero_last_norms,
)

# Table 1 of the three papers: blocks per stage.
NUM_BLOCKS: dict[str, tuple[int, int, int, int]] = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
    "resnet152": (3, 8, 36, 3),
    "resnext50_32x4d": (3, 4, 6, 3),
    "wide_resnet50_2": (3, 4, 6, 3),
}
_WIDTHS = (64, 128, 256, 512)
_EXPANSION = {"basic": 1, "bottleneck": 4}


class ResNet(nn.Module):
    """A stem, four stages of residual blocks, the average of each map, one linear layer.

    Args:
        in_channels: channels of the images.
        num_classes: logits to give.
        block: `basic` or `bottleneck`.
        num_blocks: blocks of each stage.
        groups: groups of each bottleneck's 3x3 convolution.
        width_per_group: maps of a group in the first stage; 64 with one group is the plain network.
        stem: `imagenet` (7x7/2 and max pool) or `small` (3x3/1).
        stride_in_1x1: put a bottleneck's stride into its first 1x1.
        zero_init: start the last norm of each block at zero.
    """

    min_image_size, min_image_layer = smallest_image([Step("stem", 3, 1, 1)])

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        block: str,
        num_blocks: tuple[int, int, int, int],
        groups: int = 1,
        width_per_group: int = 64,
        stem: str = "small",
        stride_in_1x1: bool = False,
        zero_init: bool = True,
    ) -> None:
        super().__init__()
        check_counts(in_channels, num_classes)
        check_choice("stem", stem, ("imagenet", "small"))
        check_choice("block", block, tuple(_EXPANSION))
        self.stem = build_stem(in_channels, _WIDTHS[0], stem)
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
        # expansion times 64, 128, 256, 512 maps of H', H'/2, H'/4, H'/8
        x = self.stages(x)
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits
