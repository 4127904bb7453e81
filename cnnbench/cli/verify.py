"""``cnnbench verify``: what a package says, computed anew."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Mapping
from typing import Any

from cnnbench import api
from cnnbench.rendering.text import counted, render_json, render_table, setting_text

DESCRIPTION = """\
Compute anew every number of a package of 'cnnbench pack' that follows from its
predictions, configs and logs: accuracy, loss, confusion, intervals, verdicts,
run keys, parameters, MACs. What nothing in it gives, such as seconds, is listed
as recorded only. Nothing in the package is run. A package that agrees with
itself may still be made up: only training again shows that. Exit code 1 where
a number differs."""
_EXAMPLES = """\
Examples:
  cnnbench verify paper.zip
  cnnbench verify paper.zip --format json
"""
_COLUMNS = ("where", "what", "recorded", "recomputed")
_MAX_SHOWN = 50
_MAX_CHARACTERS = 60
_WIDTH = 80


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument("package", metavar="FILE.zip", help="as 'cnnbench pack' wrote it")


def epilog() -> str:
    """Return examples."""
    return _EXAMPLES


def main(args: argparse.Namespace) -> int:
    """Run the verb."""
    result = api.verify(args.package)
    if args.format == "json":
        print(render_json(result), end="")
    elif args.format == "text":
        print(_text(result), end="")
    else:
        print(render_table(result["differs"], _COLUMNS, args.format), end="")
    return 1 if result["differs"] else 0


def _text(result: Mapping[str, Any]) -> str:
    """Return the findings; what differs comes last, where a terminal shows it."""
    names = [f"{name} ({count})" for name, count in _by_name(result["equal"]).items()]
    alone = [f"{name} ({count})" for name, count in _by_name(result["recorded_only"]).items()]
    lines = [
        f"{setting_text(result['package'])}: {counted(result['num_runs'], 'run')}, packed by "
        f"cnnbench {setting_text(result['code_version'])}",
        f"Computed anew and equal, {result['num_equal']:,} values: {', '.join(names)}.",
        f"Recorded only: {', '.join(alone)}." if alone else "",
        *result["notes"],
    ]
    text = "".join(f"{_filled(setting_text(line))}\n" for line in lines if line)
    differs = result["differs"]
    if not differs:
        return f"{text}Nothing differs.\n"
    rows = [{key: _short(row[key]) for key in _COLUMNS} for row in differs[:_MAX_SHOWN]]
    blocks = "".join(
        f"{row['where']}: {row['what']}\n  recorded   {row['recorded']}\n"
        f"  recomputed {row['recomputed']}\n"
        for row in rows
    )
    more = len(differs) - len(rows)
    rest = f"and {more:,} more; --format json lists all\n" if more else ""
    return f"{text}Different, {len(differs):,}:\n{blocks}{rest}"


def _by_name(counts: Mapping[str, int]) -> dict[str, int]:
    """Return counts with all values of the table as one."""
    sums: dict[str, int] = {}
    for name, count in counts.items():
        short = "values of the table" if name.endswith(" of the table") else name
        sums[short] = sums.get(short, 0) + count
    return sums


def _filled(line: str) -> str:
    return textwrap.fill(line, _WIDTH, break_long_words=False, break_on_hyphens=False)


def _short(value: Any) -> str:
    text = setting_text(value) if not isinstance(value, float) else repr(value)
    return text if len(text) <= _MAX_CHARACTERS else f"{text[:_MAX_CHARACTERS]} ..."
