"""``cnnbench ls``: what there is to choose from, one line each."""

from __future__ import annotations

import argparse

from cnnbench.config.groups import Groups
from cnnbench.config.run_config import GROUPS, PRESET_GROUPS
from cnnbench.rendering.text import render_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument("group", nargs="?", metavar="GROUP")


def help_text(parser: argparse.ArgumentParser) -> str:
    """Return usage and groups."""
    return (
        "usage: cnnbench ls [GROUP] [--format text|markdown|csv|json]\n\n"
        f"Groups: {' '.join((*GROUPS, *PRESET_GROUPS))}\n"
    )


def main(args: argparse.Namespace) -> int:
    """Run the verb."""
    groups = Groups(args.config_dir)
    if args.group is None:
        rows = [
            {"group": group, "choices": " ".join(groups.choices(group))}
            for group in (*GROUPS, *PRESET_GROUPS)
        ]
        columns = ("group", "choices")
    else:
        rows = [
            {"name": name, "description": text} for name, text in groups.choices(args.group).items()
        ]
        columns = ("name", "description")
    print(render_table(rows, columns, args.format), end="")
    return 0
