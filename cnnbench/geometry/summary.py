"""What a network costs, layer by layer, what each layer sees, and what looks wrong.

Nothing runs: shapes come from PyTorch's meta device, so that a network of any size is free to look
at.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from cnnbench.errors import UsageError, expected_names, reason_of, shape_text, whole_argument
from cnnbench.geometry.trace import Geometry, LayerGeometry, analyze

_SMALL_IMAGE = 64
_STEM_STRIDE = 4
_SHRINK = 8
TOTALS = (
    "num_params",
    "num_trainable",
    "num_frozen",
    "macs",
    "receptive_field",
    "input_bytes",
    "activation_bytes",
    "param_bytes",
    "linear_share",
)


def summarize(
    module: nn.Module, input_shape: Sequence[int], *, depth: int | None = None
) -> dict[str, Any]:
    """Return layers, totals and warnings of a module for one image, as ``cnnbench.summary`` does.

    Raises:
        UsageError: ``depth`` is below 1, or the module does not take such an image.
    """
    depth = None if depth is None else whole_argument("depth=", depth)
    shape = tuple(int(side) for side in input_shape)
    try:
        geometry = analyze(module, shape)
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        raise UsageError(
            f"{type(module).__name__} does not take an image of {shape_text(shape)}: "
            f"{reason_of(error)}"
        ) from None
    totals = {**asdict(geometry), "linear_share": geometry.linear_share}
    totals["receptive_field"] = largest_field(geometry)
    layers = [_row(layer, geometry) for layer in geometry.layers]
    return {
        "input_shape": list(shape),
        **{key: totals[key] for key in TOTALS},
        "layers": layers if depth is None else _fold(layers, geometry, module, depth),
        "warnings": warnings_of(geometry),
    }


def largest_field(geometry: Geometry) -> int | None:
    """Return the largest receptive field, in pixels of a side; None where there is none.

    Nor is there one to tell where a convolution gets a map of which it is not known what it sees,
    as after a permutation to channels last and back: what is seen there may be more.
    """
    for layer in geometry.layers:
        is_map = len(layer.output_shape) > 2 and max(layer.output_shape[1:]) > 1
        if "Conv" in layer.kind and is_map and layer.receptive_field is None:
            return None
    return max((f for layer in geometry.layers if (f := layer.receptive_field)), default=None)


def _row(layer: LayerGeometry, geometry: Geometry) -> dict[str, Any]:
    return {
        "name": layer.name,
        "kind": layer.kind,
        "output_shape": list(layer.output_shape),
        "num_params": layer.num_params,
        "macs": layer.macs,
        "receptive_field": layer.receptive_field,
        "stride": layer.stride,
        "macs_share": layer.macs / geometry.macs if geometry.macs else 0.0,
        "params_share": layer.share,
    }


def _fold(
    layers: Sequence[Mapping[str, Any]], geometry: Geometry, module: nn.Module, depth: int
) -> list[dict[str, Any]]:
    """Sum layers up by the module they are in; a module shows its last output."""
    folded: dict[str, dict[str, Any]] = {}
    for layer in layers:
        name = ".".join(layer["name"].split(".")[:depth])
        if name not in folded:
            shape = geometry.module_shapes.get(name, layer["output_shape"])
            kind = layer["kind"]
            if name != layer["name"]:
                kind = type(module.get_submodule(name)).__name__
            folded[name] = {**layer, "name": name, "kind": kind, "output_shape": list(shape)}
            continue
        row = folded[name]
        for key in ("num_params", "macs", "macs_share", "params_share"):
            row[key] += layer[key]
        for key in ("receptive_field", "stride"):
            row[key] = max(filter(None, (row[key], layer[key])), default=None)
        if name not in geometry.module_shapes:
            # A container whose parts are called one by one has no output.
            row["output_shape"] = layer["output_shape"]
    return list(folded.values())


def warnings_of(geometry: Geometry) -> list[str]:
    """Return what looks wrong in a network for such an image, in plain sentences."""
    found = [
        _field_warning(geometry),
        *_pool_warnings(geometry),
        _stem_warning(geometry),
        _linear_warning(geometry),
        *_shrink_warnings(geometry),
    ]
    return [text for text in dict.fromkeys(found) if text is not None]


def _field_warning(geometry: Geometry) -> str | None:
    image = geometry.input_shape[1:]
    for layer in geometry.layers:
        if image and layer.receptive_field and layer.receptive_field > min(image):
            return (
                f"from {layer.name} on, the receptive field ({layer.receptive_field}) is larger "
                f"than the image ({shape_text(image)}): more layers let no output see more"
            )
    return None


def _pool_warnings(geometry: Geometry) -> list[str]:
    found = []
    for pool in geometry.pools:
        where, size = pool.layer or "the network", shape_text(pool.input_size)
        if any(k > side for k, side in zip(pool.kernel, pool.input_size, strict=False)):
            found.append(
                f"{where}: the map ({size}) is smaller than the pool's window "
                f"({shape_text(pool.kernel)})"
            )
        if any(o > i for o, i in zip(pool.output_size, pool.input_size, strict=True)):
            found.append(
                f"{where}: the map ({size}) is smaller than what the pool makes "
                f"of it ({shape_text(pool.output_size)}): it only repeats values"
            )
    return found


def _stem_warning(geometry: Geometry) -> str | None:
    """Look at what the second convolution gets of a small image."""
    image = geometry.input_shape[1:]
    if not image or max(image) > _SMALL_IMAGE:
        return None
    convs = [index for index, layer in enumerate(geometry.layers) if "Conv" in layer.kind]
    if len(convs) < 2:
        return None
    before = geometry.layers[convs[1] - 1]
    if before.stride is None or before.stride < _STEM_STRIDE:
        return None
    left = before.output_shape[1:]
    return (
        f"the stem, up to {before.name}, leaves {shape_text(left)} of {shape_text(image)} pixels; "
        "a stem for small images (where there is the argument, model.stem=small) keeps them"
    )


def _linear_warning(geometry: Geometry) -> str | None:
    if not any("Conv" in layer.kind for layer in geometry.layers):
        return None
    for layer in geometry.layers:
        if layer.kind == "Linear" and layer.share > 0.5:
            return (
                f"{layer.name}, one linear layer, holds {layer.share:.0%} of all parameters; "
                "averaging the maps before it takes most of them away"
            )
    return None


def _shrink_warnings(geometry: Geometry) -> list[str]:
    """Look at layers that slide a window, and at linear ones but the last, which gives logits.

    Where branches share an input, the others may keep what one of them gives up.
    """
    called = [layer for layer in geometry.layers if layer.output_shape]
    found = []
    for layer in called[:-1]:
        is_window = layer.receptive_field is not None and not layer.is_branch
        is_looked_at = is_window or layer.kind == "Linear"
        before, after = math.prod(layer.input_shape), math.prod(layer.output_shape)
        if is_looked_at and before > _SHRINK * after:
            found.append(
                f"{layer.name} shrinks the activations {before / after:.0f}-fold, from "
                f"{shape_text(layer.input_shape)} to {shape_text(layer.output_shape)}, in one layer"
            )
    return found


def tensor_rows(
    state: Mapping[str, Tensor], pattern: str, trainable: Collection[str] | None
) -> list[dict[str, Any]]:
    """Return what a network's tensors hold.

    Args:
        state: parameters and buffers by name.
        pattern: shell wildcards for the names, such as ``*.weight``.
        trainable: names of the parameters that training changes; None where that is not known.

    Returns:
        For each tensor ``name``, ``shape``, ``count``, ``trainable``, and ``mean``, ``std`` (over
        all values), ``min`` and ``max``, None of an empty tensor.

    Raises:
        UsageError: no name matches.
    """
    names = [name for name in state if fnmatch.fnmatchcase(name, pattern)]
    if not names:
        raise UsageError(f"--params {pattern}: matches none{expected_names(pattern, state)}")
    rows = []
    for name in names:
        values = state[name].double()
        numbers: dict[str, float | None] = dict.fromkeys(("mean", "std", "min", "max"))
        if values.numel():
            std, mean = torch.std_mean(values, correction=0)
            low, high = torch.aminmax(values)
            measured = (mean.item(), std.item(), low.item(), high.item())
            numbers = dict(zip(numbers, measured, strict=True))
        rows.append(
            {
                "name": name,
                "shape": list(values.shape),
                "count": values.numel(),
                "trainable": None if trainable is None else name in trainable,
                **numbers,
            }
        )
    return rows


def compare_summaries(
    first: Mapping[str, Any], second: Mapping[str, Any]
) -> list[dict[str, int | float | str | None]]:
    """Return the totals of two summaries side by side.

    Returns:
        For each total ``total`` (its name), ``first``, ``second``, ``difference`` (second minus
        first) and ``ratio`` (second by first); None where there is no such number.
    """
    rows = []
    for key in TOTALS:
        one, other = first[key], second[key]
        both = one is not None and other is not None
        rows.append(
            {
                "total": key,
                "first": one,
                "second": other,
                "difference": other - one if both else None,
                "ratio": other / one if both and one else None,
            }
        )
    return rows
