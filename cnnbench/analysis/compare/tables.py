"""A comparison as text, Markdown, CSV, LaTeX or JSON."""

from __future__ import annotations

import textwrap
from typing import Any

from cnnbench.analysis.compare.comparison import PAIRED, Comparison, Row, Table, to_dict
from cnnbench.analysis.compare.records import FACTS
from cnnbench.analysis.compare.where import setting_text
from cnnbench.rendering import text as render

FORMATS = (*render.FORMATS, "latex")
# Metrics of the printed table, and digits after the point; JSON has all of them, unrounded.
SHOWN = {
    "epoch_seconds": 2,
    "images_per_second": 0,
    "best_epoch": 1,
    "val/accuracy": 4,
    "test/accuracy": 4,
}
SPREAD_NOTE = "±: sample standard deviation over n seeds."
_DIFFERENCES = {name: f"Δ {name}" for name in PAIRED}
NUMERIC = {"row", "n", *FACTS, *SHOWN, "test_reads", *_DIFFERENCES.values()}
_NAME_CHARACTERS = 70


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
    for table in found.tables:
        if table.title:
            head = {"text": "", "markdown": "### ", "latex": "% "}[output_format]
            parts.append(f"{head}{table.title}\n" + ("\n" if output_format == "markdown" else ""))
        rows = [row_cells(row, table) for row in table.rows]
        columns = shown_columns(table, rows)
        parts += [render.render_table(rows, columns, output_format, NUMERIC, width), "\n"]
    if output_format == "latex":
        return "".join(parts[:-1])
    if not found.tables:
        parts.append("no finished run to show\n")
    elif any(len(row.records) > 1 for table in found.tables for row in table.rows):
        parts.append(f"{SPREAD_NOTE}\n")
    if note is not None:
        parts.append(f"{note}\n")
    if found.left_out:
        parts += ["\n" * (not parts[-1].isspace()), left_out_text(found, output_format)]
    return "".join(parts).rstrip("\n") + "\n"


def difference_note(found: Comparison) -> str | None:
    """Say what a difference is; None where there are none."""
    if found.baseline is None:
        return None
    return (
        f"Δ: mean difference from row {found.baseline.number} over the seeds that both have, ± its "
        "sample standard deviation; p: two-sided paired t-test, not corrected for the number of "
        "rows."
    )


def shown_columns(table: Table, rows: list[dict[str, str]]) -> list[str]:
    """Return the columns of a table in which any row has something."""
    columns = [
        "row",
        "model",
        *table.settings,
        "n",
        *FACTS,
        *SHOWN,
        *_DIFFERENCES.values(),
        "selection",
        "test_reads",
        "not comparable",
    ]
    return [column for column in columns if any(row.get(column) for row in rows)]


def row_cells(row: Row, table: Table) -> dict[str, str]:
    """Return a row as people read it."""
    cells = {"row": str(row.number), "n": str(len(row.records))}
    for name in ("model", *table.settings):
        cells[name] = setting_text(row.values[name]) if name in row.values else ""
    for name in FACTS:
        value = row.values[name]
        cells[name] = "" if value is None else f"{value:,}"
    for name, digits in SHOWN.items():
        cells[name] = plus_minus(row.metric(name), digits)
    for name, difference in row.differences.items():
        cells[_DIFFERENCES[name]] = _difference_text(difference, SHOWN[name], len(row.records))
    cells["selection"] = setting_text(row.values["selection"])
    cells["test_reads"] = str(row.values["test_reads"])
    cells["not comparable"] = "; ".join(row.not_comparable)
    return cells


def row_values(row: Row, table: Table) -> dict[str, Any]:
    """Return by column what a row is sorted by; None sorts last."""
    return {
        "row": row.number,
        **{name: row.values.get(name) for name in ("model", *table.settings, *FACTS, *SHOWN)},
        "n": len(row.records),
        **{_DIFFERENCES[name]: found["mean"] for name, found in row.differences.items()},
        "selection": row.values["selection"],
        "test_reads": row.values["test_reads"],
        "not comparable": "; ".join(row.not_comparable) or None,
    }


def row_name(row: Row, table: Table) -> str:
    """Name a row by its number, model, and what it has of the settings that differ."""
    settings = [
        f"{key}={setting_text(row.values[key])}" for key in table.settings if key in row.values
    ]
    text = " ".join([str(row.number), setting_text(row.values["model"]), *settings])
    return textwrap.shorten(text, _NAME_CHARACTERS, placeholder=" ...")


def plus_minus(metric: dict[str, float | None], digits: int) -> str:
    """Return a mean and what it varies by, as ``Row.metric`` gives them."""
    mean, std = metric["mean"], metric["std"]
    if mean is None:
        return ""
    text = f"{mean:.{digits}f}"
    return text if std is None else f"{text} ± {std:.{digits}f}"


def _difference_text(found: dict[str, float | None], digits: int, num_runs: int) -> str:
    mean, std, p = found["mean"], found["std"], found["p"]
    if mean is None:
        return "" if found["n"] else "no common seed"
    text = f"{mean:+.{digits}f}" + ("" if std is None else f" ± {std:.{digits}f}")
    extra = [] if p is None else [f"p={p:.2g}"]
    extra += [f"n={found['n']}"] if found["n"] != num_runs else []
    return f"{text} ({', '.join(extra)})" if extra else text


def _csv(found: Comparison) -> str:
    """Return one table of plain numbers for all groups."""
    settings = list({name: None for table in found.tables for name in table.settings})
    rows = []
    for table in found.tables:
        for row in table.rows:
            cells: dict[str, Any] = {"row": row.number, "group": table.title}
            for name in ("model", "data", *settings):
                cells[name] = setting_text(row.values[name]) if name in row.values else ""
            cells |= {name: row.values[name] for name in ("n", *FACTS)}
            for name in SHOWN:
                metric = row.metric(name)
                cells |= {name: metric["mean"], f"{name}_std": metric["std"]}
            cells |= {name: row.values[name] for name in ("selection", "test_reads")}
            for name, difference in row.differences.items():
                cells |= {f"{name}_difference_{key}": value for key, value in difference.items()}
            cells["not_comparable"] = "; ".join(row.not_comparable)
            rows.append(cells)
    spread = [column for name in SHOWN for column in (name, f"{name}_std")]
    differences = [f"{name}_difference_{k}" for name in PAIRED for k in ("mean", "std", "n", "p")]
    columns = [
        "row",
        *(["group"] if any(table.title for table in found.tables) else []),
        "model",
        "data",
        *(name for name in settings if name != "data"),
        "n",
        *FACTS,
        *spread,
        "selection",
        "test_reads",
        *(differences if found.baseline is not None else ()),
        "not_comparable",
    ]
    return render.render_table(rows, columns, "csv")


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
