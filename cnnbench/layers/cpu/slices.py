"""Strided 1x1 convolutions of few channels as a slice and stride 1.

With channels last, oneDNN's gradient of the weights writes past its workspace where a strided 1x1
convolution has fewer input channels than one block of its kernel (uxlfoundation/oneDNN#6035): it is
wrong, crashes or never returns, by what lies there in memory. A 1x1 kernel with stride s sees each
s-th pixel alone, so a slice with stride 1 computes the same.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def use_slices(model: nn.Module) -> None:
    """Let all strided 1x1 convolutions of few channels compute from a slice; the state stays.

    Subclasses too, but those that convolve in a way of their own (``_conv_forward``).

    Args:
        model: in place.
    """
    for module in model.modules():
        if (
            isinstance(module, nn.Conv2d)
            and type(module)._conv_forward is nn.Conv2d._conv_forward
            and module.kernel_size == (1, 1)
            and max(module.stride) > 1
            and module.in_channels // module.groups < _block_size()
        ):
            slice_one(module)


def slice_one(module: nn.Module) -> None:
    """Let a strided 1x1 convolution compute from a slice; its state stays.

    Args:
        module: in place.
    """
    kind: Any = type(module)
    module.__class__ = _sliced(kind)


def _block_size() -> int:
    """Return the channels of one block of oneDNN's 1x1 kernels: the floats of a vector."""
    return 16 if "AVX512" in torch.backends.cpu.get_cpu_capability() else 8


@cache
def _sliced(kind: type[nn.Conv2d]) -> type[nn.Conv2d]:
    """Return the class of convolutions ``kind`` as it computes from a slice, under its name."""
    return type(kind.__name__, (_Sliced, kind), {"__module__": kind.__module__})


class _Sliced(nn.Conv2d if TYPE_CHECKING else object):  # type: ignore[misc]
    """Goes before a class of convolutions with kernels of 1x1."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        up, left = (0, 0) if isinstance(self.padding, str) else self.padding
        if up or left:
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            input = F.pad(input, (left, left, up, up), mode)
        rows, columns = self.stride
        return F.conv2d(input[..., ::rows, ::columns], weight, bias, groups=self.groups)
