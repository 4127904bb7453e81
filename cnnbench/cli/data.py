"""``cnnbench data``: where data sets are, whether they are sound, and how they look."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from cnnbench.config.command import single_config
from cnnbench.config.compose import Composer
from cnnbench.config.run_config import RunConfig
from cnnbench.errors import UsageError, expected_names
from cnnbench.files import expand_path
from cnnbench.notices import notice, warn
from cnnbench.rendering.text import render_json, render_table

_ACTIONS = ("prepare", "verify", "where", "show")
# What decides how a training image looks; the other actions read the data set alone.
_SHOWN = ("data", "augment", "model", "seed")


DESCRIPTION = "Where data sets are, whether they are sound, and how they look."
_NOTES = """\
Actions:
  prepare  fetch what is missing, and verify it
  verify   read what is there and compare it with what was published
  where    list the locations that are searched, in order
  show     save a row of training images at data.image_size, their classes named, and with
           augment=CHOICE three augmented versions of it below

Example:
  cnnbench data show fashion_mnist augment=crop_flip --output fashion.png
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument("action", metavar="|".join(_ACTIONS), help="see below")
    parser.add_argument("name", metavar="NAME", help="see 'cnnbench ls data'")
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="KEY=VALUE",
        help="settings of the data set; of show, also augment, model (for its size) and seed",
    )
    parser.add_argument(
        "--output",
        metavar="FILE.png",
        default="data.png",
        help="of show: a .png, .svg, .pdf or .jpg file, by default data.png",
    )


def epilog() -> str:
    """Return the actions and an example."""
    return _NOTES


def main(args: argparse.Namespace) -> int:
    """Run the verb."""
    from cnnbench.data import manage

    if args.action not in _ACTIONS:
        hint = expected_names(args.action, _ACTIONS)
        raise UsageError(f"data {args.action}: unknown action{hint}")
    config = _config(args)
    data = config.data
    root = expand_path(data.root)
    if args.action == "show":
        _show(config, Path(args.output))
        return 0
    if args.action == "prepare":
        facts = manage.prepare(data.name, root, data.args, data.image_size, notice)
        for warning in facts["warnings"]:
            warn(warning)
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


def _show(config: RunConfig, path: Path) -> None:
    """Save a row of training images, one of each class, ten at most, and print the file's path."""
    from cnnbench.data import manage, read_dataset
    from cnnbench.data.augment import versions
    from cnnbench.training.data import build_augment

    data, augment = config.data, build_augment(config)
    arrays = read_dataset(
        data.name,
        root=expand_path(data.root),
        args=data.args,
        image_size=data.image_size,
        report=notice,
    )
    images, names = manage.samples(arrays, 10)
    rows = versions(images, augment, image_size=data.image_size, seed=config.seed, count=3)
    manage.save_samples(rows, names, path)
    print(path.absolute())


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
