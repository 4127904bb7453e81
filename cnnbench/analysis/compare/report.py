"""A whole comparison as one page that opens from disk: no server, no other file, no network.

Names in it come from run directories that a stranger may have written. They are escaped where they
are put into the page, and the page's policy lets nothing run or load but its own script and style.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from types import MappingProxyType
from typing import Any

from cnnbench.analysis.compare.conclusion import row_names
from cnnbench.analysis.compare.formats import (
    Cell,
    comparison_cells,
    row_name,
    shown_columns,
)
from cnnbench.analysis.compare.notes import reading_notes
from cnnbench.analysis.compare.plots import by_epoch, interval, work_by_epoch
from cnnbench.analysis.compare.records import Record
from cnnbench.analysis.compare.reference import HEADS, LEAD, reference_cells
from cnnbench.analysis.compare.report_details import (
    LAYER_COLUMNS,
    clip,
    describe_network,
    describe_row,
    network_key,
    run_columns,
)
from cnnbench.analysis.compare.rows import Row, is_one_device
from cnnbench.analysis.compare.search_part import SearchPart
from cnnbench.analysis.compare.tables import Comparison, Table
from cnnbench.files import atomic_write, writing
from cnnbench.notices import visible
from cnnbench.rendering.text import counted
from cnnbench.runs import columns
from cnnbench.version import __version__

CURVES = (
    "val/accuracy",
    "val/r2",
    "val/mae",
    "val/loss",
    "train/accuracy",
    "train/r2",
    "train/mae",
    "train/loss",
    "perf/epoch_seconds",
    "perf/data_seconds",
    "perf/images_per_second",
)
# What learning curves are drawn against.
_OVERS = {"epoch": "epoch", "seconds": "seconds of training", "tflop": "TFLOP of training"}
_MAX_POINTS = 120
_MAX_DRAWN = 10
# Columns of a higher rank are shown when they are asked for.
_MAX_RANK = 3
_NOTES = (
    "A row is the runs that differ in their seed or fold alone, n of them.",
    "The epoch whose weights are tested is chosen on what 'selection' names; test_reads is how "
    "often the test images were looked at. A row chosen on test is marked.",
    "A row that is not comparable differs from the others, or from the baseline, in more than what "
    "is compared; what it differs in stands below the table. It is in no Pareto front.",
    "Accuracy is the fraction of all images that are classified correctly; num_params and macs "
    "(multiply-accumulates for one image) are exact, receptive_field is in pixels of a side.",
    "A row's number leads to its runs. A click on a column's name sorts by it. The address keeps "
    "the order and the rows drawn.",
)
_NUMBER_NOTE = (
    "R2 of a predicted number is 1 less the squared error over that of always saying the mean of "
    "the targets: 1 is perfect, and below 0 is worse than the mean. MAE, the mean absolute error, "
    "is in the target's unit."
)


def write_report(
    comparison: Comparison,
    file: Path,
    search: SearchPart | None = None,
    layers: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Write the page; its directory is made where it is missing.

    Args:
        comparison: that it shows.
        file: replaced.
        search: that made its runs.
        layers: of its networks, as far as they are known; see ``describe_network``.

    Raises:
        DiskError: it cannot be written.
    """
    page = render_report(comparison, search, layers)
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(file, page.encode())


