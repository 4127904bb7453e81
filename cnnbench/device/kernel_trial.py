"""One kernel against double precision: the program that ``kernel_check`` runs.

It imports torch alone. Each line of standard input is a trial, each line of standard output what
came of it. A kernel that crashes or hangs takes nothing with it but this process.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

# Sides up to which every value is compared, and how many positions are where planes are larger.
_FULL_SIDE = 32
_POSITIONS = 64
# What takes longer is timed once more.
_LONG_SECONDS = 0.05
# Of the norm, and of the largest value. Sums in another order differ by 1e-6 in float32; a rounded
# bfloat16 by 2e-3 of the norm.
_TOLERANCES = {torch.float32: (2e-5, 2e-4), torch.bfloat16: (1e-2, 5e-2)}


def try_kernel(kernel: dict[str, Any], way: str, channels_last: bool, bf16: bool) -> dict[str, Any]:
    """Compute a kernel, forward and all gradients, and compare.

    Args:
        kernel: as ``geometry.kernels`` has it.
        way: ``plain``; ``slice``, ``contiguous`` or ``fp32`` in its place.
        channels_last: the layout of images and weights.
        bf16: whether the run computes in bfloat16; otherwise float32.

    Returns:
        ``wrong``: the first of ``output``, ``input gradient``, ``weight gradient`` and so on that
        is, or None; ``seconds`` of a later pass.
    """
    torch.manual_seed(0)
    dtype = torch.bfloat16 if bf16 and way != "fp32" else torch.float32
    is_last = channels_last and way != "contiguous"
    args = [_made(arg, dtype, is_last) for arg in kernel["args"]]
    _leave_rubbish(args[0].numel())
    output, gradients, grad = _passes(kernel["op"], args, way)
    seconds = _timed(kernel["op"], args, way)
    if seconds > _LONG_SECONDS:  # slow, or disturbed by other work: the second time tells
        seconds = min(seconds, _timed(kernel["op"], args, way))
    found = [output, *gradients]
    if kernel["op"] == "convolution" and not args[6] and max(args[0].shape[2:]) > _FULL_SIDE:
        pairs = _at_positions(args, found, grad)
    else:
        exact = [a.detach().double().contiguous() if isinstance(a, Tensor) else a for a in args]
        right, right_gradients, _ = _passes(kernel["op"], exact, "plain", grad)
        pairs = list(zip(found, [right, *right_gradients], strict=True))
    names = ("output", "input gradient", "weight gradient", "bias gradient", "other gradient")
    wrong = [name for name, pair in zip(names, pairs, strict=False) if not _is_right(*pair)]
    return {"wrong": wrong[0] if wrong else None, "seconds": seconds}


def _timed(operation: str, args: list[Any], way: str) -> float:
    started = time.perf_counter()
    _passes(operation, args, way)
    return time.perf_counter() - started


def _made(arg: Any, dtype: torch.dtype, is_last: bool) -> Any:
    """Return an argument: random numbers for a shape."""
    if not isinstance(arg, dict):
        return arg
    tensor = torch.randn(arg["shape"]).to(dtype)
    if is_last and tensor.dim() == 4:
        tensor = tensor.contiguous(memory_format=torch.channels_last)
    return tensor


def _leave_rubbish(size: int) -> None:
    """Fill memory and free it, so that a kernel that reads what it never wrote shows it."""
    del [torch.full((size,), float("nan")) for _ in range(4)][:]


def _passes(
    op: str, args: Sequence[Any], way: str, grad: Tensor | None = None
) -> tuple[Tensor, list[Tensor], Tensor]:
    """Return the output, the gradients of all tensors that have one, and the output's gradient."""
    args = list(args)
    if op == "native_batch_norm":  # without running statistics, in training
        args[3:6] = [None, None, True]
    wanted = [arg.detach().requires_grad_() for arg in args if isinstance(arg, Tensor)]
    rest = iter(wanted)
    args = [next(rest) if isinstance(arg, Tensor) else arg for arg in args]
    if way == "slice":
        rows, columns = args[3]
        args[0] = args[0][..., ::rows, ::columns]
        args[3] = [1, 1]
    result = getattr(torch.ops.aten, op)(*args)
    output = result if isinstance(result, Tensor) else result[0]
    if grad is None:
        layout = torch.channels_last if _is_channels_last(wanted[0]) else torch.contiguous_format
        grad = torch.randn(output.shape).to(output.dtype).contiguous(memory_format=layout)
    gradients = torch.autograd.grad(output, wanted, grad.to(output.dtype))
    return output.detach(), list(gradients), grad


