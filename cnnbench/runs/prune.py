"""Managing run directories: what each is, what thinning or removing would free, and doing it.

Nothing here asks or prints: see ``cnnbench runs``.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnbench.errors import CheckpointError, UsageError
from cnnbench.files import expand_path, writing
from cnnbench.runs.directory import RunDir, find_runs, open_run
from cnnbench.runs.record import RunRecord


@dataclass(frozen=True)
class Removal:
    """What one run would lose.

    Attributes:
        run: it is a run of ours.
        record: what its ``run.json`` said when this was planned.
        files: checkpoints that go; empty where the whole directory does.
        num_bytes: that become free.
    """

    run: RunDir
    record: RunRecord
    files: tuple[Path, ...]
    num_bytes: int


def existing_root(path: str) -> Path:
    """Return a directory that a user named.

    Raises:
        UsageError: it is none.
    """
    root = expand_path(path)
    if not root.is_dir():
        raise UsageError(f"{path}: there is no such directory")
    return root


def describe_run(run: RunDir) -> dict[str, Any]:
    """Return one row: status, network, data, accuracy, age and size of a run."""
    row: dict[str, Any] = {"run": str(run.path), "size_bytes": _size(run)}
    try:
        record = run.record
        age = time.time() - run.record_file.stat().st_mtime
    except (CheckpointError, OSError) as error:
        return {**row, "status": "foreign", "reason": str(error)}
    return {
        "status": run.current_status(record),
        "model": record.model_name,
        "data": record.data_name,
        "val/accuracy": record.results.get("val/accuracy"),
        "test/accuracy": record.results.get("test/accuracy"),
        "age_seconds": max(0, round(age)),  # of a clock that was ahead
        **row,
    }


def _size(run: RunDir) -> int:
    return sum(file.lstat().st_size for file in run.path.rglob("*") if file.is_file())


def plan_pruning(paths: Sequence[str]) -> list[Removal]:
    """Return what thinning would free, of each run at and below the paths.

    Raises:
        UsageError: a path is no directory or a link.
    """
    from cnnbench.runs.checkpoint import Checkpoints

    plan = []
    for run in _runs_of(paths):
        record = _record_of(run)
        if record is None or run.is_held() or run.checkpoints.is_symlink():
            continue
        try:
            files = Checkpoints(run.checkpoints).thin(dry_run=True)
        except CheckpointError:
            continue  # nothing was saved, or it cannot be told which is best
        if files:
            num_bytes = sum(file.lstat().st_size for file in files)
            plan.append(Removal(run, record, tuple(files), num_bytes))
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
            plan.append(Removal(run, _check_named(run), (), _size(run)))
        elif (record := _record_of(run)) is not None and _is_lost(run, record):
            plan.append(Removal(run, record, (), _size(run)))
    return plan


def _is_lost(run: RunDir, record: RunRecord) -> bool:
    """Tell whether a run failed or died, and is nothing that someone else needs."""
    if run.is_held() or _inner_runs(run):
        return False
    return run.current_status(record) in ("failed", "dead")


def _check_named(run: RunDir) -> RunRecord:
    record = run.record
    if run.is_held():
        raise UsageError(f"{run.path}: another process is writing to this run")
    if inner := _inner_runs(run):
        raise UsageError(f"{run.path}: not removed: another run is in it, {inner[0]}")
    return record


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
        root = existing_root(path) if paths else expand_path(path)
        if root.is_symlink():
            raise UsageError(f"{path}: is a link; give what it leads to: {root.resolve()}")
        runs = list(find_runs(root))
        if paths and not runs:
            open_run(path)  # says that there is none
        found |= {run.path: run for run in runs}
    return list(found.values())


def _record_of(run: RunDir) -> RunRecord | None:
    """Return what a run of ours says; None for a stranger's."""
    try:
        return run.record
    except CheckpointError:
        return None


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
            if run.record != removal.record:
                return f"{run.path}: was changed meanwhile"
            if removal.files:
                Checkpoints(run.checkpoints).thin()
            else:
                parents = _own_parents(run, removal.record)
                # First what makes it a run: one that is half gone is none.
                run.record_file.unlink()
                shutil.rmtree(run.path)
                _remove_empty(parents)
    except (UsageError, CheckpointError) as error:
        return str(error)
    return None


def _own_parents(run: RunDir, record: RunRecord) -> list[Path]:
    """Return the directories that were made for a run: of its network, and of its data."""
    model, data = run.path.parent, run.path.parent.parent
    is_ours = (data.name, model.name) == (record.data_name, record.model_name)
    return [model, data] if is_ours and not (model.is_symlink() or data.is_symlink()) else []


def _remove_empty(directories: Sequence[Path]) -> None:
    for directory in directories:
        try:
            directory.rmdir()
        except OSError:
            return  # something else is in it
