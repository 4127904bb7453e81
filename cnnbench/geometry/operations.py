"""What torch's operations look at and how much they multiply: tables for ``trace``."""

from __future__ import annotations

import math
import typing
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

_aten = torch.ops.aten


class Window(NamedTuple):
    """The kernel of a convolution or pool, one number for each spatial dimension."""

    kernel: Sequence[int]
    stride: Sequence[int]
    dilation: Sequence[int]


def _spread(value: int | Sequence[int], like: Sequence[int]) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * len(like) if len(values) == 1 else values


def _conv_window(args: tuple[Any, ...], result: Tensor) -> Window | None:
    kernel = args[1].shape[2:]
    is_transposed = args[6]
    # A transposed convolution spreads pixels out: its stride is no whole number of input pixels.
    if is_transposed:
        return None
    return Window(kernel, _spread(args[3], kernel), _spread(args[5], kernel))


def _max_pool_window(args: tuple[Any, ...], result: Tensor) -> Window:
    kernel = _spread(args[1], result.shape[2:])
    stride = _spread(args[2], kernel) if len(args) > 2 and args[2] else kernel
    return Window(kernel, stride, _spread(args[4] if len(args) > 4 else 1, kernel))


def _avg_pool_window(args: tuple[Any, ...], result: Tensor) -> Window:
    return _max_pool_window(args[:3], result)