def render_report(
    comparison: Comparison,
    search: SearchPart | None = None,
    layers: Mapping[str, Any] = MappingProxyType({}),
) -> str:
    """Return the page; the same comparison gives the same text."""
    import jinja2
    from jinja2.utils import htmlsafe_json_dumps

    source = Path(__file__).with_name("page")
    template, style, script = (
        (source / f"report.{kind}").read_text(encoding="utf-8") for kind in ("html.j2", "css", "js")
    )
    environment = jinja2.Environment(
        autoescape=True,
        finalize=_shown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    content = _content(comparison, layers)
    data = htmlsafe_json_dumps(content["data"], dumps=_compact)
    return environment.from_string(template).render(
        {
            **content,
            "search": search.shown() if search is not None else None,
            "data": data,
            "style": style,
            "script": script,
            "policy": f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; "
            "base-uri 'none'; form-action 'none'",
        }
    )


def _shown(value: Any) -> Any:
    # What is marked as safe is ours.
    return visible(value, kept="\n\t") if type(value) is str else value


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def _content(comparison: Comparison, layers: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the template names."""
    rows = [row for table in comparison.tables for row in table.rows]
    records = [record for row in rows for record in row.records]
    networks: dict[str, Record] = {}
    for record in records:
        networks.setdefault(network_key(record), record)
    shown = _first_shown(rows)
    has_numbers = any(row.is_number for row in rows)
    # A front over seconds of different devices would say nothing of the rows.
    has_seconds = is_one_device(rows)
    costs = {c.name: c.axis for c in columns.costs() if has_seconds or not c.is_time}
    # A choice of what no row has would draw nothing.
    curves = [name for name in CURVES if any(name in record.curves for record in records)]
    return {
        "title": "cnnbench comparison",
        "lead": _lead(rows, records, len(comparison.left_out)),
        "tables": [
            _table(table, cells)
            for table, cells in zip(comparison.tables, comparison_cells(comparison), strict=True)
        ],
        "nothing": f"{comparison.nothing[0].upper()}{comparison.nothing[1:]}.",
        "reference_lead": LEAD,
        "reference_columns": HEADS,
        "references": [[clip(cells[head]) for head in HEADS] for cells in reference_cells(rows)],
        "metrics": curves,
        "costs": list(costs),
        "overs": list(_OVERS.items()),
        "num_drawn": len(shown),
        "num_hidden": len(rows) - len(shown),
        "is_thinned": any(
            len(curve) > _MAX_POINTS for record in records for curve in record.curves.values()
        ),
        "max_points": _MAX_POINTS,
        "run_columns": [column.name for column in run_columns()],
        "layer_columns": list(LAYER_COLUMNS),
        "details": [
            describe_row(row, table, list(networks).index(network_key(row.records[0])) + 1)
            for table in comparison.tables
            for row in table.rows
        ],
        "networks": [describe_network(record, layers) for record in networks.values()],
        "left_out": [(run.status, clip(run.reason), clip(run.path)) for run in comparison.left_out],
        "notes": [*_NOTES, *([_NUMBER_NOTE] if has_numbers else []), *reading_notes(comparison)],
        "data": {
            "tables": [_charts(table) for table in comparison.tables],
            "shown": shown,
            "metrics": curves,
            "costs": list(costs),
            "costLabels": costs,
            "overLabels": _OVERS,
        },
    }


def _lead(rows: Sequence[Row], records: Sequence[Record], num_left_out: int) -> str:
    data = sorted({clip(row.values["data"]) for row in rows})
    parts = [
        f"{counted(len(rows), 'row')} of {counted(len(records), 'run')}",
        *([f"data: {clip(', '.join(data))}"] if data else []),
        *([f"{counted(num_left_out, 'run')} left out"] if num_left_out else []),
        f"made by cnnbench {__version__}",
    ]
    return " · ".join(parts)


def _first_shown(rows: Sequence[Row]) -> list[int]:
    """Return the rows that are drawn at first: all, or those best on validation."""

    def accuracy(row: Row) -> float:
        mean = row.metric(row.score.replace("test/", "val/"))["mean"]
        return -math.inf if mean is None else mean

    best = sorted(rows, key=lambda row: (-accuracy(row), row.number))[:_MAX_DRAWN]
    return sorted(row.number for row in best)


def _table(table: Table, cells: Sequence[Sequence[Cell]]) -> dict[str, Any]:
    shown = [cell for cell in shown_columns(cells) if cell.head != "not comparable"]
    # What was measured comes before what it cost: not all of a wide table is in sight.
    shown.sort(key=lambda cell: cell.rank)
    same = [] if len(cells) < 2 else _same_in_all(shown, cells)
    shown = [cell for cell in shown if cell not in same]
    rows = []
    for row, found in zip(table.rows, cells, strict=True):
        by_head = {cell.head: cell for cell in found}
        rows.append(
            {
                "number": row.number,
                "marks": clip("; ".join(row.not_comparable)),
                "verdict": row.verdict.get("verdict") or "",
                "cells": [_cell(by_head[cell.head]) for cell in shown],
            }
        )
    heads = [
        # A long name may be broken after its joints.
        {"name": cell.head, "parts": re.split(r"(?<=[_/.])", cell.head), "kind": _kind(cell)}
        for cell in shown
    ]
    return {
        "title": clip(table.title),
        "columns": heads,
        "rows": rows,
        "sentences": [clip(sentence) for sentence in table.sentences],
        "has_more": any(cell.rank > _MAX_RANK for cell in shown),
        "foot": [*_same_text(same), *(clip(note) for note in table.notes)],
        "score": columns.score_text(table.rows[0].score),
        "dots": _dots(table),
        "has_seeds": any(len(row.records) > 1 for row in table.rows),
    }


def _same_in_all(shown: Sequence[Cell], rows: Sequence[Sequence[Cell]]) -> list[Cell]:
    """Return the columns that say the same of every row, but for those shown in any case."""
    columns = {cells[0].head: {cell.text for cell in cells} for cells in zip(*rows, strict=True)}
    return [cell for cell in shown if cell.rank > 1 and len(columns[cell.head]) == 1]


def _same_text(same: Sequence[Cell]) -> list[str]:
    parts = ", ".join(f"{cell.head} {clip(cell.text)}" for cell in same)
    return [f"The same in all rows: {parts}."] if parts else []


def _dots(table: Table) -> list[dict[str, Any]]:
    """Return each row's score and its interval, in percent of an axis that they fill."""
    names = row_names(table.rows, table.settings)
    rows = []
    for row in table.rows:
        mean = row.metric(row.score)["mean"]
        if mean is not None:
            # Student's interval of two seeds would leave the others no room.
            low, high = _ends(row, mean) if len(row.records) > 2 else (mean, mean)
            rows.append((row, float(mean), low, high))
    if not rows:
        return []
    least, most = min(low for *_, low, _ in rows), max(high for *_, high in rows)
    span = (most - least) or 1e-3
    start, span = least - 0.04 * span, 1.08 * span

    def percent(value: float) -> float:
        return round(100 * (value - start) / span, 2)

    return [
        {
            "number": row.number,
            "name": f"{row.number} {names[row.number]}",
            "mean": percent(mean),
            "low": percent(low),
            "width": round(percent(high) - percent(low), 2),
            "text": f"{mean:.4f}" + (f" ({low:.4f} to {high:.4f})" if high > low else ""),
            "verdict": row.verdict.get("verdict") or "not compared",
        }
        for row, mean, low, high in rows
    ]


def _cell(cell: Cell) -> dict[str, Any]:
    return {
        "head": cell.head,
        # Where it has to be broken, a difference is broken before its interval.
        "text": clip(cell.text).replace(" to ", "\u00a0to\u00a0"),
        "value": _sort_value(cell.value),
        "kind": _kind(cell),
    }


def _kind(cell: Cell) -> str:
    kinds = {"number": cell.is_number, "more": cell.rank > _MAX_RANK}
    return " ".join(kind for kind, is_so in kinds.items() if is_so)


def _sort_value(value: Any) -> str | None:
    if value is None:
        return None
    return repr(value) if isinstance(value, float) else clip(value)


def _charts(table: Table) -> dict[str, Any]:
    """Return what the script draws of a table."""
    names = row_names(table.rows, table.settings)
    rows = []
    for row in table.rows:
        mean = row.metric(row.score)["mean"]
        drawn = [] if mean is None else [mean, *_ends(row, mean)]
        curves = {name: _curve(row, name) for name in CURVES}
        rows.append(
            {
                "number": row.number,
                "name": clip(row_name(row, table)),
                "label": names[row.number],
                "comparable": not row.not_comparable,
                "curves": {name: points for name, points in curves.items() if points},
                "work": {unit: _work(row, unit, curves) for unit in _OVERS if unit != "epoch"},
                "costs": {
                    column.name: value
                    for column in columns.costs()
                    if mean is not None and (value := row.values[column.name])
                },
                "score": [*map(_round, drawn)],
            }
        )
    score = table.rows[0].score
    return {"rows": rows, "score": columns.score_text(score), "most": columns.COLUMNS[score].most}


def _ends(row: Row, mean: float) -> tuple[float, float]:
    """Return the 95 % interval of a row's score; of one run its value twice."""
    ends = interval(row, row.score)
    return (mean, mean) if ends is None else ends


_Point = tuple[int, float, float | None]


def _curve(row: Row, name: str) -> list[_Point]:
    """Return epoch, mean and standard deviation, at no more epochs than a chart shows."""
    points = by_epoch([record.curves.get(name, {}) for record in row.records])
    epochs = list(points)
    if len(epochs) > _MAX_POINTS:
        last = len(epochs) - 1
        epochs = [epochs[round(n * last / (_MAX_POINTS - 1))] for n in range(_MAX_POINTS)]
    found = []
    for epoch in epochs:
        values = points[epoch]
        std = _round(stdev(values)) if len(values) > 1 else None
        found.append((epoch, _round(fmean(values)), std))
    return found


def _work(row: Row, unit: str, curves: Mapping[str, Sequence[_Point]]) -> dict[int, float]:
    """Return what training had cost by the end of each epoch that is drawn."""
    drawn = {epoch for points in curves.values() for epoch, _, _ in points}
    return {e: _round(work) for e, work in work_by_epoch(row, unit).items() if e in drawn}


def _round(value: float) -> float:
    return float(f"{value:.5g}")
