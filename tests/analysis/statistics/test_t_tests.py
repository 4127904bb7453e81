"""The t-tests against scipy, and the power against simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from cnnbench.analysis.statistics.t_tests import (
    MAX_SEEDS,
    difference_power,
    equivalence_p,
    equivalence_power,
    holm,
    paired_error,
    seeds_needed,
    t_interval,
    two_sided_p,
    welch_error,
)

RNG = np.random.default_rng(5)


@pytest.mark.parametrize("n", [3, 5, 9])
def test_paired_t_is_scipys(n: int) -> None:
    a, b = RNG.normal(size=(2, n))
    expected = stats.ttest_rel(a, b)
    gaps = (a - b)[None]
    error, df = paired_error(gaps)
    assert two_sided_p(gaps.mean(1), error, df)[0] == pytest.approx(expected.pvalue)
    interval = t_interval(gaps.mean(1), error, df, 0.05)[0]
    assert interval == pytest.approx(list(expected.confidence_interval(0.95)))


@pytest.mark.parametrize("counts", [(3, 4), (5, 9), (6, 10)])
def test_welch_is_scipys(counts: tuple[int, int]) -> None:
    a, b = (RNG.normal(size=n) for n in counts)
    expected = stats.ttest_ind(a, b, equal_var=False)
    sizes = tuple(np.array([float(n)]) for n in counts)
    error, df = welch_error((np.array([a.var(ddof=1)]), np.array([b.var(ddof=1)])), sizes)
    gap = np.array([a.mean() - b.mean()])
    assert two_sided_p(gap, error, df)[0] == pytest.approx(expected.pvalue)
    interval = t_interval(gap, error, df, 0.05)[0]
    assert interval == pytest.approx(list(expected.confidence_interval(0.95)))


def test_three_steady_runs_beside_ten_are_not_believed() -> None:
    sizes = np.array([3.0]), np.array([10.0])
    steady, _ = welch_error((np.array([1e-6]), np.array([1.0])), sizes)
    unsteady, _ = welch_error((np.array([9.0]), np.array([1.0])), sizes)
    assert steady[0] > 0.5
    assert unsteady[0] == pytest.approx((9 / 3 + 1 / 10) ** 0.5)


def test_folds_get_nadeau_and_bengios_variance() -> None:
    gaps = np.array([[0.01, 0.03, 0.02, 0.02, 0.05]])
    error, df = paired_error(gaps, variance_factor=1 / 5 + 1 / 4)
    assert error[0] == pytest.approx((0.45 * gaps.var(ddof=1)) ** 0.5)
    assert df[0] == 4


def test_equivalence_is_two_one_sided_tests() -> None:
    gaps = RNG.normal(0.1, 0.3, 7)
    numbers = np.array([gaps.mean()]), *paired_error(gaps[None])
    sides = (
        stats.ttest_1samp(gaps, -0.5, alternative="greater").pvalue,
        stats.ttest_1samp(gaps, 0.5, alternative="less").pvalue,
    )
    assert equivalence_p(*numbers, 0.5)[0] == pytest.approx(max(sides))
    # Rejected at 5 % just where the 90 % interval is within the margin.
    low, high = t_interval(*numbers, 0.1)[0]
    for margin in (0.2, 0.3, 0.4, 0.5, 1.0):
        within = -margin < low and high < margin
        assert (equivalence_p(*numbers, margin)[0] <= 0.05) == within


def test_no_spread_is_no_division_by_zero() -> None:
    same, steady = np.zeros((1, 4)), np.full((1, 4), 0.25)
    for gaps, p in ((same, 1.0), (steady, 0.0)):
        numbers = gaps.mean(1), *paired_error(gaps)
        assert two_sided_p(*numbers)[0] == p
        assert equivalence_p(*numbers, 0.3)[0] == 0
    # Three equal steps of one image are no proof.
    gaps = np.full((1, 3), 1 / 100)
    assert two_sided_p(gaps.mean(1), *paired_error(gaps, 1 / 100))[0] > 0.05


def test_holm_by_hand() -> None:
    adjusted, at = holm(np.array([0.04, 0.001, 0.02, 0.03]), 0.05)
    assert adjusted == pytest.approx([0.06, 0.004, 0.06, 0.06])
    assert at == pytest.approx([0.05 / 3, 0.05 / 4, 0.05 / 3, 0.05 / 3])
    adjusted, at = holm(np.array([0.001, 0.02]), 0.05)
    assert adjusted == pytest.approx([0.002, 0.02])
    assert at == pytest.approx([0.025, 0.05])
    assert holm(np.array([0.001]), 0.05, 10)[0] == pytest.approx([0.01])


@pytest.mark.parametrize(("size", "n"), [(1.0, 10), (0.7, 20), (2.0, 5)])
def test_power_of_a_difference_is_that_of_many_draws(size: float, n: int) -> None:
    gaps = np.random.default_rng(n).normal(size, 1, (20_000, n))
    hits = two_sided_p(gaps.mean(1), *paired_error(gaps)) <= 0.05
    power = difference_power(size, 1.0, np.array([float(n)]), 0.05)
    assert power[0] == pytest.approx(hits.mean(), abs=0.02)


@pytest.mark.parametrize(("margin", "n"), [(1.0, 12), (0.6, 30), (1.5, 8)])
def test_power_of_equivalence_is_that_of_many_draws(margin: float, n: int) -> None:
    gaps = np.random.default_rng(n).normal(0, 1, (20_000, n))
    hits = equivalence_p(gaps.mean(1), *paired_error(gaps), margin) <= 0.05
    power = equivalence_power(margin, 1.0, np.array([float(n)]), 0.05)
    assert power[0] == pytest.approx(hits.mean(), abs=0.02)


def test_seeds_needed_is_the_least_with_power_and_above_what_there_is() -> None:
    levels = {"difference_level": 0.05, "margin_level": 0.05}
    needed = seeds_needed(1.0, 1.0, 3, margin=0.0, **levels)
    assert needed is not None
    around = difference_power(1.0, 1.0, np.array([needed - 1.0, needed]), 0.05)
    assert around[0] < 0.8 <= around[1]
    assert seeds_needed(1.0, 1.0, 20, margin=0.0, **levels) == 21
    assert seeds_needed(0.05, 1.0, 3, margin=0.0, **levels) is None
    assert seeds_needed(0.0, 1.0, 3, margin=2.0, **levels) is not None
    assert seeds_needed(1.0, 1.0, MAX_SEEDS, margin=0.0, **levels) is None
    assert seeds_needed(0.0, 0.0, 3, margin=0.0, **levels) is None
    stricter = seeds_needed(1.0, 1.0, 3, margin=0.0, difference_level=0.001, margin_level=0.05)
    assert stricter is not None
    assert stricter > needed
