"""``cnnbench predict``: what a trained run sees in images."""

from __future__ import annotations

import argparse
from typing import Any

from cnnbench import api
from cnnbench.rendering.text import render_table

DESCRIPTION = """\
Classes and probabilities of images, by a run; its data set is not needed. Each
image is cropped to its central square and resized to the size that the network
was trained on."""
_COLUMNS = ("file", "class", "probability", "others")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument("run", metavar="RUN", help="a run directory")
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="image files of any size, colour or grey, or folders of them; for a run on rows of "
        "numbers, CSV files",
    )
    parser.add_argument(
        "--top", type=int, default=3, metavar="K", help="list the K likeliest classes, by default 3"
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--invert",
        action="store_const",
        const=True,
        default=False,
        help="invert dark and light, as ink on paper needs for a network of white digits",
    )
    how.add_argument(
        "--invert-auto",
        dest="invert",
        action="store_const",
        const="auto",
        help="invert only images whose border says so",
    )
    parser.add_argument(
        "--model-path",
        metavar="FILE:CLASS",
        help="the code of a network of your own; a run's is never run",
    )


def epilog() -> str:
    """Return an example."""
    return "Example: cnnbench predict outputs/digits/lenet/RUN photo.jpg scans/ --top 5\n"


def main(args: argparse.Namespace) -> int:
    """Run the verb."""
    rows: list[dict[str, Any]] = api.predict(
        args.run, args.images, top=args.top, invert=args.invert, model_path=args.model_path
    )
    if rows and "line" in rows[0]:
        # A table's: what is predicted has the target's own name.
        columns = [name for name in rows[0] if name != "top"]
        print(render_table(rows, columns, args.format), end="")
        return 0
    if args.format != "json":
        rows = [
            {
                **row,
                "others": ", ".join(f"{c['class']} {c['probability']:.3f}" for c in row["top"][1:]),
            }
            for row in rows
        ]
    print(render_table(rows, _COLUMNS, args.format), end="")
    return 0
