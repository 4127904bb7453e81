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
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from cnnbench.geometry.observe import Watch
from cnnbench.geometry.operations import MACS, PADS, POOLS, SHAPES, WINDOWS, Window

__all__ = ["Geometry", "LayerGeometry", "Pool", "analyze"]


@dataclass(frozen=True)
class LayerGeometry:
    """One call of one layer, for one image.

    Attributes:
        name: path of the layer within the module.
        kind: class of the layer.
        input_shape: without the batch dimension; empty where the layer was not called.
        output_shape: likewise.
        num_params: parameters of its own; a shared one is counted where it first appears.
        macs: multiply-accumulates of convolutions and matrix products.
        receptive_field: side in pixels of the input that one output pixel sees; the larger of
            height and width; None where there is none.
        stride: pixels of the input between neighbouring output pixels; None likewise.
        share: `num_params` as a fraction of the module's.
        is_branch: whether other layers take the same input.
    """

    name: str
    kind: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    num_params: int
    macs: int
    receptive_field: int | None
    stride: int | None
    share: float
    is_branch: bool = False


class Pool(NamedTuple):
    """One pooling operation, whether a layer of its own or part of a `forward`.

    Attributes:
        layer: path of the innermost module that ran it; empty for the module itself.
        kernel: sides of its window; empty where it averages all.
        input_size: sides of its input in pixels.
        output_size: sides of its output in pixels.
    """

    layer: str
    kernel: tuple[int, ...]
    input_size: tuple[int, ...]
    output_size: tuple[int, ...]


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
        activation_bytes: what training keeps of one image for the backward pass, as if nothing
            were frozen; without dropout's masks.
        param_bytes: of all parameters.
        layers: leaf layers; a module with layers inside is among them only where it has
            parameters of its own or multiplies by itself. Layers with parameters that the forward
            pass never calls come last.
        module_shapes: what each called module gave last, by path, layers inside or not.
        pools: in the order of the forward pass.
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
    module_shapes: Mapping[str, tuple[int, ...]]
    pools: tuple[Pool, ...]

    @property
    def linear_share(self) -> float:
        """The fraction of the parameters that linear layers hold; 0 without parameters."""
        held = sum(layer.num_params for layer in self.layers if layer.kind.endswith("Linear"))
        return held / self.num_params if self.num_params else 0.0


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
    with torch.inference_mode(False), torch.device("meta"):
        trace = _Trace(meta_copy(module).eval(), num_params)
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
        module_shapes=trace.module_shapes,
        pools=tuple(trace.pools),
    )


def meta_copy(module: nn.Module) -> nn.Module:
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
    # empty_like on meta tensors goes through Python, and imports SymPy.
    empty = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(empty, requires_grad=tensor.is_floating_point())
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
        self.module_shapes: dict[str, tuple[int, ...]] = {}
        self._module = module
        self._num_params = num_params
        self._counter = _Counter()
        self._running: list[_Call] = []
        self._seen_params: set[int] = set()
        # What autograd keeps, by the identity of its memory.
        self._kept: dict[int, Tensor] = {}
        self._called: set[str] = set()
        # Indices of layers by the identity of the tensor they take.
        self._takers: dict[int, list[int]] = {}

    @property
    def pools(self) -> list[Pool]:
        return self._counter.pools

    @property
    def activation_bytes(self) -> int:
        return sum(tensor.untyped_storage().nbytes() for tensor in self._kept.values())

    def run(self, image: Tensor) -> None:
        self._counter.take_image(image)
        for name, part in self._module.named_modules():
            self._watch(name, part)
        own = {_memory(t) for t in (image, *self._module.parameters(), *self._module.buffers())}

        def keep(tensor: Tensor) -> Tensor:
            if _memory(tensor) not in own:
                self._kept[_memory(tensor)] = tensor
            return tensor

        hooks = saved_tensors_hooks(keep, lambda tensor: tensor)
        with torch.enable_grad(), hooks, self._counter:
            output = self._module(image)
        # A class may have a __call__ of its own, around what forward gives.
        self.module_shapes[""] = _shape(_first_tensor(output))
        for takers in self._takers.values():
            for index in takers if len(takers) > 1 else ():
                self.layers[index] = replace(self.layers[index], is_branch=True)
        for name, part in self._module.named_modules():
            if name not in self._called and any(True for _ in part.parameters(recurse=False)):
                self._add_layer(name, part, (), None, 0)

    def _watch(self, name: str, part: nn.Module) -> None:
        def enter(part: nn.Module, _: Any) -> None:
            self._running.append(_Call(name, self._counter.macs, []))
            self._counter.layer = name

        def leave(part: nn.Module, inputs: Any, output: Any) -> None:
            call = self._running.pop()
            self._counter.layer = self._running[-1].name if self._running else ""
            macs = self._counter.macs - call.macs_before
            if self._running:
                self._running[-1].inner_macs.append(macs)
            own_macs = macs - sum(call.inner_macs)
            is_leaf = not any(True for _ in part.children())
            has_params = any(True for _ in part.parameters(recurse=False))
            self._called.add(name)
            result = _first_tensor(output)
            self.module_shapes[name] = _shape(result)
            if is_leaf or has_params or own_macs:
                taken = _first_tensor(inputs)
                self._takers.setdefault(id(taken), []).append(len(self.layers))
                self._add_layer(name, part, _shape(taken), result, own_macs)

        part.register_forward_pre_hook(enter)
        part.register_forward_hook(leave)

    def _add_layer(
        self,
        name: str,
        part: nn.Module,
        input_shape: tuple[int, ...],
        output: Tensor | None,
        macs: int,
    ) -> None:
        num_params = 0
        for parameter in part.parameters(recurse=False):
            if id(parameter) not in self._seen_params:
                self._seen_params.add(id(parameter))
                num_params += parameter.numel()
        field = None
        if output is not None:
            field = self._counter.field(output)
        kind = type(part).__name__
        self.layers.append(
            LayerGeometry(
                name=name or kind,
                kind=kind,
                input_shape=input_shape,
                output_shape=_shape(output),
                num_params=num_params,
                macs=macs,
                receptive_field=max(field.sides) if field else None,
                stride=max(field.strides) if field else None,
                share=num_params / self._num_params if self._num_params else 0.0,
            )
        )


