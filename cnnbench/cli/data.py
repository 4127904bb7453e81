"""``cnnbench data``: where data sets are, whether they are sound, and how they look."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnbench.config.compose import Composer
from cnnbench.config.run_config import RunConfig, expand_path
from cnnbench.errors import UsageError, expected_names
from cnnbench.files import writing
from cnnbench.rendering.text import render_json, render_table
from cnnbench.sweeps.expand import single_config

if TYPE_CHECKING:
    from cnnbench.data import DatasetArrays
    from cnnbench.data.augment import Augment

_ACTIONS = ("prepare", "verify", "where", "show")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument("action", metavar="|".join(_ACTIONS))
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--output", metavar="FILE.png", default="data.png")


def help_text(parser: argparse.ArgumentParser) -> str:
    """Return usage."""
    return (
        "usage: cnnbench data prepare|verify|where|show NAME [data.KEY=VALUE ...]\n\n"
        "  prepare  fetch what is missing, and verify it\n"
        "  verify   read what is there and compare it with what was published\n"
        "  where    list the places that are searched, in order\n"
        "  show     save a row of training images at data.image_size, their classes named, and\n"
        "           with augment=CHOICE three augmented versions below it (--output FILE.png)\n\n"
        "Example: cnnbench data show fashion_mnist augment=crop_flip --output fashion.png\n"
    )


def main(args: argparse.Namespace) -> int:
    """Run the verb."""
    from cnnbench.data import manage, read_dataset

    if args.action not in _ACTIONS:
        hint = expected_names(args.action, _ACTIONS)
        raise UsageError(f"data {args.action}: unknown action{hint}")
    config = _config(args)
    data = config.data
    root = expand_path(data.root) if data.root is not None else None
    if args.action == "show":
        from cnnbench.training.data import build_augment

        augment = build_augment(config)
        arrays = read_dataset(
            data.name, root=root, args=data.args, image_size=data.image_size, report=_report
        )
        save_samples(arrays, Path(args.output), augment, data.image_size, config.seed)
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


def save_samples(
    arrays: DatasetArrays, path: Path, augment: Augment, image_size: int, seed: int
) -> None:
    """Save a row of training images, one of each class and its name above it, ten at most.

    Args:
        arrays: a data set that was read.
        path: of the file.
        augment: where it does something, augmented versions come below.
        image_size: pixels of a side that is trained on.
        seed: of the augmentation.

    Raises:
        UsageError: the file's ending is no picture's.
        DiskError: it cannot be written.
    """
    from matplotlib.figure import Figure

    from cnnbench.data import manage
    from cnnbench.data.augment import versions

    images, names = manage.samples(arrays, 10)
    rows = versions(images, augment, image_size=image_size, seed=seed, count=3)
    figure = Figure(figsize=(1.3 * len(images), 0.3 + 1.4 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), len(images), squeeze=False)
    for axis, image in zip(axes.flat, (image for row in rows for image in row), strict=True):
        pixels = image.transpose(1, 2, 0)
        axis.imshow(
            pixels if pixels.shape[2] == 3 else pixels[:, :, 0], cmap="gray", vmin=0, vmax=255
        )
        axis.axis("off")
    for axis, name in zip(axes[0], names, strict=True):
        axis.set_title(name, fontsize=9)
    if path.suffix.lower() not in (".png", ".svg", ".pdf", ".jpg"):
        raise UsageError(f"--output {path}: expected a file ending in .png, .svg, .pdf or .jpg")
    with writing(path):
        figure.savefig(path, dpi=120)


# Settings of other groups that decide how a training image looks: its size and its changes.
_SHOWN = ("data", "augment", "model", "seed")


def _config(args: argparse.Namespace) -> RunConfig:
    """Return the config of the settings.

    Raises:
        UsageError: a setting has no effect on the action.
    """
    composer = Composer(args.config_dir)
    settings = composer.parse([f"data={args.name}", *args.settings])
    groups = _SHOWN if args.action == "show" else _SHOWN[:1]
    for setting in settings:
        if setting.key.partition(".")[0] not in groups:
            raise UsageError(
                f"{setting.key}: has no effect on data {args.action}; expected keys of "
                f"{', '.join(groups)}"
            )
    return single_config(composer, settings)


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _report(message: str) -> None:
    print(f"cnnbench: {message}", file=sys.stderr, flush=True)
