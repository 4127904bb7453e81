"""What a network sees in one image: its first filters, its maps, Grad-CAM, receptive fields.

Grad-CAM is that of Selvaraju et al., https://arxiv.org/abs/1610.02391; the measured receptive field
is the gradient of one unit, as Luo et al. measure it, https://arxiv.org/abs/1701.04128.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnbench.geometry.trace import Geometry, analyze
from cnnbench.losses import CROSS_ENTROPY

__all__ = ["Box", "Features", "Filters", "Stage", "grad_cam", "look_at"]

# Modules that do nothing but hold others; what is inside them is looked at instead.
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_MEASURED_CHANNELS = 16
_MEASURED_SHARE = 0.9


class Box(NamedTuple):
    """Rows and columns of an image, in pixels; bottom and right are just outside."""

    top: int
    left: int
    bottom: int
    right: int


@dataclass(frozen=True)
class Filters:
    """What the first layer looks for.

    Attributes:
        layer: its path within the network.
        is_convolution: otherwise it is a linear layer, whose filters are as large as the image.
        weights: (N, C, H, W).
        responses: of each filter on the image, (N, H', W'); None for a linear layer.
    """

    layer: str
    is_convolution: bool
    weights: Tensor
    responses: Tensor | None


@dataclass(frozen=True)
class Stage:
    """The last map of one resolution, and what its central unit sees.

    Attributes:
        name: path of the module that gave it; a number follows from its second call on.
        maps: (C, H, W).
        receptive_field: side in pixels that one unit sees in theory, as large as it would be
            without the image's edges; None where it sees the whole image, whatever its size.
        box: the part of the image that the central unit can see.
        gradient: how strongly each pixel moves the central unit, (image_size, image_size): the
            mean of |d unit / d pixel| over the 16 channels that answer most strongly there, summed
            over the pixel's colours.
        measured_side: pixels of the smallest square around the gradient's centre of mass that
            holds nine tenths of it; 0 where the unit is dead.
    """

    name: str
    maps: Tensor
    receptive_field: int | None
    box: Box
    gradient: Tensor
    measured_side: int


@dataclass(frozen=True)
class Features:
    """What a network makes of one image.

    Attributes:
        probabilities: of the classes, (num_classes,).
        filters: None where no layer sees the pixels directly.
        stages: in the order of the forward pass; empty for a network without convolutions.
        grad_cam: where the last stage finds the likeliest class, (image_size, image_size) in
            [0, 1]; None without stages.
    """

    probabilities: Tensor
    filters: Filters | None
    stages: tuple[Stage, ...]
    grad_cam: Tensor | None


class _Call(NamedTuple):
    """What a module gave, and which of its calls that was, from 0."""

    name: str
    module: nn.Module
    number: int
    output: Any


def look_at(
    module: nn.Module, image: Tensor, outputs_of: Callable[[Tensor], Tensor] = CROSS_ENTROPY.outputs
) -> Features:
    """Look at what a network makes of one image.

    Args:
        module: in evaluation mode; it is left exactly as it was.
        image: network input, (1, C, image_size, image_size).
        outputs_of: what the module gives -> logits of the classes, as ``Loss.outputs``.
    """
    image = image.detach().clone().requires_grad_()
    with torch.enable_grad(), _recording(module) as calls:
        logits = outputs_of(module(image))
    chosen = _last_of_each_size(module, calls, analyze(module, image.shape[1:]))
    cam = grad_cam(logits[0].max(), chosen[-1][0].output, image.shape[-1]) if chosen else None
    stages = []
    for call, field in chosen:
        box = _seen_box(module, image, call)
        if field is not None and max(box.bottom - box.top, box.right - box.left) > field:
            field = None  # a gate, or a norm over the image, lets the rest of it in
        gradient = _measured_field(call.output, image)
        name = f"{call.name} ({call.number + 1})" if call.number else call.name
        maps = call.output.detach()[0]
        stages.append(Stage(name, maps, field, box, gradient, _side_of_share(gradient)))
    return Features(
        probabilities=logits.detach()[0].float().softmax(0),
        filters=_first_filters(calls, image.shape[1:]),
        stages=tuple(stages),
        grad_cam=cam,
    )


def grad_cam(logit: Tensor, maps: Tensor, image_size: int) -> Tensor:
    """Return where maps speak for a class.

    Each map counts with the mean of the logit's gradient over its pixels; what speaks against the
    class is left out, and the largest value becomes 1.

    Args:
        logit: of the class, a scalar that depends on `maps`.
        maps: (1, C, H, W).
        image_size: side of the result.

    Returns:
        (image_size, image_size), in [0, 1]; all 0 where nothing speaks for the class.
    """
    [gradient] = torch.autograd.grad(logit, maps, retain_graph=True, materialize_grads=True)
    weights = gradient.mean((2, 3), keepdim=True)
    cam = (weights * maps.detach()).sum(1, keepdim=True).relu()
    size = (image_size, image_size)
    cam = F.interpolate(cam, size, mode="bilinear", align_corners=False)[0, 0]
    return cam / cam.max().clamp(min=torch.finfo(cam.dtype).tiny)


@contextmanager
def _recording(module: nn.Module) -> Iterator[list[_Call]]:
    """Collect what all modules give, in order, inside the block."""
    calls: list[_Call] = []
    counts: dict[str, int] = {}

    def note(name: str, part: nn.Module, inputs: Any, output: Any) -> None:
        calls.append(_Call(name, part, counts.get(name, 0), output))
        counts[name] = counts.get(name, 0) + 1

    hooks = [
        part.register_forward_hook(functools.partial(note, name))
        for name, part in module.named_modules()
    ]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def _is_map(output: Any) -> bool:
    return isinstance(output, Tensor) and output.dim() == 4


def _main_line(module: nn.Module, path: str, maps: set[str]) -> Iterator[str]:
    """Yield the paths of the outermost modules that give maps, branches inside them left out."""
    for name, part in module.named_children():
        inner = f"{path}.{name}" if path else name
        if inner in maps and type(part) not in _CONTAINERS:
            yield inner
        else:
            yield from _main_line(part, inner, maps)


def _last_of_each_size(
    module: nn.Module, calls: list[_Call], geometry: Geometry
) -> list[tuple[_Call, int | None]]:
    """Return the last map before each change of resolution, with its receptive field.

    Maps of one pixel are left out where there are larger ones: they have no positions to show. So
    are tensors in which neighbours are no pixels, such as those of a transformer.
    """
    names = set(_main_line(module, "", {call.name for call in calls if _is_map(call.output)}))
    num_calls = {name: sum(call.name == name for call in calls) for name in names}
    last: list[tuple[_Call, int | None]] = []
    for call in calls:
        if call.name not in names or not _is_map(call.output):
            continue
        field = _field_of(call, num_calls[call.name], geometry)
        if field is None:
            continue
        if last and last[-1][0].output.shape[-2:] == call.output.shape[-2:]:
            last.pop()
        last.append((call, field))
    larger = [entry for entry in last if max(entry[0].output.shape[-2:]) > 1]
    return larger or last


def _field_of(call: _Call, num_calls: int, geometry: Geometry) -> int | None:
    """Return the largest receptive field of the layers that one call of a module ran."""
    layers = [
        layer
        for layer in geometry.layers
        if layer.output_shape and f"{layer.name}.".startswith(f"{call.name}.")
    ]
    share = len(layers) // num_calls
    ran = layers[call.number * share : (call.number + 1) * share]
    return max((layer.receptive_field for layer in ran if layer.receptive_field), default=None)


def _center(maps: Tensor) -> tuple[int, int]:
    return maps.shape[-2] // 2, maps.shape[-1] // 2


def _seen_box(module: nn.Module, image: Tensor, call: _Call) -> Box:
    """Return the part of the image that a map's central unit can see.

    What is not a number stays so through any sum, product, maximum or activation, whatever the
    weights are: the unit sees a row of pixels just where spoiling it spoils the unit. Each edge is
    found by bisection.
    """
    row, column = _center(call.output)
    height, width = image.shape[-2:]
    # Of a side's pixels, spoiling the first n is enough to reach the unit, and n - 1 is not.
    reached, not_reached = [height, width, height, width], [0, 0, 0, 0]
    while any(r - n > 1 for r, n in zip(reached, not_reached, strict=True)):
        middle = [(r + n) // 2 for r, n in zip(reached, not_reached, strict=True)]
        images = image.detach().repeat(4, 1, 1, 1)
        images[0, :, : middle[0]] = torch.nan
        images[1, :, :, : middle[1]] = torch.nan
        images[2, :, height - middle[2] :] = torch.nan
        images[3, :, :, width - middle[3] :] = torch.nan
        with torch.no_grad(), _recording(module) as calls:
            module(images)
        same = (c for c in calls if (c.name, c.number) == (call.name, call.number))
        spoiled = next(same).output[:, :, row, column].isnan().any(1).tolist()
        for side in range(4):
            if reached[side] - not_reached[side] > 1:
                (reached if spoiled[side] else not_reached)[side] = middle[side]
    top, left, bottom, right = reached
    return Box(top - 1, left - 1, height - bottom + 1, width - right + 1)


def _measured_field(maps: Tensor, image: Tensor) -> Tensor:
    row, column = _center(maps)
    unit = maps[0, :, row, column]
    strongest = unit.detach().abs().topk(min(_MEASURED_CHANNELS, len(unit))).indices
    total = torch.zeros(image.shape[-2:])
    for channel in strongest.tolist():
        [gradient] = torch.autograd.grad(
            unit[channel], image, retain_graph=True, materialize_grads=True
        )
        total += gradient[0].abs().sum(0)
    return total / len(strongest)


def _side_of_share(gradient: Tensor) -> int:
    """Return the side of the smallest centred square that holds most of a gradient."""
    total = gradient.double().sum()
    if not total > 0:
        return 0
    row, column = gradient_center(gradient)
    rows = (torch.arange(gradient.shape[0]) - row).abs()
    columns = (torch.arange(gradient.shape[1]) - column).abs()
    distance = torch.maximum(rows[:, None], columns[None, :])
    within = torch.zeros(int(distance.max()) + 1, dtype=torch.float64)
    within.index_add_(0, distance.flatten(), gradient.double().flatten())
    return 2 * int((within.cumsum(0) < _MEASURED_SHARE * total).sum()) + 1


def gradient_center(gradient: Tensor) -> tuple[int, int]:
    """Return row and column of the pixel nearest to a gradient's centre of mass."""
    weights = gradient.double() / gradient.double().sum()
    rows, columns = (torch.arange(side, dtype=torch.float64) for side in gradient.shape)
    return round(float(weights.sum(1) @ rows)), round(float(weights.sum(0) @ columns))


def _first_filters(calls: list[_Call], image_shape: torch.Size) -> Filters | None:
    """Return the filters of the first convolution, or of a first layer that sees all pixels."""
    for call in calls:
        if isinstance(call.module, nn.Conv2d):
            weights = call.module.weight.detach()
            return Filters(call.name, True, weights, call.output.detach()[0])
        if isinstance(call.module, nn.Linear) and call.module.in_features == image_shape.numel():
            weights = call.module.weight.detach().unflatten(1, image_shape)
            return Filters(call.name, False, weights, None)
    return None
