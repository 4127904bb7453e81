"""Shapes, parameters, MACs and receptive fields of any module, without running it.

The module is copied with its tensors on PyTorch's meta device, which have shapes but no memory, and
one image goes through the copy. The module itself is never called, moved or changed.

The receptive field of a layer is `r + d (k - 1) j` for kernel side k, dilation d, and the field r
and stride j of the layer below (Araujo et al., https://doi.org/10.23915/distill.00021). Where
branches meet, the largest counts. Padding does not matter. A layer that sees the whole image,
such as a global average or a linear layer, has none.
"""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Geometry", "LayerGeometry", "analyze"]

_aten = torch.ops.aten


@dataclass(frozen=True)
class LayerGeometry:
    """One call of one layer, for one image.

    Attributes:
        name: path of the layer within the module.
        kind: class of the layer.
        output_shape: without the batch dimension; empty where the layer was not called.
        num_params: parameters of its own; a shared one is counted where it first appears.
        macs: multiply-accumulates of convolutions and matrix products.
        receptive_field: side in pixels of the input that one output pixel sees; the larger of
            height and width; None where there is none.
        stride: pixels of the input between neighbouring output pixels; None likewise.
        share: `num_params` as a fraction of the module's.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    num_params: int
    macs: int
    receptive_field: int | None
    stride: int | None
    share: float


@dataclass(frozen=True)
class Geometry:
    """Totals of a module for one image, and its layers in the order of the forward pass.

    Attributes:
        input_shape: without the batch dimension.
        num_params: each shared parameter once.
        num_trainable: those of them that require gradients.
        num_frozen: the others.
        macs: multiply-accumulates of convolutions, linear layers and matrix products.
        input_bytes: of one image.
        activation_bytes: of all layers' outputs for one image.
        param_bytes: of all parameters.
        layers: leaf layers; a module with layers inside is among them only where it has
            parameters of its own or multiplies by itself. Layers with parameters that the forward
            pass never calls come last.
    """

    input_shape: tuple[int, ...]
    num_params: int
    num_trainable: int
    num_frozen: int
    macs: int
    input_bytes: int
    activation_bytes: int
    param_bytes: int
    layers: tuple[LayerGeometry, ...]


def analyze(module: nn.Module, input_shape: Sequence[int]) -> Geometry:
    """Measure a module in evaluation mode.

    Forward hooks of the module are left out, so that looking at it sets nothing off.

    Args:
        module: any module; it is left exactly as it was.
        input_shape: of one image, (C, H, W), without the batch dimension.
    """
    params = list(module.parameters())
    num_params = sum(p.numel() for p in params)
    num_trainable = sum(p.numel() for p in params if p.requires_grad)
    dtype = next((p.dtype for p in params if p.is_floating_point()), torch.float32)
    trace = _Trace(_meta_copy(module).eval(), num_params)
    with torch.no_grad(), torch.device("meta"):
        image = torch.empty((1, *input_shape), dtype=dtype)
        trace.run(image)
    return Geometry(
        input_shape=tuple(input_shape),
        num_params=num_params,
        num_trainable=num_trainable,
        num_frozen=num_params - num_trainable,
        macs=sum(layer.macs for layer in trace.layers),
        input_bytes=image.nbytes,
        activation_bytes=trace.activation_bytes,
        param_bytes=sum(p.nbytes for p in params),
        layers=tuple(trace.layers),
    )


def _meta_copy(module: nn.Module) -> nn.Module:
    """Copy the structure of a module; tensors become meta tensors, forward hooks are dropped."""
    memo: dict[int, Any] = {}
    for part in module.modules():
        for hooks in (
            part._forward_hooks,
            part._forward_hooks_with_kwargs,
            part._forward_hooks_always_called,
        ):
            memo[id(hooks)] = OrderedDict()
        # A plain attribute may be a tensor too.
        for values in (part._parameters, part._buffers, vars(part)):
            for value in values.values():
                if isinstance(value, Tensor) and id(value) not in memo:
                    memo[id(value)] = _to_meta(value)
    return copy.deepcopy(module, memo)


def _to_meta(tensor: Tensor) -> Tensor:
    empty = torch.empty_like(tensor, device="meta", requires_grad=False)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(empty, requires_grad=tensor.requires_grad)
    return empty


class _Call(NamedTuple):
    """A module that is running."""

    name: str
    macs_before: int
    inner_macs: list[int]


class _Trace:
    """What one image meets on its way through a module."""

    def __init__(self, module: nn.Module, num_params: int) -> None:
        self.layers: list[LayerGeometry] = []
        self.activation_bytes = 0
        self._module = module
        self._num_params = num_params
        self._counter = _Counter()
        self._running: list[_Call] = []
        self._seen_params: set[int] = set()
        # Outputs are kept alive, so that an id stands for one tensor.
        self._outputs: dict[int, Tensor] = {}
        self._called: set[str] = set()

    def run(self, image: Tensor) -> None:
        self._counter.start(image)
        for name, part in self._module.named_modules():
            self._watch(name, part)
        with self._counter:
            self._module(image)
        for name, part in self._module.named_modules():
            if name not in self._called and any(True for _ in part.parameters(recurse=False)):
                self._add_layer(name, part, None, 0)

    def _watch(self, name: str, part: nn.Module) -> None:
        def enter(part: nn.Module, _: Any) -> None:
            self._running.append(_Call(name, self._counter.macs, []))

        def leave(part: nn.Module, _: Any, output: Any) -> None:
            call = self._running.pop()
            macs = self._counter.macs - call.macs_before
            if self._running:
                self._running[-1].inner_macs.append(macs)
            own_macs = macs - sum(call.inner_macs)
            is_leaf = not any(True for _ in part.children())
            has_params = any(True for _ in part.parameters(recurse=False))
            self._called.add(name)
            if is_leaf or has_params or own_macs:
                self._add_layer(name, part, _first_tensor(output), own_macs)

        part.register_forward_pre_hook(enter)
        part.register_forward_hook(leave)

    def _add_layer(self, name: str, part: nn.Module, output: Tensor | None, macs: int) -> None:
        num_params = 0
        for parameter in part.parameters(recurse=False):
            if id(parameter) not in self._seen_params:
                self._seen_params.add(id(parameter))
                num_params += parameter.numel()
        field = None
        if output is not None:
            field = self._counter.field(output)
            if id(output) not in self._outputs and not output._is_view():
                self.activation_bytes += output.nbytes
            self._outputs[id(output)] = output
        kind = type(part).__name__
        self.layers.append(
            LayerGeometry(
                name=name or kind,
                kind=kind,
                output_shape=() if output is None else tuple(output.shape[1:]),
                num_params=num_params,
                macs=macs,
                receptive_field=max(field.sides) if field else None,
                stride=max(field.strides) if field else None,
                share=num_params / self._num_params if self._num_params else 0.0,
            )
        )


class _Field(NamedTuple):
    """Receptive field and stride of a map, one number for each spatial dimension."""

    sides: tuple[int, ...]
    strides: tuple[int, ...]


class _Window(NamedTuple):
    """The kernel of a convolution or pool, one number for each spatial dimension."""

    kernel: Sequence[int]
    stride: Sequence[int]
    dilation: Sequence[int]


class _Counter(TorchDispatchMode):
    """Count MACs and carry receptive fields from tensor to tensor, below autograd."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.macs = 0
        # Tensors are kept alive, so that an id stands for one tensor; meta tensors are free.
        self._fields: dict[int, tuple[Tensor, _Field | None]] = {}

    def start(self, image: Tensor) -> None:
        """Give each pixel of the image itself as its field."""
        ones = (1,) * (image.dim() - 2)
        self._fields[id(image)] = (image, _Field(ones, ones) if ones else None)

    def field(self, tensor: Tensor) -> _Field | None:
        """Return the field of a tensor; None where it has none."""
        return self._fields.get(id(tensor), (tensor, None))[1]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        op = func.overloadpacket
        if op in _MACS:
            self.macs += _MACS[op](args, out)
        for result in _tensors([out]):
            self._fields[id(result)] = (result, self._field_after(op, args, result))
        return out

    def _field_after(self, op: Any, args: tuple[Any, ...], result: Tensor) -> _Field | None:
        if op in _WINDOWS:
            below = self.field(args[0])
            window = _WINDOWS[op](args, result)
            if below and window and len(below.sides) == len(window.kernel):
                return _slide(below, window)
            return None
        if op in _MACS:
            return None
        fields = [
            field
            for tensor in _tensors(args)
            if (field := self.field(tensor))
            and (op in _PADS or _has_same_pixels(tensor, result, len(field.sides)))
        ]
        if len({len(field.sides) for field in fields}) != 1:
            return None
        return _Field(
            tuple(map(max, zip(*(field.sides for field in fields), strict=True))),
            tuple(map(max, zip(*(field.strides for field in fields), strict=True))),
        )


