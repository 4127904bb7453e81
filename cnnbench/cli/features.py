"""``cnnbench features``: what trained networks see in pictures."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cnnbench.errors import UsageError
from cnnbench.files import expand_path
from cnnbench.rendering.text import render_json, render_table
from cnnbench.runs.directory import open_run

_COLUMNS = ("model", "file", "class", "probability", "pictures")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument("paths", nargs="+", metavar="RUN... IMAGE")
    parser.add_argument("--output", metavar="DIR")
    parser.add_argument("--model-path", metavar="FILE:CLASS")


def help_text(parser: argparse.ArgumentParser) -> str:
    """Return usage."""
    return (
        "usage: cnnbench features RUN... IMAGE... [--output DIR]\n"
        "                         [--format text|markdown|csv|json]\n\n"
        "What the network of a run sees in a picture, as PNG and SVG in RUN/features/<picture>/\n"
        "and on TensorBoard's page of images:\n\n"
        "  filters           of the first layer, and what each makes of the picture\n"
        "  maps              the strongest of each resolution\n"
        "  grad_cam          which part speaks for the likeliest class\n"
        "  receptive_field   which pixels move the central unit of each map, and which could\n"
        "  side_by_side      with several runs, a row for each\n\n"
        "RUN: run directories, first. IMAGE: picture files of any size, or folders of them.\n"
        "--output DIR: write there, the run directories stay as they are.\n"
        "--model-path FILE:CLASS: the code of a network of your own; a run's is never run.\n\n"
        "Example: cnnbench features outputs/digits/vgg11/RUN outputs/digits/alexnet/RUN digit.png\n"
    )


def main(args: argparse.Namespace) -> int:
    """Run the verb."""
    runs, images = _split(args.paths)
    rows = features(runs, images, output=args.output, model_path=args.model_path)
    if args.format == "json":
        print(render_json(rows), end="")
        return 0
    shown = [{**row, "pictures": str(Path(row["files"][0]).parent)} for row in rows]
    print(render_table(shown, _COLUMNS, args.format), end="")
    if args.format != "csv":
        notes = [row["note"] for row in rows if row["note"]]
        notes += [
            f"side by side: {row['side_by_side'][0]}" for row in rows if "side_by_side" in row
        ]
        print("".join(f"\n{note}\n" for note in dict.fromkeys(notes)), end="")
    return 0


def features(
    run: str | Path | Sequence[str | Path],
    images: str | Path | Sequence[str | Path],
    *,
    output: str | Path | None = None,
    model_path: str | None = None,
) -> list[dict[str, Any]]:
    """Write pictures of what trained networks see, and return what they answer.

    Args:
        run: a run directory, or several; their data sets are not needed.
        images: picture files of any size, or folders of them.
        output: directory for all that is written; by default the run directories.
        model_path: ``FILE:CLASS`` of a network of your own, which no run may name itself.

    Returns:
        For each picture and run ``run``, ``model``, ``file``, ``class``, ``probability`` in
        [0, 1], ``top`` (the five likeliest), ``first_layer``, ``stages`` (``name``, ``shape``,
        ``receptive_field`` in pixels, None where it is the whole image of any size,
        ``measured_receptive_field``, ``seen``), ``note`` and ``files``; with several runs also
        ``side_by_side``, files.

    Raises:
        UsageError: it is no run, or another process is writing to it.
        CheckpointError: a run is damaged or foreign.
        DataError: a file is missing or no picture.
        DiskError: a file cannot be written.
    """
    runs = [run] if isinstance(run, (str, Path)) else list(run)
    files = [images] if isinstance(images, (str, Path)) else list(images)
    if not runs or not files:
        raise UsageError("features: give a run directory and a picture: RUN... IMAGE...")
    opened = [open_run(path) for path in runs]
    from cnnbench.analysis.features.write import write_features

    place = expand_path(output)
    return write_features(opened, files, place, model_path)


def _split(paths: Sequence[str]) -> tuple[list[str], list[str]]:
    """Tell run directories, which come first, from pictures."""
    is_run = [(expand_path(path) / "run.json").is_file() for path in paths]
    # The first is meant to be a run; where it is none, its opening says so.
    first_image = next((n for n, run in enumerate(is_run) if n and not run), len(paths))
    later = zip(paths[first_image:], is_run[first_image:], strict=True)
    late = next((path for path, run in later if run), None)
    if late is not None:
        raise UsageError(f"features: {late}: a run after a picture; runs come first")
    if first_image == len(paths):
        open_run(paths[0])
        raise UsageError(
            f"features: {' '.join(paths)}: no IMAGE; name picture files or a folder of them"
        )
    return list(paths[:first_image]), list(paths[first_image:])
