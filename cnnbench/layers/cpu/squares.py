"""A convolution of few channels and the 2x2 max pool behind it as one matrix product, in float32.

A vector of oneDNN's kernels is one of channels: 1, 6 or 16 of them leave it partly or mostly idle,
above all in the gradients. Here the images of a batch lie side by side in memory, so that all but
the product are runs of them: each square of the pool sees one window of the images, one product
with all kernels at the four offsets gives its four values, and their maximum is one of four
blocks. Where kernels of 5x5 do not reach in the window of 6x6, there are zeros: 1.44 times the
multiplications. The bias is added to a quarter of the values, and the activation, which rises
throughout, comes behind the pool in any case. `benchmarks/convolutions.py --squares` measures it.
"""

from __future__ import annotations

from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnnbench.layers.cpu.pools import HalvingMaxPool2d, share
from cnnbench.layers.cpu.winograd import is_plain

Pair = tuple[int, int]

# Of the rule in ``gains``, in and out: with more channels oneDNN's kernels fill their vectors.
_MAX_CHANNELS = 6, 16
# With fewer the way to the product costs more than it saves.
_MIN_SQUARES = 1500
# Zeros before and behind a kernel at each offset of a square, in one direction.
_AT = ((0, 1), (1, 0))


class SquaresConv2d(nn.Conv2d):
    """A convolution that trains together with the pool behind it, where that is faster."""

    def pooled(self, pool: nn.Module, images: Tensor) -> Tensor:
        """Return ``pool`` of this convolution of images (N, C, H, W)."""
        if not (
            self.training
            and torch.is_grad_enabled()
            and isinstance(pool, HalvingMaxPool2d)
            and images.dtype == self.weight.dtype == torch.float32
            and images.is_cpu
            and not torch.is_autocast_enabled("cpu")
            and not any(_has_hooks(part) for part in (self, pool))
            and (count := _num_squares(images.shape, self.kernel_size, self.padding))  # type: ignore[arg-type]
            and gains(images, self.out_channels, count)
        ):
            return cast(Tensor, pool(self(images)))
        return cast(Tensor, _Squares.apply(images, self.weight, self.bias, self.padding))


def convolve_and_pool(conv: nn.Module, pool: nn.Module, images: Tensor) -> Tensor:
    """Return ``pool(conv(images))``, at once where ``use_squares`` let the convolution do so."""
    if isinstance(conv, SquaresConv2d):
        return conv.pooled(pool, images)
    return cast(Tensor, pool(conv(images)))


def use_squares(model: nn.Module) -> None:
    """Let plain 5x5 convolutions of stride 1 train as `SquaresConv2d`; the state stays.

    Args:
        model: in place. Its grouped, dilated and otherwise padded convolutions, and subclasses,
            are left alone.
    """
    for module in model.modules():
        if is_plain(module, 5):
            module.__class__ = SquaresConv2d


def gains(images: Tensor, out_channels: int, num_squares: int) -> bool:
    """Return whether a convolution and its pool train faster this way, by shape and layout alone.

    Args:
        images: (N, C, H, W). With several channels, those gain that such a convolution before has
            laid side by side.
        out_channels: at least 1.
        num_squares: of all images.
    """
    channels = images.shape[1]
    if channels > _MAX_CHANNELS[0] or out_channels > _MAX_CHANNELS[1] or num_squares < _MIN_SQUARES:
        return False
    return channels == 1 or images.permute(1, 2, 3, 0).is_contiguous()


def _num_squares(images: torch.Size, kernel_size: Pair, padding: Pair) -> int:
    """Return how many squares the pool sees, 0 where some are cut."""
    rows, columns = (
        side + 2 * pad - kernel + 1
        for side, pad, kernel in zip(images[2:], padding, kernel_size, strict=True)
    )
    is_whole = min(rows, columns) >= 2 and rows % 2 == columns % 2 == 0
    return images[0] * rows * columns // 4 if is_whole else 0


