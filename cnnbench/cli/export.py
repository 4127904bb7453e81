"""``cnnbench export``: a run's network as a file for other programs."""

from __future__ import annotations

import argparse

from cnnbench import api
from cnnbench.rendering.text import render_json, render_table

DESCRIPTION = """\
The selected epoch's network as one file that takes uint8 images (N, C, H, W) of
the network's size, normalises them and gives logits, for any N. Class names and
preprocessing are in its metadata. The file is kept only where it gives the
network's logits on training images, one at a time and seven at once."""
_NOTES = """\
onnx is for ONNX Runtime and others, and needs pip install 'cnnbench[export]'.
torch is for torch.export.load, without cnnbench. Whoever loads a .pt2 file runs
what is in it: load your own.

Example: cnnbench export outputs/digits/lenet/RUN --to onnx
"""
_COLUMNS = ("run", "to", "file", "num_bytes", "compared_on", "largest_difference", "tolerance")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument("run", metavar="RUN", help="a run directory")
    parser.add_argument(
        "--to", metavar="|".join(api.EXPORT_TARGETS), required=True, help="the kind of file"
    )
    parser.add_argument(
        "--output", metavar="FILE", help="by default RUN/<network>.onnx or .pt2; it is replaced"
    )
    parser.add_argument(
        "--model-path",
        metavar="FILE:CLASS",
        help="the code of a network of your own; a run's is never run",
    )
    parser.add_argument(
        "--data-path", metavar="FILE:NAME", help="the code of data of your own, likewise"
    )


def epilog() -> str:
    """Return what each kind of file is for."""
    return _NOTES


def main(args: argparse.Namespace) -> int:
    """Run the verb."""
    result = api.export(
        args.run,
        to=args.to,
        output=args.output,
        model_path=args.model_path,
        data_path=args.data_path,
    )
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
