"""Tests that take the runs to be normally spread, and how many seeds would decide.

Every function works on arrays with one value for each pair. An ``error`` is the standard error of
a difference, ``df`` its degrees of freedom. Nothing divides by zero: with no spread at all, any
difference is infinitely many errors large.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]

MAX_SEEDS = 50
POWER = 0.8


def paired_error(
    differences: Floats, resolution: float = 0.0, variance_factor: float | None = None
) -> tuple[Floats, Floats]:
    """Return error and degrees of freedom of the mean difference over paired seeds or folds.

    Args:
        differences: shape ``(M, n)``, n at least 2.
        resolution: smallest step of a measured value, such as one over the number of test images.
            The spread is not taken to be below what rounding to it alone makes: equal differences
            of three coarse values are no proof of a spread of zero.
        variance_factor: what the variance is multiplied with; 1/n unless given, and
            ``1/k + n_test/n_train`` for k folds (Nadeau and Bengio, 2003), whose training sets
            overlap.
    """
    n = differences.shape[1]
    variance = np.maximum(differences.var(1, ddof=1), resolution**2 / 6)
    factor = 1 / n if variance_factor is None else variance_factor
    return np.sqrt(variance * factor), np.full(len(differences), n - 1.0)


def welch_error(
    variances: tuple[Floats, Floats], counts: tuple[Floats, Floats], resolution: float = 0.0
) -> tuple[Floats, Floats]:
    """Return error and degrees of freedom of a difference of two means (Welch, 1947).

    Where one side has at least twice as many seeds as the other, the variance of the smaller side
    is not taken to be below the pooled one: of 3 skewed runs beside 10, Welch's test alone calls
    8 % of equal pairs different, since few runs often look steadier than they are.

    Args:
        variances: sample variances of either side.
        counts: seeds of either side, at least 2.
        resolution: as of ``paired_error``.
    """
    a, b = (np.maximum(variance, resolution**2 / 12) for variance in variances)
    degrees = [count - 1 for count in counts]
    pooled = (a * degrees[0] + b * degrees[1]) / (degrees[0] + degrees[1])
    first, second = (
        np.where(other >= 2 * count, np.maximum(variance, pooled), variance) / count
        for variance, count, other in zip((a, b), counts, counts[::-1], strict=True)
    )
    total = first + second
    below = first**2 / degrees[0] + second**2 / degrees[1]
    some = below > 0
    df = np.divide(total**2, below, out=degrees[0] + degrees[1], where=some)
    return np.sqrt(total), df


def two_sided_p(difference: Floats, error: Floats, df: Floats) -> Floats:
    """Return Student's two-sided p-values that the differences are zero."""
    from scipy.special import stdtr

    p: Floats = 2 * stdtr(df, -_ratio(np.abs(difference), error))
    return p


def equivalence_p(difference: Floats, error: Floats, df: Floats, margin: float) -> Floats:
    """Return the larger p of two one-sided t-tests that the differences lie outside +-margin.

    Schuirmann (1987): both sides rejected at a level is equivalence at that level.
    """
    from scipy.special import stdtr

    p: Floats = stdtr(df, -_ratio(margin - np.abs(difference), error))
    return p


def t_interval(difference: Floats, error: Floats, df: Floats, level: Floats | float) -> Floats:
    """Return the differences that the two-sided test at ``level`` does not reject; ``(M, 2)``."""
    from scipy.special import stdtrit

    half = error * stdtrit(df, 1 - np.asarray(level) / 2)
    return np.stack([difference - half, difference + half], axis=1)


def _ratio(difference: Floats, error: Floats) -> Floats:
    """Return ``difference / error``; infinite, or zero with the difference, where error is zero."""
    infinite = np.where(difference == 0, 0.0, np.copysign(np.inf, difference))
    return np.divide(difference, error, out=infinite, where=error > 0)


def holm(p: Floats, level: float, family: int | None = None) -> tuple[Floats, Floats]:
    """Adjust p-values for their number (Holm, 1979).

    Args:
        p: shape ``(M,)``.
        level: of the family.
        family: of how many these are the only ones known, at least M; M unless given.

    Returns:
        Adjusted p-values, and the level at which each was decided: its own step's where it was
        rejected, else that of the first step that did not reject. An interval at that level leaves
        out zero just where the adjusted p is at most ``level``.
    """
    order = np.argsort(p, kind="stable")
    factors = float(family or len(p)) - np.arange(len(p))
    stepped = np.minimum(1.0, np.maximum.accumulate(p[order] * factors))
    rejected = int((stepped <= level).sum())
    at = level / np.where(np.arange(len(p)) < rejected, factors, factors[min(rejected, len(p) - 1)])
    back = np.argsort(order)
    return stepped[back], at[back]


def seeds_needed(
    difference: float,
    spread: float,
    num_seeds: int,
    *,
    margin: float,
    difference_level: float,
    margin_level: float,
) -> int | None:
    """Return the least number of seeds with 80 % power to decide, or None above ``MAX_SEEDS``.

    Either to call the difference seen one, or, were it zero, to call it equivalent. The spread is
    taken as seen. Power is that of the t-test at the level left by Bonferroni's correction; two
    rows at six seeds or more cannot be tested below 2/2^n, which is taken into account.

    Args:
        difference: seen.
        spread: standard deviation of the paired differences.
        num_seeds: the runs there are; the answer is above.
        margin: of equivalence; 0 for none.
        difference_level: two-sided, of this one pair.
        margin_level: of each one-sided test of this one pair.
    """
    counts = np.arange(max(3, num_seeds + 1), MAX_SEEDS + 1, dtype=np.float64)
    if not len(counts):
        return None
    chance = np.maximum(
        difference_power(difference, spread, counts, difference_level),
        equivalence_power(margin, spread, counts, margin_level),
    )
    enough = np.flatnonzero(chance >= POWER)
    return int(counts[enough[0]]) if len(enough) else None


def difference_power(difference: float, spread: float, counts: Floats, level: float) -> Floats:
    """Return the power of a two-sided test at each number of paired seeds."""
    from scipy.special import nctdtr, stdtrit

    if difference == 0:
        return np.zeros_like(counts)
    smallest = 2.0 ** (1 - counts)
    # Below the smallest p, the largest statistic still decides: see docs/statistics.md.
    steps = np.maximum(np.floor(level / smallest + 1e-9), 1)
    attained = np.where(counts < 6, level, np.minimum(level, steps * smallest))
    limit = stdtrit(counts - 1, 1 - attained / 2)
    shift = _shift(abs(difference), spread, counts)
    power: Floats = 1 - nctdtr(counts - 1, shift, limit)
    return np.where(np.isnan(power), 1.0, power)


def equivalence_power(margin: float, spread: float, counts: Floats, level: float) -> Floats:
    """Return the power of two one-sided tests at each number of seeds, were the difference zero.

    Phillips' (1990) approximation: one less twice the chance that one side fails.
    """
    from scipy.special import nctdtr, stdtrit

    if margin <= 0:
        return np.zeros_like(counts)
    fails = nctdtr(counts - 1, _shift(margin, spread, counts), stdtrit(counts - 1, 1 - level))
    power: Floats = np.clip(1 - 2 * np.where(np.isnan(fails), 0.0, fails), 0.0, 1.0)
    return power


def _shift(size: float, spread: float, counts: Floats) -> Floats:
    """Return the noncentrality; above 30 power is 1 at any level in use, and sums lose digits."""
    if spread <= 0:
        return np.full_like(counts, 30.0)
    shift: Floats = np.minimum(size / spread * np.sqrt(counts), 30.0)
    return shift
