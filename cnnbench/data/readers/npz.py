"""``data=npz``: images and labels that NumPy's ``savez`` wrote, read without any pickle."""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.lib import format as npy
from numpy.typing import NDArray

from cnnbench.data.arrays import MEMORY_LIMIT_BYTES, DatasetArrays
from cnnbench.data.readers.plain import (
    Layout,
    Targeted,
    check_size,
    dataset_of,
    facts_of,
    find_targets,
    layout_of,
    name_arrays,
    name_of_classes,
    same_layout,
    unread_note,
)
from cnnbench.data.readers.sources import Facts
from cnnbench.errors import DataError
from cnnbench.files import why_no_file

# Of all arrays together: eight bytes a value are the widest, which become one.
_MAX_BYTES = 4 * MEMORY_LIMIT_BYTES
# Labels are few: a member that claims more is no list of them.
_MAX_LABEL_BYTES = 256 * 1024**2
_MAX_HEADER_BYTES = 10_000
_READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
# What a damaged archive or array raises.
_DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, KeyError, TypeError),
    *(RuntimeError, NotImplementedError, OverflowError, SyntaxError),
)


@dataclass(frozen=True)
class _Contents:
    """What the headers and labels of a file tell.

    Attributes:
        images: the name of each part's array of images.
        layouts: of each.
        targeted: the classes.
        notes: on arrays that are neither.
    """

    images: Mapping[str, str]
    layouts: Mapping[str, Layout]
    targeted: Targeted
    notes: tuple[str, ...]

    @property
    def facts(self) -> Facts:
        """What is known without reading the images."""
        return facts_of(self.layouts["train"], self.targeted)


def _required(root: Path | None) -> Path:
    if root is None:
        raise DataError("data=npz: name the file: data.root=FILE.npz")
    if why := why_no_file(root):
        raise DataError(f"data.root={root}: {why}; expected an .npz file")
    return root


def _open(path: Path) -> zipfile.ZipFile:
    """Open an archive, whose members are bounded before any is unpacked."""
    try:
        archive = zipfile.ZipFile(path)
    except _DAMAGED as error:
        raise DataError(
            f"{path}: not an .npz file, or damaged ({error}); write one with "
            "numpy.savez_compressed(FILE, x=images, y=labels)"
        ) from None
    if sum(info.file_size for info in archive.infolist()) > _MAX_BYTES:
        archive.close()
        raise DataError(
            f"{path}: its arrays take more than {_MAX_BYTES / 1024**3:g} GiB; write the images as "
            "image files: data=folder"
        )
    return archive


def _header(archive: zipfile.ZipFile, name: str, path: Path) -> tuple[int, ...]:
    """Return an array's shape; what its header claims is what the archive holds.

    Raises:
        DataError: it is damaged, or made of objects, which only a pickle could hold.
    """
    info = archive.getinfo(f"{name}.npy")
    with archive.open(info) as file:
        # As long as the longest header may be: the array itself is not unpacked for it.
        head = io.BytesIO(file.read(_MAX_HEADER_BYTES + 16))
    version = npy.read_magic(head)
    if version not in _READERS:
        raise DataError(f"{path}: {name}: has fields, expected plain numbers")
    shape, _, dtype = _READERS[version](head, max_header_size=_MAX_HEADER_BYTES)
    if dtype.hasobject:
        raise DataError(
            f"{path}: {name}: holds Python objects, which only a pickle could, and none is read; "
            "expected numbers, or labels as texts"
        )
    if math.prod(shape) * dtype.itemsize != info.file_size - head.tell():
        raise DataError(f"{path}: {name}: damaged: its length is not what its header says")
    return tuple(shape)


def _array(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    with archive.open(f"{name}.npy") as file:
        array: NDArray[Any] = npy.read_array(file, allow_pickle=False)
    return array


def _labels(archive: zipfile.ZipFile, name: str, path: Path) -> NDArray[Any]:
    _header(archive, name, path)
    if archive.getinfo(f"{name}.npy").file_size > _MAX_LABEL_BYTES:
        raise DataError(f"{path}: {name}: too large for labels, of which each image has one")
    return _array(archive, name)


def _contents(archive: zipfile.ZipFile, path: Path) -> _Contents:
    names = [n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy")]
    if len(set(names)) != len(names):
        raise DataError(f"{path}: has two arrays of one name")
    arrays = name_arrays(names, str(path))
    images = {part: name for (part, kind), name in arrays.items() if kind == "images"}
    shapes = {part: _header(archive, name, path) for part, name in images.items()}
    layouts = {p: layout_of(shape, f"{path}: {images[p]}") for p, shape in shapes.items()}
    layout = same_layout(layouts, str(path))
    check_size(sum(shape[0] for shape in shapes.values()), layout, str(path))
    labels = {p: (_labels(archive, arrays[p, "labels"], path), shapes[p][0]) for p in images}
    classes = name_of_classes(names)
    class_names = None if classes is None else _labels(archive, classes, path)
    notes = unread_note(names, [*arrays.values(), *([classes] if classes else [])])
    return _Contents(images, layouts, find_targets(labels, class_names, str(path)), notes)


def _read(path: Path, *, is_whole: bool) -> tuple[_Contents, dict[str, NDArray[Any]]]:
    """Read what headers and labels tell, and the images where all is asked for."""
    with _open(path) as archive:
        try:
            contents = _contents(archive, path)
            images = contents.images if is_whole else {}
            return contents, {part: _array(archive, name) for part, name in images.items()}
        except _DAMAGED as error:
            raise DataError(f"{path}: damaged: {error}") from None


def npz_facts(root: Path | None, _: Mapping[str, Any]) -> Facts:
    """Return what headers and labels tell.

    Raises:
        DataError: the file is missing or damaged, or its arrays are not images and labels.
    """
    return _read(_required(root), is_whole=False)[0].facts


def npz_fingerprint(root: Path | None, _: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the file.

    Raises:
        DataError: it is missing or cannot be read.
    """
    path = _required(root)
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None


def read_npz(root: Path | None) -> DatasetArrays:
    """Read a file's images and labels.

    Arrays are named ``x`` and ``y`` or ``images`` and ``labels``, alone or with the part before or
    after (``x_train``, ``test_labels``, ``val_images``); ``class_names`` may name the classes.
    Without test images, a fixed fifth of each class is the test part.

    Raises:
        DataError: the file is missing or damaged, or its arrays are not images and labels.
    """
    path = _required(root)
    contents, images = _read(path, is_whole=True)
    return dataset_of(
        images,
        contents.layouts,
        contents.targeted,
        where=str(path),
        source=f"NPZ {path}",
        notes=contents.notes,
    )
