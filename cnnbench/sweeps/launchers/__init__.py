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
from typing import Protocol, cast

from cnnbench.errors import UsageError, did_you_mean


@dataclass(frozen=True)
class Launch:
    """One process to start.

    Attributes:
        name: of the job; only one of a name is launched at a time.
        command: its command line.
        directory: of the job; its output is appended to ``log.txt`` there.
        environment: variables that it has beside those of this process.
    """

    name: str
    command: tuple[str, ...]
    directory: Path
    environment: Mapping[str, str] = field(default_factory=dict)


class Launcher(Protocol):
    """Starts processes and tells when they end."""

    def submit(self, launch: Launch) -> None:
        """Start a process.

        Raises:
            ResourceError: the system starts no more of them.
        """
        ...

    def ended(self, seconds: float) -> dict[str, int | None]:
        """Wait until a process ends, at most so many seconds.

        Returns:
            By name the exit codes of those that ended: negative is the signal that killed it, None
            where nobody can tell any more whether it ended.
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
        module: has ``create() -> Launcher``.
        package: that it imports; None where it needs none.
        extra: of cnnbench, which brings that package.
    """

    module: str
    package: str | None = None
    extra: str | None = None


LAUNCHERS = {"local": _Kind("cnnbench.sweeps.launchers.local")}


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


def create_launcher(name: str) -> Launcher:
    """Return a launcher that is ready to take jobs.

    Raises:
        UsageError: as ``check_launcher``.
    """
    check_launcher(name)
    return cast(Launcher, importlib.import_module(LAUNCHERS[name].module).create())
