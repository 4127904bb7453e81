"""A run directory on disk: where it is made, what describes it, and who may write to it."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from cnnbench.config.roles import with_older_values
from cnnbench.config.run_config import RunConfig, all_keys, expand_path, read_config
from cnnbench.config.schema import ConfigError
from cnnbench.errors import CheckpointError, UsageError
from cnnbench.files import atomic_write, remove_litter, writing
from cnnbench.version import __version__

FORMAT = 1
STATUSES = ("running", "done", "failed", "interrupted")
_MAX_INFO_BYTES = 4 << 20


class RunDir:
    """One run's directory. Make it with ``create`` or open it with ``open_run``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.metrics = path / "metrics.jsonl"
        self.config_file = path / "config.yaml"

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
        if not (self.path / "run.json").exists():
            shutil.rmtree(self.path, ignore_errors=True)

    @property
    def has_checkpoints(self) -> bool:
        """Whether anything was saved yet."""
        return (self.checkpoints / "manifest.json").exists()

    @property
    def info(self) -> dict[str, Any]:
        """What ``run.json`` says.

        Raises:
            CheckpointError: the file is damaged or none of ours.
        """
        file = self.path / "run.json"
        try:
            if file.stat().st_size > _MAX_INFO_BYTES:
                raise ValueError("it is too large")
            info = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(info, dict) or info.get("status") not in STATUSES:
                raise ValueError("it has no status")
            for key in ("config", "data", "results", "provenance"):
                if not isinstance(info.get(key, {}), dict):
                    raise ValueError(f"its {key} is no object")
            if type(info.get("results", {}).get("test_reads", 0)) is not int:
                raise ValueError("its test_reads is no number")
            if not isinstance(info.get("provenance", {}).get("processes", []), list):
                raise ValueError("its processes are no list")
            if info.get("format") != FORMAT:
                raise ValueError(f"its format is {info.get('format')}, this version reads {FORMAT}")
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointError(f"{file}: not a run this version can read: {error}") from None
        return info

    @property
    def config(self) -> RunConfig:
        """The run's config, checked like any other, with nothing in it resolved.

        Raises:
            CheckpointError: it is damaged or foreign.
        """
        tree = self.info.get("config")
        try:
            known = with_older_values(tree, all_keys()) if isinstance(tree, Mapping) else {}
            return read_config(known)
        except ConfigError as error:
            raise CheckpointError(f"{self.path}/run.json: not a config of ours:\n{error}") from None

    def write_info(self, info: Mapping[str, Any]) -> None:
        """Replace ``run.json``.

        Raises:
            DiskError: it cannot be written.
        """
        text = json.dumps({"format": FORMAT, **info}, indent=2, allow_nan=False)
        atomic_write(self.path / "run.json", f"{text}\n".encode())

    def write_config(self, tree: Mapping[str, Any]) -> None:
        """Write ``config.yaml``, which ``train --config`` repeats."""
        import yaml

        text = yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True)
        atomic_write(self.config_file, text.encode())

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the directory as its only writer.

        Raises:
            UsageError: another process holds it.
        """
        import filelock

        lock = filelock.FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise UsageError(f"{self.path}: another process is writing to this run") from None
        try:
            remove_litter(self.path)
            remove_litter(self.checkpoints)
            yield
        finally:
            lock.release()

    def is_held(self) -> bool:
        """Tell whether a process is writing to this run now."""
        import filelock

        if not (self.path / ".lock").exists():
            return False
        lock = filelock.FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except (filelock.Timeout, OSError):
            return True
        lock.release()
        return False


def open_run(path: str | Path) -> RunDir:
    """Return the run at a path.

    Raises:
        UsageError: there is no run.
    """
    run = RunDir(Path(path).expanduser().absolute())
    if not (run.path / "run.json").is_file():
        what = "there is no such directory" if not run.path.exists() else "holds no run.json"
        inside = next(find_runs(run.path), None) if run.path.is_dir() else None
        hint = f"; a run below it is {inside.path}" if inside else "; see 'cnnbench runs list'"
        raise UsageError(f"{path}: not a run: {what}{hint}")
    return run


def model_files(config: RunConfig) -> dict[str, str]:
    """Return the SHA-256 of the files that a run's network is made from, by their keys.

    Raises:
        UsageError: such a file is missing.
    """
    files = {}
    path = config.model.args.get("path")
    if path is not None:
        file, _, name = path.rpartition(":")
        files["path"] = f"{file_sha256(Path(file), 'model.path')}:{name}"
    if config.model.weights is not None:
        weights = expand_path(config.model.weights)
        # A run's manifest has the hashes of its checkpoints, and says which is selected.
        manifest = weights / "checkpoints" / "manifest.json"
        if weights.is_dir() and not manifest.exists():
            raise UsageError(f"model.weights={weights}: no run with checkpoints")
        files["weights"] = file_sha256(manifest if weights.is_dir() else weights, "model.weights")
    return files


def file_sha256(file: Path, key: str) -> str:
    """Return the SHA-256 of a file that a setting names.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise UsageError(f"{key}: {file} cannot be read: {error.strerror}") from None


def find_runs(root: Path) -> Iterator[RunDir]:
    """Yield the runs below a directory, in the order of their paths; links are not followed."""
    for parent, directories, files in os.walk(root):
        directories.sort()
        if "run.json" in files:
            directories.clear()
            yield RunDir(Path(parent))


@cache
def code_version() -> str:
    """Return the version and a hash of the package's source, so that edited code is another one."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return f"{__version__}+{digest.hexdigest()[:8]}"
