"""What can go wrong for a user, each with the exit code that scripts see."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path


class CnnbenchError(Exception):
    """A plain message for the user: what happened and what to do. No traceback is shown."""

    exit_code = 2


class UsageError(CnnbenchError, ValueError):
    """A command line, config or path that cannot be used."""


class CheckpointError(CnnbenchError):
    """A damaged or foreign checkpoint or run directory."""

    exit_code = 65


class DataError(CnnbenchError):
    """Missing or damaged data, or a file that is no image."""

    exit_code = 66


class KernelError(CnnbenchError):
    """torch computes an operation wrongly on this machine, and no other way is right."""

    exit_code = 70


class DiskError(CnnbenchError):
    """A file could not be written."""

    exit_code = 74


class ResourceError(CnnbenchError):
    """Memory ran out, or a loader worker died."""

    exit_code = 75


class NonFiniteError(CnnbenchError):
    """The loss or a gradient became infinite or not a number."""

    exit_code = 76


class Interrupted(CnnbenchError):
    """The run was stopped by a signal after its state was saved.

    Args:
        message: where the run stands and how to resume.
        signum: the signal; the exit code is 128 + signum. 0 where a time limit was reached as
            planned, which is no failure.
        run_path: the run directory, where it is one run that was stopped.
    """

    def __init__(self, message: str, signum: int, run_path: Path | None = None) -> None:
        super().__init__(message)
        self.run_path = run_path
        self.exit_code = 128 + signum if signum else 0


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest known name, or an empty string."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ""


def expected_names(name: str, known: Iterable[str]) -> str:
    """Return the nearest known name, if one is near, and all of them, to end a message with."""
    names = list(known)
    near, listed = did_you_mean(name, names), ", ".join(names) or "none"
    return f"{near} Known: {listed}." if near else f"; known: {listed}"


def reason_of(error: Exception) -> str:
    """Return the first line of what another library raised, or the error's class without one."""
    return (str(error).strip() or type(error).__name__).split("\n")[0][:300]


def shape_text(shape: Sequence[int], between: str = " x ") -> str:
    """Return a shape as it is read, such as ``3 x 28 x 28``."""
    return between.join(map(str, shape))
