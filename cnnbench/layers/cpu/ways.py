"""Another way to compute a layer whose kernel is wrong on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cnnbench.layers.cpu.slices import slice_one


def take_ways(model: nn.Module, ways: Mapping[str, str]) -> list[str]:
    """Let layers compute in other ways; the state dict stays as it is.

    Args:
        model: in place.
        ways: ``slice`` (a strided 1x1 convolution), ``contiguous`` or ``fp32``, by path of a layer.

    Returns:
        Paths of those that cannot, such as modules that call the kernel in a ``forward`` of their
        own.
    """
    modules, refused = dict(model.named_modules()), []
    for name, way in ways.items():
        module = modules.get(name)
        if way == "slice" and isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
            slice_one(module)
        elif way in _BEFORE and isinstance(module, _LAYERS):
            layer: Any = module
            kind: Any = type(module)
            layer.__class__ = _other_way(kind, way)
        else:
            refused.append(name)
    return refused


_LAYERS = (
    nn.Conv2d,
    nn.BatchNorm2d,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
)


class _Contiguous(nn.Conv2d if TYPE_CHECKING else object):  # type: ignore[misc]
    """Goes before a class of layers: its images and weights have the channels first."""

    def forward(self, input: Tensor) -> Tensor:
        result: Tensor = super().forward(input.contiguous())
        return result

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # Of images with the channels first and weights with the channels last, torch takes the
        # latter's layout.
        result: Tensor = super()._conv_forward(input.contiguous(), weight.contiguous(), bias)
        return result


class _Fp32(nn.Conv2d if TYPE_CHECKING else object):  # type: ignore[misc]
    """Goes before a class of layers: it computes in float32."""

    def forward(self, input: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            result: Tensor = super().forward(input.float())
        return result


_BEFORE = {"contiguous": _Contiguous, "fp32": _Fp32}


@cache
def _other_way(kind: Any, way: str) -> type[nn.Module]:
    return type(kind.__name__, (_BEFORE[way], kind), {"__module__": kind.__module__})
