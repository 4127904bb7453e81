"""``cnnbench pack``: runs and what a paper says of them as one zip file."""

from __future__ import annotations

import argparse

from cnnbench import api
from cnnbench.errors import UsageError
from cnnbench.notices import notice
from cnnbench.rendering.text import counted, format_megabytes, render_json, render_table

DESCRIPTION = """\
The runs at and below each PATH as one zip file for a paper: the table as text,
Markdown, CSV, LaTeX and JSON with its verdicts, the page and figures of
compare, a reproducibility checklist filled in from the records, and each run's
config, record, log and predictions, with hashes. 'cnnbench verify' computes
anew what it says."""
_EXAMPLES = """\
Files of a run name paths and the machine, as its record does: look at them
before an anonymous review.

Examples:
  cnnbench pack outputs/sweeps/study-4d2c1a paper.zip
  cnnbench pack outputs --where data=digits --baseline lenet --weights my.zip
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="runs, or directories of runs; last FILE.zip"
    )
    parser.add_argument(
        "--weights", action="store_true", help="add the selected epoch's weights of each run"
    )
    for flag, metavar, text in (
        ("--where", "CONDITION", "rows to keep, as compare takes it"),
        ("--sort", "COLUMN", "order of the rows, smallest first"),
        ("--group", "COLUMN", "a table for each of its values"),
        ("--baseline", "ROW|RUN|MODEL", "the row that the others are compared with"),
    ):
        parser.add_argument(flag, metavar=metavar, help=text)
    parser.add_argument("--descending", action="store_true", help="with --sort, largest first")
    parser.add_argument(
        "--margin", type=float, metavar="FRACTION", help="of equivalence, as compare takes it"
    )


def epilog() -> str:
    """Return what to look at, and examples."""
    return _EXAMPLES


def main(args: argparse.Namespace) -> int:
    """Run the verb."""
    *paths, file = args.paths
    if not paths:
        raise UsageError(
            f"pack: {file} alone; expected runs, and last the zip file: RUN... FILE.zip"
        )
    result = api.pack(
        paths,
        file,
        weights=args.weights,
        where=args.where,
        sort=args.sort,
        descending=args.descending,
        group=args.group,
        baseline=args.baseline,
        margin=args.margin,
    )
    if args.format == "json":
        print(render_json(result), end="")
    elif args.format != "text":
        print(render_table([result], list(result), args.format), end="")
    else:
        out = f", {result['num_left_out']} left out" if result["num_left_out"] else ""
        runs = f"{counted(result['num_runs'], 'run')}{out}"
        print(f"{result['package']}: {runs}, {format_megabytes(result['num_bytes'])}")
    if result["files_with_home"]:
        notice(
            f"{result['files_with_home']} of its files name your home directory: look at them "
            "before an anonymous review"
        )
    return 0
