"""What can go wrong for a user, each with the exit code that scripts see."""

from __future__ import annotations

import difflib
import errno
import numbers
import os
import sysconfig
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

_PACKAGE = str(Path(__file__).parent)
_STANDARD_LIBRARY = sysconfig.get_path("stdlib")
_NO_HANDLE = ("Too many open files", "received 0 items of ancdata")
_NO_MEMORY = (
    "can't allocate memory",
    "Cannot allocate memory",
    "failed to map segment",
    "cannot map zero-fill pages",
    "std::bad_alloc",
)
# Folders and files of the code that the user brought: a network's file, a plug-in.
_user_code: set[str] = set()


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


def resource_error(error: BaseException) -> ResourceError | None:
    """Return what an error says of memory, threads or file handles that ran out; None if nothing.

    Python, torch and the system's loader say it in words and classes of their own.
    """
    number = error.errno if isinstance(error, OSError) else None
    text = str(error)
    if number in (errno.EMFILE, errno.ENFILE) or any(t in text for t in _NO_HANDLE):
        return ResourceError(
            "too many open files; raise the limit ('ulimit -n 4096') or lower data.num_workers"
        )
    if "can't start new thread" in text or number == errno.EAGAIN:
        return ResourceError(
            "no thread or process can be started; lower device.num_threads or data.num_workers, "
            "or raise the limit ('ulimit -u')"
        )
    is_worded = isinstance(error, (OSError, RuntimeError, ImportError))
    if (
        isinstance(error, MemoryError)
        or number == errno.ENOMEM
        or (is_worded and any(t in text for t in _NO_MEMORY))
    ):
        return ResourceError("out of memory; lower data.batch_size or data.image_size")
    return None


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest known name, or an empty string.

    Args:
        name: what was given for one; from Python it may be of any type.
        known: the names that there are.
    """
    text = str(name)
    likely = max(known, key=lambda other: likeness(text, other), default="")
    return f"; did you mean '{likely}'?" if likely and likeness(text, likely) >= 0.5 else ""


def likeness(name: str, known: str) -> float:
    """Return how probable it is that a known name was meant, from 0 to 1, however it is written.

    Example:
        >>> likeness("Fashion-MNIST", "fashion_mnist"), likeness("vgg61", "vgg19")
        (1.0, 0.8)
        >>> likeness("vgg61", "vgg16")  # letters in another order are a slip of the fingers
        0.9
    """
    ours, its = ("".join(filter(str.isalnum, each.casefold())) or each for each in (name, known))
    ratio = difflib.SequenceMatcher(None, its, ours).ratio()
    return (1 + ratio) / 2 if sorted(ours) == sorted(its) else ratio


def expected_names(name: object, known: Iterable[str]) -> str:
    """Return the nearest known name, if one is near, and all of them, to end a message with."""
    names = list(known)
    near, listed = did_you_mean(name, names), ", ".join(names) or "none"
    return f"{near} Known: {listed}." if near else f"; known: {listed}"


def whole_argument(label: str, value: Any, least: int | None = 1) -> int:
    """Return a whole number that was handed to a public function.

    Args:
        label: what stands before the value in a message, such as ``depth=``.
        value: of any type.
        least: that it may be; None where the caller checks its range.

    Raises:
        UsageError: it is no whole number, or is below the least.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        of_what = "" if least is None else f" of at least {least}"
        raise UsageError(f"{label}{value!r}: expected a whole number{of_what}")
    if least is not None and value < least:
        raise UsageError(f"{label}{value}: expected at least {least}")
    return int(value)


def real_argument(label: str, value: Any, expected: str) -> float:
    """Return a number that was handed to a public function; its range is the caller's to check.

    Args:
        label: as of ``whole_argument``.
        value: of any type.
        expected: in words.

    Raises:
        UsageError: it is no number.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise UsageError(f"{label}{value!r}: expected {expected}")
    return float(value)


def reason_of(error: Exception) -> str:
    """Return the first line of what another library raised, or the error's class without one."""
    return (str(error).strip() or type(error).__name__).split("\n")[0][:300]


def shape_text(shape: Sequence[int], between: str = " x ") -> str:
    """Return a shape as it is read, such as ``3 x 28 x 28``."""
    return between.join(map(str, shape))


def mark_user_code(path: Path) -> None:
    """Remember that a folder or file holds code of the user's own, which may fail.

    Args:
        path: absolute; files of installed packages below a folder are not meant.
    """
    _user_code.add(str(path))


def user_code_error(error: BaseException) -> str | None:
    """Return where and how the user's own code failed, or None where it was not theirs.

    Args:
        error: as it was caught.

    Returns:
        Such as ``/home/me/mynet.py, line 12, in forward: KeyError: 'x'``.
    """
    # These two say what somebody else wants of the process.
    if isinstance(error, (CnnbenchError, KeyboardInterrupt, GeneratorExit)):
        return None
    if isinstance(error, SyntaxError) and _is_user_code(error.filename or ""):
        return f"{error.filename}, line {error.lineno}: {type(error).__name__}: {error.msg}"
    frames = [(frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    files = [code.co_filename for code, _ in frames]
    last = max((at for at, file in enumerate(files) if _is_user_code(file)), default=None)
    if last is None:
        return None
    # A signal that ends the process strikes wherever it is.
    if not isinstance(error, Exception) and any(map(_is_ours, files[last + 1 :])):
        return None
    code, line = frames[last]
    return f"{code.co_filename}, line {line}, in {code.co_name}: {error_text(error)}"


def error_text(error: BaseException) -> str:
    """Return an exception's class and message in one line of at most 300 characters."""
    text = " ".join(str(error).split())
    text = text if len(text) <= 300 else f"{text[:299]}…"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _is_ours(file: str) -> bool:
    return file.startswith(_PACKAGE + os.sep)


def _is_user_code(file: str) -> bool:
    if _is_ours(file) or file.startswith(_STANDARD_LIBRARY + os.sep):
        return False
    for path in _user_code:
        rest = file.removeprefix(path + os.sep)
        if file == path or (rest != file and "site-packages" not in rest):
            return True
    return False
