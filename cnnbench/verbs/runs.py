"""``cnnbench runs list``: the run directories below a root."""

from __future__ import annotations

import argparse
import time
from typing import Any

from cnnbench.analysis.render import render_table
from cnnbench.config import expand_path
from cnnbench.errors import CheckpointError, UsageError, expected_names
from cnnbench.rundir import RunDir, find_runs

_ACTIONS = ("list",)
_COLUMNS = ("status", "model", "data", "val/accuracy", "test/accuracy", "age", "size", "run")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument("action", metavar="list")
    parser.add_argument("root", nargs="?", metavar="ROOT")


def help_text(parser: argparse.ArgumentParser) -> str:
    """Return usage."""
    return (
        "usage: cnnbench runs list [ROOT] [--format text|markdown|csv|json]\n\n"
        "Lists the runs below ROOT (default: outputs). Status: running, done, failed,\n"
        "interrupted, dead (says running, but no process holds it), or foreign.\n"
    )


def main(args: argparse.Namespace) -> int:
    """Run the verb."""
    if args.action not in _ACTIONS:
        hint = expected_names(args.action, _ACTIONS)
        raise UsageError(f"runs {args.action}: unknown action{hint}")
    root = expand_path(args.root or "outputs")
    if args.root is not None and not root.is_dir():
        raise UsageError(f"{args.root}: there is no such directory")
    rows = [describe_run(run) for run in find_runs(root)]
    if not rows and args.format == "text":
        print(f"no runs below {root}")
        return 0
    if args.format != "json":
        rows = [{**row, "age": _age_text(row), "size": _size_text(row)} for row in rows]
    print(render_table(rows, _COLUMNS, args.format), end="")
    return 0


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
        "model": config.get("model", {}).get("name"),
        "data": config.get("data", {}).get("name"),
        "val/accuracy": results.get("val/accuracy"),
        "test/accuracy": results.get("test/accuracy"),
        "age_seconds": round(time.time() - (run.path / "run.json").stat().st_mtime),
        **row,
    }


def _size(run: RunDir) -> int:
    return sum(file.lstat().st_size for file in run.path.rglob("*") if file.is_file())


def _age_text(row: dict[str, Any]) -> str:
    seconds = row.get("age_seconds", 0)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def _size_text(row: dict[str, Any]) -> str:
    return f"{row['size_bytes'] / 1e6:.1f} MB"
