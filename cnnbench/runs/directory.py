"""A run directory on disk: where it is made, what describes it, and who may write to it."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cnnbench.config.roles import with_older_values
from cnnbench.config.run_config import RunConfig, all_keys, read_config
from cnnbench.config.schema import ConfigError
from cnnbench.errors import CheckpointError, UsageError
from cnnbench.files import (
    atomic_write,
    disk_error,
    expand_path,
    open_regular,
    read_regular,
    remove_litter,
    writing,
)
from cnnbench.runs.record import RunRecord

# What is written atomically, and so may lie there half-written by a process that died.
_WRITTEN = r"run\.json|config\.yaml|metrics\.jsonl|predictions\.npz"
_PROBE_SECONDS = 0.2
_MAX_SWEEP_BYTES = 64 << 20
# Beside the lock: the generation of the lease whose owner has it; absent where that is no job.
_HOLDER = ".lock-generation"
# In the directory of a search, beside its ``sweep.json``.
SEARCH_FILE = "search.json"
# The names of checkpoints, and of their files.
CHECKPOINT_NAME = r"(?:epoch_\d{4,}|step_\d{8,})"
CHECKPOINT_FILE = rf"{CHECKPOINT_NAME}(?:\.state)?\.pt"


class RunDir:
    """One run's directory. Make it with ``create`` or open it with ``open_run``.

    Args:
        path: of the directory.
        generation: of the lease by which this process writes to it, as a job of a sweep; None
            for all others.
        writes: whether this process is the run's writer, if it trains it; of several processes of
            a run one is.
    """

    def __init__(self, path: Path, generation: int | None = None, *, writes: bool = True) -> None:
        self.path, self.writes = path, writes
        self._generation = generation
        self.record_file = path / "run.json"
        self.checkpoints = path / "checkpoints"
        self.metrics = path / "metrics.jsonl"
        self.config_file = path / "config.yaml"

    def swept_keys(self) -> list[str]:
        """Return the keys in which the jobs of its sweep differ; none where it is of no sweep."""
        texts = [text for _, overrides in sweep_jobs(self.path.parent) for text in overrides]
        return list(dict.fromkeys(text.partition("=")[0] for text in texts))

    @classmethod
    def create(cls, path: Path) -> RunDir:
        """Make a new run directory.

        Raises:
            UsageError: it exists.
            DiskError: it cannot be written.
        """
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir()
            (path / "checkpoints").mkdir()
        return cls(path)

    @classmethod
    def create_new(cls, config: RunConfig, output_root: Path) -> RunDir:
        """Make ``<root>/<data>/<model>/<time>-<6 hex>``, a name nobody else has."""
        parent = output_root / config.data.name / config.model.name
        stamp = time.strftime("%Y%m%d-%H%M%S")
        return cls.create(parent / f"{stamp}-{secrets.token_hex(3)}")

    def remove_unless_begun(self) -> None:
        """Remove the directory where not even its first description found room."""
        if not self.has_record:
            shutil.rmtree(self.path, ignore_errors=True)

    @property
    def has_checkpoints(self) -> bool:
        """Whether anything was saved yet."""
        return (self.checkpoints / "manifest.json").exists()

    @property
    def has_record(self) -> bool:
        """Whether ``run.json`` was written yet."""
        return self.record_file.exists()

    @property
    def record(self) -> RunRecord:
        """What ``run.json`` says.

        Raises:
            CheckpointError: the file is missing, damaged or none of ours.
        """
        return RunRecord.read(self.record_file)

    def current_status(self, record: RunRecord) -> str:
        """Return a record's status, or ``dead`` where it says running and no process holds it."""
        is_dead = record.status == "running" and not self.is_held()
        return "dead" if is_dead else record.status

    @property
    def config(self) -> RunConfig:
        """The run's config, checked like any other, with nothing in it resolved.

        Raises:
            CheckpointError: it is damaged or foreign.
        """
        try:
            return read_config(with_older_values(self.record.config, all_keys()))
        except ConfigError as error:
            raise CheckpointError(f"{self.record_file}: not a config of ours:\n{error}") from None

    def write_record(self, record: RunRecord) -> None:
        """Replace ``run.json`` atomically, where this process is the writer.

        Raises:
            DiskError: it cannot be written.
        """
        if self.writes:
            record.write(self.record_file)

    def write_config(self, tree: Mapping[str, Any]) -> None:
        """Write ``config.yaml``, which ``train --config`` repeats, as ``write_record`` writes."""
        if not self.writes:
            return
        import yaml

        text = yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True)
        atomic_write(self.config_file, text.encode())

    @contextmanager
    def lock(self, wait_seconds: float = _PROBE_SECONDS) -> Iterator[None]:
        """Hold the directory as its only writer; another one holds nothing.

        Args:
            wait_seconds: how long to wait for another writer; >= 0. By default, long enough for
                one that only looked whether the directory is held.

        Raises:
            UsageError: another process holds it.
            DiskError: it cannot be written to.
        """
        if not self.writes:
            yield
            return
        import filelock

        lock = filelock.FileLock(self.path / ".lock")
        try:
            try:
                lock.acquire(timeout=wait_seconds)
            except filelock.Timeout:
                if not self._is_held_by_an_older_lease():
                    raise
                # Its owner stands still, and asks before each write whether it lost the lease.
                (self.path / ".lock").unlink(missing_ok=True)
                lock = filelock.FileLock(self.path / ".lock", is_singleton=False)
                lock.acquire(timeout=wait_seconds)
            self._say_which_lease_holds()
        except filelock.Timeout:
            raise UsageError(f"{self.path}: another process is writing to this run") from None
        except OSError as error:
            raise disk_error(error, self.path) from error
        try:
            remove_litter(self.path, _WRITTEN)
            remove_litter(self.checkpoints, rf"manifest\.json|{CHECKPOINT_FILE}")
            yield
        finally:
            lock.release()

    def _is_held_by_an_older_lease(self) -> bool:
        """Tell whether a sweep's process has the lock whose lease was taken over by this one."""
        try:
            holder = int(read_regular(self.path / _HOLDER, 32))
        except (OSError, ValueError):
            return False
        return self._generation is not None and holder < self._generation

    def _say_which_lease_holds(self) -> None:
        if self._generation is None:
            (self.path / _HOLDER).unlink(missing_ok=True)
        else:
            (self.path / _HOLDER).write_text(str(self._generation))

    def is_held(self) -> bool:
        """Tell whether a process is writing to this run now."""
        import filelock

        if not (self.path / ".lock").exists():
            return False
        lock = filelock.FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            return True
        except OSError:  # such as of a read-only file system
            return not _can_share(self.path / ".lock")
        lock.release()
        return False


