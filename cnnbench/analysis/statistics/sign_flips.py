"""Exact sign flips of paired differences, with the largest statistic of a family as reference.

Under the hypothesis that two recipes are equal, the difference of their results at a seed is as
likely to be ``d`` as ``-d``. Flipping the signs of whole seeds, the same flips for every pair of a
table, gives the exact reference distribution of any statistic (Fisher, 1935); taking the largest
over the pairs keeps the chance of any false call at the level (Westfall and Young, 1993).

The statistic of a pair is the cosine between its differences and the vector of ones,
``r = |sum d| / (sqrt(n) ||d||)``. It grows with Student's ``|t| = sqrt(n-1) r / sqrt(1 - r^2)``,
lies in [0, 1], and needs no division by a spread that may be zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]

# All flips are enumerated up to this many seeds; above, a fixed number of random ones stands in.
MAX_EXACT_SEEDS = 16
RANDOM_FLIPS = 10_000
# Statistics in [0, 1] that are this near are equal but for rounding.
_TIE = 1e-10
# As many statistics are held at once; 8 bytes each.
_CHUNK = 4_000_000
# Enumerating more statistics than this would take longer than a minute.
_MAX_STATISTICS = 1_000_000_000


@dataclass(frozen=True)
class FlipTest:
    """What the sign flips say about some pairs of a family.

    Attributes:
        p: adjusted for the whole family by step-down, for each pair of the family; shape ``(M,)``.
        single_p: of each pair by itself; shape ``(M,)``.
        intervals: lower and upper end for each shown pair, by itself; shape ``(S, 2)``.
        simultaneous: likewise from the step of the step-down test that decided the pair.
        num_flips: flips used, one of each pair of opposite flips, which give the same statistic.
        exact: whether these are all there are.
    """

    p: Floats
    single_p: Floats
    intervals: Floats
    simultaneous: Floats
    num_flips: int
    exact: bool


def flip_signs(num_seeds: int, num_pairs: int = 1) -> tuple[Floats, bool]:
    """Return signs of shape ``(F, n)``, the first row all +1, and whether they are exhaustive.

    The first seed is never flipped: a flip and its opposite give the same statistic. Random flips
    are the same in every call (Phipson and Smyth, 2010: with the identity among them, p is valid).

    Args:
        num_seeds: seeds of a pair, at least 1.
        num_pairs: pairs that are tested at once; so many that enumeration would take minutes get
            random flips even at ``MAX_EXACT_SEEDS`` or fewer.
    """
    half = 2 ** (num_seeds - 1)
    few = half <= RANDOM_FLIPS or half * num_pairs <= _MAX_STATISTICS
    if num_seeds <= MAX_EXACT_SEEDS and few:
        bits = (np.arange(half)[:, None] >> np.arange(num_seeds - 1)) & 1
    else:
        bits = np.random.default_rng(0).integers(0, 2, (RANDOM_FLIPS, num_seeds - 1))
        bits[0] = 0
    signs = np.ones((len(bits), num_seeds))
    signs[:, 1:] -= 2.0 * bits
    return signs, len(bits) == half


def sign_flip_test(
    differences: Floats, shown: int, level: float = 0.05, family_level: float | None = None
) -> FlipTest:
    """Test all pairs of a family by step-down, and give intervals for some of them.

    A pair's interval is the set of differences that the test does not reject: for each flip, the
    differences at which its statistic reaches the observed one form an interval whose ends are the
    means of the flipped and of the other seeds (Hartigan, 1969), widened where another pair of the
    family reaches it. The ends wanted are order statistics of these; nothing is searched for.

    Args:
        differences: of the M pairs at the n seeds; shape ``(M, n)``, M and n at least 1.
        shown: how many pairs, from the first, get intervals.
        level: of the unadjusted intervals.
        family_level: of the step-down test, and so of the simultaneous intervals; ``level`` unless
            given.

    Example:
        >>> sign_flip_test(np.array([[3.0, 1, 2, 4, 1, 2]]), 1).p
        array([0.03125])
    """
    if family_level is None:
        family_level = level
    num_pairs, n = differences.shape
    signs, exact = flip_signs(n, num_pairs)
    observed = _cosines(signs[:1], differences)[0]
    order = np.argsort(-observed, kind="stable")
    observed, by_size = observed[order], differences[order]
    step = max(1, _CHUNK // num_pairs)
    chunks = [signs[start : start + step] for start in range(0, len(signs), step)]
    single, family = np.zeros(num_pairs), np.zeros(num_pairs)
    for chunk in chunks:
        flipped = _cosines(chunk, by_size)
        single += (flipped >= observed - _TIE).sum(0)
        family += (_largest_from(flipped) >= observed - _TIE).sum(0)
    stepped = np.maximum.accumulate(family / len(signs))
    rejected = int((stepped <= family_level).sum())
    rank = np.argsort(order)[:shown]
    rivals = np.concatenate([_rivals(_cosines(chunk, by_size), rank, rejected) for chunk in chunks])
    wanted = differences[:shown]
    ends = _ends(signs, wanted)
    return FlipTest(
        stepped[np.argsort(order)],
        (single / len(signs))[np.argsort(order)],
        _cut(ends, level),
        _cut(_widened(ends, wanted, rivals), family_level),
        len(signs),
        exact,
    )


def _cosines(signs: Floats, differences: Floats) -> Floats:
    """Return the statistics of each flip and pair; shape ``(F, M)``."""
    norms = np.sqrt(differences.shape[1]) * np.linalg.norm(differences, axis=1)
    # A pair without any difference is as equal as can be under every flip.
    scale = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
    statistics: Floats = np.abs(signs @ (differences * scale[:, None]).T)
    return statistics


def _largest_from(statistics: Floats) -> Floats:
    """Return, at each column, the largest of it and of those after it."""
    return np.maximum.accumulate(statistics[:, ::-1], axis=1)[:, ::-1]


def _rivals(statistics: Floats, rank: NDArray[np.intp], rejected: int) -> Floats:
    """Return the largest statistic among the other pairs of the step that decided each pair.

    A rejected pair was decided at its own step, among those with smaller statistics; the others at
    the first step that did not reject, among all that were left.

    Args:
        statistics: of each flip and pair, pairs in falling order of the observed one.
        rank: index of the shown pairs in that order.
        rejected: how many were rejected; those are the first.
    """
    num_flips, num_pairs = statistics.shape
    after = np.zeros((num_flips, num_pairs + 1))
    after[:, :-1] = _largest_from(statistics)
    found = after[:, rank + 1]
    left = statistics[:, rejected:]
    if left.shape[1] == 0:
        return found
    top = left.argmax(1)
    rows = np.arange(num_flips)
    largest = left[rows, top]
    others = left.copy()
    others[rows, top] = 0.0
    second = others.max(1)
    for column, index in enumerate(rank):
        if index >= rejected:
            found[:, column] = np.where(top == index - rejected, second, largest)
    return found


def _ends(signs: Floats, differences: Floats) -> Floats:
    """Return between which differences each flip reaches the observed statistic; ``(2, F, S)``."""
    kept = (signs > 0).astype(np.float64)
    num_kept = kept.sum(1, keepdims=True)
    num_flipped = signs.shape[1] - num_kept
    mean_kept = kept @ differences.T / num_kept
    with np.errstate(divide="ignore", invalid="ignore"):
        mean_flipped = (1 - kept) @ differences.T / num_flipped
    ends = np.stack([np.minimum(mean_kept, mean_flipped), np.maximum(mean_kept, mean_flipped)])
    # The identity reaches every observed statistic.
    ends[0, (num_flipped == 0)[:, 0]] = -np.inf
    ends[1, (num_flipped == 0)[:, 0]] = np.inf
    return ends


def _widened(ends: Floats, differences: Floats, rivals: Floats) -> Floats:
    """Return ``ends`` widened to where a rival of statistic r is as large as the pair's own."""
    mean, spread = differences.mean(1), differences.std(1)
    reaches = rivals >= 1 - _TIE
    slope = rivals / np.sqrt(np.where(reaches, 1.0, 1 - rivals**2))
    gap = np.where(reaches, np.inf, spread * slope)
    return np.stack([np.minimum(ends[0], mean - gap), np.maximum(ends[1], mean + gap)])


def _cut(ends: Floats, level: float) -> Floats:
    """Return the ends of the differences reached by more than ``level`` of the flips."""
    # Rounding must not turn 2 of 40 flips into less than a twentieth.
    skipped = int(level * ends.shape[1] + 1e-9)
    lower = np.partition(ends[0], skipped, axis=0)[skipped]
    upper = -np.partition(-ends[1], skipped, axis=0)[skipped]
    return np.stack([lower, upper], axis=1)
