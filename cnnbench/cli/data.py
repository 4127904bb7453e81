"""``cnnbench data``: where data sets are, whether they are sound, and how they look."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnnbench.config.command import single_config
from cnnbench.config.compose import Composer
from cnnbench.config.run_config import RunConfig
from cnnbench.errors import UsageError, expected_names
from cnnbench.files import expand_path
from cnnbench.notices import fold, notice, terminal_width, visible, warn
from cnnbench.rendering.text import render_json, render_table

ACTIONS = ("prepare", "verify", "where", "show", "check")
# What decides how a training image looks; the other actions read the data set alone.
_SHOWN = ("data", "augment", "model", "seed")
# Of each kind of finding so many are listed.
_LISTED = 20
DESCRIPTION = "Where data sets are, whether they are sound, and how they look."
_NOTES = """\
Actions:
  prepare  fetch what is missing, and verify it
  verify   read what is there and compare it with what was published
  where    list the locations that are searched, in order
  show     save a row of training images at data.image_size, their classes
           named, and with augment=CHOICE three augmented versions of it below
  check    look for images that occur twice, exactly or nearly, within and
           across the splits, conflicting labels, small classes, broken files

Example:
  cnnbench data show fashion_mnist augment=crop_flip --output fashion.png
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument("action", metavar="|".join(ACTIONS), help="see below")
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

    if args.action not in ACTIONS:
        hint = expected_names(args.action, ACTIONS)
        raise UsageError(f"data {args.action}: unknown action{hint}")
    config = _config(args)
    data = config.data
    root = expand_path(data.root)
    if args.action == "show":
        from cnnbench.analysis.samples import draw_samples

        path = Path(args.output)
        draw_samples(config, path)
        print(path.absolute())
        return 0
    if args.action == "check":
        from cnnbench.analysis.data_check import check_data

        found = check_data(config)
        print(render_json(found) if args.format == "json" else _checked(found), end="")
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
        columns = ("location", "path", "state")
        if args.action == "where":
            rows = manage.where(data.name, root)
        else:
            rows = manage.verify(data.name, root, data.args, data.image_size)
    print(render_table(rows, columns, args.format), end="")
    return 0


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


def _checked(found: Mapping[str, Any]) -> str:
    """Return what a check found as people read it, each kind with its first few."""

    def member(one: Mapping[str, Any]) -> str:
        return visible(f"{one['split']} {one.get('file', one['index'])} ({one['class']})")

    lines = [f"{found['name']}: {found['source']}", *found["notes"]]
    total = {split: sum(counts.values()) for split, counts in found["counts"].items()}
    lines.append(", ".join(f"{count} {split} images" for split, count in total.items()))
    small = [
        f"{visible(c['class'])} has {c['count']} {c['split']} images"
        for c in found["small_classes"]
    ]
    kinds = {
        "classes of fewer than 10 images": small,
        "groups of equal images": [" = ".join(map(member, g)) for g in found["exact"]],
        "groups of equal images with different labels": [
            " = ".join(map(member, g)) for g in found["different_labels"]
        ],
        "pairs of nearly equal images": [" ~ ".join(map(member, g)) for g in found["near"]],
        "files that cannot be read": found["unreadable"],
    }
    for split, indices in found["seen_before"].items():
        if indices:
            lines.append(f"{len(indices)} {split} images are, equal or nearly, in a split before")
    for kind, entries in kinds.items():
        lines.append(f"{len(entries)} {kind}{':' if entries else ''}")
        lines += [f"  {entry}" for entry in entries[:_LISTED]]
        if len(entries) > _LISTED:
            lines.append(f"  and {len(entries) - _LISTED} more: --format json lists all")
    return fold("\n".join(lines) + "\n", terminal_width())
