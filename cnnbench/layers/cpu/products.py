"""Convolutions as matrix products, where that trains faster in bfloat16 on a CPU.

oneDNN's gradient of a convolution's weights runs at a tenth to a third of the speed of the
forward pass once maps are small and many. The same gradient as matrix products of the output's
gradient and the unrolled input takes half to a fifth of the time, and 1x1 convolutions are matrix
products anyway. `benchmarks/convolutions.py` measures both ways for each shape of a network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Pair = tuple[int, int]


class ProductConv2d(nn.Conv2d):
    """A convolution that trains by matrix products under CPU autocast; otherwise torch's own."""

    def forward(self, input: Tensor) -> Tensor:
        """Return (N, out_channels, H', W') for (N, in_channels, H, W)."""
        if not (torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")):
            return super().forward(input)
        if self.kernel_size == self.stride == (1, 1) and self.padding == (0, 0):
            pixels = input.permute(0, 2, 3, 1)
            return F.linear(pixels, self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)
        dtype = torch.get_autocast_dtype("cpu")
        bias = None if self.bias is None else self.bias.to(dtype)
        result: Tensor = _Convolution.apply(
            input.to(dtype), self.weight.to(dtype), bias, self.stride, self.padding
        )
        return result


def use_products(model: nn.Module) -> None:
    """Let all plain convolutions of a network train as `ProductConv2d`; its state stays as it is.

    Grouped, dilated and otherwise padded convolutions, and subclasses, are left alone.
    """
    for module in model.modules():
        if (
            type(module) is nn.Conv2d
            and module.groups == 1
            and module.dilation == (1, 1)
            and module.padding_mode == "zeros"
            and not isinstance(module.padding, str)
        ):
            module.__class__ = ProductConv2d


class _Convolution(torch.autograd.Function):
    """conv2d whose passes go through oneDNN or a matrix product, by a rule over shapes alone.

    The bounds are where the two broke even at batch 32 and 128, kernels of 3 and 5, on a Xeon
    with AMX.
    """

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair
    ) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.stride, ctx.padding, ctx.has_bias = stride, padding, bias is not None
        kernel_size = weight.shape[2:]
        sides = [
            (side + 2 * pad - kernel) // step + 1
            for side, pad, kernel, step in zip(
                images.shape[2:], padding, kernel_size, stride, strict=True
            )
        ]
        if images.shape[1] < 16 * sides[0] * sides[1]:
            return F.conv2d(images, weight, bias, stride, padding)
        windows = _windows(images, kernel_size, sides, stride, padding)
        pixels = F.linear(windows, weight.permute(0, 2, 3, 1).reshape(len(weight), -1), bias)
        return _maps(pixels, len(images), sides)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        images, weight = ctx.saved_tensors
        wants_images, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        kernel_size, sides = weight.shape[2:], images.shape[2:]
        # At stride 1 the input's gradient is a convolution with the kernels flipped.
        flipped_padding = tuple(k - 1 - p for k, p in zip(kernel_size, ctx.padding, strict=True))
        is_flipped = wants_images and (
            ctx.stride == (1, 1)
            and min(flipped_padding) >= 0
            and grad.shape[1] >= 16 * sides[0] * sides[1]
        )
        is_product = wants_weight and images.shape[1] >= grad.shape[2] * grad.shape[3]
        left = [wants_images and not is_flipped, wants_weight and not is_product, False]
        to_images = to_weight = None
        if any(left):
            to_images, to_weight, _ = torch.ops.aten.convolution_backward(
                grad, images, weight, None, ctx.stride, ctx.padding, (1, 1), False, (0, 0), 1, left
            )
        if is_flipped:
            windows = _windows(grad, kernel_size, sides, (1, 1), flipped_padding)
            # Rows of kernel pixels and output channels: input channels stay together in memory.
            flipped = weight.permute(2, 3, 0, 1).flip(0, 1).reshape(-1, weight.shape[1])
            to_images = _maps(windows @ flipped, len(grad), sides)
        if is_product:
            to_weight = _weight_gradient(images, grad, kernel_size, ctx.stride, ctx.padding)
        to_bias = grad.sum((0, 2, 3)) if ctx.has_bias and wants_bias else None
        return to_images, to_weight, to_bias, None, None


def _maps(pixels: Tensor, count: int, sides: Sequence[int]) -> Tensor:
    """Return (N * H * W, C) as maps (N, C, H, W)."""
    return pixels.view(count, *sides, -1).permute(0, 3, 1, 2)


def _weight_gradient(
    images: Tensor, grad: Tensor, kernel_size: Sequence[int], stride: Pair, padding: Pair
) -> Tensor:
    """Return the gradient of weights (out_channels, in_channels, h, w), one kernel row at a time.

    With the rows of maps first in memory, what a kernel row sees at stride 1 is a run of what any
    row of its width sees: w copies of the input in place of the h * w of `_windows`.
    """
    up, left = padding
    height, width = kernel_size
    num_rows, num_columns = grad.shape[2:]
    padded = F.pad(images.permute(2, 0, 3, 1), (0, 0, left, left, 0, 0, up, up))
    by_row, by_image, by_column, by_channel = padded.stride()
    seen = padded.as_strided(
        (len(padded), len(images), num_columns, width, images.shape[1]),
        (by_row, by_image, by_column * stride[1], by_column, by_channel),
    ).reshape(len(padded), -1, width * images.shape[1])
    pixels = grad.permute(2, 0, 3, 1).reshape(-1, grad.shape[1])
    # oneDNN multiplies a transposed matrix more slowly than it can be copied, and torch copies it
    # faster part by part.
    transposed = torch.cat([part.t() for part in pixels.split(len(pixels) // 16 + 1)], 1)
    products = [
        transposed @ seen[row : row + stride[0] * num_rows : stride[0]].flatten(0, 1)
        for row in range(height)
    ]
    return torch.stack(products, 1).view(-1, height, width, images.shape[1]).permute(0, 3, 1, 2)


def _windows(
    images: Tensor,
    kernel_size: Sequence[int],
    sides: Sequence[int],
    stride: Pair,
    padding: Pair,
) -> Tensor:
    """Return what the kernel sees at each output pixel, (N * H' * W', h * w * C)."""
    up, left = padding
    padded = F.pad(images.permute(0, 2, 3, 1), (0, 0, left, left, up, up))
    by_image, by_row, by_column, by_channel = padded.stride()
    windows = padded.as_strided(
        (len(images), *sides, *kernel_size, images.shape[1]),
        (by_image, by_row * stride[0], by_column * stride[1], by_row, by_column, by_channel),
    )
    return windows.reshape(-1, math.prod(kernel_size) * images.shape[1])