class _Field(NamedTuple):
    """Receptive field and stride of feature maps, one number for each spatial dimension."""

    sides: tuple[int, ...]
    strides: tuple[int, ...]


class _Counter(Watch):
    """Count MACs and carry receptive fields from tensor to tensor, below autograd."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.macs = 0
        self.pools: list[Pool] = []
        self.layer = ""
        # Tensors are kept alive, so that an id stands for one tensor; meta tensors are free.
        self._fields: dict[int, tuple[Tensor, _Field | None]] = {}

    def take_image(self, image: Tensor) -> None:
        """Take each pixel of the image as its own field."""
        ones = (1,) * (image.dim() - 2)
        self._fields[id(image)] = (image, _Field(ones, ones) if ones else None)

    def field(self, tensor: Tensor) -> _Field | None:
        """Return the field of a tensor; None where it has none."""
        return self._fields.get(id(tensor), (tensor, None))[1]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        op = func.overloadpacket
        out = SHAPES[op](args) if op in SHAPES else None
        if out is None:
            out = func(*args, **(kwargs or {}))
        if op in MACS:
            self.macs += MACS[op](args, out)
        if op in POOLS:
            self._add_pool(op, args, next(iter(_tensors([out]))))
        for result in _tensors([out]):
            self._fields[id(result)] = (result, self._field_after(op, args, result))
        return out

    def _add_pool(self, op: Any, args: tuple[Any, ...], result: Tensor) -> None:
        window = WINDOWS[op](args, result)
        kernel = tuple(window.kernel) if window else ()
        num_spatial = result.dim() - 2
        inner, outer = tuple(args[0].shape[-num_spatial:]), tuple(result.shape[-num_spatial:])
        self.pools.append(Pool(self.layer, kernel, inner, outer))

    def _field_after(self, op: Any, args: tuple[Any, ...], result: Tensor) -> _Field | None:
        if op in WINDOWS:
            below = self.field(args[0])
            window = WINDOWS[op](args, result)
            if below and window and len(below.sides) == len(window.kernel):
                return _slide(below, window)
            return None
        if op in MACS:
            return None
        fields = [
            field
            for tensor in _tensors(args)
            if (field := self.field(tensor))
            and (op in PADS or _has_same_pixels(tensor, result, len(field.sides)))
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


def _slide(below: _Field, window: Window) -> _Field:
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


def _memory(tensor: Tensor) -> int:
    """Return what a tensor and its views have in common."""
    return int(tensor.untyped_storage()._cdata)


def _shape(tensor: Tensor | None) -> tuple[int, ...]:
    return () if tensor is None else tuple(tensor.shape[1:])


def _first_tensor(value: Any) -> Tensor | None:
    values = value.values() if isinstance(value, dict) else [value]
    return next(iter(_tensors(values)), None)
