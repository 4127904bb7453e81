"""``cnnbench runs``: list the run directories below a root, watch a sweep, thin or remove runs."""

from __future__ import annotations

import argparse
from typing import Any

from cnnbench.errors import UsageError, expected_names
from cnnbench.files import expand_path
from cnnbench.notices import notice
from cnnbench.rendering.text import format_megabytes, render_table
from cnnbench.runs.directory import find_runs
from cnnbench.runs.prune import (
    carry_out,
    describe_run,
    existing_root,
    plan_pruning,
    plan_removal,
)

ACTIONS = ("list", "watch", "prune", "rm")
_COLUMNS = ("status", "model", "data", "val/accuracy", "test/accuracy", "age", "size", "run")
_PLAN = ("status", "model", "data", "test/accuracy", "age", "frees", "run")


DESCRIPTION = """\
List the run directories below a root, watch a running sweep, thin the runs'
checkpoints, or remove them. prune and rm say what would go and ask first. A
run that a process is writing to, and a directory that is no run, are left
alone."""
_NOTES = """\
Actions:
  list   the runs below PATH. Status: running, done, failed, interrupted, dead
         (says running, but no process holds it), or foreign.
  watch  how the jobs of a sweep stand, until none runs any more; PATH is the
         sweep, or a directory with sweeps, of which the newest is shown. With
         --format json once, as it stands now.
  prune  keep of each run the best epoch's weights and the last checkpoint.
  rm     remove the failed and dead runs below a directory; a PATH that is
         itself a run is removed whatever its status. Directories of its network
         and data that become empty go too.

Example: cnnbench runs prune outputs/digits --dry-run
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument("action", metavar="list|watch|prune|rm", help="see below")
    parser.add_argument(
        "paths",
        nargs="*",
        metavar="PATH",
        help="a run, or a directory with runs below; by default outputs",
    )
    parser.add_argument("--yes", action="store_true", help="do it without asking")
    parser.add_argument("--dry-run", action="store_true", help="only say what would go")


def epilog() -> str:
    """Return the actions and an example."""
    return _NOTES


def main(args: argparse.Namespace) -> int:
    """Run the verb."""
    if args.action not in ACTIONS:
        hint = expected_names(args.action, ACTIONS)
        raise UsageError(f"runs {args.action}: unknown action{hint}")
    if args.action == "list":
        return _main_list(args)
    if args.action == "watch":
        return _main_watch(args)
    if args.format != "text":
        raise UsageError(f"runs {args.action} --format {args.format}: asks, in text alone")
    if args.yes and args.dry_run:
        raise UsageError("--yes --dry-run: one of them")
    plan = plan_pruning(args.paths) if args.action == "prune" else plan_removal(args.paths)
    if not plan:
        print("nothing to free")
        return 0
    rows = [{**_shown(describe_run(r.run)), "frees": format_megabytes(r.num_bytes)} for r in plan]
    print(render_table(rows, _PLAN, "text", right={"frees"}), end="")
    total = format_megabytes(sum(removal.num_bytes for removal in plan))
    what = "whole runs" if args.action == "rm" else "runs' older checkpoints"
    print(f"{len(plan)} {what}, {total} in all")
    if args.dry_run:
        return 0
    if not args.yes and not _confirmed():
        print("nothing was removed")
        return 0
    failed = [reason for removal in plan if (reason := carry_out(removal))]
    for reason in failed:
        notice(f"left alone: {reason}")
    print(f"freed {len(plan) - len(failed)} of {len(plan)}")
    return 0


def _main_list(args: argparse.Namespace) -> int:
    if len(args.paths) > 1:
        raise UsageError(f"runs list: unexpected '{args.paths[1]}'; one ROOT is listed")
    if args.yes or args.dry_run:
        raise UsageError("runs list: removes nothing; --yes and --dry-run go with prune and rm")
    root = existing_root(args.paths[0]) if args.paths else expand_path("outputs")
    rows = [describe_run(run) for run in find_runs(root)]
    if not rows and args.format == "text":
        print(f"no runs below {root}")
        return 0
    if args.format != "json":
        rows = [_shown(row) for row in rows]
    print(render_table(rows, _COLUMNS, args.format), end="")
    return 0


def _main_watch(args: argparse.Namespace) -> int:
    if len(args.paths) > 1:
        raise UsageError(f"runs watch: unexpected '{args.paths[1]}'; one sweep is watched")
    if args.yes or args.dry_run:
        raise UsageError("runs watch: removes nothing; --yes and --dry-run go with prune and rm")
    from cnnbench.sweeps.progress import SweepView, newest_sweep, watch

    root = newest_sweep(args.paths[0] if args.paths else "outputs")
    if args.format == "text":
        watch(root)
        return 0
    rows = [job.row() for job in SweepView(root).refresh()]
    print(render_table(rows, tuple(rows[0]), args.format), end="")
    return 0


def _confirmed() -> bool:
    try:
        return input("remove them? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        print()
        raise UsageError("nothing was removed: nobody answered; --yes answers") from None


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "age": _age_text(row), "size": format_megabytes(row["size_bytes"])}


def _age_text(row: dict[str, Any]) -> str:
    seconds = row.get("age_seconds", 0)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"
