"""The unit that most networks are made of: convolution, norm, activation."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

from torch import nn

ActivationName = Literal["relu", "tanh", "sigmoid", "none"]
StemName = Literal["imagenet", "small"]

ACTIVATIONS: dict[ActivationName, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "none": nn.Identity,
}


def scale_channels(channels: int, width_multiplier: float) -> int:
    """Return `channels` times `width_multiplier`, rounded, and at least 1."""
    return max(1, round(channels * width_multiplier))


def conv_unit(
    in_channels: int,
    out_channels: int,
    kernel_size: int | tuple[int, int],
    *,
    stride: int = 1,
    padding: int | tuple[int, int] = 0,
    groups: int = 1,
    norm: bool = False,
    bias: bool | None = None,
    act: type[nn.Module] | None = nn.ReLU,
) -> nn.Sequential:
    """Build convolution, batch norm and activation, named `conv`, `norm` and `act`.

    Args:
        in_channels: input channels.
        out_channels: output channels.
        kernel_size: side of the kernel, or (height, width).
        stride: step of the kernel.
        padding: zeros on each side, or (top and bottom, left and right).
        groups: number of groups, each of which sees only its own channels.
        norm: whether a batch norm follows the convolution.
        bias: whether the convolution has a bias; by default where no norm makes it useless.
        act: class of the activation; None leaves it out.
    """
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    parts["conv"] = nn.Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        stride,
        padding,
        groups=groups,
        bias=not norm if bias is None else bias,
    )
    if norm:
        parts["norm"] = nn.BatchNorm2d(out_channels)
    if act is not None:
        parts["act"] = act()
    return nn.Sequential(parts)


def build_stem(
    in_channels: int, out_channels: int, stem: StemName, *, pool_ceil_mode: bool = False
) -> nn.Sequential:
    """Build `imagenet` (7x7/2, norm, ReLU, max pool 3/2) or `small` (3x3/1, norm, ReLU).

    The pool pads by 1; with `pool_ceil_mode` it pads by nothing and rounds sizes up.
    """
    kernel_size, stride = (7, 2) if stem == "imagenet" else (3, 1)
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    parts["conv"] = nn.Conv2d(
        in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False
    )
    parts["norm"] = nn.BatchNorm2d(out_channels)
    parts["act"] = nn.ReLU()
    if stem == "imagenet":
        parts["pool"] = nn.MaxPool2d(3, 2, 0 if pool_ceil_mode else 1, ceil_mode=pool_ceil_mode)
    return nn.Sequential(parts)
