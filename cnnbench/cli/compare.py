"""``cnnbench compare``: one table over runs and seeds."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cnnbench.analysis.compare import formats
from cnnbench.analysis.compare.formats import to_dict
from cnnbench.analysis.compare.tables import compare_runs
from cnnbench.config.run_config import expand_path
from cnnbench.errors import UsageError
from cnnbench.runs.directory import open_run

FORMATS = formats.FORMATS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument("paths", nargs="+", metavar="PATH")
    parser.add_argument("--where", metavar="CONDITION")
    parser.add_argument("--sort", metavar="COLUMN")
    parser.add_argument("--descending", action="store_true")
    parser.add_argument("--group", metavar="COLUMN")
    parser.add_argument("--baseline", metavar="ROW|RUN|MODEL")
    parser.add_argument("--plots", metavar="DIR")
    parser.add_argument("--html", metavar="FILE")
    parser.add_argument("--errors", action="store_true")
    parser.add_argument("--model-path", metavar="FILE:CLASS")


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
        "  --plots DIR        learning curves, accuracy against cost, and bars: PNG and SVG\n"
        "  --html FILE        all of it as one page that opens from disk: sortable table, curves,\n"
        "                     confusion matrices, networks, and where each number comes from\n"
        "  --errors           of two runs, which test images only one gets right: counts and\n"
        "                     McNemar's exact test; csv and json list them, --plots DIR draws\n"
        "                     them; adds one to the test_reads of both\n"
        "  --model-path FILE:CLASS  with --errors, the code of a network of your own\n\n"
        "Columns: every setting, such as optimizer.lr; n, num_params, macs, receptive_field,\n"
        "epoch_seconds, images_per_second, train_seconds, best_epoch, val/accuracy, val/loss,\n"
        "test/accuracy, test/loss, selection, test_reads.\n"
    )


def main(args: argparse.Namespace) -> int:
    """Run the verb."""
    if args.errors:
        return _errors(args)
    if args.model_path is not None:
        raise UsageError("--model-path: goes with --errors alone; a table runs no network")
    page = None if args.html is None else expand_path(args.html)
    if page is not None and page.is_dir():
        raise UsageError(f"--html {args.html}: is a directory; give a file, such as report.html")
    found = compare_runs(
        args.paths,
        where=args.where,
        sort=args.sort,
        descending=args.descending,
        group=args.group,
        baseline=args.baseline,
    )
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    print(formats.comparison_text(found, args.format, width), end="")
    if args.format in ("csv", "latex") and found.left_out:
        print(formats.left_out_text(found, "text"), end="", file=sys.stderr)
    if args.plots is not None:
        from cnnbench.analysis.compare.plots import plot_comparison

        files = plot_comparison(found, expand_path(args.plots))
        print(f"cnnbench: {len(files)} files in {expand_path(args.plots)}", file=sys.stderr)
    if page is not None:
        from cnnbench.analysis.compare.report import write_report

        write_report(found, page)
        print(f"cnnbench: {page}", file=sys.stderr)
    return 0


def _errors(args: argparse.Namespace) -> int:
    for flag in ("where", "sort", "descending", "group", "baseline", "html"):
        if getattr(args, flag):
            raise UsageError(f"--{flag}: shapes a table of runs, and does not go with --errors")
    if len(args.paths) != 2:
        raise UsageError(f"--errors: {len(args.paths)} paths given; expected two runs")
    a, b = map(open_run, args.paths)
    from cnnbench.analysis.compare.disagreement import compare_errors, errors_text

    plots = None if args.plots is None else expand_path(args.plots)
    result, files = compare_errors(a, b, plots, args.model_path)
    print(errors_text(result, args.format), end="")
    for file in files:
        print(f"cnnbench: {file}", file=sys.stderr)
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
