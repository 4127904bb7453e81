"""``cnnbench predict``: what a trained run sees in pictures."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnbench.errors import UsageError
from cnnbench.rendering.text import render_table
from cnnbench.runs.directory import open_run

if TYPE_CHECKING:
    from torch import Tensor, nn


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("--model-path", metavar="FILE:CLASS")
    parser.add_argument("--top", type=int, default=3, metavar="K")


def help_text(parser: argparse.ArgumentParser) -> str:
    """Return usage."""
    return (
        "usage: cnnbench predict RUN IMAGE... [--top K] [--format text|markdown|csv|json]\n\n"
        "IMAGE: picture files of any size, colour or grey, or folders of them. Each is cut to its\n"
        "central square and resized to what the network was trained on.\n"
        "--model-path FILE:CLASS: the code of a network of your own; a run's is never run.\n"
    )


def main(args: argparse.Namespace) -> int:
    """Run the verb."""
    if args.top < 1:
        raise UsageError(f"--top {args.top}: expected at least 1")
    rows = predict(args.run, args.images, top=args.top, model_path=args.model_path)
    if args.format != "json":
        rows = [
            {
                **row,
                "others": ", ".join(f"{c['class']} {c['probability']:.3f}" for c in row["top"][1:]),
            }
            for row in rows
        ]
    columns = ("file", "class", "probability", "others")
    print(render_table(rows, columns, args.format), end="")
    return 0


def predict(
    run: str | Path,
    images: Sequence[str | Path] | str | Path | Tensor,
    *,
    top: int = 3,
    model_path: str | None = None,
) -> list[dict[str, Any]]:
    """Return the classes that a run sees in pictures.

    Args:
        run: a run directory; its data set is not needed.
        images: picture files of any size, folders of them, or a uint8 tensor (N, C, H, W).
        top: how many of the likeliest classes to list, at least 1.
        model_path: ``FILE:CLASS`` of a network of your own, which no run may name itself.

    Returns:
        For each picture ``class``, ``probability`` in [0, 1], ``top`` (such pairs, likeliest
        first), and ``file`` where it came from one.

    Raises:
        UsageError: it is no run, or the tensor is of another type or shape.
        CheckpointError: the run is damaged or foreign.
        DataError: a file is missing or no picture.
    """
    directory = open_run(run)
    from cnnbench.analysis.evaluate.evaluation import predict_files, predict_tensors

    if isinstance(images, (str, Path)):
        images = [images]
    if isinstance(images, Sequence):
        return predict_files(directory, images, top, model_path)
    return predict_tensors(directory, images, top, model_path)


def load(run: str | Path, *, model_path: str | None = None) -> nn.Module:
    """Return a run's network with the selected epoch's weights, in evaluation mode on the CPU.

    Args:
        run: a run directory.
        model_path: ``FILE:CLASS`` of a network of your own, which no run may name itself.

    Raises:
        UsageError: it is no run, or ``model_path`` is missing or cannot be used.
        CheckpointError: the run is damaged or foreign.
    """
    directory = open_run(run)
    from cnnbench.runs.network import load_run

    return load_run(directory, model_path).module
