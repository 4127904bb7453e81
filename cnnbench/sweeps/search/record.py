"""``search.json``: what a search is, so that another one is refused, and how far it came."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cnnbench.errors import CheckpointError, UsageError
from cnnbench.files import atomic_write, disk_error, read_regular
from cnnbench.runs.directory import SEARCH_FILE
from cnnbench.sweeps.progress import SWEEP_FILE

_FORMAT = 1
_MAX_BYTES = 4 << 20


@dataclass(frozen=True)
class SearchRecord:
    """What the directory of a search says of it.

    Attributes:
        space_hash: as ``space.space_hash`` makes it.
        space: each dimension and axis, as text.
        objective: what is searched for.
        code_version: of the package that began it.
        trials: that have an outcome.
        seconds: of training that all trials took, also those that were given up.
        best: of the best trial ``trial``, ``value`` and ``settings`` as key=value; empty before.
    """

    space_hash: str
    space: tuple[str, ...]
    objective: str
    code_version: str
    trials: int = 0
    seconds: float = 0.0
    best: Mapping[str, Any] | None = None

    def write(self, root: Path) -> None:
        """Replace the file in a search's directory.

        Raises:
            DiskError: it cannot be written.
        """
        tree = {"format": _FORMAT, **asdict(self)}
        atomic_write(root / SEARCH_FILE, f"{json.dumps(tree, indent=2)}\n".encode())


def read_record(root: Path) -> SearchRecord | None:
    """Return what a search's directory says; None where there is no search yet.

    Raises:
        CheckpointError: the file is damaged or foreign.
        UsageError: the directory is that of a sweep.
    """
    file = root / SEARCH_FILE
    try:
        tree = json.loads(read_regular(file, _MAX_BYTES))
        if tree["format"] == _FORMAT:
            return SearchRecord(
                str(tree["space_hash"]),
                tuple(map(str, tree["space"])),
                str(tree["objective"]),
                str(tree["code_version"]),
            )
    except FileNotFoundError:
        if (root / SWEEP_FILE).exists():
            raise UsageError(
                f"{root}: is a sweep, and no search; take another sweep.name"
            ) from None
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    raise CheckpointError(f"{file}: not a search that this version can read")


def check_same_space(before: SearchRecord, now: SearchRecord, root: Path) -> None:
    """Refuse to go on with a search whose space is another one.

    Raises:
        UsageError: it is.
    """
    if before.space_hash == now.space_hash:
        return
    gone = [text for text in before.space if text not in now.space]
    new = [text for text in now.space if text not in before.space]
    if before.objective != now.objective:
        gone, new = [*gone, before.objective], [*new, now.objective]
    what = f": {', '.join(gone) or 'nothing'} became {', '.join(new) or 'nothing'}"
    if not (gone or new):
        what = " in the settings that all trials share"
    raise UsageError(
        f"{root}: the space of this search changed{what}. Its trials do not belong to the new "
        "space; give the search another sweep.name"
    )


@contextmanager
def only_writer(root: Path) -> Iterator[None]:
    """Hold a search as the one process that draws and tells its trials.

    Raises:
        UsageError: another command does.
        DiskError: the directory cannot be written.
    """
    import filelock

    lock = filelock.FileLock(root / ".search.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise UsageError(f"{root}: another command runs this search, and one draws") from None
    except OSError as error:
        raise disk_error(error, root) from error
    try:
        yield
    finally:
        lock.release()
