"""``cnnbench compare``: one table over runs and seeds."""

from __future__ import annotations

import argparse
import textwrap

from cnnbench import api
from cnnbench.analysis.compare import formats
from cnnbench.errors import UsageError
from cnnbench.notices import notice, terminal_width
from cnnbench.runs import columns

FORMATS = formats.FORMATS
DESCRIPTION = """\
One table over the runs at and below each PATH. Runs that differ in their seed
or fold alone are one row: mean +- sample standard deviation over n. Settings
that differ get a column. Above it stands in words which rows are better, worse,
equivalent or not distinguishable, by tests over seeds (docs/statistics.md).
Rows that are not comparable say why; unfinished runs are listed apart."""
_EXAMPLES = """\
Examples:
  cnnbench compare outputs --group data --plots plots
  cnnbench compare outputs --where 'data=digits and n>2' --html report.html
  cnnbench compare RUN_A RUN_B --errors
"""
_TABLE_FLAGS = (
    *("where", "sort", "descending", "group", "baseline", "margin", "html", "self_test"),
    *("calibration", "without_duplicates", "pruned"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument("paths", nargs="+", metavar="PATH", help="runs, or directories of runs")
    parser.add_argument(
        "--where",
        metavar="CONDITION",
        help="rows to keep, by = != < <= > >=, and, or, not, parentheses; null is absent",
    )
    parser.add_argument(
        "--sort",
        metavar="COLUMN",
        help="order of the rows, smallest first; by default test/accuracy, largest first",
    )
    parser.add_argument("--descending", action="store_true", help="with --sort, largest first")
    parser.add_argument(
        "--group",
        metavar="COLUMN",
        help="a table for each of its values; by default one for each data set",
    )
    parser.add_argument(
        "--baseline",
        metavar="ROW|RUN|MODEL",
        help="compare with a row (its number, a run in it, or its model) in place of the best one, "
        "and show differences in other metrics",
    )
    parser.add_argument(
        "--margin",
        type=float,
        metavar="FRACTION",
        help="rows whose accuracies differ by less are equivalent; by default the larger of .002 "
        "and two test images",
    )
    _add_measures(parser)
    parser.add_argument(
        "--self-test",
        action="store_true",
        help="draw tables from at least 12 runs of one recipe, and count how often their equal "
        "rows are called different",
    )
    parser.add_argument(
        "--plots",
        metavar="DIR",
        help="write learning curves, accuracy against cost and work, intervals, and over several "
        "data sets a critical-difference plot: PNG and SVG",
    )
    parser.add_argument(
        "--html",
        metavar="FILE",
        help="write all of it as one page that opens from disk: sortable table, curves, confusion "
        "matrices, networks, and where each number comes from",
    )
    parser.add_argument(
        "--errors",
        action="store_true",
        help="of two runs, which test images only one gets right: counts and McNemar's exact "
        "test; csv and json list them, --plots draws them; adds one to the test_reads of both",
    )
    for flag, what in (("--model-path", "a network"), ("--data-path", "data")):
        text = f"with --errors, the code of {what} of your own"
        parser.add_argument(flag, metavar="FILE:NAME", help=text)


def _add_measures(parser: argparse.ArgumentParser) -> None:
    """Declare what is measured and shown on request."""
    parser.add_argument(
        "--pruned", action="store_true", help="also rows of the trials that a search gave up"
    )
    parser.add_argument(
        "--calibration",
        action="store_true",
        help="add ECE, Brier score and NLL with intervals, from the runs' predictions",
    )
    parser.add_argument(
        "--without-duplicates",
        action="append",
        metavar="LIST",
        help="add the accuracy without the images that training has seen, and mark where the "
        "order changes; LIST is what 'cnnbench data check NAME --format json' wrote; may be "
        "given again, for other data or folds",
    )


def epilog() -> str:
    """Return the columns and examples."""
    names = ", ".join(column.name for column in (*columns.facts(), *columns.metrics()))
    text = f"Columns: every setting, such as optimizer.lr; n, {names}, selection, test_reads."
    return f"{textwrap.fill(text, 78)}\n\n{_EXAMPLES}"


def main(args: argparse.Namespace) -> int:
    """Run the verb."""
    if args.errors:
        return _errors(args)
    for flag in ("model_path", "data_path"):
        if getattr(args, flag) is not None:
            flag = flag.replace("_", "-")
            raise UsageError(f"--{flag}: goes with --errors alone; a table runs no code")
    found = api.comparison(
        args.paths,
        plots=args.plots,
        html=args.html,
        where=args.where,
        sort=args.sort,
        descending=args.descending,
        group=args.group,
        baseline=args.baseline,
        margin=args.margin,
        calibration=args.calibration,
        without_duplicates=args.without_duplicates or (),
        pruned=args.pruned,
    )
    if args.self_test:
        from cnnbench.analysis.compare.self_check import check_referee, self_check_text

        print(self_check_text(check_referee(found), args.format), end="")
        return 0
    print(formats.comparison_text(found, args.format, terminal_width()), end="")
    if args.format in ("csv", "latex") and found.left_out:
        notice(formats.left_out_text(found, "text").rstrip("\n"))
    return 0


def _errors(args: argparse.Namespace) -> int:
    for flag in _TABLE_FLAGS:
        if getattr(args, flag) not in (None, False):
            flag = flag.replace("_", "-")
            raise UsageError(f"--{flag}: shapes a table of runs, and does not go with --errors")
    if len(args.paths) != 2:
        raise UsageError(f"--errors: {len(args.paths)} paths given; expected two runs")
    result = api.compare_errors(
        *args.paths, plots=args.plots, model_path=args.model_path, data_path=args.data_path
    )
    from cnnbench.analysis.compare.disagreement import errors_text

    print(errors_text(result, args.format), end="")
    return 0