def _can_share(file: Path) -> bool:
    """Tell whether nobody holds a lock, by its file that cannot be written to."""
    try:
        import fcntl

        with open_regular(file) as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True


def open_run(path: str | Path) -> RunDir:
    """Return the run at a path, or the one that ``path_of`` finds.

    Raises:
        UsageError: there is no run, or several have that name.
    """
    run = RunDir(path_of(path))
    if not run.has_record:
        if run.path.exists():
            what = "holds no run.json"
        elif str(path) == "latest":
            what = "no run is below outputs"
        else:
            what = "there is no such directory"
        inside = next(find_runs(run.path), None) if run.path.is_dir() else None
        hint = f"; a run below it is {inside.path}" if inside else "; see 'cnnbench runs list'"
        raise UsageError(f"{path}: not a run: {what}{hint}")
    return run


def path_of(name: str | Path) -> Path:
    """Return the path that a user names: a path, ``latest``, or a unique piece of a run's path.

    The latter two are looked for below ``outputs``, and only where there is no such path.

    Raises:
        UsageError: several runs have that piece in their paths.
    """
    path, here = expand_path(name), Path.cwd()
    if path.exists() or not path.is_relative_to(here):
        return path
    piece = str(path.relative_to(here))
    runs = list(find_runs(here / "outputs"))
    if piece == "latest":
        return max(runs, key=_last_started).path if runs else path
    found = [run.path for run in runs if piece in str(run.path.relative_to(here))]
    if len(found) > 1:
        shown = " and ".join(str(run.relative_to(here)) for run in found[:2])
        raise UsageError(
            f"{piece}: is a piece of the paths of {len(found)} runs, such as {shown}; give more"
        )
    return found[0] if found else path


def _last_started(run: RunDir) -> str:
    try:
        return run.record.provenance.processes[-1].started
    except CheckpointError:
        return ""


def named_run(words: Sequence[str]) -> RunDir | None:
    """Return the run that the only one of the words names, None where they are settings.

    A directory's name may hold a ``=``.

    Raises:
        UsageError: the only word is neither a setting nor a run.
    """
    is_run = len(words) == 1 and ("=" not in words[0] or Path(words[0]).is_dir())
    return open_run(words[0]) if is_run else None


def sweep_jobs(root: Path) -> list[tuple[str, list[str]]]:
    """Return the jobs of a sweep's directory: their runs' names in it, and how they differ.

    Args:
        root: of the sweep; any other directory, or a damaged record, has no jobs.
    """
    try:
        content = json.loads(read_regular(root / "sweep.json", _MAX_SWEEP_BYTES))
        jobs = [(str(j["run"]), [str(text) for text in j["overrides"]]) for j in content["jobs"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    # A run lies in its sweep, whatever a stranger's record says.
    return [job for job in jobs if Path(job[0]).name == job[0] and job[0] not in ("", "..")]


def tuning_of(root: Path) -> dict[str, float]:
    """Return ``tuning_trials`` and ``tuning_seconds`` of a search's directory; nothing of others.

    Args:
        root: the directory; whoever wrote its file, only numbers in it count.
    """
    try:
        content = json.loads(read_regular(root / SEARCH_FILE, _MAX_SWEEP_BYTES))
        found = {f"tuning_{key}": content[key] for key in ("trials", "seconds")}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    return {key: value for key, value in found.items() if type(value) in (int, float)}


def find_runs(root: Path) -> Iterator[RunDir]:
    """Yield the runs below a directory, in the order of their paths; links are not followed."""
    for parent, directories, files in os.walk(root):
        directories.sort()
        if "run.json" in files:
            directories.clear()
            yield RunDir(Path(parent))
