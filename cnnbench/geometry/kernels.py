"""The convolutions, pools and norms that a module computes, as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cnnbench.geometry.observe import Watch
from cnnbench.geometry.operations import SHAPES
from cnnbench.geometry.trace import meta_copy

_OPS = (
    "convolution",
    "max_pool2d_with_indices",
    "avg_pool2d",
    "_adaptive_avg_pool2d",
    "native_batch_norm",
)
# Planes up to this side are small enough for several images.
_SMALL_SIDE = 32
# The norm of two values, which may be near each other, magnifies rounding: no sign of an error.
_MIN_NORMED = 32


def kernels(module: nn.Module, input_shape: Sequence[int]) -> list[tuple[str, dict[str, Any]]]:
    """Return each call of torch's kernels for maps of images, without running the module.

    Args:
        module: as it is to be run; it is left exactly as it was. Auxiliary heads count too.
        input_shape: of one image, (C, H, W).

    Returns:
        The path of the innermost module that calls it, and the call: ``op``, the name in
        ``torch.ops.aten``, and ``args``, plain values, with ``{"shape": [...]}`` for a tensor.
    """
    with torch.inference_mode(False), torch.no_grad(), torch.device("meta"):
        copied = meta_copy(module).eval()
        recorder = _Recorder(copied)
        dtype = next((p.dtype for p in copied.parameters()), torch.float32)
        forward = getattr(copied, "forward_with_aux", copied)
        with recorder:
            forward(torch.empty((1, *input_shape), dtype=dtype))
    return recorder.calls


class _Recorder(Watch):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self._running: list[str] = []
        # The whole is not among them: its auxiliary forward runs no hook before it.
        for name, part in list(module.named_modules())[1:]:
            part.register_forward_pre_hook(lambda *_, name=name: self._running.append(name))
            part.register_forward_hook(lambda *_: self._leave())

    def _leave(self) -> None:
        self._running.pop()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        op = func.overloadpacket
        if op.__name__ in _OPS and args[0].dim() == 4:
            height, width = args[0].shape[2:]
            batch = 2 if max(height, width) <= _SMALL_SIDE else 1
            if op.__name__ == "native_batch_norm":
                batch = max(batch, _MIN_NORMED // (height * width))
            plain = [_plain(arg, batch if index == 0 else None) for index, arg in enumerate(args)]
            name = self._running[-1] if self._running else ""
            self.calls.append((name, {"op": op.__name__, "args": plain}))
        out = SHAPES[op](args) if op in SHAPES else None
        return func(*args, **(kwargs or {})) if out is None else out


def _plain(arg: Any, batch: int | None) -> Any:
    if isinstance(arg, Tensor):
        shape = list(arg.shape)
        return {"shape": shape if batch is None else [batch, *shape[1:]]}
    return list(arg) if isinstance(arg, list | tuple) else arg
