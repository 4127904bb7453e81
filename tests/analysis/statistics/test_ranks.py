"""Ranks over data sets against scipy and published numbers."""

from __future__ import annotations

from statistics import fmean

import numpy as np
import pytest
from scipy import stats

from cnnbench.analysis.statistics.ranks import rank_recipes
from cnnbench.errors import UsageError


def test_ranks_and_friedmans_test_by_their_definitions() -> None:
    draw = np.random.default_rng(1)
    for num_data_sets, count in ((2, 3), (9, 4), (14, 6)):
        scores = draw.normal(size=(num_data_sets, count)) + 0.3 * np.arange(count)
        ranks = [[1 + sum(other > score for other in row) for score in row] for row in scores]
        means = np.mean(ranks, axis=0)
        found = rank_recipes(scores)
        assert found.mean_ranks == pytest.approx(means)
        # Demsar (2006), section 3.2.2, for ranks without ties.
        square = 12 * num_data_sets / (count * (count + 1))
        square *= (means**2).sum() - count * (count + 1) ** 2 / 4
        assert found.p == pytest.approx(stats.chi2.sf(square, count - 1))


def test_the_critical_difference_of_the_paper() -> None:
    """Four forms of C4.5 on fourteen data sets, section 3.2.4."""
    found = rank_recipes(np.random.default_rng(0).normal(size=(14, 4)))
    assert found.critical_difference == pytest.approx(1.25, abs=0.005)


def test_ties_share_their_ranks() -> None:
    scores = np.array([[3, 1, 1, 0], [2, 2, 2, 1], [5, 4, 3, 3]])
    found = rank_recipes(scores)
    assert found.mean_ranks == pytest.approx([4 / 3, 6.5 / 3, 8 / 3, 11.5 / 3])
    assert found.p == pytest.approx(stats.friedmanchisquare(*scores.T).pvalue)


def test_what_is_equal_but_for_rounding_is_tied() -> None:
    """The first two have 894 of 1,077 images right on each data set, in sums of other order."""
    a, b = ([x / 359 for x in counts] for counts in ([280, 285, 329], [296, 283, 315]))
    assert fmean(a) != fmean(b)
    scores = [[fmean(a), fmean(b), 0.5]] * 3
    found = rank_recipes(scores)
    assert found.mean_ranks == (1.5, 1.5, 3.0)
    exact = [[894, 894, 500]] * 3
    assert found.p == pytest.approx(stats.friedmanchisquare(*np.transpose(exact)).pvalue)
    losses = rank_recipes(scores, higher_is_better=False)
    assert losses.mean_ranks == (2.5, 2.5, 1.0)
    # One image of a large test set is no rounding, nor is a small loss beside a large one.
    assert rank_recipes([[0.9 + 1e-7, 0.9, 0.8], [1e-13, 2e-13, 0]]).mean_ranks == (1.5, 1.5, 3.0)
    assert rank_recipes([[1e9, 2e9, 0], [1e-9, 2e-9, 0]]).mean_ranks == (2, 1, 3)


@pytest.mark.parametrize(
    ("count", "quantile"),
    # Demsar (2006), table 5(a): critical values of Nemenyi's test at 5 %.
    [
        (3, 2.343),
        (4, 2.569),
        (5, 2.728),
        (6, 2.850),
        (7, 2.949),
        (8, 3.031),
        (9, 3.102),
        (10, 3.164),
    ],
)
def test_the_published_critical_values(count: int, quantile: float) -> None:
    draw = np.random.default_rng(0)
    found = rank_recipes(draw.normal(size=(6, count)))
    assert found.critical_difference / np.sqrt(count * (count + 1) / 36) == pytest.approx(
        quantile, abs=1.1e-3
    )


def test_groups_are_the_largest_sets_without_a_difference() -> None:
    # Ranks 1 to 6 in each of 20 data sets: neighbours differ by 1, the critical difference is 1.69.
    found = rank_recipes(np.tile(np.arange(6)[::-1], (20, 1)))
    assert found.groups == ((0, 1), (1, 2), (2, 3), (3, 4), (4, 5))
    assert rank_recipes(np.tile(np.arange(6), (20, 1)), higher_is_better=False).groups[0] == (0, 1)


def test_no_difference_at_all() -> None:
    found = rank_recipes(np.ones((4, 3)))
    assert (found.p, found.mean_ranks, found.groups) == (1.0, (2, 2, 2), ((0, 1, 2),))


@pytest.mark.parametrize("shape", [(1, 3), (2, 2), (0, 0)])
def test_too_few(shape: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="expected at least 2 data sets and 3 recipes"):
        rank_recipes(np.zeros(shape))


def test_a_score_that_is_none() -> None:
    with pytest.raises(UsageError, match="not finite"):
        rank_recipes([[1, 2, np.nan], [1, 2, 3]])
