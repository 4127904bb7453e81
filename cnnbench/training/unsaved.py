"""What a network that was not written here keeps where no checkpoint looks."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
_VALUES = (Tensor, np.ndarray, np.generic, int, float)
_MOST_NAMES = 3
_BUFFER = "make it a buffer: self.register_buffer({name!r}, torch.tensor(...))"


def unsaved_state(
    model: nn.Module,
    began: Mapping[str, Any],
    images: Tensor,
    step: Callable[[Tensor], object],
    twin: nn.Module,
) -> list[str]:
    """Look for plain attributes that training changes or that are drawn, and for generators.

    Args:
        model: in training mode.
        began: its plain values before its first step.
        images: network input, at least two.
        step: runs the model on images, as training does.
        twin: the same network, built anew.

    Returns:
        Sentences for the user.
    """
    built = plain_values(twin)
    half = images[: max(2, len(images) // 2)]
    step(half)
    before = plain_values(model)
    # Other images of the same sizes: what a first call sets for good stays as it is.
    step(0.5 * half)
    after = plain_values(model)
    # What has a row for each image is overwritten, not carried on.
    step(torch.cat([half, half[:1]]))
    longer = plain_values(model)
    changed = [
        name
        for name, value in after.items()
        if name in before and not _is_equal(before[name], value) and _has_shape(longer[name], value)
    ]
    drawn = [
        name
        for name, value in built.items()
        if name in began and name not in changed and not _is_equal(began[name], value)
    ]
    return [*_told(changed, drawn), *_generators(model)]


def _told(changed: list[str], drawn: list[str]) -> list[str]:
    found = []
    for names, what in (
        (changed, "changes in training steps"),
        (drawn, "is drawn at random when the network is built"),
    ):
        if names:
            found.append(
                f"{some_of(names)} {what} and is neither parameter nor buffer: no checkpoint holds "
                "it, so that evaluating or resuming the run begins it anew; "
                + _BUFFER.format(name=names[0].rpartition(".")[2])
            )
    return found


def _generators(model: nn.Module) -> list[str]:
    """Look for generators of random numbers that the network keeps for itself."""
    names = [
        f"{path}.{name}" if path else name
        for path, part in model.named_modules()
        for name, value in vars(part).items()
        if isinstance(value, _GENERATORS)
    ]
    if not names:
        return []
    return [
        f"{some_of(names)} is a generator of its own, which no checkpoint holds: a resumed run "
        "draws other numbers than an uninterrupted one; draw from torch, numpy.random or random "
        "themselves, which the run's seed sets in each step"
    ]


def plain_values(model: nn.Module) -> dict[str, Any]:
    """Return the numbers, arrays and tensors in plain attributes of a network's own modules.

    Returns:
        Copies, by path of the module and name of the attribute.
    """
    found = {}
    for path, part in model.named_modules():
        if type(part).__module__.startswith(("torch.nn.", "cnnbench.")):
            continue
        for name, value in vars(part).items():
            if name == "training" or not isinstance(value, _VALUES):
                continue
            if isinstance(value, Tensor):
                value = value.detach().clone()
            elif isinstance(value, np.ndarray):
                value = value.copy()
            found[f"{path}.{name}" if path else name] = value
    return found


def _is_equal(one: Any, other: Any) -> bool:
    if type(one) is not type(other) or not _has_shape(one, other):
        return False
    if isinstance(one, Tensor):
        return _kind(one) == _kind(other) and torch.equal(one.nan_to_num(), other.nan_to_num())
    if isinstance(one, np.ndarray):
        return bool(one.dtype == other.dtype) and one.tobytes() == other.tobytes()
    return bool(one == other or one != one)


def _kind(tensor: Tensor) -> tuple[torch.dtype, torch.device]:
    return tensor.dtype, tensor.device


def _has_shape(one: Any, other: Any) -> bool:
    return getattr(one, "shape", ()) == getattr(other, "shape", ())


def some_of(names: list[str]) -> str:
    """Return the first names, and how many more there are."""
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
