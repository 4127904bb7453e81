"""``cnnbench summary``: what a network costs, what it sees, and what looks wrong."""

from __future__ import annotations

import argparse
from typing import Any

from cnnbench import api
from cnnbench.analysis.summary_text import blocks_text, networks_text, summary_text
from cnnbench.config.command import config_text, single_config
from cnnbench.config.compose import Composer
from cnnbench.config.groups import Groups
from cnnbench.errors import UsageError, shape_text
from cnnbench.rendering.text import render_table
from cnnbench.runs.directory import named_run

DESCRIPTION = """\
Layers, shapes, parameters, MACs and receptive fields, of settings as
'cnnbench train' takes them or of a run; no data is read and nothing is trained."""
_EXAMPLES = """\
Examples:
  cnnbench summary model=googlenet data=cifar10 --depth 2
  cnnbench summary model=alexnet --against 'model=vgg11 data.image_size=224'
  cnnbench summary outputs/digits/lenet/RUN --params 'conv*'
  cnnbench summary --block 'conv 256 256 3' --block 'bottleneck 256 32'
"""
_PARAM_COLUMNS = ("name", "shape", "count", "trainable", "mean", "std", "min", "max")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument(
        "settings", nargs="*", metavar="key=value | RUN", help="settings, or a run directory"
    )
    parser.add_argument(
        "--depth", type=int, metavar="N", help="fold layers into the modules N levels down"
    )
    parser.add_argument(
        "--against",
        metavar="OTHER",
        help="a second network beside it: a name, a run, or quoted settings",
    )
    parser.add_argument(
        "--block",
        action="append",
        default=[],
        metavar="BLOCK",
        help="single blocks side by side, such as 'separable 4 8 3 bias=false'",
    )
    parser.add_argument(
        "--params",
        metavar="PATTERN",
        help="list a run's tensors whose name matches, such as '*.weight'",
    )
    parser.add_argument(
        "--model-path", metavar="FILE:CLASS", help="the code of a network of your own, for its run"
    )


def epilog() -> str:
    """Return examples."""
    return _EXAMPLES


def main(args: argparse.Namespace) -> int:
    """Run the verb."""
    if args.block:
        return _show_blocks(args)
    run = named_run(args.settings)
    if args.params is not None:
        if run is None:
            raise UsageError("--params: lists the tensors of a run; give a run directory")
        rows: list[dict[str, Any]] = api.tensors(run.path, args.params, model_path=args.model_path)
        if args.format != "json":
            rows = [{**row, "shape": shape_text(row["shape"], "x")} for row in rows]
        print(render_table(rows, _PARAM_COLUMNS, args.format), end="")
        return 0
    if run is not None:
        config = run.config
        label = f"{config.model.name}, {run.path}"
    else:
        composer = Composer(args.config_dir)
        config = single_config(composer, composer.parse(args.settings))
        label = f"{config.model.name} on {config.data.name}"
    if args.cfg:
        print(config_text(config, Groups(args.config_dir)), end="")
        return 0
    found = api.summary(
        args.settings,
        depth=args.depth,
        against=args.against,
        model_path=args.model_path,
        config_dir=args.config_dir,
    )
    if args.against is None:
        print(summary_text(label, found, args.format), end="")
    else:
        print(networks_text(found, args.format), end="")
    return 0


def _show_blocks(args: argparse.Namespace) -> int:
    others = (args.settings, args.depth, args.against, args.params, args.model_path, args.cfg)
    if any(others):
        raise UsageError("--block: looks at blocks alone; leave settings and other flags out")
    print(blocks_text(api.summary(blocks=args.block), args.format), end="")
    return 0
