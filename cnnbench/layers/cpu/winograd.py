"""3x3 convolutions of stride 1 in float32 by Winograd's F(4x4, 3x3) (Lavin and Gray, 2016).

Four by four output pixels come from six by six input pixels with 36 multiplications for each pair
of channels in place of 144. In the products the 36 values of all tiles of some images are a batch
of 36 matrices (tiles, channels), for MKL to multiply. The transforms around them are products too,
with matrices of at most 6x6: MKL makes those in one pass over memory, at a third of the time of
torch's sums. torch itself never takes this way on a CPU. Errors are 2 to 3e-6 of the result's norm,
where a direct sum has 3e-7. `benchmarks/convolutions.py --winograd` measures both ways.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnnbench.device.machine import cpu_name

Pair = tuple[int, int]

# Lavin and Gray's matrices of the input, of the kernel and of the output, whose points are 0, 1,
# -1, 2, -2 and infinity.
_INPUT = torch.tensor(
    [
        [4.0, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
_KERNEL = torch.tensor(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
    dtype=torch.float64,
)
_OUTPUT = torch.tensor(
    [[1.0, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
)
# Of rows and columns at once, (36, 9).
_KERNELS = torch.kron(_KERNEL, _KERNEL).float()

# So many tiles at a time: with fewer, each product reads its kernels for too little work; with
# more, the tiles of narrow layers leave the cache.
_BLOCK_TILES = 256
# With fewer tiles in a batch, transforming the kernels costs more than the products save.
_MIN_TILES = 256
# Of the rule in ``gains``.
_MIN_GAIN = 3300


class WinogradConv2d(nn.Conv2d):
    """A convolution that trains in float32 by Winograd's algorithm where that is faster.

    Evaluation, other number formats and layouts are torch's own.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return (N, out_channels, H', W') for (N, in_channels, H, W)."""
        if not (
            torch.is_grad_enabled()
            and input.dtype == self.weight.dtype == torch.float32
            and input.is_cpu
            and not torch.is_autocast_enabled("cpu")
            and input.is_contiguous(memory_format=torch.channels_last)
            and gains(input.shape, self.out_channels, self.padding)  # type: ignore[arg-type]
        ):
            return super().forward(input)
        result: Tensor = _Convolution.apply(input, self.weight, self.bias, self.padding)
        return result


def use_winograd(model: nn.Module) -> None:
    """Let all plain 3x3 convolutions of stride 1 train as `WinogradConv2d`; the state stays.

    Args:
        model: in place. Its grouped, dilated and otherwise padded convolutions, and subclasses,
            are left alone.
    """
    for module in model.modules():
        if is_plain(module, 3) and max(module.padding) <= 1:  # type: ignore[arg-type]
            module.__class__ = WinogradConv2d


def is_plain(module: nn.Module, side: int) -> bool:
    """Return whether a module is torch's own convolution with such a square kernel and no more.

    Its stride is 1, its padding are numbers of zeros; it is not grouped, dilated or a subclass.
    """
    return (
        type(module) is nn.Conv2d
        and module.kernel_size == (side, side)
        and module.stride == module.dilation == (1, 1)
        and module.groups == 1
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    )


def suits_winograd() -> bool:
    """Return whether this is a kind of CPU on which whole training steps were measured to gain.

    Those are AMD's, and all that torch uses with AVX2 alone. In AVX-512 on others nothing was
    measured yet.
    """
    capability = torch.backends.cpu.get_cpu_capability()
    return capability == "AVX2" or ("AVX512" in capability and cpu_name().startswith("AMD"))


