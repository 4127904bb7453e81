"""Decoded images that processes of one machine share: decoded once, and mapped into each.

They lie in the user's cache directory, named by the content that they were decoded from and by the
code that decodes. A file that is not what was written is noticed by its hash and decoded anew.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from cnnbench.data.arrays import MEMORY_LIMIT_BYTES, DatasetArrays, ImageArrays
from cnnbench.data.images import Decoding
from cnnbench.data.readers.download import Report
from cnnbench.data.readers.sources import cache_root
from cnnbench.data.table import dataset_row, fingerprint, read_dataset
from cnnbench.files import file_sha256, read_regular, sync_directory

_FOLDER = "decoded"
_FACTS = "facts.json"
_ARRAYS = ("train_images", "train_targets", "test_images", "test_targets")
_FIELDS = ("class_names", "mean", "std", "warnings", "notes", "columns")
# What all data sets together may take on the disk; the one that was read longest ago goes first.
_MAX_BYTES = 2 * MEMORY_LIMIT_BYTES
_MAX_FACTS_BYTES = 1 << 28
_sharing: list[bool] = []


@contextmanager
def sharing() -> Iterator[None]:
    """Inside the block, `read_decoded` shares what it decodes with other processes."""
    _sharing.append(True)
    try:
        yield
    finally:
        _sharing.pop()


def read_decoded(
    name: str, *, root: Path | None, args: dict[str, Any], image_size: int, report: Report
) -> DatasetArrays:
    """Read a data set as ``read_dataset`` does, within ``sharing`` from what was decoded before.

    Only what takes long to decode is kept: published files, archives and folders of images.

    Raises:
        DataError: as ``read_dataset``.
    """
    cached = cache_root() if _sharing else None
    row = dataset_row(name)

    def read() -> DatasetArrays:
        return read_dataset(name, root=root, args=args, image_size=image_size, report=report)

    if cached is None or not (row.published is not None or name in ("folder", "npz")):
        return read()
    what = [name, fingerprint(name, root=root, args=args), args, str(root), image_size, _code()]
    key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:32]
    folder = cached / _FOLDER / key
    found = _load(folder)
    if found is None:
        found = read()
        # Without a cache each process decodes for itself.
        with suppress(OSError):
            _store(found, folder)
            found = _load(folder) or found
    return found


@cache
def _code() -> str:
    """Return a hash of the code that reads and decodes."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _load(folder: Path) -> DatasetArrays | None:
    """Return what was stored, mapped into memory; None where there is nothing whole."""
    try:
        facts = json.loads(read_regular(folder / _FACTS, _MAX_FACTS_BYTES))
        arrays = {}
        for array in _ARRAYS:
            file = folder / f"{array}.npy"
            if file_sha256(file, array) != facts["sha256_of"][array]:
                raise ValueError(array)
            # Copied on write, so that nobody changes what others see.
            arrays[array] = np.asarray(np.load(file, mmap_mode="c", allow_pickle=False))
        with suppress(OSError):
            os.utime(folder)
        fields: dict[str, Any] = {field: tuple(facts[field]) for field in _FIELDS}
        for part in ("train_names", "test_names"):
            fields[part] = None if facts[part] is None else tuple(facts[part])
        return DatasetArrays(
            train=ImageArrays(arrays["train_images"], arrays["train_targets"]),
            test=ImageArrays(arrays["test_images"], arrays["test_targets"]),
            sha256=facts["sha256"],
            source=facts["source"],
            num_val=facts["num_val"],
            is_test_drawn=facts["is_test_drawn"],
            decoding=facts["decoding"] and Decoding(**facts["decoding"]),
            **fields,
        )
    except FileNotFoundError:
        return None
    except Exception:  # whatever damage does to JSON, a header or a file
        shutil.rmtree(folder, ignore_errors=True)
        return None


def _store(arrays: DatasetArrays, folder: Path) -> None:
    """Write a data set that is in memory, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    if not (isinstance(arrays.train, ImageArrays) and isinstance(arrays.test, ImageArrays)):
        return
    parts = (arrays.train, arrays.test)
    values = [value for part in parts for value in (part.images, part.targets)]
    folder.parent.mkdir(parents=True, exist_ok=True)
    _make_room(folder.parent, sum(value.nbytes for value in values))
    written = Path(tempfile.mkdtemp(prefix=".tmp-", dir=folder.parent))
    try:
        hashes = {}
        for name, value in zip(_ARRAYS, values, strict=True):
            np.save(written / f"{name}.npy", np.ascontiguousarray(value), allow_pickle=False)
            hashes[name] = file_sha256(written / f"{name}.npy", name)
        facts: dict[str, Any] = {field: getattr(arrays, field) for field in _FIELDS}
        facts |= {"sha256": arrays.sha256, "source": arrays.source, "num_val": arrays.num_val}
        facts |= {"train_names": arrays.train_names, "test_names": arrays.test_names}
        facts["is_test_drawn"] = arrays.is_test_drawn
        facts["decoding"] = arrays.decoding and dataclasses.asdict(arrays.decoding)
        facts["sha256_of"] = hashes
        (written / _FACTS).write_text(json.dumps(facts))
        with suppress(OSError):  # another process was first
            written.rename(folder)
            sync_directory(folder.parent)
    finally:
        shutil.rmtree(written, ignore_errors=True)


def _make_room(root: Path, size: int) -> None:
    """Remove what was read longest ago, until so many bytes fit; what is mapped stays readable."""
    found = []
    for folder in root.iterdir():
        with suppress(OSError):
            taken = sum(file.stat().st_size for file in folder.iterdir())
            found.append((folder.stat().st_mtime, folder, taken))
    total = sum(taken for _, _, taken in found) + size
    for _, folder, taken in sorted(found):
        if total <= _MAX_BYTES:
            return
        shutil.rmtree(folder, ignore_errors=True)
        total -= taken