def _adaptive_window(args: tuple[Any, ...], result: Tensor) -> Window | None:
    if all(side == 1 for side in result.shape[2:]):
        return None
    pairs = list(zip(args[0].shape[2:], result.shape[2:], strict=True))
    # Window i spans floor(i H / h) to ceil((i + 1) H / h), one pixel more where h doesn't divide.
    kernel = [
        max(-(-(i + 1) * inner // outer) - i * inner // outer for i in range(outer))
        for inner, outer in pairs
    ]
    return Window(kernel, [max(1, inner // outer) for inner, outer in pairs], [1] * len(pairs))


def _conv_macs(args: tuple[Any, ...], result: Tensor) -> int:
    image, weight, is_transposed = args[0], args[1], args[6]
    # One kernel for each output pixel; transposed, one for each input pixel.
    pixels = (image if is_transposed else result).shape[2:]
    return int(result.shape[0] * math.prod(pixels) * weight.numel())


def _product_macs(args: tuple[Any, ...], result: Tensor) -> int:
    return result.numel() * int(args[0].shape[-1])


def _sum_and_product_macs(args: tuple[Any, ...], result: Tensor) -> int:
    return result.numel() * int(args[1].shape[-1])


MACS: dict[Any, Callable[[tuple[Any, ...], Tensor], int]] = {
    _aten.convolution: _conv_macs,
    _aten.mm: _product_macs,
    _aten.bmm: _product_macs,
    _aten.addmm: _sum_and_product_macs,
    _aten.baddbmm: _sum_and_product_macs,
}
WINDOWS: dict[Any, Callable[[tuple[Any, ...], Tensor], Window | None]] = {
    _aten.convolution: _conv_window,
    _aten.max_pool2d_with_indices: _max_pool_window,
    _aten.max_pool3d_with_indices: _max_pool_window,
    _aten.avg_pool2d: _avg_pool_window,
    _aten.avg_pool3d: _avg_pool_window,
    _aten._adaptive_avg_pool2d: _adaptive_window,
    _aten.adaptive_max_pool2d: _adaptive_window,
}
POOLS = WINDOWS.keys() - MACS.keys()
# Operations that add pixels at the sides, which neither see nor skip pixels.
PADS = {_aten.constant_pad_nd, _aten.reflection_pad2d, _aten.replication_pad2d}


def _like(args: tuple[Any, ...]) -> Tensor | None:
    """Give an empty tensor like the first, unless the others would change its shape or type."""
    first = args[0]
    for other in args[1:]:
        if isinstance(other, Tensor) and (other.shape, other.dtype) != (first.shape, first.dtype):
            return None
    return _empty(first, first.shape) if first.is_floating_point() else None


def _empty(like: Tensor, shape: Sequence[int]) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device="meta")


def _batch_norm(args: tuple[Any, ...]) -> tuple[Tensor, Tensor, Tensor] | None:
    image = args[0]
    if any(part is not None and part.shape != image.shape[1:2] for part in args[1:5]):
        return None
    return _empty(image, image.shape), _empty(image, (0,)), _empty(image, (0,))


def _addmm(args: tuple[Any, ...]) -> Tensor | None:
    if args[1].shape[1] != args[2].shape[0] or args[0].shape != args[2].shape[1:]:
        return None
    return _empty(args[1], (args[1].shape[0], args[2].shape[1]))


def _cat(args: tuple[Any, ...]) -> Tensor | None:
    parts, dim = args[0], args[1] if len(args) > 1 else 0
    first = parts[0]
    shape = list(first.shape)
    for part in parts:
        others = [*part.shape[:dim], shape[dim], *part.shape[dim:][1:]]
        if part.dim() != first.dim() or part.dtype != first.dtype or others != shape:
            return None
    shape[dim] = sum(part.shape[dim] for part in parts)
    return _empty(first, shape)


def _mean(args: tuple[Any, ...]) -> Tensor | None:
    # Without dimensions it takes all.
    if len(args) < 2 or not args[1] or len(args) > 3:
        return None
    image, keep = args[0], len(args) > 2 and args[2]
    dims = {dim % image.dim() for dim in args[1]}
    sides = enumerate(image.shape)
    return _empty(image, [1 if d in dims else n for d, n in sides if keep or d not in dims])


def _slid_sides(
    image: Tensor, window: Window, padding: int | Sequence[int], *, ceil: bool = False
) -> list[int] | None:
    """Return the sides of what a window gives that slides over an image; None where it fits not."""
    kernel, inner = window.kernel, image.shape[2:]
    if not (len(kernel) == len(inner) == len(window.stride) == len(window.dilation)):
        return None
    sides = []
    for side, k, stride, dilation, pad in zip(
        inner, kernel, window.stride, window.dilation, _spread(padding, kernel), strict=True
    ):
        free = side + 2 * pad - dilation * (k - 1) - 1
        out = (-(-free // stride) if ceil else free // stride) + 1
        # Rounded up, the last window may begin in the padding, where torch leaves it out.
        sides.append(out - (ceil and (out - 1) * stride >= side + pad))
    return sides if min(sides) > 0 else None


def _convolution(args: tuple[Any, ...]) -> Tensor | None:
    image, weight, bias, _, padding, _, is_transposed, _, groups = args[:9]
    if is_transposed or image.dim() != weight.dim() or image.dtype != weight.dtype:
        return None
    if image.shape[1] != groups * weight.shape[1] or weight.shape[0] % groups:
        return None
    if bias is not None and bias.shape != weight.shape[:1]:
        return None
    sides = _slid_sides(image, typing.cast(Window, _conv_window(args, image)), padding)
    return _empty(image, (image.shape[0], weight.shape[0], *sides)) if sides else None


def _pooled(args: tuple[Any, ...], window: Window, *, ceil: bool) -> Tensor | None:
    image, padding = args[0], _spread(args[3] if len(args) > 3 else 0, window.kernel)
    is_odd = any(2 * pad > k for pad, k in zip(padding, window.kernel, strict=True))
    if image.dim() != 4 or not image.is_floating_point() or is_odd:
        return None
    sides = _slid_sides(image, window, padding, ceil=ceil)
    return _empty(image, (*image.shape[:2], *sides)) if sides else None


def _max_pool(args: tuple[Any, ...]) -> tuple[Tensor, Tensor] | None:
    ceil = bool(args[5]) if len(args) > 5 else False
    out = _pooled(args, _max_pool_window(args, args[0]), ceil=ceil)
    return None if out is None else (out, torch.empty(out.shape, dtype=torch.int64, device="meta"))


def _avg_pool(args: tuple[Any, ...]) -> Tensor | None:
    ceil = bool(args[4]) if len(args) > 4 else False
    return _pooled(args, _avg_pool_window(args, args[0]), ceil=ceil)


def _adaptive_avg_pool(args: tuple[Any, ...]) -> Tensor | None:
    image, sides = args[:2]
    if image.dim() != 4 or not image.is_floating_point() or min(sides) < 1:
        return None
    return _empty(image, (*image.shape[:2], *sides))


# Shapes of common operations on meta tensors. PyTorch computes them in Python, for which it imports
# its compiler and SymPy, and takes seconds. None leaves them to PyTorch all the same, if only for
# the error that it raises.
SHAPES: dict[Any, Callable[[tuple[Any, ...]], Any]] = {
    _aten.convolution: _convolution,
    _aten.max_pool2d_with_indices: _max_pool,
    _aten.avg_pool2d: _avg_pool,
    _aten._adaptive_avg_pool2d: _adaptive_avg_pool,
    **dict.fromkeys(
        (
            _aten.relu,
            _aten.hardtanh,
            _aten.sigmoid,
            _aten.tanh,
            _aten.silu,
            _aten.add,
            _aten.mul,
            _aten.maximum,
        ),
        _like,
    ),
    _aten.native_batch_norm: _batch_norm,
    _aten.addmm: _addmm,
    _aten.cat: _cat,
    _aten.mean: _mean,
    _aten.amax: _mean,
}
