"""The hash of each file's content, read again only where a file may have changed."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from cnnbench.data.readers.sources import cache_root
from cnnbench.errors import CnnbenchError, DataError
from cnnbench.files import atomic_write

# A file that was written this shortly before it was read may be written again within the same
# tick of the file system's clock.
_SETTLED_NS = 2_000_000_000


def content_hashes(root: Path, paths: Iterable[Path]) -> dict[Path, str]:
    """Return the SHA-256 of each file.

    What was read before is taken from the user's cache where path, size, times and inode are the
    same; a change of the content with its old time set back shows in the time of the inode.

    Args:
        root: above all of them; names the cache.
        paths: the files.

    Raises:
        DataError: one cannot be read.
    """
    name = hashlib.sha256(os.fsencode(root)).hexdigest()[:32]
    caches = cache_root()
    cache = None if caches is None else caches / "contents" / f"{name}.json"
    before = {} if cache is None else _read(cache)
    now = time.time_ns()
    found: dict[Path, str] = {}
    kept: dict[str, list[object]] = {}
    for path in paths:
        try:
            status = path.stat()
            facts = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
            key = str(path.relative_to(root))
            entry = before.get(key)
            if isinstance(entry, list) and entry[:4] == facts and len(entry) == 5:
                digest = str(entry[4])
            else:
                with path.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from None
        found[path] = digest
        if max(status.st_mtime_ns, status.st_ctime_ns) < now - _SETTLED_NS:
            kept[key] = [*facts, digest]
    if cache is not None and kept != before:
        # Without a cache the files are read again next time.
        with suppress(CnnbenchError, OSError, UnicodeError):
            cache.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(cache, json.dumps(kept).encode())
    return found


def _read(cache: Path) -> dict[str, object]:
    try:
        tree = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return tree if isinstance(tree, dict) else {}
