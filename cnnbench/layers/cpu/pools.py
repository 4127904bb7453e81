"""Max pooling of 2x2 squares where channels are few, faster than torch's kernel on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class HalvingMaxPool2d(nn.MaxPool2d):
    """Max pooling of 2x2 squares that trains faster on a CPU where channels are few.

    torch's kernel goes through the channels of a pixel in vectors of 16 and takes fewer one by one.
    The values are torch's; so are the gradients but where two pixels of a square share the maximum,
    of which this may choose another.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return (N, C, H // 2, W // 2) for (N, C, H, W)."""
        _, channels, height, width = input.shape
        if channels >= 16 or height % 2 or width % 2:
            pooled: Tensor = super().forward(input)
        else:
            pooled = _Halving.apply(input)
        return pooled


def use_halving(model: nn.Module) -> None:
    """Let all plain 2x2 max pools of a network compute as `HalvingMaxPool2d`."""
    for module in model.modules():
        if type(module) is nn.MaxPool2d and not module.return_indices:
            settings = (module.kernel_size, module.stride, module.padding, module.dilation)
            if settings == (2, 2, 0, 1):
                module.__class__ = HalvingMaxPool2d


class _Halving(torch.autograd.Function):
    """The larger of each two rows, then of each two columns."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        rows = torch.maximum(x[:, :, ::2], x[:, :, 1::2])
        pooled = torch.maximum(rows[..., ::2], rows[..., 1::2])
        ctx.save_for_backward(x, rows, pooled)
        return pooled

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        x, rows, pooled = ctx.saved_tensors
        to_rows = torch.empty_like(rows)
        share(grads[0], rows[..., ::2], pooled, to_rows[..., ::2], to_rows[..., 1::2])
        to_x = torch.empty_like(x)
        share(to_rows, x[:, :, ::2], rows, to_x[:, :, ::2], to_x[:, :, 1::2])
        return to_x


def share(grad: Tensor, first: Tensor, larger: Tensor, to_first: Tensor, to_other: Tensor) -> None:
    """Write a gradient to the first of two where it is the larger, else to the other."""
    # Comparing into the gradient's own type is vectorised; a mask of booleans is not.
    torch.eq(first, larger, out=to_first)
    to_first.mul_(grad)
    torch.sub(grad, to_first, out=to_other)
