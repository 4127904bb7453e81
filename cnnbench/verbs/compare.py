"""``cnnbench compare``: one table over runs and seeds."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cnnbench.analysis import render
from cnnbench.analysis.compare import Comparison, Row, Table, compare_runs, to_dict
from cnnbench.analysis.records import FACTS
from cnnbench.analysis.where import setting_text
from cnnbench.config import expand_path

FORMATS = (*render.FORMATS, "latex")
# Metrics of the printed table, and digits after the point; JSON has all of them, unrounded.
_SHOWN = {
    "epoch_seconds": 2,
    "images_per_second": 0,
    "best_epoch": 1,
    "val/accuracy": 4,
    "test/accuracy": 4,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument("paths", nargs="+", metavar="PATH")
    parser.add_argument("--where", metavar="CONDITION")
    parser.add_argument("--sort", metavar="COLUMN")
    parser.add_argument("--descending", action="store_true")
    parser.add_argument("--group", metavar="COLUMN")
    parser.add_argument("--baseline", metavar="ROW|RUN|MODEL")
    parser.add_argument("--plots", metavar="DIR")


def help_text(parser: argparse.ArgumentParser) -> str:
    """Return usage and flags."""
    return (
        "usage: cnnbench compare PATH... [flags] [--format text|markdown|csv|latex|json]\n\n"
        "One table over the runs at and below each PATH. Runs that differ in their seed alone are\n"
        "one row: mean +- sample standard deviation over n of them. Settings that differ get a\n"
        "column. Rows that are not comparable say why; unfinished runs are listed apart.\n\n"
        "  --where CONDITION  rows to keep: 'data=fashion_mnist and num_params<1e6'\n"
        "                     (= != < <= > >=, and, or, not, parentheses; null is absent)\n"
        "  --sort COLUMN      smallest first; with --descending, largest first\n"
        "  --group COLUMN     a table for each of its values\n"
        "  --baseline WHICH   differences from a row (its number, a run in it, or its model),\n"
        "                     with a paired t-test over the seeds that both have\n"
        "  --plots DIR        learning curves, accuracy against cost, and bars: PNG and SVG\n\n"
        "Columns: every setting, such as optimizer.lr; n, num_params, macs, receptive_field,\n"
        "epoch_seconds, images_per_second, train_seconds, best_epoch, val/accuracy, val/loss,\n"
        "test/accuracy, test/loss, selection, test_reads.\n"
    )


def main(args: argparse.Namespace) -> int:
    """Run the verb."""
    found = compare_runs(
        args.paths,
        where=args.where,
        sort=args.sort,
        descending=args.descending,
        group=args.group,
        baseline=args.baseline,
    )
    print(comparison_text(found, args.format), end="")
    if args.format in ("csv", "latex") and found.left_out:
        print(_left_out_text(found, "text"), end="", file=sys.stderr)
    if args.plots is not None:
        from cnnbench.analysis.plots import plot_comparison

        files = plot_comparison(found, expand_path(args.plots))
        print(f"cnnbench: {len(files)} files in {expand_path(args.plots)}", file=sys.stderr)
    return 0


def compare(
    paths: str | Path | Sequence[str | Path],
    *,
    where: str | None = None,
    sort: str | None = None,
    descending: bool = False,
    group: str | None = None,
    baseline: str | None = None,
) -> dict[str, Any]:
    """Compare trained runs.

    Args:
        paths: runs, or directories with runs below.
        where: a condition on the rows, such as ``"data=fashion_mnist and num_params<1e6"``.
        sort: a column; else by model and settings.
        descending: the largest first.
        group: a column; each of its values gets a table.
        baseline: the number of a row, a run in it, or a model that only one row has.

    Returns:
        ``rows``, each with ``model``, ``n``, the settings that differ, and metrics as
        ``{"mean", "std"}``; ``left_out``, runs with a reason; ``baseline``, the row's number.

    Raises:
        UsageError: a path holds no run, or a column, a condition or the baseline is wrong.
    """
    given = [paths] if isinstance(paths, (str, Path)) else paths
    found = compare_runs(
        given, where=where, sort=sort, descending=descending, group=group, baseline=baseline
    )
    return to_dict(found)


def comparison_text(found: Comparison, output_format: str) -> str:
    """Return what the command prints in one of ``FORMATS``."""
    if output_format == "json":
        return render.render_json(to_dict(found))
    if output_format == "csv":
        return _csv(found)
    has_baseline = found.baseline is not None
    parts = []
    for table in found.tables:
        if table.title:
            head = {"text": "", "markdown": "### ", "latex": "% "}[output_format]
            parts.append(f"{head}{table.title}\n" + ("\n" if output_format == "markdown" else ""))
        rows = [_cells(row, table, output_format) for row in table.rows]
        columns = [c for c in _columns(table, has_baseline) if any(row.get(c) for row in rows)]
        right = {"row", "n", *FACTS, *_SHOWN, "test_reads", "difference", "p"}
        parts += [render.render_table(rows, columns, output_format, right), "\n"]
    if output_format == "latex":
        return "".join(parts[:-1])
    if not found.tables:
        parts.append("no finished run to show\n")
    elif any(len(row.records) > 1 for table in found.tables for row in table.rows):
        parts.append("±: sample standard deviation over n seeds.\n")
    if found.baseline is not None:
        parts.append(
            f"difference: test accuracy minus that of row {found.baseline.number}, paired by seed; "
            "p: two-sided paired t-test, not corrected for the number of rows.\n"
        )
    if found.left_out:
        parts += ["\n" * (not parts[-1].isspace()), _left_out_text(found, output_format)]
    return "".join(parts).rstrip("\n") + "\n"


def _columns(table: Table, has_baseline: bool) -> list[str]:
    return [
        "row",
        "model",
        *table.settings,
        "n",
        *FACTS,
        *_SHOWN,
        "selection",
        "test_reads",
        *(("difference", "p") if has_baseline else ()),
        "not comparable",
    ]


def _cells(row: Row, table: Table, output_format: str) -> dict[str, str]:
    """Return a row as people read it."""
    cells = {"row": str(row.number), "n": str(len(row.records))}
    for name in ("model", *table.settings):
        cells[name] = setting_text(row.values[name]) if name in row.values else ""
    for name in FACTS:
        value = row.values[name]
        cells[name] = "" if value is None else f"{value:,}"
    for name, digits in _SHOWN.items():
        cells[name] = _plus_minus(row.metric(name), digits)
    cells["selection"] = setting_text(row.values["selection"])
    cells["test_reads"] = str(row.values["test_reads"])
    if row.differences:
        difference = row.differences["test/accuracy"]
        mean, p = difference["mean"], difference["p"]
        cells["difference"] = "no common seed" if mean is None else f"{mean:+.4f}"
        cells["p"] = "" if p is None else f"{p:.3g}"
    cells["not comparable"] = "; ".join(row.not_comparable)
    return cells


def _plus_minus(metric: dict[str, float | None], digits: int) -> str:
    mean, std = metric["mean"], metric["std"]
    if mean is None:
        return ""
    text = f"{mean:.{digits}f}"
    return text if std is None else f"{text} ± {std:.{digits}f}"


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
            for name in _SHOWN:
                metric = row.metric(name)
                cells |= {name: metric["mean"], f"{name}_std": metric["std"]}
            cells |= {name: row.values[name] for name in ("selection", "test_reads")}
            difference = row.differences.get("test/accuracy", {})
            cells |= {"difference": difference.get("mean"), "p": difference.get("p")}
            cells["not_comparable"] = "; ".join(row.not_comparable)
            rows.append(cells)
    spread = [column for name in _SHOWN for column in (name, f"{name}_std")]
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
        *(("difference", "p") if found.baseline is not None else ()),
        "not_comparable",
    ]
    return render.render_table(rows, columns, "csv")


def _left_out_text(found: Comparison, output_format: str) -> str:
    """Say which runs are in no row, and why."""
    if not found.left_out:
        return ""
    rows = [
        {"status": run.status, "reason": setting_text(run.reason), "run": setting_text(run.path)}
        for run in found.left_out
    ]
    table = render.render_table(rows, ("status", "reason", "run"), output_format)
    return f"Not in the table:\n{'' if output_format == 'text' else chr(10)}{table}"
