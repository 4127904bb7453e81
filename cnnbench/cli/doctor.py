"""``cnnbench doctor``: the machine as cnnbench sees it, which is also the bug report."""

from __future__ import annotations

import argparse
from pathlib import Path

from cnnbench.rendering.text import render_table

DESCRIPTION = """\
Versions, processor and instructions, devices, data, room on the disk, fonts and
missing extras of this machine: what to look at first, and to put into a bug
report."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument(
        "--kernels",
        action="store_true",
        help="compare each operation of all networks with double precision",
    )


def epilog() -> str:
    """Return an example."""
    return "Example: cnnbench doctor --format markdown\n"


def main(args: argparse.Namespace) -> int:
    """Run the verb."""
    from cnnbench.analysis.doctor import examine, examine_kernels

    rows = list(examine(Path("outputs")))
    error: Exception | None = None
    if args.kernels:
        from cnnbench.errors import KernelError

        try:
            for row in examine_kernels():
                rows.append(row)
        except KernelError as wrong:
            error = wrong
    print(render_table(rows, ("what", "found"), args.format), end="")
    if error is not None:
        raise error
    return 0
