"""Launchers: what starts the processes of a sweep's jobs and tells when they end.

One file each, behind ``Launcher``. A job is a command line and a directory, never an object that
is pickled; what becomes of it stands in its directory, so that a launcher need not know more than
that its process ended. Imports nothing but the ground: what a job does is in ``sweeps/job.py``.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from cnnbench.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from cnnbench.config.launcher import LauncherConfig

# In place of an exit code: the process is gone, with its machine or not, and its launcher cannot
# tell how it ended; its lease may.
GONE = 256


@dataclass(frozen=True)
class Launch:
    """One process to start.

    Attributes:
        name: of the job; only one of a name is launched at a time.
        command: its command line.
        directory: of the job; its output is appended to ``log.txt`` there.
        environment: variables that it has beside those of this process.
        num_threads: that it computes with, >= 1.
        num_gpus: that it computes with, >= 0.
    """

    name: str
    command: tuple[str, ...]
    directory: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    num_threads: int = 1
    num_gpus: int = 0


@dataclass(frozen=True)
class Capacity:
    """What a cluster has for jobs.

    Attributes:
        cores: of all machines together; None where jobs wait in the cluster's own queue.
        cores_of_one: of the largest machine; None likewise.
        gpus: of all machines together; None likewise.
        memory_bytes: likewise; None likewise.
        job_bytes: the memory that one job is given; None where it is the cluster's matter.
    """

    cores: int | None = None
    cores_of_one: int | None = None
    gpus: int | None = None
    memory_bytes: int | None = None
    job_bytes: int | None = None


class Launcher(Protocol):
    """Starts processes and tells when they end.

    Attributes:
        capacity: what there is to share; None: this machine.
    """

    capacity: Capacity | None

    def submit(self, launch: Launch) -> None:
        """Start a process.

        Raises:
            ResourceError: the system starts no more of them.
        """
        ...

    def ended(self, seconds: float) -> dict[str, int | None]:
        """Wait until a process ends, at most so many seconds.

        Returns:
            By name the exit codes of those that ended: negative is the signal that killed it,
            ``GONE`` where nobody saw its end, None where nobody can tell whether it ended at all.
        """
        ...

    def signal(self, signum: int) -> None:
        """Send a signal to each process that runs."""
        ...

    def close(self) -> None:
        """Let go of what launches; processes that still run are left alone."""
        ...


@dataclass(frozen=True)
class _Kind:
    """Where a launcher is, and what it needs.

    Attributes:
        module: has ``create(config) -> Launcher``.
        package: that it imports; None where it needs none.
        extra: of cnnbench, which brings that package.
    """

    module: str
    package: str | None = None
    extra: str | None = None


LAUNCHERS = {
    "local": _Kind("cnnbench.sweeps.launchers.local"),
    "ray": _Kind("cnnbench.sweeps.launchers.ray", package="ray", extra="ray"),
    "slurm": _Kind("cnnbench.sweeps.launchers.slurm", package="submitit", extra="slurm"),
}


def check_launcher(name: str) -> None:
    """Refuse a launcher that is unknown or not installed.

    Raises:
        UsageError: it is.
    """
    kind = LAUNCHERS.get(name)
    if kind is None:
        hint = did_you_mean(name, LAUNCHERS) or "."
        raise UsageError(
            f"hydra/launcher={name}: unknown choice{hint} Expected {', '.join(LAUNCHERS)}."
        )
    if kind.package is not None and importlib.util.find_spec(kind.package) is None:
        raise UsageError(
            f"hydra/launcher={name}: needs {kind.package}, which is not installed; "
            f"pip install 'cnnbench[{kind.extra}]'"
        )


def create_launcher(name: str, config: LauncherConfig) -> Launcher:
    """Return a launcher that is ready to take jobs.

    Raises:
        UsageError: as ``check_launcher``, or its cluster cannot be reached.
    """
    check_launcher(name)
    return cast(Launcher, importlib.import_module(LAUNCHERS[name].module).create(config))
