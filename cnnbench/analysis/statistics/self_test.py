"""How often the referee cries wolf on runs of one and the same recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnnbench.analysis.statistics.families import MIN_FLIPPED, RowScores
from cnnbench.analysis.statistics.verdicts import Basis, judge
from cnnbench.errors import UsageError

MIN_RUNS = 12
# With more seeds a side, nothing new is learned about the tests.
_MAX_SIDE = 10


@dataclass(frozen=True)
class FalseCalls:
    """How often rows of one recipe were called different.

    Attributes:
        basis: of the verdicts.
        num_rows: rows of each table; the best one is the baseline.
        num_seeds: runs of each row.
        tables: how many were drawn.
        false: how many of them held any row that was called better or worse.
        repeated: whether a run can be in a table more than once, for want of runs.
    """

    basis: Basis
    num_rows: int
    num_seeds: int
    tables: int
    false: int
    repeated: bool

    @property
    def rate(self) -> float:
        """The fraction of tables with a false call."""
        return self.false / self.tables

    @property
    def upper(self) -> float:
        """What the fraction would be below with more draws, at 95 % (Clopper and Pearson)."""
        from scipy.special import betaincinv

        if self.false == self.tables:
            return 1.0
        return float(betaincinv(self.false + 1, self.tables - self.false, 0.95))


def self_test(
    values: Mapping[int, float],
    correct: Mapping[int, NDArray[np.bool_]] | None = None,
    *,
    num_rows: Sequence[int] = (6, 12),
    tables: int = 1_000,
    resolution: float | None = None,
) -> list[FalseCalls]:
    """Draw tables of equal rows from the runs of one recipe, and count the false calls.

    Runs are halved at random and paired in random order. Tables of more rows than there are runs
    for are drawn with replacement. The figures hold for the spread of these runs; verdicts on
    images alone make no claim about recipes, and their figure shows how far they are from one.

    Args:
        values: results by seed, at least ``MIN_RUNS``.
        correct: by seed, for each test image whether it is classified correctly; for the images'
            basis.
        num_rows: of the larger tables.
        tables: to draw for each figure; the same ones in every call.
        resolution: as of ``judge``.

    Raises:
        UsageError: there are too few runs.
    """
    if len(values) < MIN_RUNS:
        raise UsageError(f"{len(values)} runs of one recipe; expected at least {MIN_RUNS}")
    if correct and resolution is None:
        resolution = 1 / len(next(iter(correct.values())))
    side = min(len(values) // 2, _MAX_SIDE)
    plans: list[tuple[Basis, int, int]] = [("seeds", 2, size) for size in {MIN_FLIPPED, side}]
    plans += [("seeds", rows, side) for rows in num_rows]
    plans += [("seeds-normal", rows, size) for rows in (2, *num_rows) for size in (3, 5)]
    runs = sorted(values)
    if correct and all(seed in correct for seed in runs):
        plans += [("images", 2, 1), ("images", 2, 2)]
    found = []
    for basis, rows, size in sorted(plans, key=lambda plan: (plan[0] == "images", *plan)):
        rng = np.random.default_rng([rows, size])
        repeated = rows * size > len(runs)
        false = 0
        for _ in range(tables):
            drawn = rng.choice(runs, (rows, size), replace=repeated)
            verdicts = judge(
                [_row(seeds, values, correct if basis == "images" else None) for seeds in drawn],
                resolution=resolution,
            )
            false += any(verdict.verdict in ("better", "worse") for verdict in verdicts)
        found.append(FalseCalls(basis, rows, size, tables, false, repeated))
    return found


def _row(
    seeds: NDArray[np.integer],
    values: Mapping[int, float],
    correct: Mapping[int, NDArray[np.bool_]] | None,
) -> RowScores:
    """Return a row of some runs, which are paired in the order given."""
    images = {} if correct is None else {i: correct[seed] for i, seed in enumerate(seeds.tolist())}
    return RowScores({i: values[seed] for i, seed in enumerate(seeds.tolist())}, images)
