"""``cnnbench data``: where data sets are, whether they are sound, and how they look."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnbench.config.compose import Composer
from cnnbench.config.run_config import DataConfig
from cnnbench.errors import UsageError, expected_names
from cnnbench.files import expand_path, writing
from cnnbench.rendering.text import render_json, render_table
from cnnbench.sweeps.expand import single_config

if TYPE_CHECKING:
    from cnnbench.data import DatasetArrays

_ACTIONS = ("prepare", "verify", "where", "show")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument("action", metavar="|".join(_ACTIONS))
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("settings", nargs="*", metavar="data.KEY=VALUE")
    parser.add_argument("--output", metavar="FILE.png", default="data.png")


def help_text(parser: argparse.ArgumentParser) -> str:
    """Return usage."""
    return (
        "usage: cnnbench data prepare|verify|where|show NAME [data.KEY=VALUE ...]\n\n"
        "  prepare  fetch what is missing, and verify it\n"
        "  verify   read what is there and compare it with what was published\n"
        "  where    list the places that are searched, in order\n"
        "  show     save a row of training images, their classes named (--output FILE.png)\n\n"
        "Example: cnnbench data show fashion_mnist data.root=~/data --output fashion.png\n"
    )


def main(args: argparse.Namespace) -> int:
    """Run the verb."""
    from cnnbench.data import manage, read_dataset

    if args.action not in _ACTIONS:
        hint = expected_names(args.action, _ACTIONS)
        raise UsageError(f"data {args.action}: unknown action{hint}")
    data = _data_config(args)
    root = expand_path(data.root)
    if args.action == "show":
        arrays = read_dataset(
            data.name, root=root, args=data.args, image_size=data.image_size, report=_report
        )
        save_samples(arrays, Path(args.output))
        print(Path(args.output).absolute())
        return 0
    if args.action == "prepare":
        facts = manage.prepare(data.name, root, data.args, data.image_size, _report)
        for warning in facts["warnings"]:
            _report(f"warning: {warning}")
        if args.format == "json":
            print(render_json(facts), end="")
            return 0
        rows = [{"fact": fact, "value": _text(value)} for fact, value in facts.items() if value]
        columns: tuple[str, ...] = ("fact", "value")
    else:
        columns = ("place", "path", "state")
        if args.action == "where":
            rows = manage.where(data.name, root)
        else:
            rows = manage.verify(data.name, root, data.args, data.image_size)
    print(render_table(rows, columns, args.format), end="")
    return 0


def save_samples(arrays: DatasetArrays, path: Path) -> None:
    """Save a row of training images, one of each class and its name above it, ten at most.

    Raises:
        UsageError: the file's ending is no picture's.
        DiskError: it cannot be written.
    """
    from matplotlib.figure import Figure

    from cnnbench.data import manage

    images, names = manage.samples(arrays, 10)
    figure = Figure(figsize=(1.3 * len(images), 1.7), layout="constrained")
    axes = figure.subplots(1, len(images), squeeze=False)[0]
    for axis, image, name in zip(axes, images, names, strict=True):
        picture = image.transpose(1, 2, 0)
        axis.imshow(picture if picture.shape[2] == 3 else picture[:, :, 0], cmap="gray")
        axis.set_title(name, fontsize=9)
        axis.axis("off")
    if path.suffix.lower() not in (".png", ".svg", ".pdf", ".jpg"):
        raise UsageError(f"--output {path}: expected a file ending in .png, .svg, .pdf or .jpg")
    with writing(path):
        figure.savefig(path, dpi=120)


def _data_config(args: argparse.Namespace) -> DataConfig:
    composer = Composer(args.config_dir)
    settings = composer.parse([f"data={args.name}", *args.settings])
    return single_config(composer, settings).data


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _report(message: str) -> None:
    print(f"cnnbench: {message}", file=sys.stderr, flush=True)
