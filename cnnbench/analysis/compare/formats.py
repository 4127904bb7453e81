"""A comparison as text, Markdown, CSV, LaTeX or JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cnnbench.analysis.compare.rows import Row
from cnnbench.analysis.compare.tables import Comparison, Table
from cnnbench.rendering import text as render
from cnnbench.rendering.text import setting_text
from cnnbench.runs import columns
from cnnbench.runs.columns import Column

FORMATS = (*render.FORMATS, "latex")
SPREAD_NOTE = "±: sample standard deviation over n seeds."
_NAME_CHARACTERS = 70
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
        rank: the page shows columns of a lower rank first.
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
    )
    return [[_row_cells(row, table, layout) for row in table.rows] for table in found.tables]


@dataclass(frozen=True)
class _Layout:
    """What all rows of a comparison show: the settings that differ in any table, and options."""

    settings: Sequence[str]
    has_groups: bool
    has_baseline: bool
    has_verdicts: bool


def _row_cells(row: Row, table: Table, layout: _Layout) -> list[Cell]:
    """Return a row as every format writes it. Here, and here alone, its columns are listed."""
    group = {"group": table.title} if layout.has_groups else {}
    differences = {"difference": row.differences} if layout.has_baseline else {}
    reasons = "; ".join(row.not_comparable)
    paired = columns.scores_first(column for column in columns.metrics() if column.is_paired)
    return [
        _plain("row", row.number, is_number=True),
        Cell("group", csv=group, json=group),
        _setting(row, "model", ("model",)),
        _setting(row, "data", table.settings),
        *(_setting(row, name, table.settings) for name in layout.settings),
        _plain("n", len(row.records), is_number=True),
        Cell("seeds", json={"seeds": [record.seed for record in row.records]}),
        *(_fact(row, column) for column in columns.facts()),
        *(_metric(row, column) for column in columns.metrics()),
        *([_verdict(row)] if layout.has_verdicts else []),
        *(_difference(row, column) for column in paired if layout.has_baseline),
        Cell("difference", json=differences),
        _plain("selection", row.values["selection"], rank=2),
        _plain("test_reads", row.values["test_reads"], is_number=True, rank=2),
        Cell(
            "not comparable",
            text=reasons,
            value=reasons or None,
            csv={"not_comparable": reasons},
            json={"not_comparable": row.not_comparable},
        ),
        Cell("runs", json={"runs": [str(record.path) for record in row.records]}),
    ]


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
    return Cell(name, text, value, plain, plain, is_number=True, rank=1)


def _metric(row: Row, column: Column) -> Cell:
    name, measured = column.name, row.metric(column.name)
    if not column.in_table:
        return Cell(name, json={name: measured})
    return Cell(
        name,
        plus_minus(measured, column.digits) + ("*" if row.is_marked(name) else ""),
        row.values[name],
        {name: measured["mean"], f"{name}_std": measured["std"]},
        {name: measured},
        is_number=True,
        rank=0 if column.is_score else 1,
    )


def _difference(row: Row, column: Column) -> Cell:
    found = row.differences.get(column.name, {})
    text = _difference_text(found, column.digits, len(row.records)) if found else ""
    plain = {f"{column.name}_difference_{key}": found.get(key) for key in _DIFFERENCE_KEYS}
    return Cell(f"Δ {column.name}", text, found.get("mean"), plain, is_number=True)


def _verdict(row: Row) -> Cell:
    """Return what a test says of a row; an interval is two columns of CSV."""
    word = row.verdict.get("verdict")
    plain: dict[str, Any] = {}
    for name, value in row.verdict.items():
        if isinstance(value, (list, tuple)):
            plain |= {f"{name}_{end}": v for end, v in zip(("low", "high"), value, strict=True)}
        else:
            plain[name] = value
    return Cell("verdict", "" if word is None else setting_text(word), word, plain, row.verdict)


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
    parts = []
    note = difference_note(found)
    if output_format == "latex" and note is not None:
        parts.append(f"% {note}\n")
    for table, rows in zip(found.tables, comparison_cells(found), strict=True):
        if table.title:
            head = {"text": "", "markdown": "### ", "latex": "% "}[output_format]
            parts.append(f"{head}{table.title}\n" + ("\n" if output_format == "markdown" else ""))
        texts = [{cell.head: cell.text for cell in row} for row in rows]
        shown = shown_columns(rows)
        right = [cell.head for cell in shown if cell.is_number]
        heads = [cell.head for cell in shown]
        parts += [render.render_table(texts, heads, output_format, right, width), "\n"]
    if output_format == "latex":
        return "".join(parts[:-1])
    if not found.tables:
        parts.append("no finished run to show\n")
    elif any(len(row.records) > 1 for table in found.tables for row in table.rows):
        parts.append(f"{SPREAD_NOTE}\n")
    if note is not None:
        parts.append(f"{note}\n")
    if any(row.is_marked("epoch_seconds") for table in found.tables for row in table.rows):
        parts.append("* measured beside other jobs of its sweep: not ranked, not compared\n")
    if found.left_out:
        parts += ["\n" * (not parts[-1].isspace()), left_out_text(found, output_format)]
    return "".join(parts).rstrip("\n") + "\n"


def shown_columns(rows: Sequence[Sequence[Cell]]) -> list[Cell]:
    """Return the first row's cells of the columns in which any row has a text."""
    return [column[0] for column in zip(*rows, strict=True) if any(cell.text for cell in column)]


