"""Totals of a summary that its layers alone do not give."""

from __future__ import annotations

from torch import Tensor, nn

import cnnbench


class ChannelsLastNorm(nn.LayerNorm):
    """The norm of ConvNeXt, over the channels of each pixel."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Gated(nn.Module):
    """A convolution whose maps are scaled by what a convolution makes of their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.conv(x)
        return maps * self.gate(maps.mean((2, 3), keepdim=True)).sigmoid()


def field(*layers: nn.Module) -> int | None:
    return cnnbench.summary(nn.Sequential(*layers), (3, 32, 32))["receptive_field"]


def test_where_it_is_lost_no_smaller_receptive_field_is_given_for_the_largest() -> None:
    stem, norm = nn.Conv2d(3, 4, 4, 4), ChannelsLastNorm(4)
    assert field(stem) == field(stem, norm) == 4
    assert field(stem, norm, nn.Conv2d(4, 4, 7, padding=3)) is None
    assert field(stem, Gated(), nn.Conv2d(4, 4, 3)) == 4 + 4 * 4
    assert field(stem, nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 10, 1)) == 4
    assert field(nn.Flatten(), nn.Linear(3072, 10)) is None


def test_a_lost_receptive_field_is_said() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 4), ChannelsLastNorm(4), nn.Conv2d(4, 4, 3))
    assert "receptive field none" in str(cnnbench.summary(network, (3, 32, 32)))
