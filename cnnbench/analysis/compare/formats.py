"""A comparison as text, Markdown, CSV, LaTeX or JSON."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cnnbench.analysis.compare.changes import COLUMN
from cnnbench.analysis.compare.notes import accuracy_of, reading_notes
from cnnbench.analysis.compare.predicted import UNSEEN
from cnnbench.analysis.compare.reference import reference_text
from cnnbench.analysis.compare.rows import Row
from cnnbench.analysis.compare.tables import Comparison, Table
from cnnbench.analysis.compare.verdicts import best_row
from cnnbench.notices import fold
from cnnbench.rendering import text as render
from cnnbench.rendering.text import setting_text
from cnnbench.rendering.widths import fitting_columns
from cnnbench.runs import columns
from cnnbench.runs.columns import Column
from cnnbench.runs.record import PRUNED

FORMATS = (*render.FORMATS, "latex")
_NAME_CHARACTERS = 70
# Characters of a line of words.
_LINE = 80
_DIFFERENCE_KEYS = ("mean", "std", "n", "p")


@dataclass(frozen=True)
class Cell:
    """What one row has in one column, for every format.

    Attributes:
        head: of the column, where people read it.
        text: as people read it; a column whose texts are all empty is not shown.
        value: a number or text that the page sorts by; None comes last.
        csv: plain values by the column's heads in CSV.
        json: plain values by key.
        is_number: whether the column is aligned to the right.
        rank: columns of a lower rank come first; those of rank 0 are shown in any case, those from
            4 on only where there is room for all.
    """

    head: str
    text: str = ""
    value: Any = None
    csv: Mapping[str, Any] = field(default_factory=dict)
    json: Mapping[str, Any] = field(default_factory=dict)
    is_number: bool = False
    rank: int = 0


def comparison_cells(found: Comparison) -> list[list[list[Cell]]]:
    """Return each table's rows, each as its cells; all rows have cells with the same heads."""
    rows = [row for table in found.tables for row in table.rows]
    settings = {name: None for table in found.tables for name in table.settings if name != "data"}
    layout = _Layout(
        list(settings),
        has_groups=any(table.title for table in found.tables),
        has_baseline=found.baseline is not None,
        has_verdicts=any(row.verdict for row in rows),
        accuracy=accuracy_of(rows),
    )
    return [[_row_cells(row, table, layout) for row in table.rows] for table in found.tables]


@dataclass(frozen=True)
class _Layout:
    """What all rows of a comparison show: the settings that differ in any table, and options."""

    settings: Sequence[str]
    has_groups: bool
    has_baseline: bool
    has_verdicts: bool
    accuracy: str


def _row_cells(row: Row, table: Table, layout: _Layout) -> list[Cell]:
    """Return a row as every format writes it. Here, and here alone, its columns are listed."""
    told = table.changes.get(row.number, "")
    group = {"group": table.title} if layout.has_groups else {}
    differences = {"difference": row.differences} if layout.has_baseline else {}
    reasons = "; ".join(row.not_comparable)
    paired = columns.scores_first(column for column in columns.metrics() if column.is_paired)
    return [
        _plain("row", row.number, is_number=True),
        Cell("group", csv=group, json=group),
        _setting(row, "model", ("model",)),
        _setting(row, "data", table.settings),
        *(_setting(row, name, () if told else table.settings) for name in layout.settings),
        Cell(COLUMN, told, told),
        _plain("n", len(row.records), is_number=True),
        Cell("seeds", json={"seeds": [record.seed for record in row.records]}),
        Cell("folds", json={"folds": [r.fold for r in row.records if r.fold is not None]}),
        *(_fact(row, column) for column in columns.facts()),
        *(_metric(row, column) for column in columns.metrics()),
        *([_verdict(row), _gap(row, layout.accuracy)] if layout.has_verdicts else []),
        *(_difference(row, column) for column in paired if layout.has_baseline),
        Cell("difference", json=differences),
        _plain("selection", row.values["selection"], rank=4),
        _plain("test_reads", row.values["test_reads"], is_number=True, rank=4),
        Cell(
            "not comparable",
            text=reasons,
            rank=5,
            value=reasons or None,
            csv={"not_comparable": reasons},
            json={"not_comparable": row.not_comparable},
        ),
        _reference(row),
        Cell("runs", json={"runs": [str(record.path) for record in row.records]}),
    ]


def _reference(row: Row) -> Cell:
    """Return a result of others, which is shown in a table of its own."""
    found = row.records[0].reference
    accuracy = found.get("test_accuracy")
    plain = {"reference": found.get("source"), "reference_test_accuracy": accuracy}
    return Cell("reference", csv=plain, json={"reference": dict(found) or None})


def _plain(name: str, value: Any, **more: Any) -> Cell:
    return Cell(name, setting_text(value), value, {name: value}, {name: value}, **more)


