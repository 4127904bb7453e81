"""Image by image: McNemar and the paired bootstrap against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from cnnbench.analysis.statistics.image_tests import image_difference


def two_runs(both: int, only_a: int, only_b: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    a = np.repeat([1.0, 1.0, 0.0, 0.0], [both, only_a, only_b, neither])
    return a, np.repeat([1.0, 0.0, 1.0, 0.0], [both, only_a, only_b, neither])


@pytest.mark.parametrize("counts", [(5, 0), (6, 0), (8, 1), (30, 12), (200, 150), (3, 3)])
@pytest.mark.parametrize("level", [0.05, 0.01])
def test_single_runs_follow_the_exact_test(counts: tuple[int, int], level: float) -> None:
    found = image_difference(*two_runs(700, *counts, 50), single=True)
    exact = stats.binomtest(counts[0], sum(counts)).pvalue
    assert found.p == pytest.approx(exact, rel=1e-6)
    low, high = found.interval(level)
    assert (low > 0 or high < 0) == (exact <= level)
    assert low <= found.difference <= high


def test_the_error_is_that_of_the_paired_bootstrap() -> None:
    rng = np.random.default_rng(0)
    rate = rng.beta(5, 1, 800)
    ours, theirs = ((rng.random((n, 800)) < rate).mean(0) for n in (2, 3))
    found = image_difference(ours, theirs, single=False)
    scipys = stats.bootstrap(
        (ours - theirs,), np.mean, n_resamples=5_000, method="percentile", rng=1, batch=500
    )
    assert found.error == pytest.approx(scipys.standard_error, rel=0.05)
    low, high = found.interval(0.05)
    assert (low + found.step, high - found.step) == pytest.approx(
        tuple(scipys.confidence_interval), abs=0.1 * found.error
    )


@pytest.mark.parametrize("level", [0.05, 0.003])
def test_averages_agree_with_their_interval(level: float) -> None:
    rng = np.random.default_rng(2)
    calls = []
    for gain in np.linspace(0, 0.1, 40):
        rate = rng.beta(5, 1, 300)
        ours = (rng.random((2, 300)) < np.minimum(1, rate + gain)).mean(0)
        theirs = (rng.random((2, 300)) < rate).mean(0)
        found = image_difference(ours, theirs, single=False)
        low, high = found.interval(level)
        calls.append(found.p <= level)
        assert (low > 0 or high < 0) == calls[-1]
    assert 0 < sum(calls) < 40


def test_networks_that_never_differ() -> None:
    found = image_difference(*two_runs(90, 0, 0, 10), single=True)
    assert (found.difference, found.p, found.interval(0.05)) == (0, 1, (0, 0))