def gains(shape: torch.Size, out_channels: int, padding: Pair) -> bool:
    """Return whether a convolution trains faster this way, by a rule over shapes alone.

    For each tile, products save a share of 144 multiplications for each pair of channels, less
    where tiles hang over the border, and the transforms cost a constant for each channel.

    Args:
        shape: of the images, (N, C, H, W).
        out_channels: at least 1.
        padding: of rows and columns.
    """
    count, channels, *image = shape
    sides = [side + 2 * pad - 2 for side, pad in zip(image, padding, strict=True)]
    tiles = -(-sides[0] // 4) * -(-sides[1] // 4)
    if min(sides) < 1 or count * tiles < _MIN_TILES:
        return False
    products = 9 * sides[0] * sides[1] / tiles - 64
    return products * channels * out_channels >= _MIN_GAIN * (channels + out_channels)


class _Convolution(torch.autograd.Function):
    """conv2d with a 3x3 kernel and stride 1, some images at a time."""

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, padding: Pair
    ) -> Tensor:
        kernels = _transformed(weight)
        ctx.save_for_backward(images, kernels)
        ctx.padding, ctx.has_bias = padding, bias is not None
        count, _, height, width = images.shape
        rows, columns = height + 2 * padding[0] - 2, width + 2 * padding[1] - 2
        pixels = images.new_empty(count, rows, columns, len(weight))
        by_channel = kernels.permute(1, 2, 0)
        for some, result in zip(*_blocks(rows, columns, _last(images), pixels), strict=True):
            tiles = _input_tiles(some, rows, columns, padding)
            _write_output(torch.bmm(tiles.transpose(0, 1), by_channel), bias, result)
        return pixels.permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        images, kernels = ctx.saved_tensors
        wants_images, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        grad = _last(grads[0])
        rows, columns, out_channels = grad.shape[1:]
        to_images = torch.empty_like(_last(images)) if wants_images else _last(images)
        to_kernels = kernels.new_zeros(36, out_channels, images.shape[1])
        by_channel = kernels.transpose(0, 1)
        for some_grad, some, result in zip(
            *_blocks(rows, columns, grad, _last(images), to_images), strict=True
        ):
            products = _output_gradient(some_grad)
            if wants_weight:
                tiles = _input_tiles(some, rows, columns, ctx.padding)
                to_kernels.baddbmm_(products.transpose(1, 2), tiles.transpose(0, 1))
            if wants_images:
                _write_input_gradient(torch.bmm(products, by_channel), ctx.padding, result)
        return (
            to_images.permute(0, 3, 1, 2) if wants_images else None,
            _kernel_gradient(to_kernels) if wants_weight else None,
            grad.sum((0, 1, 2)) if ctx.has_bias and wants_bias else None,
            None,
        )


def _last(maps: Tensor) -> Tensor:
    """Return maps (N, C, H, W) as (N, H, W, C), as they mostly lie in memory."""
    return maps.permute(0, 2, 3, 1).contiguous()


