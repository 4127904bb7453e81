"""The IDX files of MNIST and its kin, as published or unpacked (LeCun et al., 1998).

Layout: two zero bytes, a type code (8 = unsigned byte), the number of dimensions, each dimension
as a big-endian 32-bit integer, then the values.
"""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from cnnbench.data.arrays import ImageArrays
from cnnbench.data.readers.sources import Facts, check_file
from cnnbench.errors import DataError

_UNSIGNED_BYTE = 8
# No packed file of these sets comes near.
_MAX_PACKED_BYTES = 64 * 1024**2
# Of EMNIST's splits, by their number of classes: name and first label.
_EMNIST_SPLITS = {26: ("letters", 1), 47: ("balanced", 0)}
_HOLDS = {1: "labels", 3: "images"}


@contextmanager
def _opened(path: Path, archive: Path | None) -> Iterator[BinaryIO]:
    """Open a file, or the member of a ZIP archive below which its path lies."""
    if archive is None:
        with open(path, "rb") as raw:
            yield raw
        return
    try:
        member = path.relative_to(archive).as_posix()
        with zipfile.ZipFile(archive) as packed, packed.open(member) as raw:
            yield cast(BinaryIO, raw)
    except KeyError:
        raise DataError(f"{archive}: lacks {member}") from None
    # What is damaged, encrypted or packed in a way that Python does not know.
    except (zipfile.BadZipFile, RuntimeError, ValueError) as error:
        raise DataError(f"{path}: damaged or unreadable: {error}") from None


def read_idx(
    path: Path,
    shape: tuple[int, ...],
    facts: Facts | None = None,
    archive: Path | None = None,
) -> NDArray[np.uint8]:
    """Read one file whose shape is known beforehand; memory is taken once its header agrees.

    Args:
        path: the file; one whose name ends in ``.gz`` is decompressed.
        shape: the expected dimensions.
        facts: what may be known of the file's bytes.
        archive: the ZIP archive that holds it, if one does; ``path`` lies below its own.

    Returns:
        The values, writable.

    Raises:
        DataError: the file is missing, damaged, or another one than expected.
    """
    try:
        with _opened(path, archive) as raw:
            if path.suffix != ".gz":
                return _read_stream(raw, path, shape, facts)
            _check_gzip(raw, path)
            if facts is not None and path.name in facts.file_md5:
                check_file(facts, path.name, str(path), raw.read(_MAX_PACKED_BYTES))
                raw.seek(0)
            with gzip.GzipFile(fileobj=raw) as file:
                return _read_stream(cast(BinaryIO, file), path, shape, facts)
    except EOFError as error:
        raise DataError(f"{path}: truncated: the compressed data ends early") from error
    except (OSError, zlib.error) as error:
        raise DataError(f"{path}: damaged or unreadable: {error}") from error


def _check_gzip(raw: BinaryIO, path: Path) -> None:
    head = raw.read(64)
    raw.seek(0)
    if head.lstrip().startswith(b"<"):
        raise DataError(f"{path}: this is a web page, not a data file")
    if not head:
        raise DataError(f"{path}: the file is empty")
    if not head.startswith(b"\x1f\x8b"):
        raise DataError(f"{path}: not a gzip file, despite its name")


def _read_stream(
    file: BinaryIO, path: Path, shape: tuple[int, ...], facts: Facts | None
) -> NDArray[np.uint8]:
    head = file.read(4 + 4 * len(shape))
    if len(head) < 4:
        raise DataError(f"{path}: truncated: the header is missing")
    zeros, kind, num_dims = struct.unpack(">HBB", head[:4])
    if zeros != 0 or kind != _UNSIGNED_BYTE:
        raise DataError(f"{path}: not an IDX file of bytes: it starts with {head[:4].hex()}")
    if num_dims != len(shape):
        came = _HOLDS.get(num_dims, f"{num_dims} dimensions")
        raise DataError(f"{path}: holds {came}, expected {_HOLDS.get(len(shape), str(shape))}")
    if len(head) < 4 + 4 * num_dims:
        raise DataError(f"{path}: truncated: the header is incomplete")
    dims = struct.unpack(f">{num_dims}I", head[4:])
    if dims != shape:
        raise DataError(f"{path}: holds {_by(dims)} values, expected {_by(shape)}")
    values = np.empty(shape, dtype=np.uint8)
    if _fill(file, values) < values.size:
        raise DataError(f"{path}: truncated: fewer values than its header says")
    # One byte more also makes gzip compare its checksum.
    if file.read(1):
        raise DataError(f"{path}: more values than its header says")
    if facts is not None:
        check_file(facts, path.name.removesuffix(".gz"), str(path), head, values.data)
    return values


def _by(dims: tuple[int, ...]) -> str:
    return "x".join(map(str, dims))


def _fill(file: BinaryIO, values: NDArray[np.uint8]) -> int:
    view = memoryview(cast(bytearray, values.reshape(-1)))
    done = 0
    while done < len(view):
        got = cast(io.BufferedIOBase, file).readinto(view[done:])
        if not got:
            break
        done += got
    return done


def _emnist_names(split: str) -> tuple[str, ...]:
    return tuple(
        f"emnist-{split}-{part}-{kind}-ubyte"
        for part in ("train", "test")
        for kind in ("images-idx3", "labels-idx1")
    )


EMNIST_NAMES = tuple(name for split, _ in _EMNIST_SPLITS.values() for name in _emnist_names(split))


def decode_emnist(paths: Sequence[Path], facts: Facts) -> tuple[ImageArrays, ImageArrays]:
    """Read one split of EMNIST, whose images lie on their sides (Cohen et al., 2017).

    Args:
        paths: the files of all splits, or the one archive that holds them.
        facts: those of the split.

    Raises:
        DataError: a file is missing, damaged, or another one than expected.
    """
    split, first = _EMNIST_SPLITS[facts.num_classes]
    names = _emnist_names(split)
    archive = paths[0] if len(paths) == 1 else None
    if archive is not None:
        files = [archive / "gzip" / f"{name}.gz" for name in names]
    else:
        by_name = {path.name.removesuffix(".gz"): path for path in paths}
        files = [by_name[name] for name in names]
    return tuple(  # type: ignore[return-value]
        ImageArrays(
            np.ascontiguousarray(part.images.swapaxes(2, 3)),
            part.targets - first,
        )
        for part in decode_idx(files, facts, archive)
    )


def decode_idx(
    paths: Sequence[Path], facts: Facts, archive: Path | None = None
) -> tuple[ImageArrays, ImageArrays]:
    """Read the four files: train images, train labels, test images, test labels.

    Args:
        paths: the files.
        facts: what they must hold.
        archive: as ``read_idx`` takes it.

    Raises:
        DataError: a file is missing, damaged, or another one than expected.
    """
    size = facts.image_size
    parts = []
    for images_path, labels_path, counts in (
        (paths[0], paths[1], facts.train_counts),
        (paths[2], paths[3], facts.test_counts),
    ):
        num_images = sum(counts)
        labels = read_idx(labels_path, (num_images,), facts, archive)
        images = read_idx(images_path, (num_images, size, size), facts, archive)
        parts.append(ImageArrays(images[:, None], labels.astype(np.int64)))
    return parts[0], parts[1]
