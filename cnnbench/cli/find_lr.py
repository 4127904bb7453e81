"""``cnnbench find-lr``: which learning rate a config takes, by a range test."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnnbench import api
from cnnbench.config.command import config_text, single_config
from cnnbench.config.compose import Composer
from cnnbench.files import expand_path
from cnnbench.notices import notice
from cnnbench.rendering.text import render_json, render_table

DESCRIPTION = """\
Trains for some steps while the learning rate rises from very low to very high,
and says which rate to copy: a tenth of that at which the smoothed loss of the
training images is least (the range test of Smith, 2017, arXiv:1506.01186). What
is trained is thrown away; no image of the test or validation part is looked at.
Settings are those of 'cnnbench train'."""
_EXAMPLES = """\
Examples:
  cnnbench find-lr model=vgg11 data=fashion_mnist
  cnnbench find-lr model=lenet optimizer=sgd --high 100 --steps 300
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    low, high, steps = api.LR_RANGE
    parser.add_argument("settings", nargs="*", metavar="key=value", help="as for train")
    parser.add_argument(
        "--low", type=float, default=low, metavar="LR", help=f"first rate, {low:g} by default"
    )
    parser.add_argument(
        "--high", type=float, default=high, metavar="LR", help=f"last rate, {high:g} by default"
    )
    parser.add_argument(
        "--steps", type=int, default=steps, metavar="N", help=f"of training, {steps} by default"
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        default="find-lr",
        help="where <data>-<model>.csv, .png and .svg are written, find-lr by default",
    )


def epilog() -> str:
    """Return examples."""
    return _EXAMPLES


def main(args: argparse.Namespace) -> int:
    """Run the verb."""
    if args.cfg:
        composer = Composer(args.config_dir)
        config = single_config(composer, composer.parse(args.settings))
        print(config_text(config, composer.groups), end="")
        return 0
    result = api.find_lr(
        args.settings,
        low=args.low,
        high=args.high,
        num_steps=args.steps,
        output=args.output,
        config_dir=args.config_dir,
    )
    for suffix in ("csv", "png", "svg"):
        file = expand_path(Path(args.output)) / f"{result['data']}-{result['model']}.{suffix}"
        notice(str(file))
    if args.format == "json":
        print(render_json(result), end="")
    elif args.format == "text":
        print(_text(result), end="")
    else:
        print(render_table(result["points"], ("lr", "loss", "smoothed"), args.format), end="")
    return 0


def _text(result: Mapping[str, Any]) -> str:
    diverged = result["diverged_lr"]
    end = "never diverged" if diverged is None else f"diverged after {diverged:.2g}"
    return (
        f"{result['model']} on {result['data']}, {result['optimizer']}: the loss is least at "
        f"{result['least_loss_lr']:.2g}, {end}\noptimizer.lr={result['lr']:g}\n"
    )