def _is_channels_last(tensor: Tensor) -> bool:
    return tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)


def _is_right(found: Tensor, right: Tensor) -> bool:
    relative, largest = _TOLERANCES[found.dtype]
    difference, scale = found.double() - right, right.norm()
    if not bool(difference.isfinite().all()):
        return False
    is_near = difference.norm() <= relative * scale + 1e-12
    return bool(is_near and difference.abs().max() <= largest * right.abs().max() + 1e-12)


def _at_positions(
    args: Sequence[Any], found: Sequence[Tensor], grad: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """Return what was found and what is right of a convolution, at some positions of each."""
    images, weight, bias, stride, padding, dilation, _, _, groups = args
    padded = F.pad(images.double(), (padding[1], padding[1], padding[0], padding[0]))
    weight, grad = weight.double(), grad.double()
    height, width = weight.shape[2:]
    grouped = weight.view(groups, -1, *weight.shape[1:])  # g, o, c, h, w
    offsets = [(i, j) for i in range(height) for j in range(width)]
    n, y, x = _drawn(grad, (0, 2, 3))
    seen = [
        padded[n, :, y * stride[0] + i * dilation[0], x * stride[1] + j * dilation[1]]
        for i, j in offsets
    ]
    windows = torch.stack(seen, -1).view(_POSITIONS, groups, -1, height, width)
    output = torch.einsum("pgchw,gochw->pgo", windows, grouped).flatten(1)
    if bias is not None:
        output = output + bias.double()
    pairs = [(found[0][n, :, y, x], output)]
    n, y, x = _drawn(images, (0, 2, 3))
    given = []
    for i, j in offsets:
        up, left = y + padding[0] - i * dilation[0], x + padding[1] - j * dilation[1]
        row, column = up // stride[0], left // stride[1]
        hits = (up % stride[0] == 0) & (left % stride[1] == 0) & (row >= 0) & (column >= 0)
        hits &= (row < grad.shape[2]) & (column < grad.shape[3])
        given.append(grad[n, :, row * hits, column * hits] * hits[:, None])
    windows = torch.stack(given, -1).view(_POSITIONS, groups, -1, height, width)
    to_images = torch.einsum("pgohw,gochw->pgc", windows, grouped).flatten(1)
    pairs.append((found[1][n, :, y, x], to_images))
    where = _drawn(weight, (0, 1, 2, 3))
    sums = [_weight_gradient(padded, grad, args, at) for at in torch.stack(where, 1).tolist()]
    pairs.append((found[2][where], torch.stack(sums)))
    if bias is not None:
        pairs.append((found[3], grad.sum((0, 2, 3))))
    return pairs


def _weight_gradient(
    padded: Tensor, grad: Tensor, args: Sequence[Any], at: tuple[int, int, int, int]
) -> Tensor:
    out, channel, i, j = at
    _, weight, _, stride, _, dilation, _, _, groups = args
    group = out // (weight.shape[0] // groups)
    plane = padded[:, group * weight.shape[1] + channel, i * dilation[0] :, j * dilation[1] :]
    plane = plane[:, :: stride[0], :: stride[1]][:, : grad.shape[2], : grad.shape[3]]
    return (plane * grad[:, out]).sum()


def _drawn(tensor: Tensor, dims: Sequence[int]) -> tuple[Tensor, ...]:
    """Return positions along some dimensions, the corners among them."""
    sizes = [tensor.shape[dim] for dim in dims]
    drawn = [torch.randint(size, (_POSITIONS,)) for size in sizes]
    for indices, size in zip(drawn, sizes, strict=True):
        indices[0], indices[1] = 0, size - 1
    return tuple(drawn)


def serve() -> None:
    """Answer trials until standard input ends; the first line has the number of threads."""
    torch.set_num_threads(int(sys.stdin.readline()))
    torch.set_flush_denormal(True)
    print("{}", flush=True)
    for line in sys.stdin:
        try:
            answer = try_kernel(**json.loads(line))
        except RuntimeError as error:
            answer = {"wrong": f"fails: {str(error).splitlines()[0]}", "seconds": 0.0}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve()
