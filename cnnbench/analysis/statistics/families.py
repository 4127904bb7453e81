"""The pairs of rows that are tested together, and what another training could change of them.

A table is one family: its pairs share the chance of a false call. Which test a pair gets follows
from its seeds alone, never from its results.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cnnbench.analysis.statistics.rounding import differences
from cnnbench.analysis.statistics.sign_flips import Floats, sign_flip_test
from cnnbench.analysis.statistics.t_tests import (
    equivalence_p,
    holm,
    paired_error,
    t_interval,
    two_sided_p,
    welch_error,
)

LEVEL = 0.05
# The smallest two-sided p of n flipped seeds is 2/2^n: .0625 at 5, .031 at 6.
MIN_FLIPPED = 6
MIN_SEEDS = 3
# Where some pairs of a table are flipped and others not, the flips get this share of the level:
# just enough for 2/64 at six seeds.
FLIPS_SHARE = 2 / 3

# The test of a pair.
FLIPS, PAIRED, WELCH, FOLDS, IMAGES, NONE = range(6)


@dataclass(frozen=True)
class RowScores:
    """What the runs of one row measured.

    Attributes:
        values: by seed, or by fold; finite.
        correct: by seed, for each test image whether it is classified correctly; the same images
            in the same order for all rows that have any. Empty where it is not known.
        fold_ratio: test images over training images where the values are of k folds; else None.
    """

    values: Mapping[int, float]
    correct: Mapping[int, NDArray[np.bool_]] = field(default_factory=dict)
    fold_ratio: float | None = None


@dataclass(frozen=True)
class Family:
    """The pairs of rows that are tested together; those that are shown come first.

    Attributes:
        pairs: row and row compared with; shape ``(M, 2)``.
        shown: how many pairs are of a row and the one that all are compared with.
        kinds: index of the test of each pair.
        means: of each row.
        variances: of each row; 0 for fewer than two values.
        counts: values of each row.
        groups: a number for each set of seeds or folds; of each row.
    """

    pairs: NDArray[np.intp]
    shown: int
    kinds: NDArray[np.intp]
    means: Floats
    variances: Floats
    counts: Floats
    groups: NDArray[np.intp]


class Found:
    """What is found of the shown pairs; NaN where nothing is.

    Attributes:
        difference: mean of the row less that of the one compared with.
        spread: standard deviation of the differences at a seed.
        p: two-sided, adjusted.
        interval: what the test by itself does not reject; shape ``(S, 2)``.
        simultaneous: what the test of the family does not reject; likewise.
        equivalence_p: adjusted.
    """

    def __init__(self, difference: Floats, spread: Floats) -> None:
        size = len(difference)
        self.difference, self.spread = difference, spread
        self.p, self.equivalence_p = np.full(size, np.nan), np.full(size, np.nan)
        self.interval, self.simultaneous = np.full((size, 2), np.nan), np.full((size, 2), np.nan)


def mean_of(row: RowScores) -> float:
    """Return the mean of its values, at least one."""
    return float(np.mean(list(row.values.values())))


def _array(row: RowScores) -> Floats:
    """Return its values in the order of seeds."""
    return np.array([row.values[seed] for seed in sorted(row.values)], dtype=np.float64)


def pair_rows(
    rows: Sequence[RowScores], base: int, others: Sequence[int], *, named: bool
) -> Family:
    """Pair the rows, and find the test of each pair."""
    pairs = np.array([(index, base) for index in others], dtype=np.intp)
    if not named:
        first, second = np.triu_indices(len(others), 1)
        rest = np.asarray(others, dtype=np.intp)
        pairs = np.concatenate([pairs, np.stack([rest[first], rest[second]], axis=1)])
    keys = [(tuple(sorted(row.values)), row.fold_ratio) for row in rows]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    groups = np.array([numbers[key] for key in keys], dtype=np.intp)
    means = np.array([mean_of(row) if row.values else np.nan for row in rows])
    variances = np.array([_array(r).var(ddof=1) if len(r.values) > 1 else 0.0 for r in rows])
    counts = np.array([len(row.values) for row in rows], dtype=np.float64)
    candidates = Counter([keys[base]] if named else [keys[index] for index in (base, *others)])
    # Pairs are flipped together, so in one set of seeds: the baseline's, or that of most rows.
    # Taking the best row's instead would let the results choose the test.
    flippable = [
        (count, len(key[0]), key[0])
        for key, count in candidates.items()
        if key[1] is None and len(key[0]) >= MIN_FLIPPED
    ]
    usual = numbers[max(flippable)[2], None] if flippable else -1
    folds = np.array([row.fold_ratio is not None for row in rows])
    predicted = np.array([bool(row.correct) for row in rows])
    i, j = pairs.T
    same = groups[i] == groups[j]
    fewest = np.minimum(counts[i], counts[j])
    enough = fewest >= MIN_SEEDS
    flipped = same & (groups[i] == usual)
    any_folds = folds[i] | folds[j]
    kinds = np.select(
        [
            any_folds & same & enough,
            any_folds,
            flipped,
            same & enough,
            enough,
            predicted[i] & predicted[j],
        ],
        [FOLDS, NONE, FLIPS, PAIRED, WELCH, IMAGES],
        NONE,
    )
    return Family(pairs, len(others), kinds, means, variances, counts, groups)


def _differences(
    rows: Sequence[RowScores], pairs: NDArray[np.intp], where: NDArray[np.intp]
) -> Floats:
    """Return the differences at each seed of pairs that have the same seeds; ``(M, n)``."""
    values = {int(index): _array(rows[index]) for index in np.unique(pairs[where])}
    scale = max(float(np.abs(array).max()) for array in values.values())
    at = {index: number for number, index in enumerate(values)}
    stacked = np.stack(list(values.values()))
    lookup = np.zeros(max(at) + 1, dtype=np.intp)
    lookup[list(at)] = list(at.values())
    i, j = lookup[pairs[where]].T
    return differences(stacked[i], stacked[j], scale)


def judge_seeds(
    rows: Sequence[RowScores], family: Family, margin: float, resolution: float, *, named: bool
) -> Found:
    """Test the pairs that have seeds or folds enough.

    Args:
        rows: as of ``judge``.
        family: their pairs.
        margin: of equivalence; 0 for none.
        resolution: smallest step of a value, or 0.
        named: whether the user named the row compared with.
    """
    difference, error, df, spread = _errors(rows, family, resolution)
    shown = family.shown
    found = Found(difference[:shown], spread[:shown])
    flips = np.flatnonzero(family.kinds == FLIPS)
    normal = np.flatnonzero(np.isin(family.kinds, (PAIRED, WELCH, FOLDS)))
    share = FLIPS_SHARE if len(flips) and len(normal) else float(len(flips) > 0)
    visible = flips[flips < shown]
    if len(visible):
        gaps = _differences(rows, family.pairs, flips)
        test = sign_flip_test(gaps, len(visible), LEVEL, LEVEL * share)
        found.p[visible] = np.minimum(1.0, test.p[: len(visible)] / share)
        found.interval[visible], found.simultaneous[visible] = test.intervals, test.simultaneous
    if len(normal):
        p = two_sided_p(difference[normal], error[normal], df[normal])
        adjusted, at = holm(p, LEVEL * (1 - share))
        seen = normal < shown
        visible = normal[seen]
        numbers = difference[visible], error[visible], df[visible]
        found.p[visible] = np.minimum(1.0, adjusted[seen] / (1 - share))
        found.interval[visible] = t_interval(*numbers, LEVEL)
        found.simultaneous[visible] = t_interval(*numbers, at[seen])
    tested = np.flatnonzero(family.kinds[:shown] < IMAGES)
    if margin > 0 and len(tested):
        p = equivalence_p(difference[tested], error[tested], df[tested], margin)
        # Of the best row's K - 1 comparisons, none counts more often for it having been chosen.
        found.equivalence_p[tested] = holm(p, LEVEL)[0] if named else np.minimum(1, p * len(p))
    return found


def _errors(
    rows: Sequence[RowScores], family: Family, resolution: float
) -> tuple[Floats, Floats, Floats, Floats]:
    """Return difference, standard error, degrees of freedom and spread of each pair."""
    i, j = family.pairs.T
    difference = family.means[i] - family.means[j]
    error, df, spread = (np.full(len(i), np.nan) for _ in range(3))
    paired = np.isin(family.kinds, (FLIPS, PAIRED, FOLDS))
    for group in np.unique(family.groups[i][paired]):
        where = np.flatnonzero(paired & (family.groups[i] == group))
        ratio, count = rows[i[where[0]]].fold_ratio, family.counts[i[where[0]]]
        gaps = _differences(rows, family.pairs, where)
        difference[where] = gaps.mean(1)
        factor = None if ratio is None else 1 / count + ratio
        error[where], df[where] = paired_error(gaps, resolution, factor)
        spread[where] = error[where] * count**0.5
    where = np.flatnonzero(family.kinds == WELCH)
    a, b = i[where], j[where]
    variances, counts = family.variances, family.counts
    error[where], df[where] = welch_error(
        (variances[a], variances[b]), (counts[a], counts[b]), resolution
    )
    spread[where] = np.sqrt(variances[a] + variances[b])
    return difference, error, df, spread
