"""Test-time augmentation: probabilities averaged over views of an image (Krizhevsky et al., 2012).

It buys accuracy with work, so it is reported beside the accuracy and never in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cnnbench.analysis.evaluate.measure import OpenSplit
from cnnbench.data.augment import crop_at

# A shift is this part of a side: one pixel of the 28 that MNIST and its like have.
_SHIFT = 28
_DIRECTIONS = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))


def measure_views(opened: OpenSplit) -> dict[str, Any]:
    """Return what a run scores on the average over views of each image.

    The views are the image and the same shifted up, down, left and right by a twenty-eighth of its
    side, at least a pixel, black beyond the edges; and their mirror images where the run was
    trained with flips, which it cannot have been on digits or letters.

    Args:
        opened: a run that tells classes of images apart, and a split.

    Returns:
        ``num_views`` (5 or 10), ``accuracy``, ``num_correct`` and ``loss``.

    """
    total: Tensor = torch.zeros(0)
    targets = torch.zeros(0, dtype=torch.int64)
    views = list(_views(is_mirrored=bool(opened.run.config.augment.args.get("flip"))))
    for view in views:
        pairs = [(o.softmax(dim=1).cpu(), t.cpu()) for o, t in opened.outputs(view)]
        found = torch.cat([probabilities for probabilities, _ in pairs])
        total = found if not len(total) else total + found
        targets = torch.cat([true for _, true in pairs])
    mean = total / len(views)
    correct = int((mean.argmax(dim=1) == targets).sum())
    chosen = mean.gather(1, targets[:, None]).double().clamp(min=torch.finfo(torch.float32).tiny)
    return {
        "num_views": len(views),
        "accuracy": correct / len(targets),
        "num_correct": correct,
        "loss": -chosen.log().mean().item(),
    }


def _views(*, is_mirrored: bool) -> Iterator[Callable[[Tensor, range], Tensor]]:
    for mirror in (False, True) if is_mirrored else (False,):
        for down, across in _DIRECTIONS:
            yield partial(_view, down=down, across=across, mirror=mirror)


def _view(images: Tensor, indices: range, *, down: int, across: int, mirror: bool) -> Tensor:
    """Return a batch's images shifted so many steps, and perhaps mirrored."""
    step = max(1, round(images.shape[3] / _SHIFT))
    rows, columns = (
        torch.full((len(images),), step * (1 + direction), device=images.device)
        for direction in (down, across)
    )
    moved = crop_at(images, step, rows, columns)
    return moved.flip(3) if mirror else moved