def _setting(row: Row, name: str, shown: Collection[str]) -> Cell:
    value = row.values.get(name)
    text = setting_text(value) if name in row.values else ""
    return Cell(name, text if name in shown else "", value, {name: text}, {name: value})


def _fact(row: Row, column: Column) -> Cell:
    name, value = column.name, row.values[column.name]
    text = "" if value is None or not column.in_table else f"{value:,}"
    plain = {name: value}
    return Cell(name, text, value, plain, plain, is_number=True, rank=3 if column.axis else 4)


def _metric(row: Row, column: Column) -> Cell:
    name, measured = column.name, row.metric(column.name)
    if not column.in_table:
        return Cell(name, json={name: measured})
    text = plus_minus(measured, column.digits) + ("*" if row.is_marked(name) else "")
    text += "†" if row.is_order_changed and name == f"{row.records[0].measured}/{UNSEEN}" else ""
    plain = {name: measured["mean"], f"{name}_std": measured["std"]}
    more = row.intervals.get(name, {})
    if ends := more.get("interval"):
        text = f"{measured['mean']:.{column.digits}f} ({' to '.join(_ends(ends, column))})"
        plain |= {f"{name}_low": ends[0], f"{name}_high": ends[1]}
        plain |= {f"{name}_interval_basis": more["interval_basis"]}
    return Cell(
        name,
        text,
        row.values[name],
        plain,
        {name: {**measured, **more}},
        is_number=True,
        rank=0
        if name == row.score
        else 1
        if column.is_asked
        else 2
        if column.is_score
        else 3
        if column.is_paired
        else 4,
    )


def _ends(interval: Sequence[float], column: Column) -> list[str]:
    return [f"{end:.{column.digits}f}" for end in interval]


def _difference(row: Row, column: Column) -> Cell:
    found = row.differences.get(column.name, {})
    text = _difference_text(found, column, len(row.records)) if found else ""
    plain = {f"{column.name}_difference_{key}": found.get(key) for key in _DIFFERENCE_KEYS}
    if column.name == row.accuracy:  # its text is the tested one
        return Cell(f"{column.name}_difference", csv=plain)
    return Cell(f"Δ {column.name}", text, found.get("mean"), plain, is_number=True, rank=4)


def _verdict(row: Row) -> Cell:
    """Return what a test says of a row; an interval is two columns of CSV."""
    word = row.verdict.get("verdict")
    plain: dict[str, Any] = {}
    for name, value in row.verdict.items():
        if name.endswith("interval"):
            ends = value if value is not None else (None, None)
            plain |= {f"{name}_{end}": v for end, v in zip(("low", "high"), ends, strict=True)}
        else:
            plain[name] = value
    return Cell("verdict", "" if word is None else setting_text(word), word, plain, row.verdict)


def _gap(row: Row, accuracy: str) -> Cell:
    """Return the tested difference from the row compared with, with its interval."""
    difference = row.verdict.get("verdict_difference")
    interval = row.verdict.get("simultaneous_interval")
    text = "" if difference is None else f"{difference:+.4f}"
    if interval:
        text += f" ({interval[0]:+.4f} to {interval[1]:+.4f})"
    return Cell(f"Δ {accuracy}", text, difference, is_number=True, rank=1)


def comparison_text(found: Comparison, output_format: str, width: int | None = None) -> str:
    """Return what the command prints.

    Args:
        found: the comparison.
        output_format: one of ``FORMATS``.
        width: columns of the terminal that text has to fit; None for any width.
    """
    if output_format == "json":
        return render.render_json(to_dict(found))
    if output_format == "csv":
        return _csv(found)
    tables = list(zip(found.tables, comparison_cells(found), strict=True))
    if output_format == "latex":
        from cnnbench.analysis.compare.latex import latex_table

        return "\n".join(latex_table(table, rows) for table, rows in tables)
    parts = [_table_text(table, rows, output_format, width) for table, rows in tables]
    if beside := reference_text([row for t in found.tables for row in t.rows], output_format):
        parts.append(beside)
    if not found.tables:
        parts.append(f"{found.nothing}\n")
    elif notes := reading_notes(found):
        parts.append("".join(f"{_wrapped(note, output_format)}\n" for note in notes))
    if found.left_out:
        parts.append(left_out_text(found, output_format))
    return "\n".join(parts).rstrip("\n") + "\n"


