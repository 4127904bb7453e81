"""Sign flips against enumeration by hand and against scipy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from cnnbench.analysis.statistics.sign_flips import RANDOM_FLIPS, flip_signs, sign_flip_test

coarse = st.integers(-4, 4).map(float)
smooth = st.floats(-1, 1, allow_subnormal=False).map(lambda x: round(x, 6))


def matrices(values: st.SearchStrategy[float]) -> st.SearchStrategy[NDArray[np.float64]]:
    shape = st.tuples(st.integers(1, 5), st.integers(2, 7))
    return shape.flatmap(
        lambda s: st.lists(values, min_size=s[0] * s[1], max_size=s[0] * s[1]).map(
            lambda flat: np.array(flat).reshape(s)
        )
    )


def t_sizes(differences: NDArray[np.float64]) -> NDArray[np.float64]:
    """|t| of each row, by its definition; infinite without spread, 0 without any difference."""
    mean, spread = np.abs(differences.mean(1)), differences.std(1, ddof=1)
    sizes = mean / np.where(spread > 1e-9, spread, 1) * differences.shape[1] ** 0.5
    return np.where(spread > 1e-9, sizes, np.where(mean > 1e-9, np.inf, 0.0))


def at_least(values: NDArray[np.float64], other: float) -> NDArray[np.bool_]:
    return (values >= other) | np.isclose(values, other, rtol=1e-6, atol=1e-9)


def step_down_by_hand(differences: NDArray[np.float64]) -> list[float]:
    """Westfall and Young's step-down with every one of the 2^n flips, in plain loops."""
    num_pairs, n = differences.shape
    flips = [np.array(signs) for signs in itertools.product((1, -1), repeat=n)]
    flipped = np.array([t_sizes(differences * signs) for signs in flips])
    observed = t_sizes(differences)
    order = sorted(range(num_pairs), key=lambda pair: -observed[pair])
    p, largest = [0.0] * num_pairs, 0.0
    for rank, pair in enumerate(order):
        maxima = flipped[:, order[rank:]].max(1)
        largest = max(largest, float(at_least(maxima, observed[pair]).mean()))
        p[pair] = largest
    return p


@settings(max_examples=30, deadline=None)
@given(matrices(coarse) | matrices(smooth))
def test_step_down_is_that_of_all_flips(differences: NDArray[np.float64]) -> None:
    test = sign_flip_test(differences, len(differences))
    assert test.exact
    assert test.p == pytest.approx(step_down_by_hand(differences))
    alone = [step_down_by_hand(row[None])[0] for row in differences]
    assert test.single_p == pytest.approx(alone)


@pytest.mark.parametrize("n", [6, 8, 10])
def test_a_single_pair_is_scipys_permutation_test(n: int) -> None:
    rng = np.random.default_rng(n)
    for shift in (0.0, 0.5, 2.0):
        a, b = rng.normal(size=n), rng.normal(size=n) + shift
        scipys = stats.permutation_test(
            (a, b),
            lambda x, y: np.mean(x - y),
            permutation_type="samples",
            n_resamples=np.inf,
        )
        assert sign_flip_test((a - b)[None], 1).p[0] == pytest.approx(scipys.pvalue)


@settings(max_examples=30, deadline=None)
@given(matrices(smooth), st.integers(0, 4), st.sampled_from([0.05, 0.1, 0.3]))
def test_an_interval_holds_just_what_the_test_does_not_reject(
    differences: NDArray[np.float64], pair: int, level: float
) -> None:
    pair %= len(differences)
    order = [pair, *(other for other in range(len(differences)) if other != pair)]
    differences = differences[order]
    low, high = sign_flip_test(differences, 1, level).intervals[0]
    n = differences.shape[1]
    for end, outside in ((low, -1), (high, 1)):
        # An interval of no width has no inside.
        if np.isfinite(end) and high - low > 2e-4:
            inner, outer = (differences[:1] - end + side * 1e-4 for side in (outside, -outside))
            assert sign_flip_test(inner, 1).single_p[0] > level
            assert sign_flip_test(outer, 1).single_p[0] <= level
        else:
            assert 2 / 2**n > level


@settings(max_examples=30, deadline=None)
@given(matrices(coarse) | matrices(smooth), st.sampled_from([0.05, 0.1, 0.3]))
def test_simultaneous_intervals_agree_with_the_step_down(
    differences: NDArray[np.float64], level: float
) -> None:
    test = sign_flip_test(differences, len(differences), level)
    for p, (low, high), (by_itself_low, by_itself_high) in zip(
        test.p, test.simultaneous, test.intervals, strict=True
    ):
        assert (low > 1e-12 or high < -1e-12) == (p <= level) or min(abs(low), abs(high)) < 1e-6
        assert low <= by_itself_low <= by_itself_high <= high


def test_a_simultaneous_interval_is_the_single_step_test_inverted() -> None:
    """Nothing is rejected here, so that the deciding family is all pairs."""
    rng = np.random.default_rng(3)
    differences = rng.normal(size=(4, 7))
    test = sign_flip_test(differences, 4)
    assert (test.p > 0.05).all()
    flips = np.array(list(itertools.product((1, -1), repeat=7)))
    for pair, (low, high) in enumerate(test.simultaneous):
        for at in (low - 1e-6, low + 1e-6, high - 1e-6, high + 1e-6):
            moved = differences.copy()
            moved[pair] -= at
            observed = t_sizes(moved)[pair]
            maxima = np.array([t_sizes(moved * signs).max() for signs in flips])
            assert (np.mean(maxima >= observed - 1e-12) > 0.05) == (low < at < high)


def test_six_seeds_give_the_range_and_step_down_spares_what_is_decided() -> None:
    differences = np.array([[1.0, 2, 3, 4, 5, 7], [9, 9.1, 9.2, 9, 9.3, 9]])
    test = sign_flip_test(differences, 2)
    assert test.intervals.tolist() == [[1, 7], [9, 9.3]]
    assert test.p.tolist() == [2 / 64, 2 / 64]


def test_many_seeds_take_random_flips_that_are_the_same_each_time() -> None:
    signs, exact = flip_signs(20)
    assert not exact
    assert len(signs) == RANDOM_FLIPS
    assert (signs[0] == 1).all()
    assert np.array_equal(signs, flip_signs(20)[0])
    differences = np.random.default_rng(1).normal(0.35, 1, (1, 20))
    expected = stats.ttest_1samp(differences[0], 0)
    test = sign_flip_test(differences, 1)
    assert test.p[0] == pytest.approx(expected.pvalue, abs=0.02)
    assert test.intervals[0] == pytest.approx(expected.confidence_interval(), abs=0.06)


@pytest.mark.parametrize("n", range(2, 13))
def test_exact_flips_are_each_half_of_all_once(n: int) -> None:
    signs, exact = flip_signs(n)
    assert exact
    both = {tuple(row) for row in np.concatenate([signs, -signs]).tolist()}
    assert len(both) == 2**n