def _has_same_pixels(tensor: Tensor, result: Tensor, num_spatial: int) -> bool:
    """Tell whether the last dimensions are still height and width; views may regroup channels."""
    is_map = result.dim() >= num_spatial + 2
    return is_map and tensor.shape[-num_spatial:] == result.shape[-num_spatial:]


def _slide(below: _Field, window: _Window) -> _Field:
    spatial = zip(
        below.sides, below.strides, window.kernel, window.stride, window.dilation, strict=True
    )
    sides, strides = zip(
        *[(side + d * (k - 1) * jump, jump * s) for side, jump, k, s, d in spatial], strict=True
    )
    return _Field(sides, strides)


def _tensors(values: Iterable[Any]) -> Iterable[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _first_tensor(value: Any) -> Tensor | None:
    values = value.values() if isinstance(value, dict) else [value]
    return next(iter(_tensors(values)), None)


def _spread(value: int | Sequence[int], like: Sequence[int]) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * len(like) if len(values) == 1 else values


def _conv_window(args: tuple[Any, ...], result: Tensor) -> _Window | None:
    kernel = args[1].shape[2:]
    is_transposed = args[6]
    # A transposed convolution spreads pixels out: its stride is no whole number of input pixels.
    if is_transposed:
        return None
    return _Window(kernel, _spread(args[3], kernel), _spread(args[5], kernel))


def _max_pool_window(args: tuple[Any, ...], result: Tensor) -> _Window:
    kernel = _spread(args[1], result.shape[2:])
    stride = _spread(args[2], kernel) if len(args) > 2 and args[2] else kernel
    return _Window(kernel, stride, _spread(args[4] if len(args) > 4 else 1, kernel))


def _avg_pool_window(args: tuple[Any, ...], result: Tensor) -> _Window:
    return _max_pool_window(args[:3], result)


def _adaptive_window(args: tuple[Any, ...], result: Tensor) -> _Window | None:
    if all(side == 1 for side in result.shape[2:]):
        return None
    pairs = list(zip(args[0].shape[2:], result.shape[2:], strict=True))
    # Window i spans floor(i H / h) to ceil((i + 1) H / h), one pixel more where h doesn't divide.
    kernel = [
        max(-(-(i + 1) * inner // outer) - i * inner // outer for i in range(outer))
        for inner, outer in pairs
    ]
    return _Window(kernel, [max(1, inner // outer) for inner, outer in pairs], [1] * len(pairs))


def _conv_macs(args: tuple[Any, ...], result: Tensor) -> int:
    image, weight, is_transposed = args[0], args[1], args[6]
    # One kernel for each output pixel; transposed, one for each input pixel.
    pixels = (image if is_transposed else result).shape[2:]
    return int(result.shape[0] * math.prod(pixels) * weight.numel())


def _product_macs(args: tuple[Any, ...], result: Tensor) -> int:
    return result.numel() * int(args[0].shape[-1])


def _sum_and_product_macs(args: tuple[Any, ...], result: Tensor) -> int:
    return result.numel() * int(args[1].shape[-1])


_MACS: dict[Any, Callable[[tuple[Any, ...], Tensor], int]] = {
    _aten.convolution: _conv_macs,
    _aten.mm: _product_macs,
    _aten.bmm: _product_macs,
    _aten.addmm: _sum_and_product_macs,
    _aten.baddbmm: _sum_and_product_macs,
}
_WINDOWS: dict[Any, Callable[[tuple[Any, ...], Tensor], _Window | None]] = {
    _aten.convolution: _conv_window,
    _aten.max_pool2d_with_indices: _max_pool_window,
    _aten.max_pool3d_with_indices: _max_pool_window,
    _aten.avg_pool2d: _avg_pool_window,
    _aten.avg_pool3d: _avg_pool_window,
    _aten._adaptive_avg_pool2d: _adaptive_window,
    _aten.adaptive_max_pool2d: _adaptive_window,
}
# Operations that add pixels at the sides, which neither see nor skip pixels.
_PADS = {_aten.constant_pad_nd, _aten.reflection_pad2d, _aten.replication_pad2d}
