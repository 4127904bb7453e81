"""Files that are whole or absent: atomic writes, and plain words for a disk that fails."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cnnbench.errors import CnnbenchError, DiskError, UsageError

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


def disk_error(error: OSError, path: Path | str) -> CnnbenchError:
    """Say in one sentence why a path could not be written."""
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return UsageError(f"{path}: cannot be made: it, or a file in its way, exists")
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


def remove_litter(directory: Path) -> None:
    """Remove what writers that died left half-written."""
    for path in directory.glob(f"*{_TMP_MARK}*"):
        path.unlink(missing_ok=True)