def _table_text(
    table: Table, rows: Sequence[Sequence[Cell]], output_format: str, width: int | None
) -> str:
    """Return a table below what it says in words, and above what limits that."""
    title = {"text": "", "markdown": "### "}[output_format] + table.title
    blank = "\n" if output_format == "markdown" else ""
    parts = [f"{title}\n{blank}"] if table.title else []
    if table.sentences:
        parts.append(f"{_wrapped(' '.join(table.sentences), output_format)}\n\n")
    best = best_row(table.rows)
    is_marked = output_format != "text" or width is not None
    bold = [table.rows.index(best)] if best is not None and is_marked else []
    texts = [{cell.head: cell.text for cell in row} for row in rows]
    # What differs comes before what else was asked for.
    shown = sorted(
        shown_columns(rows), key=lambda c: (c.rank, c.rank == 1 and not c.head.startswith("Δ"))
    )
    ranks = {cell.head: cell.rank for cell in shown}
    right = [cell.head for cell in shown if cell.is_number]
    tables = fitting_columns(ranks, texts, width if output_format == "text" else None)
    parts.append(
        "\n".join(
            render.render_table(texts, heads, output_format, right, width, bold=bold)
            for heads in tables
        )
    )
    dropped = [head for head in ranks if not any(head in heads for heads in tables)]
    if "not comparable" in dropped:
        dropped.remove("not comparable")
        notes = [
            f"Row {row.number} is not comparable: {'; '.join(row.not_comparable)}."
            for row in table.rows
            if row.not_comparable
        ]
    else:
        notes = []
    if dropped:
        notes.append(f"Not shown for want of width: {', '.join(dropped)}.")
    notes = [*notes, *table.notes]
    parts += [f"{blank}{_wrapped(note, output_format)}\n" for note in notes]
    return "".join(parts)


def _wrapped(text: str, output_format: str) -> str:
    """Return a sentence in lines that a terminal of 80 columns shows; Markdown wraps by itself."""
    if output_format != "text":
        return text
    return fold(text, _LINE, margin="")


def shown_columns(rows: Sequence[Sequence[Cell]]) -> list[Cell]:
    """Return the first row's cells of the columns in which any row has a text."""
    return [column[0] for column in zip(*rows, strict=True) if any(cell.text for cell in column)]


def to_dict(found: Comparison) -> dict[str, Any]:
    """Return plain values: ``rows``, ``tables``, ``left_out`` and the ``baseline`` row's number."""
    return {
        "rows": [
            {key: value for cell in row for key, value in cell.json.items()} for row in _rows(found)
        ],
        "tables": [
            {
                "title": table.title,
                "conclusion": list(table.sentences),
                "margin": table.margin,
                "notes": list(table.notes),
            }
            for table in found.tables
        ],
        "left_out": [
            {"run": str(run.path), "status": run.status, "reason": setting_text(run.reason)}
            for run in found.left_out
        ],
        "baseline": found.baseline.number if found.baseline else None,
    }


def plain_rows(found: Comparison) -> list[dict[str, Any]]:
    """Return all rows as plain numbers and texts by column, as CSV has them."""
    return [
        {head: value for cell in row for head, value in cell.csv.items()} for row in _rows(found)
    ]


def _csv(found: Comparison) -> str:
    """Return one table of plain numbers for all groups."""
    rows = plain_rows(found)
    heads = list(dict.fromkeys(head for row in rows for head in row))
    return render.render_table(rows, heads, "csv")


def _rows(found: Comparison) -> list[list[Cell]]:
    return [row for table in comparison_cells(found) for row in table]


def row_name(row: Row, table: Table) -> str:
    """Name a row by its number, model, and what it has of the settings that differ."""
    settings = " ".join(
        f"{key}={setting_text(row.values[key])}" for key in table.settings if key in row.values
    )
    parts = str(row.number), setting_text(row.values["model"])
    text = " ".join([*parts, table.changes.get(row.number, settings)])
    return textwrap.shorten(text, _NAME_CHARACTERS, placeholder=" ...")


def plus_minus(measured: Mapping[str, float | None], digits: int) -> str:
    """Return a mean and its standard deviation, as ``Row.metric`` gives them."""
    mean, std = measured["mean"], measured["std"]
    if mean is None:
        return ""
    text = f"{mean:.{digits}f}"
    return text if std is None else f"{text} ± {std:.{digits}f}"


def _difference_text(found: Mapping[str, float | None], column: Column, num_runs: int) -> str:
    mean, std, digits = found["mean"], found["std"], column.digits
    if mean is None:
        missing = "not measured alike" if column.is_time else "no common seed"
        return "" if found["n"] else missing
    text = f"{mean:+.{digits}f}" + ("" if std is None else f" ± {std:.{digits}f}")
    return f"{text} (n={found['n']})" if found["n"] != num_runs else text


def left_out_text(found: Comparison, output_format: str) -> str:
    """Say which runs are in no row, and why."""
    if not found.left_out:
        return ""
    pruned = [run for run in found.left_out if run.status == PRUNED]
    rows = [
        {"status": run.status, "reason": setting_text(run.reason), "run": setting_text(run.path)}
        for run in found.left_out
        if run.status != PRUNED or len(pruned) == 1
    ]
    if len(pruned) > 1:
        reason = f"{len(pruned)} runs that their search gave up; --pruned shows them"
        parent = setting_text(os.path.commonpath([run.path for run in pruned]))
        rows.append({"status": PRUNED, "reason": reason, "run": parent})
    table = render.render_table(rows, ("status", "reason", "run"), output_format)
    return f"Not in the table:\n{'' if output_format == 'text' else chr(10)}{table}"
