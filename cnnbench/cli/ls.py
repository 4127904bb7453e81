"""``cnnbench ls``: what there is to choose from, one line each."""

from __future__ import annotations

import argparse

from cnnbench.config.groups import Groups
from cnnbench.config.run_config import GROUPS, PRESET_GROUPS
from cnnbench.rendering.text import render_table

DESCRIPTION = "List the choices of a group, or without one all groups with their choices."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument(
        "group", nargs="?", metavar="GROUP", help=" ".join((*GROUPS, *PRESET_GROUPS))
    )


def epilog() -> str:
    """Return an example."""
    return "Example: cnnbench ls model\n"


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
