"""Verdicts: which test decides, what agrees with what, and what odd numbers give."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cnnbench.analysis.statistics.sign_flips import sign_flip_test
from cnnbench.analysis.statistics.verdicts import (
    MORE_THAN_MAX,
    RowScores,
    Verdict,
    default_margin,
    judge,
    mean_interval,
)
from cnnbench.errors import UsageError

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "referee.py"
DIFFERENT = ("better", "worse")


def row(*values: float, first: int = 0) -> RowScores:
    return RowScores({first + seed: value for seed, value in enumerate(values)})


def table(values: np.ndarray) -> list[RowScores]:
    return [row(*line) for line in values.tolist()]


def with_images(correct: np.ndarray) -> RowScores:
    """Return a row; ``correct`` of shape (seeds, images)."""
    means = correct.mean(1).tolist()
    return RowScores(dict(enumerate(means)), dict(enumerate(correct)))


def called(verdicts: list[Verdict]) -> bool:
    return any(verdict.verdict in DIFFERENT for verdict in verdicts)


def excludes_zero(interval: tuple[float, float] | None) -> bool:
    assert interval is not None
    return interval[0] > 0 or interval[1] < 0


def check(verdicts: list[Verdict]) -> None:
    """Check what holds of every table."""
    for verdict in verdicts:
        if verdict.p is None:
            assert verdict.verdict in ("best", "baseline", "undecided")
            assert verdict.verdict_basis is verdict.interval is verdict.simultaneous is None
            continue
        assert (verdict.verdict in DIFFERENT) == (verdict.p <= 0.05)
        assert (verdict.verdict in DIFFERENT) == excludes_zero(verdict.simultaneous)
        assert verdict.interval is not None
        assert verdict.simultaneous is not None
        (low, high), (least, most) = verdict.interval, verdict.simultaneous
        rounding = 1e-9 * max(1, abs(low), abs(high))
        assert least <= low + rounding
        assert most >= high - rounding
        assert verdict.difference is not None
        assert low - rounding <= verdict.difference <= high + rounding
        if verdict.verdict == "equivalent":
            assert verdict.within_margin
        needed = verdict.seeds_needed
        if needed is not None:
            assert verdict.verdict == "undecided"
            assert needed == MORE_THAN_MAX or verdict.num_seeds < needed <= 50


counts = st.integers(0, 8)
steps = st.integers(880, 900).map(lambda step: step / 1000)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(counts.flatmap(lambda n: st.lists(steps, min_size=n, max_size=n)), max_size=6),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0, 0.002, 0.02]),
)
def test_interval_p_and_verdict_never_disagree(
    values: list[list[float]], named: bool, higher: bool, margin: float
) -> None:
    rows = [row(*line) for line in values]
    baseline = 0 if named and rows else None
    verdicts = judge(rows, baseline, margin, higher_is_better=higher, resolution=0.001)
    assert len(verdicts) == len(rows)
    check(verdicts)
    if baseline is not None:
        assert verdicts[0].verdict == "baseline"
    elif any(values):
        assert [verdict.verdict for verdict in verdicts].count("best") == 1
    mirrored = [row(*(-value for value in line)) for line in values]
    turned = judge(mirrored, baseline, margin, higher_is_better=not higher, resolution=0.001)
    assert [v.verdict for v in turned] == [v.verdict for v in verdicts]


@pytest.mark.parametrize("shape", [(2, 6), (5, 8), (12, 6), (4, 4)])
def test_smooth_tables_agree_with_themselves(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(shape)
    seen = set()
    for spread in (0.1, 0.5, 1, 2, 4) * 4:
        values = rng.normal(size=shape) + spread * rng.normal(size=(shape[0], 1))
        for baseline in (None, 1):
            verdicts = judge(table(values), baseline, 0.5)
            check(verdicts)
            seen |= {verdict.verdict for verdict in verdicts}
    assert seen >= {"best", "baseline", "worse", "undecided"}


def test_the_named_baseline_is_stepped_down_and_the_best_counts_all_pairs() -> None:
    rng = np.random.default_rng(4)
    values = rng.normal(size=(4, 8)) + np.array([0, 0.5, 1, 2])[:, None]
    verdicts = judge(table(values), 0)
    expected = sign_flip_test(values[1:] - values[0], 3)
    assert [v.p for v in verdicts[1:]] == pytest.approx(expected.p)
    assert {v.verdict_basis for v in verdicts[1:]} == {"seeds"}
    verdicts = judge(table(values))
    best = int(values.mean(1).argmax())
    assert verdicts[best].verdict == "best"
    pairs = list(itertools.combinations(range(4), 2))
    everything = sign_flip_test(np.array([values[i] - values[j] for i, j in pairs]), 6)
    for index in set(range(4)) - {best}:
        pair = pairs.index((min(index, best), max(index, best)))
        assert verdicts[index].p == pytest.approx(everything.p[pair])


@pytest.mark.parametrize("n", [3, 4, 5])
def test_few_seeds_get_paired_t_with_holm(n: int) -> None:
    values = np.random.default_rng(n).normal(size=(3, n)) * 0.1 + np.array([[0], [1], [1.1]])
    verdicts = judge(table(values), 0)
    p = [stats.ttest_rel(values[0], values[i]).pvalue for i in (1, 2)]
    holm = [min(1, max(2 * min(p), x)) if x == max(p) else 2 * x for x in p]
    assert [v.p for v in verdicts[1:]] == pytest.approx(holm)
    assert {(v.verdict_basis, v.num_seeds) for v in verdicts[1:]} == {("seeds-normal", n)}
    interval = stats.ttest_rel(values[1], values[0]).confidence_interval()
    assert verdicts[1].interval == pytest.approx(tuple(interval))


def test_unequal_seeds_get_welch_and_equal_ones_in_the_same_table_flips() -> None:
    rng = np.random.default_rng(8)
    a, b = rng.normal(size=7), rng.normal(size=6) + 4
    verdict = judge([row(*a), row(*b)], 0)[1]
    assert verdict.p == pytest.approx(stats.ttest_ind(a, b, equal_var=False).pvalue)
    assert (verdict.verdict, verdict.verdict_basis) == ("better", "seeds-normal")
    # As many runs, but of other seeds.
    shifted = judge([row(*a), row(*a, first=100)], 0)[1]
    assert shifted.method.startswith("Welch")
    verdicts = judge([row(*b), row(*(b + 5)), row(*(b - 5)), row(*a[:5])], 0)
    assert [v.verdict_basis for v in verdicts[1:]] == ["seeds", "seeds", "seeds-normal"]
    assert [v.verdict for v in verdicts] == ["baseline", "better", "worse", "worse"]
    # Two thirds of the level are for the flips: 2/64 becomes 3/64.
    assert verdicts[1].p == pytest.approx(3 / 64)


def test_the_best_row_does_not_choose_the_test() -> None:
    """A row of other seeds may come out best; the flips stay those of most rows."""
    rng = np.random.default_rng(9)
    rows = [*table(rng.normal(size=(4, 6))), row(*rng.normal(5, 1, 9))]
    verdicts = judge(rows)
    assert verdicts[4].verdict == "best"
    assert {v.method for v in verdicts[:4]} == {"Welch's t-test over seeds"}
    check(verdicts)


def test_folds_get_the_corrected_t_and_never_flips() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(2, 10))
    rows = [RowScores(dict(enumerate(line)), fold_ratio=1 / 9) for line in values.tolist()]
    verdict = judge(rows, 0, 5.0)[1]
    gaps = values[1] - values[0]
    t = gaps.mean() / ((1 / 10 + 1 / 9) * gaps.var(ddof=1)) ** 0.5
    assert verdict.p == pytest.approx(2 * stats.t.sf(abs(t), 9))
    assert verdict.method == "corrected t-test over folds"
    assert verdict.verdict_basis == "folds"
    mixed = judge([rows[0], row(*values[1].tolist())], 0)[1]
    assert (mixed.verdict, mixed.p) == ("undecided", None)


def test_one_or_two_seeds_rest_on_images_alone() -> None:
    rng = np.random.default_rng(2)
    good, bad = (rng.random((1, 2_000)) < rate for rate in (0.95, 0.85))
    verdicts = judge([with_images(good), with_images(bad)], margin=0.5)
    assert [v.verdict for v in verdicts] == ["best", "worse"]
    counts = int((bad & ~good).sum()), int((good & ~bad).sum())
    assert verdicts[1].p == pytest.approx(stats.binomtest(counts[0], sum(counts)).pvalue)
    assert (verdicts[1].verdict_basis, verdicts[1].method) == ("images", "McNemar's exact test")
    assert verdicts[1].difference == pytest.approx(bad.mean() - good.mean())
    # Equivalence is a claim about recipes, which images cannot make.
    assert verdicts[1].equivalence_p is None
    assert not verdicts[1].within_margin
    same = judge([with_images(good), with_images(good)], margin=0.5)[1]
    assert (same.verdict, same.seeds_needed) == ("undecided", None)
    two = judge([with_images(rng.random((2, 2_000)) < 0.95), with_images(bad)])[1]
    assert two.method == "paired bootstrap of images"
    assert judge([row(0.9), row(0.1)])[1] == Verdict(
        "undecided", num_seeds=1, difference=pytest.approx(-0.8)
    )


def test_images_stand_beside_seeds_unmerged() -> None:
    rng = np.random.default_rng(3)
    rows = [with_images(rng.random((6, 500)) < rate) for rate in (0.9, 0.8)]
    verdict = judge(rows)[1]
    assert verdict.verdict_basis == "seeds"
    assert verdict.images is not None
    assert verdict.images.difference == pytest.approx(verdict.difference)
    assert verdict.images.interval(0.05) != verdict.interval


def test_equivalent_within_margin_and_better_within_margin() -> None:
    noise = np.array([1, -1, 2, -2, 1, -1, 2, -2]) * 1e-4
    base, near, above = 0.9 + noise, 0.9 - noise[::-1], 0.901 + noise * 2
    verdicts = judge(table(np.stack([base, near, above])), 0, default_margin(10_000))
    assert [v.verdict for v in verdicts] == ["baseline", "equivalent", "better"]
    assert [v.within_margin for v in verdicts] == [False, True, True]
    assert default_margin(100) == 0.02
    assert not judge(table(np.stack([base, near])), 0)[1].within_margin


def test_undecided_says_how_many_seeds_would_decide() -> None:
    gaps = np.array([0.4, 1, 2.2, 3.4])
    verdict = judge([row(0, 0, 0, 0), row(*gaps)], 0)[1]
    assert verdict.verdict == "undecided"
    needed, more = verdict.seeds_needed, verdict.more_seeds
    assert isinstance(needed, int)
    assert more == needed - 4
    # Drawn with the difference and spread seen, that many decide in four of five tables.
    rng = np.random.default_rng(0)
    drawn = rng.normal(gaps.mean(), gaps.std(ddof=1), (300, needed))
    zeros = row(*np.zeros(needed))
    hits = sum(called(judge([zeros, row(*line)], 0)) for line in drawn)
    assert 0.72 < hits / 300 < 0.93
    tiny = judge([row(0, 0, 0), row(-1, 1, 0.01)], 0)[1]
    assert tiny.seeds_needed == tiny.more_seeds == MORE_THAN_MAX


@pytest.mark.parametrize("n", [3, 6])
def test_rows_without_spread(n: int) -> None:
    same = judge([row(*[0.5] * n), row(*[0.5] * n)], 0, 0.01)[1]
    assert (same.verdict, same.p, same.interval) == ("equivalent", 1, (0, 0))
    steady = judge([row(*[0.5] * n), row(*[0.6] * n)], 0, 0.01)[1]
    assert steady.verdict == "better"
    nothing = judge([row(*[0.5] * n), row(*[0.5] * n)], 0)[1]
    assert (nothing.verdict, nothing.seeds_needed) == ("undecided", MORE_THAN_MAX)


def test_few_rows_and_rounding() -> None:
    assert judge([]) == []
    assert judge([row(0.5)]) == [Verdict("best")]
    assert judge([row(0.5)], 0) == [Verdict("baseline")]
    assert judge([row(), row()]) == [Verdict("undecided")] * 2
    assert [v.verdict for v in judge([row(), row(0.5)], 0)] == ["baseline", "undecided"]
    # 0.1 + 0.2 is not 0.3, and yet no difference.
    verdict = judge([row(*[0.1 + 0.2] * 6), row(*[0.3] * 6)], 0)[1]
    assert (verdict.verdict, verdict.p) == ("undecided", 1)


def test_what_cannot_be_judged_is_said() -> None:
    with pytest.raises(UsageError, match="baseline 2"):
        judge([row(1), row(2)], 2)
    with pytest.raises(UsageError, match="margin"):
        judge([row(1)], margin=-1)
    with pytest.raises(UsageError, match="not a number"):
        judge([row(1, float("nan"))])
    rows = [with_images(np.ones((1, size), bool)) for size in (3, 4)]
    with pytest.raises(UsageError, match="same images"):
        judge(rows)
    with pytest.raises(UsageError, match="loss"):
        judge(rows[:1], higher_is_better=False)


def test_interval_of_one_row() -> None:
    values = [0.3, 0.5, 0.1, 0.9, 0.2]
    expected = stats.ttest_1samp(values, 0).confidence_interval()
    assert mean_interval(values) == pytest.approx(tuple(expected))
    assert mean_interval([*values, 0.4]) == (0.1, 0.9)
    assert mean_interval([1, 2]) is None


@pytest.mark.parametrize(("num_rows", "n", "draws"), [(2, 3, 600), (2, 6, 600), (6, 6, 300)])
def test_equal_recipes_are_seldom_called_different(num_rows: int, n: int, draws: int) -> None:
    rng = np.random.default_rng([num_rows, n])
    calls = sum(called(judge(table(rng.normal(size=(num_rows, n))))) for _ in range(draws))
    assert stats.binomtest(calls, draws, 0.05, alternative="greater").pvalue > 0.001


def test_importing_the_referee_loads_no_scipy_and_no_torch() -> None:
    code = (
        "import sys, cnnbench.analysis.statistics, cnnbench.analysis.statistics.calibration, "
        "cnnbench.analysis.statistics.self_test\n"
        "assert not {'scipy', 'torch'} & sys.modules.keys()"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_every_figure_of_the_simulation_is_met() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--format", "json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout, done.stderr
    assert [line for line in json.loads(done.stdout) if not line["met"]] == []
    assert done.returncode == 0
