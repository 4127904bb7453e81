"""Accuracy on images that were translated, rotated, made noisy, blurred or of less contrast.

A corruption acts on the images at the data set's size, before they are resized to the network's,
and depends on an image's index in its split alone: networks of any input size are asked about the
same corrupted images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from cnnbench.analysis.evaluate.measure import OpenSplit
from cnnbench.data.augment import crop_at, rotate_by
from cnnbench.metrics import Sums
from cnnbench.notices import notice
from cnnbench.seeds import derive_seed

# SciPy's: a Gaussian's filter ends so many standard deviations from its middle.
_BLUR_REACH = 4.0


@dataclass(frozen=True)
class Corruption:
    """One way to corrupt an image.

    Attributes:
        apply: (uint8 images (n, C, S, S), severity, their indices) -> corrupted images.
        severities: rising; severity 0 would change nothing.
    """

    apply: Callable[[Tensor, float, range], Tensor]
    severities: tuple[float, ...]


def translate(images: Tensor, severity: float, indices: range) -> Tensor:
    """Move each image by ``severity`` pixels up, down, left or right, black beyond the edges."""
    pixels = int(severity)
    steps = torch.tensor([(-1, 0), (1, 0), (0, -1), (0, 1)], device=images.device) * pixels
    chosen = steps[[derive_seed("translation", index) % len(steps) for index in indices]]
    return crop_at(images, pixels, pixels - chosen[:, 0], pixels - chosen[:, 1])


def rotate(images: Tensor, severity: float, indices: range) -> Tensor:
    """Rotate each image by ``severity`` degrees one way or the other, black beyond the edges."""
    signs = [1 - 2 * (derive_seed("rotation", index) % 2) for index in indices]
    angles = torch.tensor(signs, device=images.device) * (severity * torch.pi / 180)
    return rotate_by(images, angles)


def add_noise(images: Tensor, severity: float, indices: range) -> Tensor:
    """Add Gaussian noise of standard deviation ``severity``, where pixels are in [0, 1].

    Every severity has the same draws, scaled.
    """
    generator = torch.Generator()
    noise = torch.stack(
        [
            torch.randn(images.shape[1:], generator=generator.manual_seed(derive_seed("noise", n)))
            for n in indices
        ]
    )
    return _to_bytes(images + noise.to(images.device) * (255 * severity))


def blur(images: Tensor, severity: float, indices: range) -> Tensor:
    """Blur with a Gaussian of standard deviation ``severity`` pixels, edge pixels repeated."""
    height, width = images.shape[2:]
    down, across = (_gaussian(size, severity).to(images.device) for size in (height, width))
    return _to_bytes(down @ images.float() @ across.T)


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


def reduce_contrast(images: Tensor, severity: float, indices: range) -> Tensor:
    """Take the share ``severity`` of the contrast away: towards each channel's mean.

    As in ImageNet-C (Hendrycks and Dietterich, 2019).
    """
    pixels = images.float()
    return _to_bytes(pixels.lerp(pixels.mean(dim=(2, 3), keepdim=True), severity))


def _to_bytes(pixels: Tensor) -> Tensor:
    return pixels.round_().clamp_(0, 255).to(torch.uint8)


CORRUPTIONS: Mapping[str, Corruption] = {
    "translation": Corruption(translate, (1, 2, 3, 4, 6)),
    "rotation": Corruption(rotate, (10, 20, 30, 45, 60)),
    "noise": Corruption(add_noise, (0.05, 0.1, 0.2, 0.3, 0.4)),
    "blur": Corruption(blur, (0.5, 1, 1.5, 2, 3)),
    "contrast": Corruption(reduce_contrast, (0.2, 0.4, 0.6, 0.8, 0.9)),
}


def measure_robustness(opened: OpenSplit, accuracy: float) -> list[dict[str, Any]]:
    """Return the accuracy at each severity of each of ``CORRUPTIONS``.

    Args:
        opened: a run and a split.
        accuracy: on the images as they are, which is severity 0.

    Returns:
        ``corruption``, ``severity`` and ``accuracy``, a fraction.
    """
    num_passes = sum(len(corruption.severities) for corruption in CORRUPTIONS.values())
    notice(f"robustness: {num_passes} passes over {opened.num_images} images")
    rows: list[dict[str, Any]] = []
    for name, corruption in CORRUPTIONS.items():
        started = perf_counter()
        rows.append({"corruption": name, "severity": 0, "accuracy": accuracy})
        for severity in corruption.severities:
            sums = Sums(opened.device)
            for logits, targets in opened.outputs(partial(_corrupt, corruption, severity)):
                sums.add(logits.new_zeros(()), logits, targets)
            found = sums.read().accuracy
            rows.append({"corruption": name, "severity": severity, "accuracy": found})
        notice(f"{name}: {perf_counter() - started:.1f} s")
    return rows


def _corrupt(corruption: Corruption, severity: float, images: Tensor, indices: range) -> Tensor:
    return corruption.apply(images, severity, indices)
