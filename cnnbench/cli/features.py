"""``cnnbench features``: what trained networks see in images."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from cnnbench import api
from cnnbench.errors import UsageError
from cnnbench.files import expand_path
from cnnbench.notices import fold, terminal_width
from cnnbench.rendering.text import render_json, render_table
from cnnbench.runs.directory import open_run

DESCRIPTION = """\
What the network of a run sees in an image, as PNG and SVG in
RUN/features/<image>/ and on TensorBoard's page of images."""
_FIGURES = """\
Figures:
  filters           of the first layer, and what each makes of the image
  maps              the strongest of each resolution
  grad_cam          which part speaks for the likeliest class
  receptive_field   which pixels move the central unit of each map, and which
                    could
  side_by_side      with several runs, a row for each

Example:
  cnnbench features outputs/digits/vgg11/RUN outputs/digits/nin/RUN digit.png
"""
_COLUMNS = ("model", "file", "class", "probability", "figures")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="RUN... IMAGE",
        help="run directories first; then image files of any size, or folders of them",
    )
    parser.add_argument(
        "--output", metavar="DIR", help="write there; the run directories stay as they are"
    )
    parser.add_argument(
        "--model-path",
        metavar="FILE:CLASS",
        help="the code of a network of your own; a run's is never run",
    )


def epilog() -> str:
    """Return the figures and an example."""
    return _FIGURES


def main(args: argparse.Namespace) -> int:
    """Run the verb."""
    runs, images = _split(args.paths)
    rows = api.features(runs, images, output=args.output, model_path=args.model_path)
    if args.format == "json":
        print(render_json(rows), end="")
        return 0
    shown = [{**row, "figures": str(Path(row["files"][0]).parent)} for row in rows]
    print(render_table(shown, _COLUMNS, args.format), end="")
    if args.format != "csv":
        notes = [row["note"] for row in rows if row["note"]]
        notes += [
            f"side by side: {row['side_by_side'][0]}" for row in rows if "side_by_side" in row
        ]
        text = "".join(f"\n{note}\n" for note in dict.fromkeys(notes))
        print(fold(text, terminal_width()), end="")
    return 0


def _split(paths: Sequence[str]) -> tuple[list[str], list[str]]:
    """Tell run directories, which come first, from images."""
    is_run = [(expand_path(path) / "run.json").is_file() for path in paths]
    # The first is meant to be a run; where it is none, opening it says so.
    first_image = next((n for n, run in enumerate(is_run) if n and not run), len(paths))
    later = zip(paths[first_image:], is_run[first_image:], strict=True)
    late = next((path for path, run in later if run), None)
    if late is not None:
        raise UsageError(f"features: {late}: a run after an image; runs come first")
    if first_image == len(paths):
        open_run(paths[0])
        raise UsageError(
            f"features: {' '.join(paths)}: no IMAGE; name image files or a folder of them"
        )
    return list(paths[:first_image]), list(paths[first_image:])
