"""Accuracy on pictures that were moved, turned, made noisy, blurred or paled.

A change acts on the pictures at the data set's own size, before they are resized to the network's,
and depends on a picture's place in its split alone: networks of any input size are asked about the
same changed pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from cnnbench.analysis.evaluate.evaluation import OpenSplit
from cnnbench.data.augment import cut, turn
from cnnbench.metrics import Sums
from cnnbench.notices import notice
from cnnbench.seeds import derive_seed

# SciPy's: a Gaussian's filter ends so many standard deviations from its middle.
_BLUR_REACH = 4.0


@dataclass(frozen=True)
class Kind:
    """One way to change a picture.

    Attributes:
        apply: (uint8 pictures (n, C, S, S), level, their places) -> changed pictures.
        levels: rising; level 0 would change nothing.
    """

    apply: Callable[[Tensor, float, range], Tensor]
    levels: tuple[float, ...]


def translate(images: Tensor, level: float, places: range) -> Tensor:
    """Move each picture by ``level`` pixels up, down, left or right, black beyond the edges."""
    pixels = int(level)
    steps = torch.tensor([(-1, 0), (1, 0), (0, -1), (0, 1)], device=images.device) * pixels
    chosen = steps[[derive_seed("translation", place) % len(steps) for place in places]]
    return cut(images, pixels, pixels - chosen[:, 0], pixels - chosen[:, 1])


def rotate(images: Tensor, level: float, places: range) -> Tensor:
    """Turn each picture by ``level`` degrees one way or the other, black beyond the edges."""
    signs = [1 - 2 * (derive_seed("rotation", place) % 2) for place in places]
    return turn(images, torch.tensor(signs, device=images.device) * (level * torch.pi / 180))


def add_noise(images: Tensor, level: float, places: range) -> Tensor:
    """Add Gaussian noise of standard deviation ``level``, where pixels are in [0, 1].

    Every level has the same draws, scaled.
    """
    generator = torch.Generator()
    noise = torch.stack(
        [
            torch.randn(images.shape[1:], generator=generator.manual_seed(derive_seed("noise", p)))
            for p in places
        ]
    )
    return _levels(images + noise.to(images.device) * (255 * level))


def blur(images: Tensor, level: float, places: range) -> Tensor:
    """Blur with a Gaussian of standard deviation ``level`` pixels; edge pixels go on outside."""
    height, width = images.shape[2:]
    down, across = (_gaussian(size, level).to(images.device) for size in (height, width))
    return _levels(down @ images.float() @ across.T)


def _gaussian(size: int, deviation: float) -> Tensor:
    """Return the (size, size) matrix that filters a column of pixels."""
    if deviation == 0:
        return torch.eye(size)
    reach = int(_BLUR_REACH * deviation + 0.5)
    offsets = torch.arange(-reach, reach + 1)
    weights = torch.exp(-0.5 * (offsets.double() / deviation) ** 2)
    sources = (torch.arange(size)[:, None] + offsets).clamp(0, size - 1)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    matrix.scatter_add_(1, sources, (weights / weights.sum()).expand(size, -1))
    return matrix.float()


def pale(images: Tensor, level: float, places: range) -> Tensor:
    """Take the share ``level`` of the contrast away: towards each channel's mean.

    As in ImageNet-C (Hendrycks and Dietterich, 2019).
    """
    pixels = images.float()
    return _levels(pixels.lerp(pixels.mean(dim=(2, 3), keepdim=True), level))


def _levels(pixels: Tensor) -> Tensor:
    return pixels.round_().clamp_(0, 255).to(torch.uint8)


KINDS: Mapping[str, Kind] = {
    "translation": Kind(translate, (1, 2, 3, 4, 6)),
    "rotation": Kind(rotate, (10, 20, 30, 45, 60)),
    "noise": Kind(add_noise, (0.05, 0.1, 0.2, 0.3, 0.4)),
    "blur": Kind(blur, (0.5, 1, 1.5, 2, 3)),
    "contrast": Kind(pale, (0.2, 0.4, 0.6, 0.8, 0.9)),
}


def measure_robustness(opened: OpenSplit, accuracy: float) -> list[dict[str, Any]]:
    """Return the accuracy at each level of each of ``KINDS``.

    Args:
        opened: a run and a split.
        accuracy: on the pictures as they are, which is level 0.

    Returns:
        ``kind``, ``level`` and ``accuracy``, a fraction.
    """
    num_passes = sum(len(kind.levels) for kind in KINDS.values())
    notice(f"robustness: {num_passes} passes over {opened.num_images} images")
    rows: list[dict[str, Any]] = []
    for name, kind in KINDS.items():
        started = perf_counter()
        rows.append({"kind": name, "level": 0, "accuracy": accuracy})
        for level in kind.levels:
            sums = Sums(opened.device)
            for logits, targets in opened.outputs(partial(_at, kind, level)):
                sums.add(logits.new_zeros(()), logits, targets)
            rows.append({"kind": name, "level": level, "accuracy": sums.read().accuracy})
        notice(f"{name}: {perf_counter() - started:.1f} s")
    return rows


def _at(kind: Kind, level: float, images: Tensor, places: range) -> Tensor:
    return kind.apply(images, level, places)
