"""``cnnbench export``: a run's network as a file for other programs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from cnnbench.errors import UsageError, expected_names
from cnnbench.files import expand_path
from cnnbench.rendering.text import render_json, render_table
from cnnbench.runs.directory import open_run

TARGETS = ("onnx", "torch")
_COLUMNS = ("run", "to", "file", "num_bytes", "compared_on", "largest_difference", "tolerance")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--to", metavar="|".join(TARGETS), required=True)
    parser.add_argument("--output", metavar="FILE")
    parser.add_argument("--model-path", metavar="FILE:CLASS")


def help_text(parser: argparse.ArgumentParser) -> str:
    """Return usage."""
    return (
        "usage: cnnbench export RUN --to onnx|torch [--output FILE]\n"
        "                       [--format text|markdown|csv|json]\n\n"
        "The selected epoch's network as one file, RUN/<network>.onnx or .pt2, that takes uint8\n"
        "pictures (N, C, H, W) of the network's size, normalises them and gives logits, for any\n"
        "N. Class names and preprocessing are in its metadata. The file is kept only where it\n"
        "gives the network's logits on training images, one at a time and seven at once.\n\n"
        "--to onnx: for ONNX Runtime and others; needs pip install 'cnnbench[export]'.\n"
        "--to torch: for torch.export.load, without cnnbench. Whoever loads a .pt2 file runs what\n"
        "is in it: load your own.\n"
        "--model-path FILE:CLASS: the code of a network of your own; a run's is never run.\n"
    )


def main(args: argparse.Namespace) -> int:
    """Run the verb."""
    result = export(args.run, to=args.to, output=args.output, model_path=args.model_path)
    if args.format == "json":
        print(render_json(result), end="")
    elif args.format == "text":
        sizes = " and ".join(map(str, result["batch_sizes"]))
        print(
            f"{result['file']}\n{result['num_bytes'] / 1e6:.2f} MB; largest difference of a logit "
            f"{result['largest_difference']:.1e} of the largest (allowed "
            f"{result['tolerance']:.0e}), {sizes} at once, on {result['compared_on']}"
        )
    else:
        shown = {**result, **{k: f"{result[k]:.1e}" for k in _COLUMNS[-2:]}}
        print(render_table([shown], _COLUMNS, args.format), end="")
    return 0


def export(
    run: str | Path,
    *,
    to: str,
    output: str | Path | None = None,
    model_path: str | None = None,
) -> dict[str, Any]:
    """Write a run's network, preprocessing included, as a file for other programs.

    Args:
        run: a run directory.
        to: ``onnx``, or ``torch`` for a program of `torch.export`.
        output: the file; by default the network's name in the run directory. It is replaced.
        model_path: ``FILE:CLASS`` of a network of your own, which no run may name itself.

    Returns:
        ``run``, ``to``, ``file``, ``num_bytes``, ``input`` (``dtype``, ``shape``),
        ``class_names``, ``compared_on``, ``batch_sizes``, ``largest_difference`` (of a logit, as a
        fraction of the largest) and ``tolerance``.

    Raises:
        UsageError: it is no run, the network cannot be exported or the file does not give its
            logits, or the extra is not installed.
        CheckpointError: the run is damaged or foreign.
        DiskError: the file cannot be written.
    """
    if to not in TARGETS:
        raise UsageError(f"--to {to}: unknown{expected_names(to, TARGETS)}")
    directory = open_run(run)
    from cnnbench.analysis.export import export_run

    file = expand_path(output)
    return export_run(directory, to, file, model_path)
