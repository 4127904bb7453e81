"""``cnnbench runs``: list the run directories below a root, thin them, or remove them."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnbench.config.run_config import expand_path
from cnnbench.errors import CheckpointError, UsageError, expected_names
from cnnbench.files import writing
from cnnbench.rendering.text import format_megabytes, render_table
from cnnbench.runs.directory import RunDir, find_runs, open_run

_ACTIONS = ("list", "prune", "rm")
_COLUMNS = ("status", "model", "data", "val/accuracy", "test/accuracy", "age", "size", "run")
_PLAN = ("status", "model", "data", "test/accuracy", "age", "frees", "run")


@dataclass(frozen=True)
class Removal:
    """What one run would lose.

    Attributes:
        run: it is a run of ours.
        files: checkpoints that go; empty where the whole directory does.
        num_bytes: that become free.
    """

    run: RunDir
    files: tuple[Path, ...]
    num_bytes: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument("action", metavar="list|prune|rm")
    parser.add_argument("paths", nargs="*", metavar="PATH")
    parser.add_argument("--yes", action="store_true", help="do it without asking")
    parser.add_argument("--dry-run", action="store_true", help="only say what would go")


def help_text(parser: argparse.ArgumentParser) -> str:
    """Return usage."""
    return (
        "usage: cnnbench runs list [ROOT] [--format text|markdown|csv|json]\n"
        "       cnnbench runs prune|rm [PATH...] [--yes | --dry-run]\n\n"
        "list   the runs below ROOT (default: outputs). Status: running, done, failed,\n"
        "       interrupted, dead (says running, but no process holds it), or foreign.\n"
        "prune  keep of each run the best epoch's weights and the last checkpoint. PATH: a run,\n"
        "       or a directory with runs below (default: outputs).\n"
        "rm     remove the failed and dead runs below a directory; a PATH that is itself a run is\n"
        "       removed whatever its status. Directories of its network and data that become\n"
        "       empty go too.\n\n"
        "Both say what would go and ask first; --yes answers, --dry-run only says. A run that a\n"
        "process is writing to, and a directory that is no run, are left alone.\n"
    )


def main(args: argparse.Namespace) -> int:
    """Run the verb."""
    if args.action not in _ACTIONS:
        hint = expected_names(args.action, _ACTIONS)
        raise UsageError(f"runs {args.action}: unknown action{hint}")
    if args.action == "list":
        return _main_list(args)
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
        print(f"cnnbench: left alone: {reason}", file=sys.stderr)
    print(f"freed {len(plan) - len(failed)} of {len(plan)}")
    return 0


def _main_list(args: argparse.Namespace) -> int:
    if len(args.paths) > 1:
        raise UsageError(f"runs list: unexpected '{args.paths[1]}'; one ROOT is listed")
    if args.yes or args.dry_run:
        raise UsageError("runs list: removes nothing; --yes and --dry-run go with prune and rm")
    root = _root(args.paths[0]) if args.paths else expand_path("outputs")
    rows = [describe_run(run) for run in find_runs(root)]
    if not rows and args.format == "text":
        print(f"no runs below {root}")
        return 0
    if args.format != "json":
        rows = [_shown(row) for row in rows]
    print(render_table(rows, _COLUMNS, args.format), end="")
    return 0


def _root(path: str) -> Path:
    root = expand_path(path)
    if not root.is_dir():
        raise UsageError(f"{path}: there is no such directory")
    return root


def _confirmed() -> bool:
    try:
        return input("remove them? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        print()
        raise UsageError("nothing was removed: nobody answered; --yes answers") from None


def plan_pruning(paths: Sequence[str]) -> list[Removal]:
    """Return what thinning would free, of each run at and below the paths.

    Raises:
        UsageError: a path is no directory or a link.
    """
    from cnnbench.runs.checkpoint import Checkpoints

    plan = []
    for run in _runs_of(paths):
        if not _is_ours(run) or run.is_held() or run.checkpoints.is_symlink():
            continue
        try:
            files = Checkpoints(run.checkpoints).thin(dry_run=True)
        except CheckpointError:
            continue  # nothing was saved, or it cannot be told which is best
        if files:
            num_bytes = sum(file.lstat().st_size for file in files)
            plan.append(Removal(run, tuple(files), num_bytes))
    return plan


def plan_removal(paths: Sequence[str]) -> list[Removal]:
    """Return the runs that would be removed: those named, and below roots the failed and dead.

    Raises:
        UsageError: a path is no directory or a link; a named run is being written to, or holds
            other runs.
        CheckpointError: what a named ``run.json`` says is not a run.
    """
    named = {expand_path(path) for path in paths}
    plan = []
    for run in _runs_of(paths):
        if run.path in named:
            _check_named(run)
        elif not _is_lost(run):
            continue
        plan.append(Removal(run, (), _size(run)))
    return plan


def _is_lost(run: RunDir) -> bool:
    """Tell whether a run failed or died, and is nothing that someone else needs."""
    if not _is_ours(run) or run.is_held() or _inner_runs(run):
        return False
    return describe_run(run)["status"] in ("failed", "dead")


def _check_named(run: RunDir) -> None:
    assert run.info  # raises where it is none of ours
    if run.is_held():
        raise UsageError(f"{run.path}: another process is writing to this run")
    if inner := _inner_runs(run):
        raise UsageError(f"{run.path}: not removed: another run is in it, {inner[0]}")


def _inner_runs(run: RunDir) -> list[Path]:
    """Return what would be lost with a run that is not of it: a stray run.json above runs."""
    return [
        Path(parent)
        for parent, _, files in os.walk(run.path)
        if Path(parent) != run.path and ("run.json" in files or "sweep.json" in files)
    ]


def _runs_of(paths: Sequence[str]) -> list[RunDir]:
    """Return the runs at and below the paths, each once; without paths, those below ``outputs``."""
    found: dict[Path, RunDir] = {}
    for path in paths or ("outputs",):
        root = _root(path) if paths else expand_path(path)
        if root.is_symlink():
            raise UsageError(f"{path}: is a link; give what it leads to: {root.resolve()}")
        runs = list(find_runs(root))
        if paths and not runs:
            open_run(path)  # says that there is none
        found |= {run.path: run for run in runs}
    return list(found.values())


def _is_ours(run: RunDir) -> bool:
    try:
        return bool(run.info)
    except CheckpointError:
        return False


def carry_out(removal: Removal) -> str | None:
    """Free what was planned, as the run's only writer.

    Returns:
        Why nothing was done; None where it was.

    Raises:
        DiskError: something cannot be removed.
    """
    from cnnbench.runs.checkpoint import Checkpoints

    run = removal.run
    try:
        if run.path.is_symlink() or (removal.files and run.checkpoints.is_symlink()):
            return f"{run.path}: became a link"
        with writing(run.path), run.lock():
            if removal.files:
                Checkpoints(run.checkpoints).thin()
            else:
                parents = _own_parents(run)
                # First what makes it a run: one that is half gone is none.
                (run.path / "run.json").unlink()
                shutil.rmtree(run.path)
                _remove_empty(parents)
    except (UsageError, CheckpointError) as error:
        return str(error)
    return None


def _own_parents(run: RunDir) -> list[Path]:
    """Return the directories that were made for a run: of its network, and of its data."""
    row = describe_run(run)
    model, data = run.path.parent, run.path.parent.parent
    is_ours = (data.name, model.name) == (row["data"], row["model"])
    return [model, data] if is_ours and not (model.is_symlink() or data.is_symlink()) else []


def _remove_empty(directories: Sequence[Path]) -> None:
    for directory in directories:
        try:
            directory.rmdir()
        except OSError:
            return  # something else is in it


def describe_run(run: RunDir) -> dict[str, Any]:
    """Return one row: status, network, data, accuracy, age and size of a run."""
    row: dict[str, Any] = {"run": str(run.path), "size_bytes": _size(run)}
    try:
        info = run.info
    except CheckpointError as error:
        return {**row, "status": "foreign", "reason": str(error)}
    config, results = info.get("config", {}), info.get("results", {})
    status = info["status"]
    if status == "running" and not run.is_held():
        status = "dead"
    return {
        "status": status,
        "model": _name(config.get("model")),
        "data": _name(config.get("data")),
        "val/accuracy": results.get("val/accuracy"),
        "test/accuracy": results.get("test/accuracy"),
        "age_seconds": round(time.time() - (run.path / "run.json").stat().st_mtime),
        **row,
    }


def _name(node: Any) -> str | None:
    """Return the name of a group's choice, as a stranger's file may have it."""
    return str(node.get("name")) if isinstance(node, dict) else None


def _size(run: RunDir) -> int:
    return sum(file.lstat().st_size for file in run.path.rglob("*") if file.is_file())


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "age": _age_text(row), "size": format_megabytes(row["size_bytes"])}


def _age_text(row: dict[str, Any]) -> str:
    seconds = row.get("age_seconds", 0)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"
