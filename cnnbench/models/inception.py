"""The Inception block of GoogLeNet (https://arxiv.org/abs/1409.4842, figure 2b), with options."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from cnnbench.layers import conv_unit, scale_channels

Norm = Literal["none", "conv", "block"]
Factorize = Literal["none", "3x3", "asymmetric", "asymmetric_pad_first"]


class InceptionRow(NamedTuple):
    """Widths of one block's branches, as in table 1 of the paper."""

    ch1x1: int
    ch3x3: tuple[int, int]  # reduce, 3x3
    ch5x5: tuple[int, int]  # reduce, 5x5
    ch_pool: int

    @property
    def out_channels(self) -> int:
        """Channels of the four branches together."""
        return self.ch1x1 + self.ch3x3[1] + self.ch5x5[1] + self.ch_pool

    def scaled(self, width_multiplier: float) -> InceptionRow:
        """Return the row with every width scaled."""

        def scale(channels: int) -> int:
            return scale_channels(channels, width_multiplier)

        return InceptionRow(
            scale(self.ch1x1),
            (scale(self.ch3x3[0]), scale(self.ch3x3[1])),
            (scale(self.ch5x5[0]), scale(self.ch5x5[1])),
            scale(self.ch_pool),
        )


class _Conv(NamedTuple):
    kernel_size: tuple[int, int]
    padding: tuple[int, int]


def _convs(side: int, factorize: Factorize) -> list[_Conv]:
    """Return the convolutions that stand for one of `side` 3 or 5."""
    if factorize == "asymmetric":
        return [_Conv((1, 3), (0, 1)), _Conv((3, 1), (1, 0))] * (side // 2)
    if factorize == "asymmetric_pad_first":
        # The rows that the first adds above and below are not zero where it has a bias or norm.
        return [_Conv((1, 3), (1, 1)), _Conv((3, 1), (0, 0))] * (side // 2)
    if factorize == "3x3":
        return [_Conv((3, 3), (1, 1))] * (side // 2)
    return [_Conv((side, side), (side // 2, side // 2))]


def _branch(
    in_channels: int, widths: tuple[int, int], side: int, *, factorize: Factorize, norm: bool
) -> nn.Sequential:
    """Build a 1x1 that reduces, and the convolutions that stand for one of `side`."""
    channels, out_channels = widths
    units = [conv_unit(in_channels, channels, 1, norm=norm)]
    for conv in _convs(side, factorize):
        units.append(
            conv_unit(channels, out_channels, conv.kernel_size, padding=conv.padding, norm=norm)
        )
        channels = out_channels
    return nn.Sequential(*units)


class InceptionBlock(nn.Module):
    """Four branches, concatenated; optionally normed and with a shortcut.

    Args:
        in_channels: input channels.
        row: widths of the branches.
        norm: `conv`, `block` (after the concatenation) or `none`.
        factorize: `none`, `3x3`, `asymmetric` or `asymmetric_pad_first`.
        residual_scale: with a shortcut, the factor on the branches; None for no shortcut.
    """

    def __init__(
        self,
        in_channels: int,
        row: InceptionRow,
        *,
        norm: Norm,
        factorize: Factorize,
        residual_scale: float | None,
    ) -> None:
        super().__init__()
        conv_norm = norm == "conv"
        channels = row.out_channels
        self.branch1x1 = conv_unit(in_channels, row.ch1x1, 1, norm=conv_norm)
        self.branch3x3 = _branch(in_channels, row.ch3x3, 3, factorize=factorize, norm=conv_norm)
        self.branch5x5 = _branch(in_channels, row.ch5x5, 5, factorize=factorize, norm=conv_norm)
        self.branch_pool = nn.Sequential(
            nn.MaxPool2d(3, 1, 1), conv_unit(in_channels, row.ch_pool, 1, norm=conv_norm)
        )
        self.norm = nn.BatchNorm2d(channels) if norm == "block" else nn.Identity()
        self.residual_scale = residual_scale
        if residual_scale is not None:
            self.linear = nn.Conv2d(channels, channels, 1)
            self.shortcut = (
                nn.Identity() if in_channels == channels else nn.Conv2d(in_channels, channels, 1)
            )
            self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, row.out_channels, H, W) for x (N, in_channels, H, W)."""
        branches = (self.branch1x1, self.branch3x3, self.branch5x5, self.branch_pool)
        y: Tensor = self.norm(torch.cat([branch(x) for branch in branches], dim=1))
        if self.residual_scale is not None:
            y = self.act(self.shortcut(x) + self.residual_scale * self.linear(y))
        return y
