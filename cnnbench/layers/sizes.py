"""How the side of a square image shrinks on its way through a network."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from cnnbench.errors import UsageError


class Step(NamedTuple):
    """A convolution or pool, as far as sizes are concerned."""

    layer: str
    kernel_size: int
    stride: int = 1
    padding: int = 0
    ceil_mode: bool = False


class SmallestImage(NamedTuple):
    """The smallest side in pixels, and the layer that fails on a smaller image."""

    size: int
    layer: str


def _side_after(side: int, step: Step) -> int:
    room = side + 2 * step.padding - step.kernel_size
    return (-(-room // step.stride) if step.ceil_mode else room // step.stride) + 1


def output_size(image_size: int, steps: Sequence[Step]) -> int:
    """Return the side of the last feature maps in pixels.

    Raises:
        UsageError: the image is too small for one of the steps.
    """
    side = image_size
    for step in steps:
        side = _side_after(side, step)
        if side < 1:
            check_image_size(image_size, smallest_image(steps))
    return side


def _failing_layer(image_size: int, steps: Sequence[Step]) -> str | None:
    side = image_size
    for step in steps:
        side = _side_after(side, step) if side >= 1 else 0
        if side < 1:
            return step.layer
    return None


def smallest_image(steps: Sequence[Step]) -> SmallestImage:
    """Return the smallest image that leaves at least one pixel after each step."""
    size = next(n for n in itertools.count(1) if _failing_layer(n, steps) is None)
    return SmallestImage(size, _failing_layer(size - 1, steps) or steps[0].layer)


def check_image_size(image_size: int, smallest: SmallestImage) -> None:
    """Check the side of the images.

    Raises:
        UsageError: the images are too small; the message names the layer and the smallest size.
    """
    if image_size < smallest.size:
        raise UsageError(
            f"images of {image_size} x {image_size} are too small: {smallest.layer} needs at least "
            f"{smallest.size} x {smallest.size}"
        )
