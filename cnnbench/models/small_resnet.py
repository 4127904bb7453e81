"""A small plain residual network for images of 28 to 32 pixels.

The blocks are those of He et al., https://arxiv.org/abs/1512.03385. Departures: one block of each
width, and a stem that halves the sides by a 5x5 convolution: a CPU spends its time on the many
pixels of the first maps, where few channels leave its matrix units idle.
"""

from __future__ import annotations

from torch import Tensor, nn

from cnnbench.layers import (
    BasicBlock,
    Step,
    check_counts,
    check_positive,
    conv_unit,
    smallest_image,
    zero_last_norms,
)


class SmallResNet(nn.Module):
    """A stem, one basic block of each width, the average of each map, one linear layer.

    Args:
        in_channels: channels of the images.
        num_classes: logits to give.
        widths: maps of each block; every block but the first halves the sides.
        stem_stride: of the stem, whose kernel is one pixel more than twice as wide; 1 or more.
        zero_init: start the last norm of each block at zero, which slows the first epochs.
    """

    min_image_size, min_image_layer = smallest_image([Step("stem", 5, 2, 2)])

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        widths: tuple[int, ...] = (16, 32, 64, 128),
        stem_stride: int = 2,
        zero_init: bool = False,
    ) -> None:
        super().__init__()
        check_counts(in_channels, num_classes)
        check_positive("widths", widths, min_count=1)
        check_positive("stem_stride", [stem_stride])
        self.stem = conv_unit(
            in_channels,
            widths[0],
            2 * stem_stride + 1,
            stride=stem_stride,
            padding=stem_stride,
            norm=True,
        )
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
        x = self.stem(x)  # (N, 16, 14, 14) at 28 pixels
        # (N, 16, 14, 14), (N, 32, 7, 7), (N, 64, 4, 4), (N, 128, 2, 2)
        x = self.blocks(x)
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits
