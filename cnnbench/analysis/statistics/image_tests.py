"""Differences of trained networks on their test images, with the images as the source of chance.

What these say holds for the networks at hand on other images of the same kind. It says nothing of
what another training would give.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class ImageDifference:
    """A difference of two accuracies on the same images.

    Attributes:
        difference: mean over the images, a fraction.
        error: its standard error over images: that of the paired bootstrap.
        counts: images that only the first, and that only the second gets right; None where either
            side is an average of several networks.
        num_images: at least 1.
        step: half of the smallest step in which the difference can change.
    """

    difference: float
    error: float
    counts: tuple[int, int] | None
    num_images: int
    step: float

    @property
    def p(self) -> float:
        """Two-sided: the larger of the bootstrap's normal p and, for single runs, McNemar's."""
        from scipy.special import ndtr

        excess = max(0.0, abs(self.difference) - self.step)
        if self.error == 0:
            normal = 1.0 if excess == 0 else 0.0
        else:
            normal = min(1.0, 2 * float(ndtr(-excess / self.error)))
        return normal if self.counts is None else max(normal, mcnemar(*self.counts))

    def interval(self, level: float) -> tuple[float, float]:
        """Return the differences not rejected; zero is among them just where p is above level."""
        from scipy.special import betaincinv, ndtri

        half = float(ndtri(1 - level / 2)) * self.error + self.step
        low, high = self.difference - half, self.difference + half
        first, second = self.counts or (0, 0)
        if first + second:
            # Clopper and Pearson (1934) for the share of the first among images that differ.
            least = betaincinv(first, second + 1, level / 2) if first else 0.0
            most = betaincinv(first + 1, second, 1 - level / 2) if second else 1.0
            scale = (first + second) / self.num_images
            low = min(low, scale * (2 * float(least) - 1))
            high = max(high, scale * (2 * float(most) - 1))
        return low, high


def image_difference(first: Floats, second: Floats, *, single: bool) -> ImageDifference:
    """Compare two networks, or averages of networks, image by image.

    Resampling images gives the mean difference a spread that is known without doing it: the
    standard deviation of the images' differences over the root of their number.

    Args:
        first: for each image whether it is classified correctly, averaged over seeds, in [0, 1].
        second: likewise, of the same images.
        single: both are single runs, so that McNemar's exact test applies.
    """
    differences = first - second
    sizes = np.abs(differences)
    some = sizes[sizes > 1e-9]
    num_images = len(differences)
    # An average moves in steps of fractions of an image; the normal curve is cut between them.
    step = 0.0 if single or not len(some) else float(some.min()) / num_images
    counts = (int((differences > 0).sum()), int((differences < 0).sum())) if single else None
    mean, error = float(differences.mean()), float(differences.std()) / num_images**0.5
    return ImageDifference(mean, error, counts, num_images, step)


def mcnemar(only_a: int, only_b: int) -> float:
    """Return the two-sided p-value of McNemar's exact test (McNemar, 1947).

    How likely are counts that are at least as unequal, where either run is as often the one that
    is right?

    Args:
        only_a: images that only the first gets right.
        only_b: images that only the second gets right.
    """
    from scipy.special import bdtr

    # The tails of a fair coin are alike; where both hold the middle, their sum is above 1.
    return min(1.0, 2 * float(bdtr(min(only_a, only_b), only_a + only_b, 0.5)))