def _blocks(rows: int, columns: int, *tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """Return the same few images of each tensor, block after block."""
    size = max(1, _BLOCK_TILES // (-(-rows // 4) * -(-columns // 4)))
    return [tensor.split(size) for tensor in tensors]


def _transformed(weight: Tensor) -> Tensor:
    """Return weights (O, C, 3, 3) as transformed kernels (O, 36, C)."""
    pixels = weight.permute(0, 2, 3, 1).reshape(len(weight), 9, -1)
    return torch.bmm(_KERNELS.expand(len(weight), 36, 9), pixels)


def _kernel_gradient(gradient: Tensor) -> Tensor:
    """Return the gradient of weights (O, C, 3, 3) for that of kernels, (36, O, C)."""
    _, out_channels, channels = gradient.shape
    pixels = torch.bmm(_KERNELS.t().expand(out_channels, 9, 36), gradient.transpose(0, 1))
    return pixels.view(out_channels, 3, 3, channels).permute(0, 3, 1, 2)


def _input_tiles(images: Tensor, rows: int, columns: int, padding: Pair) -> Tensor:
    """Return the transformed tiles, (tiles, 36, C), of images (N, H, W, C)."""
    count, height, width, channels = images.shape
    up, left = padding
    num_down, num_across = -(-rows // 4), -(-columns // 4)
    wide = 4 * num_across + 2
    below, right = 4 * num_down + 2 - height - up, wide - width - left
    padded = F.pad(images, (0, 0, left, right, up, below)).view(count, -1, wide * channels)
    by_row = images.new_empty(num_down, count, 6, wide * channels)
    transform = _INPUT.expand(count, 6, 6)
    for index, result in enumerate(by_row):
        torch.bmm(transform, padded[:, 4 * index : 4 * index + 6], out=result)
    lines = by_row.view(-1, wide, channels)
    tiles = images.new_empty(num_across, len(lines), 6, channels)
    transform = _INPUT.expand(len(lines), 6, 6)
    for index, result in enumerate(tiles):
        torch.bmm(transform, lines[:, 4 * index : 4 * index + 6], out=result)
    return tiles.view(-1, 36, channels)


def _write_output(products: Tensor, bias: Tensor | None, pixels: Tensor) -> None:
    """Write the output (N, H', W', O) of products (36, tiles, O)."""
    count, rows, columns, channels = pixels.shape
    num_down, num_across = -(-rows // 4), -(-columns // 4)
    by_row = torch.mm(_OUTPUT, products.view(6, -1)).view(4, 6, -1)
    squares = torch.bmm(_OUTPUT.expand(4, 4, 6), by_row)
    # From row and column in a tile, across, down, image to image, down, row, across, column.
    squares = squares.view(4, 4, num_across, num_down, count, channels).permute(4, 3, 0, 2, 1, 5)
    if bias is not None:
        squares = squares + bias
    if (rows, columns) == (4 * num_down, 4 * num_across):
        pixels.view(squares.shape).copy_(squares)
    else:
        whole = squares.reshape(count, 4 * num_down, 4 * num_across, channels)
        pixels.copy_(whole[:, :rows, :columns])


def _output_gradient(grad: Tensor) -> Tensor:
    """Return the gradient of the products, (36, tiles, O), for that of pixels (N, H', W', O)."""
    count, rows, columns, channels = grad.shape
    num_down, num_across = -(-rows // 4), -(-columns // 4)
    if (rows, columns) != (4 * num_down, 4 * num_across):
        grad = F.pad(grad, (0, 0, 0, 4 * num_across - columns, 0, 4 * num_down - rows))
    squares = grad.view(count, num_down, 4, num_across, 4, channels).permute(2, 4, 3, 1, 0, 5)
    by_column = torch.bmm(_OUTPUT.t().expand(4, 6, 4), squares.reshape(4, 4, -1))
    return torch.mm(_OUTPUT.t(), by_column.view(4, -1)).view(36, -1, channels)


def _write_input_gradient(tiles: Tensor, padding: Pair, to_images: Tensor) -> None:
    """Write the gradient (N, H, W, C) of images for that of their transformed tiles.

    Args:
        tiles: (36, tiles, C).
        padding: of the images.
        to_images: written.
    """
    count, height, width, channels = to_images.shape
    up, left = padding
    num_down, num_across = (height + 2 * up + 1) // 4, (width + 2 * left + 1) // 4
    by_row = torch.mm(_INPUT.t(), tiles.view(6, -1)).view(6, 6, -1)
    parts = torch.bmm(_INPUT.t().expand(6, 6, 6), by_row)
    parts = parts.view(6, 6, num_across, num_down, count, channels).permute(4, 3, 0, 2, 1, 5)
    # The last two rows and columns of a tile are the first of the next one.
    padded = tiles.new_empty(count, num_down + 1, 4, num_across + 1, 4, channels)
    padded[:, :-1, :, :-1] = parts[:, :, :4, :, :4]
    padded[:, -1] = 0
    padded[:, :, :, -1] = 0
    padded[:, 1:, :2, :-1] += parts[:, :, 4:, :, :4]
    padded[:, :-1, :, 1:, :2] += parts[:, :, :4, :, 4:]
    padded[:, 1:, :2, 1:, :2] += parts[:, :, 4:, :, 4:]
    whole = padded.view(count, 4 * num_down + 4, 4 * num_across + 4, channels)
    to_images.copy_(whole[:, up : up + height, left : left + width])
