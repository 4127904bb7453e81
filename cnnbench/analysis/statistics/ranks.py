"""Recipes over several data sets by their ranks: Friedman's test and Nemenyi's critical difference.

Demsar (2006), "Statistical Comparisons of Classifiers over Multiple Data Sets", JMLR 7. Each data
set counts once, by the mean over its seeds; it is the data sets that vary, and a claim is about
other data sets of the same kind. Needs every recipe on every data set.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from cnnbench.analysis.statistics.rounding import differences
from cnnbench.errors import UsageError

LEVEL = 0.05
MIN_RECIPES, MIN_DATA_SETS = 3, 2
# Below these, the chi-squared distribution is a poor stand-in (Demsar 2006, section 3.2.2).
_FEW_RECIPES, _FEW_DATA_SETS = 5, 10


@dataclass(frozen=True)
class Ranks:
    """How recipes rank over data sets.

    Attributes:
        mean_ranks: of each recipe, 1 the best; ties share the mean of their ranks, and what is
            equal but for rounding is tied.
        num_data_sets: that were compared.
        p: of Friedman's test, corrected for ties, that all recipes are equal.
        critical_difference: two recipes whose mean ranks differ by as much differ at 5 %, all pairs
            together (Nemenyi).
        groups: indices of recipes, in the order of their ranks, of the largest sets in which no
            two differ by as much.
    """

    mean_ranks: tuple[float, ...]
    num_data_sets: int
    p: float
    critical_difference: float
    groups: tuple[tuple[int, ...], ...]

    @property
    def is_small(self) -> bool:
        """Whether p is rough, for want of data sets or recipes."""
        return self.num_data_sets <= _FEW_DATA_SETS or len(self.mean_ranks) <= _FEW_RECIPES


def rank_recipes(scores: Sequence[Sequence[float]], *, higher_is_better: bool = True) -> Ranks:
    """Rank recipes over data sets.

    Args:
        scores: by data set and recipe; at least 2 data sets and 3 recipes, all finite.
        higher_is_better: as of an accuracy.

    Raises:
        UsageError: there are too few, or numbers that are not finite.

    Example:
        >>> found = rank_recipes([[0.9, 0.8, 0.7], [0.6, 0.5, 0.4], [0.3, 0.2, 0.1]])
        >>> found.mean_ranks, round(found.critical_difference, 2)
        ((1.0, 2.0, 3.0), 1.91)
    """
    from scipy import stats as scipy_stats

    stats = cast(Any, scipy_stats)  # the types of scipy's distributions are not published
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 2 or table.shape[0] < MIN_DATA_SETS or table.shape[1] < MIN_RECIPES:
        raise UsageError(
            f"ranks of scores of shape {table.shape}: expected at least {MIN_DATA_SETS} data sets "
            f"and {MIN_RECIPES} recipes"
        )
    if not np.isfinite(table).all():
        raise UsageError("ranks: a score is not finite")
    num_data_sets, count = table.shape
    scale = np.abs(table).max(axis=1)[:, None, None]
    gaps = differences(table[:, None, :], table[:, :, None], scale)
    # A recipe is half a rank behind the middle for each that is better, and before it for each
    # that is worse.
    ranks = (count + 1 + np.sign(gaps if higher_is_better else -gaps).sum(axis=2)) / 2
    means = ranks.mean(axis=0)
    # Where all are tied in every data set, nothing speaks against equality.
    all_tied = bool((ranks == ranks[:, :1]).all())
    p = 1.0 if all_tied else float(stats.friedmanchisquare(*ranks.T).pvalue)
    quantile = float(stats.studentized_range.ppf(1 - LEVEL, count, np.inf)) / math.sqrt(2)
    difference = quantile * math.sqrt(count * (count + 1) / (6 * num_data_sets))
    return Ranks(tuple(map(float, means)), num_data_sets, p, difference, _groups(means, difference))


def _groups(
    means: np.ndarray[tuple[int], np.dtype[np.float64]], difference: float
) -> tuple[tuple[int, ...], ...]:
    order = [int(index) for index in np.argsort(means, kind="stable")]
    groups: list[tuple[int, ...]] = []
    for start, first in enumerate(order):
        group = tuple(index for index in order[start:] if means[index] - means[first] < difference)
        is_inside = any(set(group) <= set(other) for other in groups)
        if len(group) > 1 and not is_inside:
            groups.append(group)
    return tuple(groups)