def _has_hooks(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


class _Squares(torch.autograd.Function):
    """Maxima over squares of a convolution of stride 1, with the images innermost in memory."""

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, padding: Pair
    ) -> Tensor:
        windows, sides = _windows(images, weight.shape[2], padding)
        kernels = _at_offsets(weight)
        values = torch.mm(kernels, windows).view(2, 2, len(weight), -1)
        rows = torch.maximum(values[0], values[1])
        maxima = torch.maximum(rows[0], rows[1])
        ctx.save_for_backward(windows, kernels, values, rows, maxima)
        ctx.padding, ctx.shape, ctx.has_bias = padding, weight.shape, bias is not None
        pooled = maxima if bias is None else maxima + bias[:, None]
        return pooled.view(len(weight), *sides, -1).permute(3, 0, 1, 2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        windows, kernels, values, rows, maxima = ctx.saved_tensors
        wants_images, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        sides = grads[0].shape[2:]
        grad = grads[0].permute(1, 2, 3, 0).reshape(maxima.shape)
        to_rows, to_values = torch.empty_like(rows), torch.empty_like(values)
        share(grad, rows[0], maxima, to_rows[0], to_rows[1])
        share(to_rows, values[0], rows, to_values[0], to_values[1])
        products = to_values.view(len(kernels), -1)
        to_images = to_weight = None
        if wants_images:
            seen = torch.mm(kernels.t(), products)
            to_images = _image_gradient(seen, ctx.shape, sides, ctx.padding)
        if wants_weight:
            to_weight = _weight_gradient(torch.mm(products, windows.t()), ctx.shape)
        return to_images, to_weight, grad.sum(1) if ctx.has_bias and wants_bias else None, None


def _windows(images: Tensor, kernel_size: int, padding: Pair) -> tuple[Tensor, Pair]:
    """Return what the squares see, (C * (k + 1)**2, squares * N), and how many are down, across."""
    up, left = padding
    padded = F.pad(images.permute(1, 2, 3, 0), (0, 0, left, left, up, up)).contiguous()
    channels, height, width, count = padded.shape
    sides = (height - kernel_size + 1) // 2, (width - kernel_size + 1) // 2
    by_channel, by_row, by_column, _ = padded.stride()
    side = kernel_size + 1
    seen = padded.as_strided(
        (channels, side, side, *sides, count),
        (by_channel, by_row, by_column, 2 * by_row, 2 * by_column, 1),
    )
    return seen.reshape(channels * side * side, -1), sides


@cache
def _offsets(side: int) -> Tensor:
    """Return the matrices, (4, k * k, (k + 1)**2), that put kernels at the offsets of a square."""
    pixels = torch.eye(side * side).view(1, side * side, side, side)
    return torch.cat([F.pad(pixels, (*x, *y)).flatten(2) for y in _AT for x in _AT])


def _at_offsets(weight: Tensor) -> Tensor:
    """Return kernels (O, C, k, k) at the four offsets in a window, (4 * O, C * (k + 1)**2)."""
    out_channels, channels, side, _ = weight.shape
    kernels = torch.matmul(weight.reshape(-1, side * side), _offsets(side))
    return kernels.view(4 * out_channels, channels * (side + 1) ** 2)


def _weight_gradient(gradient: Tensor, shape: torch.Size) -> Tensor:
    """Return the gradient of weights for that of their kernels at the four offsets."""
    out_channels, channels, side, _ = shape
    parts = gradient.view(4, out_channels * channels, -1)
    return torch.bmm(parts, _offsets(side).transpose(1, 2)).sum(0).view(shape)


def _image_gradient(
    seen: Tensor, weight_shape: torch.Size, sides: tuple[int, ...], padding: Pair
) -> Tensor:
    """Return the gradient of images (N, C, H, W) for that of what the squares see."""
    _, channels, side, _ = weight_shape
    reach = (side + 1) // 2  # squares that see one pixel, in a row
    down, across = sides
    parts = seen.view(channels, reach, 2, reach, 2, down, across, -1).permute(
        1, 3, 0, 5, 2, 6, 4, 7
    )
    count = parts.shape[-1]
    width = 2 * (across + reach - 1) * count
    padded = seen.new_zeros(channels, 2 * (down + reach - 1), width)
    strides = padded.stride(0), 2 * width, width, 2 * count, count, 1
    for row, of_row in enumerate(parts):
        for column, part in enumerate(of_row):
            offset = 2 * (row * width + column * count)
            padded.as_strided(part.shape, strides, offset).add_(part)
    up, left = padding
    whole = padded.view(channels, padded.shape[1], -1, count)
    rows, columns = whole.shape[1] - 2 * up, whole.shape[2] - 2 * left
    return whole[:, up : up + rows, left : left + columns].permute(3, 0, 1, 2)