def to_dict(found: Comparison) -> dict[str, Any]:
    """Return plain values: ``rows``, ``left_out`` and the number of the ``baseline`` row."""
    return {
        "rows": [
            {key: value for cell in row for key, value in cell.json.items()} for row in _rows(found)
        ],
        "left_out": [
            {"run": str(run.path), "status": run.status, "reason": setting_text(run.reason)}
            for run in found.left_out
        ],
        "baseline": found.baseline.number if found.baseline else None,
    }


def _csv(found: Comparison) -> str:
    """Return one table of plain numbers for all groups."""
    rows = [
        {head: value for cell in row for head, value in cell.csv.items()} for row in _rows(found)
    ]
    heads = list(dict.fromkeys(head for row in rows for head in row))
    return render.render_table(rows, heads, "csv")


def _rows(found: Comparison) -> list[list[Cell]]:
    return [row for table in comparison_cells(found) for row in table]


def difference_note(found: Comparison) -> str | None:
    """Say what a difference is; None where there are none."""
    if found.baseline is None:
        return None
    return (
        f"Δ: mean difference from row {found.baseline.number} over the seeds that both have, ± its "
        "sample standard deviation; p: two-sided paired t-test, not corrected for the number of "
        "rows."
    )


def row_name(row: Row, table: Table) -> str:
    """Name a row by its number, model, and what it has of the settings that differ."""
    settings = [
        f"{key}={setting_text(row.values[key])}" for key in table.settings if key in row.values
    ]
    text = " ".join([str(row.number), setting_text(row.values["model"]), *settings])
    return textwrap.shorten(text, _NAME_CHARACTERS, placeholder=" ...")


def plus_minus(measured: Mapping[str, float | None], digits: int) -> str:
    """Return a mean and its standard deviation, as ``Row.metric`` gives them."""
    mean, std = measured["mean"], measured["std"]
    if mean is None:
        return ""
    text = f"{mean:.{digits}f}"
    return text if std is None else f"{text} ± {std:.{digits}f}"


def _difference_text(found: Mapping[str, float | None], digits: int, num_runs: int) -> str:
    mean, std, p = found["mean"], found["std"], found["p"]
    if mean is None:
        return "" if found["n"] else "no common seed"
    text = f"{mean:+.{digits}f}" + ("" if std is None else f" ± {std:.{digits}f}")
    extra = [] if p is None else [f"p={p:.2g}"]
    extra += [f"n={found['n']}"] if found["n"] != num_runs else []
    return f"{text} ({', '.join(extra)})" if extra else text


def left_out_text(found: Comparison, output_format: str) -> str:
    """Say which runs are in no row, and why."""
    if not found.left_out:
        return ""
    rows = [
        {"status": run.status, "reason": setting_text(run.reason), "run": setting_text(run.path)}
        for run in found.left_out
    ]
    table = render.render_table(rows, ("status", "reason", "run"), output_format)
    return f"Not in the table:\n{'' if output_format == 'text' else chr(10)}{table}"
