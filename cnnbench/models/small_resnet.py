"""A small plain residual network for images of 28 to 32 pixels.

The blocks are those of He et al., https://arxiv.org/abs/1512.03385. Departures: one block of each
width, widths that double at each halving from 8 to 128 maps, and no pool in the stem, so that a
laptop trains it in seconds per epoch.
"""

from __future__ import annotations

from torch import Tensor, nn

from cnnbench.layers import (
    BasicBlock,
    Step,
    build_stem,
    check_counts,
    check_positive,
    smallest_image,
    zero_last_norms,
)


class SmallResNet(nn.Module):
    """A 3x3 stem, one basic block of each width, the average of each map, one linear layer.

    Args:
        in_channels: channels of the images.
        num_classes: logits to give.
        widths: maps of each block; every block but the first halves the sides.
        zero_init: start the last norm of each block at zero.
    """

    min_image_size, min_image_layer = smallest_image([Step("stem", 3, 1, 1)])

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        widths: tuple[int, ...] = (8, 16, 32, 64, 128),
        zero_init: bool = True,
    ) -> None:
        super().__init__()
        check_counts(in_channels, num_classes)
        check_positive("widths", widths, min_count=1)
        self.stem = build_stem(in_channels, widths[0], "small")
        channels = widths[0]
        blocks = []
        for index, width in enumerate(widths):
            blocks.append(BasicBlock(channels, width, stride=1 if index == 0 else 2))
            channels = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, num_classes)
        if zero_init:
            zero_last_norms(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, num_classes) for x (N, in_channels, H, W)."""
        x = self.stem(x)  # (N, 8, 28, 28) at 28 pixels
        # (N, 8, 28, 28), (N, 16, 14, 14), (N, 32, 7, 7), (N, 64, 4, 4), (N, 128, 2, 2)
        x = self.blocks(x)
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits
