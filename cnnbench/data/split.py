"""Stratified splits that are the same on every machine and with every version of numpy."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from cnnbench.data.arrays import Indices, Targets


def stratified_split(targets: Targets, fraction: float, seed: int) -> tuple[Indices, Indices]:
    """Split the places of ``targets`` in two, each class in the same proportion.

    Class counts are rounded by largest remainder, so the second part holds
    ``round(fraction * N)`` pictures. No class loses its last picture to it.

    Args:
        targets: (N,), classes from 0.
        fraction: of the second part, in [0, 1).
        seed: decides which pictures are drawn, in [0, 2**64).

    Returns:
        The places of the first and of the second part, each ascending.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"fraction={fraction}: expected a number from 0 to below 1")
    # The decimal the user wrote: 0.29 of 100 is 29, though 0.29 * 100 is 28.999...
    exact = Fraction(str(float(fraction)))
    count = min(int(exact * len(targets) + Fraction(1, 2)), max(len(targets) - 1, 0))
    taken = stratified_sample(targets, count, seed)
    rest = np.ones(len(targets), dtype=bool)
    rest[taken] = False
    return np.flatnonzero(rest), taken


def stratified_sample(targets: Targets, count: int, seed: int) -> Indices:
    """Draw about ``count`` places, each class in proportion; never the last of a class.

    Args:
        targets: (N,), classes from 0.
        count: how many places are drawn, if classes with one picture allow it; from ``N`` on, all.
        seed: decides which pictures are drawn, in [0, 2**64).

    Returns:
        The drawn places, ascending.
    """
    if count >= len(targets):
        return np.arange(len(targets))
    if count == 0:
        return np.arange(0)
    # One raw number for each picture: numpy promises this stream, but not that of `permutation`.
    keys = np.random.Philox(key=seed).random_raw(len(targets))
    sizes = np.bincount(targets)
    quotas = [Fraction(int(size) * count, len(targets)) for size in sizes]
    takes = [int(quota) for quota in quotas]
    by_remainder = sorted(range(len(sizes)), key=lambda c: (takes[c] - quotas[c], c))
    for label in by_remainder:
        if sum(takes) < count and takes[label] + 1 < sizes[label]:
            takes[label] += 1
    drawn = []
    for label, take in enumerate(takes):
        members = np.flatnonzero(targets == label)
        drawn.append(members[np.argsort(keys[members], kind="stable")][:take])
    return np.sort(np.concatenate(drawn))
