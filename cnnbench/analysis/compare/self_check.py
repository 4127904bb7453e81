"""``compare --self-test``: how often the referee cries wolf on the runs of one recipe."""

from __future__ import annotations

import dataclasses
from typing import Any

from cnnbench.analysis.compare.tables import Comparison
from cnnbench.analysis.compare.verdicts import scores_of
from cnnbench.analysis.statistics.self_test import MIN_RUNS, self_test
from cnnbench.errors import UsageError
from cnnbench.rendering.text import render_json, render_table

_COLUMNS = ("basis", "num_rows", "num_seeds", "tables", "false", "rate", "upper", "repeated")
_NOTE = """
Each table holds rows of this one recipe, its runs dealt at random, the best row compared with.
rate: tables in which any row was called better or worse; upper: its bound at 95 %. Over seeds it
should be .05 at most. Over images it is more, and no error: two trainings of one recipe often give
networks that truly differ. repeated: a run can be in a table more than once, for want of runs.
"""


def check_referee(found: Comparison) -> list[dict[str, Any]]:
    """Return how often tables of equal rows, drawn from one row's runs, hold a false call.

    Returns:
        A dictionary for each basis, number of rows and number of seeds; ``rate`` and its bound
        ``upper`` are fractions of the ``tables`` drawn.

    Raises:
        UsageError: there is not one row, or it has too few runs.
    """
    rows = [row for table in found.tables for row in table.rows]
    if len(rows) != 1:
        raise UsageError(
            f"--self-test: {len(rows)} rows of runs; expected at least {MIN_RUNS} runs of one "
            "recipe, which differ in their seed alone. --where chooses a row"
        )
    if rows[0].folds:
        raise UsageError(
            "--self-test: the row is of folds, which share training images; expected runs that "
            "differ in their seed alone"
        )
    if rows[0].is_number:
        raise UsageError(
            "--self-test: the row predicts a number, and verdicts are of accuracies alone; "
            "expected runs that predict classes"
        )
    if len(rows[0].metric_values(rows[0].accuracy)) < MIN_RUNS:
        raise UsageError(
            f"--self-test: {len(rows[0].records)} runs of one recipe; expected at least {MIN_RUNS}"
        )
    scores = scores_of(rows[0])
    num_test = rows[0].records[0].num_test
    resolution = None if scores.correct or not num_test else 1 / num_test
    calls = self_test(scores.values, scores.correct or None, resolution=resolution)
    return [{**dataclasses.asdict(c), "rate": c.rate, "upper": c.upper} for c in calls]


def self_check_text(calls: list[dict[str, Any]], output_format: str) -> str:
    """Return what the command prints.

    Args:
        calls: as ``check_referee`` returned them.
        output_format: text, markdown, csv, latex or json.
    """
    if output_format == "json":
        return render_json(calls)
    table = render_table(calls, _COLUMNS, output_format)
    return table if output_format in ("csv", "latex") else f"{table}{_NOTE}"
