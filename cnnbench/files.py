"""Paths and files: reading what a stranger may have put there, and writing what is whole or absent.

Reading never waits on a pipe and never takes more than it was told to; writing is atomic, with
plain words for a disk that fails.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import overload

from cnnbench.errors import CnnbenchError, DiskError, UsageError, resource_error

_TMP_MARK = ".tmp-"
_DISK_ERRORS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would be larger than allowed",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EIO: "the disk reports an error",
}


@overload
def expand_path(path: str | Path) -> Path: ...


@overload
def expand_path(path: None) -> None: ...


def expand_path(path: str | Path | None) -> Path | None:
    """Return a user's path with ``~`` expanded, absolute; None for None.

    Raises:
        UsageError: there is no such user, or no home directory.

    Example:
        >>> expand_path("/data/mnist")
        PosixPath('/data/mnist')
    """
    if path is None:
        return None
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError as error:
        raise UsageError(f"{path}: {error} Give the path without '~'") from None


def why_no_file(path: Path) -> str | None:
    """Return in words why there is no regular file at ``path``, or None where there is one."""
    if path.is_file():
        return None
    if path.is_dir():
        return "it is a directory"
    return "it is no regular file" if path.exists() else "there is no such file"


def check_regular(path: Path) -> None:
    """Refuse what opening could wait on, or act on: a pipe, a socket, a device, a directory.

    Raises:
        OSError: ``path`` exists and is no regular file, or cannot be looked at.
    """
    try:
        _check_mode(path.stat().st_mode, path)
    except FileNotFoundError:
        return


def _check_mode(mode: int, path: Path) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a directory", str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))


@contextmanager
def open_regular(path: Path) -> Iterator[io.BufferedReader]:
    """Open a file of a run, or one that a user named, for reading bytes.

    Raises:
        OSError: it is missing, unreadable, or no regular file.
    """
    _check_mode(path.stat().st_mode, path)
    # What is put there after the look above must not hold the process either.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(path, flags), "rb") as file:
        _check_mode(os.fstat(file.fileno()).st_mode, path)
        yield file


def read_regular(path: Path, limit: int | None = None) -> bytes:
    """Return the bytes of a file of a run, or of one that a user named.

    Args:
        path: links are followed.
        limit: the largest size in bytes that is read; None for any.

    Raises:
        OSError: it is missing, unreadable, no regular file, or larger than ``limit``.
    """
    with open_regular(path) as file:
        content = file.read() if limit is None else file.read(limit + 1)
    if limit is not None and len(content) > limit:
        raise OSError(errno.EFBIG, f"it is larger than {limit:,} bytes", str(path))
    return content


def file_sha256(file: Path, label: str) -> str:
    """Return the SHA-256 of a file that a setting or a flag names, as 64 hexadecimal digits.

    Args:
        file: read in pieces, so that its size does not matter.
        label: what names it, such as ``model.weights``, for the message.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        with open_regular(file) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"{label}: {file} cannot be read: {error.strerror}") from None


def disk_error(error: OSError, path: Path | str) -> CnnbenchError:
    """Say in one sentence why a path could not be written."""
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return UsageError(f"{path}: cannot be made: it, or a file in its way, exists")
    if (resource := resource_error(error)) is not None:
        return resource
    reason = _DISK_ERRORS.get(error.errno or 0, error.strerror or str(error))
    return DiskError(f"{path}: cannot be written: {reason}. What was saved before is whole.")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the operating system's errors inside the block into a plain one.

    Raises:
        DiskError: writing failed.
    """
    try:
        yield
    except OSError as error:
        raise disk_error(error, path) from error


# What this process asks before it writes; see `fence`.
_checks: list[Callable[[], None]] = []


@contextmanager
def fence(check: Callable[[], None]) -> Iterator[None]:
    """Inside the block, ask before each write whether this process may still write.

    Args:
        check: called by ``check_fence``; it does not return where the answer is no.
    """
    _checks.append(check)
    try:
        yield
    finally:
        _checks.remove(check)


def check_fence() -> None:
    """Ask whether this process may still write to its run; without a ``fence`` it always may."""
    for check in _checks:
        check()


def atomic_write(path: Path, content: bytes) -> None:
    """Replace a file so that a reader, or a crash at any moment, sees the old or the new one whole.

    Raises:
        DiskError: writing failed; the old file stands and nothing is left behind.
    """
    tmp = path.with_name(f"{path.name}{_TMP_MARK}{os.getpid()}")
    with writing(path):
        try:
            with open(tmp, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            check_fence()
            os.replace(tmp, path)
        except BaseException:
            tmp.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make renames and removals in a directory survive a power cut, where the system can."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return  # Windows cannot open directories
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_litter(directory: Path, names: str) -> None:
    """Remove what writers that died left half-written, and nothing else.

    Args:
        directory: where ``atomic_write`` wrote.
        names: a regular expression of the files that it writes there.
    """
    ours = re.compile(rf"(?:{names}){re.escape(_TMP_MARK)}\d+")
    for path in directory.glob(f"*{_TMP_MARK}*"):
        if ours.fullmatch(path.name):
            check_fence()
            path.unlink(missing_ok=True)


_CODE_EXAMPLES = {"model.path": "./mynet.py:MyNet", "data.path": "./mydata.py:MyDataset"}


def split_code_path(key: str, text: str) -> tuple[Path, str]:
    """Return file and name of `FILE:NAME`.

    Args:
        key: ``model.path`` or ``data.path``, for messages.
        text: what was given for it.

    Raises:
        UsageError: it is not of that form, or there is no such file.
    """
    file, _, name = text.rpartition(":")
    if not (file and name.isidentifier()):
        raise UsageError(f"{key}={text}: expected FILE:CLASS, such as {key}={_CODE_EXAMPLES[key]}")
    path = expand_path(file)
    if not path.is_file():
        raise UsageError(f"{key}={text}: there is no file {path}")
    return path, name


def code_sha256(key: str, text: str) -> str:
    """Return the SHA-256 of the file of `FILE:NAME`, without running it.

    Raises:
        UsageError: it is not of that form, or the file cannot be read.
    """
    path, _ = split_code_path(key, text)
    return file_sha256(path, key)


def read_code(path: Path) -> bytes:
    """Return the bytes of a file of the user's code.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        return read_regular(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
