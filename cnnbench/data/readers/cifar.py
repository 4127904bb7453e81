"""CIFAR-10 and CIFAR-100 as published: pickles, read without running anything (Krizhevsky, 2009).

A pickle is a program. Three guards stand before these: their opcodes are checked against those that
such files hold, before any is carried out; ``find_class`` gives out recording stubs of our own and
nothing else; and array bytes are taken from what the stubs recorded, once their sizes agree.
"""

from __future__ import annotations

import gzip
import io
import pickle
import pickletools
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

import numpy as np

from cnnbench.data.arrays import ImageArrays
from cnnbench.data.readers.sources import Facts, check_file
from cnnbench.errors import DataError


@dataclass(frozen=True)
class Batches:
    """How one of the two data sets is laid out.

    Attributes:
        title: as its authors call it.
        folder: of its files, in the archive too.
        archive: the archive's name.
        train: the files of the training images, with the same number in each.
        test: that of the test images.
        labels: the key of the labels.
        num_classes: labels lie from 0 to below it.
    """

    title: str
    folder: str
    archive: str
    train: tuple[str, ...]
    test: str
    labels: str
    num_classes: int

    @property
    def names(self) -> tuple[str, ...]:
        """All files."""
        return (*self.train, self.test)

    @property
    def layouts(self) -> tuple[tuple[str, ...], ...]:
        """The paths of the unpacked files, and that of the archive."""
        return (tuple(f"{self.folder}/{name}" for name in self.names), (self.archive,))


CIFAR10_BATCHES = Batches(
    title="CIFAR-10",
    folder="cifar-10-batches-py",
    archive="cifar-10-python.tar.gz",
    train=tuple(f"data_batch_{number}" for number in range(1, 6)),
    test="test_batch",
    labels="labels",
    num_classes=10,
)
# The file "meta" has the classes' names, which are constants here, and is not read.
CIFAR100_BATCHES = Batches(
    title="CIFAR-100",
    folder="cifar-100-python",
    archive="cifar-100-python.tar.gz",
    train=("train",),
    test="test",
    labels="fine_labels",
    num_classes=100,
)

# What Python 2 and 3 write for a dict of strings, lists and arrays, up to protocol 2.
_VALUES = {
    *("PROTO", "STOP", "MARK", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"),
    *("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "APPEND", "APPENDS", "SETITEM", "SETITEMS"),
    *("SHORT_BINSTRING", "BINSTRING", "BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1"),
    *("NONE", "NEWTRUE", "NEWFALSE"),
}
# Few are needed; nested without end they could exhaust the interpreter.
_STRUCTURES = {"GLOBAL", "REDUCE", "BUILD", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"}
_ALLOWED = _VALUES | _STRUCTURES
_MAX_STRUCTURES = 48
_EXTRA_BYTES = 65_536
_EXTRA_BYTES_PER_IMAGE = 256


class _Recorded:
    """Stands for an object of a pickle and remembers what it would have been made of."""

    state: Any = None

    def __init__(self, *args: Any) -> None:
        self.args = args

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Array(_Recorded):
    pass


class _Dtype(_Recorded):
    pass


class _ArrayClass(_Recorded):
    pass


def _encode(text: Any, encoding: Any) -> bytes:
    # How Python 3 spells bytes in protocol 2.
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError("unexpected arguments of _codecs.encode")
    return text.encode("latin1")


_STUBS: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _ArrayClass,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
}


class _StubUnpickler(pickle.Unpickler):
    """Gives out stubs for the names that CIFAR's files hold, and refuses all others."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _STUBS[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"asks for {module}.{name}, which no CIFAR file does: it may be malicious"
            ) from None

    def persistent_load(self, pid: Any) -> NoReturn:
        raise pickle.UnpicklingError("refers to an object outside the file")


def read_batch(
    data: bytes, where: str, num_images: int, batches: Batches = CIFAR10_BATCHES
) -> ImageArrays:
    """Read one batch file.

    Args:
        data: the file's bytes.
        where: its name, for messages.
        num_images: how many images it must hold.
        batches: of which data set it is.

    Returns:
        The images, (num_images, 3, 32, 32), as a view of a fresh array.

    Raises:
        DataError: it is no such file, or is damaged.
    """
    try:
        _check_opcodes(data)
        batch = _StubUnpickler(io.BytesIO(data), encoding="bytes").load()
    # A damaged pickle can raise nearly anything; none of our own code runs in here.
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise DataError(f"{where}: not a {batches.title} batch, or damaged: {reason}") from error
    if not isinstance(batch, dict):
        raise DataError(f"{where}: not a {batches.title} batch: no dict")
    fields = {k.decode("latin1") if isinstance(k, bytes) else k: v for k, v in batch.items()}
    labels = fields.get(batches.labels)
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise DataError(f"{where}: not a {batches.title} batch: it has no list of {batches.labels}")
    last = batches.num_classes - 1
    if len(labels) != num_images or not all(0 <= label <= last for label in labels):
        raise DataError(f"{where}: damaged: expected {num_images} labels from 0 to {last}")
    pixels = _pixels(fields.get("data"), where, (num_images, 3 * 32 * 32))
    return ImageArrays(pixels.reshape(-1, 3, 32, 32), np.array(labels, dtype=np.int64))


def _check_opcodes(data: bytes) -> None:
    structures = 0
    for opcode, arg, _ in pickletools.genops(data):
        structures += opcode.name in _STRUCTURES
        if opcode.name not in _ALLOWED:
            raise pickle.UnpicklingError(f"holds {opcode.name}, which no CIFAR file does")
        # The memo is a table as long as its highest number, whatever the file's own length.
        if opcode.name == "LONG_BINPUT" and cast(int, arg) > len(data):
            raise pickle.UnpicklingError("numbers an object beyond its own length")
        if structures > _MAX_STRUCTURES:
            raise pickle.UnpicklingError("holds more objects than a CIFAR file does")


def _pixels(array: Any, where: str, shape: tuple[int, int]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    problem = f"{where}: damaged: its images are no uint8 array of {shape[0]}x{shape[1]}"
    if not isinstance(array, _Array) or not isinstance(array.state, tuple):
        raise DataError(problem)
    if len(array.state) != 5:
        raise DataError(problem)
    _, came, dtype, is_fortran, raw = array.state
    if not isinstance(dtype, _Dtype) or dtype.args[:1] not in (("u1",), (b"u1",)):
        raise DataError(problem)
    if came != shape or not isinstance(raw, bytes) or len(raw) != shape[0] * shape[1]:
        raise DataError(problem)
    order = np.frombuffer(raw, dtype=np.uint8).reshape(shape, order="F" if is_fortran else "C")
    return np.array(order, order="C")


def decode_cifar(
    batches: Batches, paths: Sequence[Path], facts: Facts
) -> tuple[ImageArrays, ImageArrays]:
    """Read the unpacked batches, or the archive that holds them.

    Raises:
        DataError: a file is missing or damaged.
    """
    counts = {n: sum(facts.train_counts) // len(batches.train) for n in batches.train}
    counts[batches.test] = sum(facts.test_counts)
    limits = {n: c * (3072 + _EXTRA_BYTES_PER_IMAGE) + _EXTRA_BYTES for n, c in counts.items()}
    read = _from_archive if len(paths) == 1 else _from_folder
    files = read(batches, paths, limits)
    parts = {}
    for name, data, where in files:
        parts[name] = read_batch(data, where, counts[name], batches)
        check_file(facts, name, where, data)
    if missing := [name for name in batches.names if name not in parts]:
        raise DataError(f"{paths[0]}: lacks {', '.join(missing)}")
    train = [parts[name] for name in batches.train]
    if len(train) == 1:
        return train[0], parts[batches.test]
    images = np.concatenate([part.images for part in train])
    return ImageArrays(images, np.concatenate([part.targets for part in train])), parts[
        batches.test
    ]


def _from_folder(
    batches: Batches, paths: Sequence[Path], limits: dict[str, int]
) -> Iterator[tuple[str, bytes, str]]:
    for path in paths:
        try:
            with open(path, "rb") as file:
                data = file.read(limits[path.name] + 1)
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error
        if len(data) > limits[path.name]:
            raise DataError(f"{path}: larger than a {batches.title} batch can be")
        yield path.name, data, str(path)


class _Limited(io.RawIOBase):
    """Reads a stream up to a limit, beyond which it is an error."""

    def __init__(self, file: BinaryIO, limit: int) -> None:
        self._file, self._left = file, limit

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(min(size, self._left + 1) if size >= 0 else self._left + 1)
        self._left -= len(data)
        if self._left < 0:
            raise DataError("more data than it can have")
        return data


def _from_archive(
    batches: Batches, paths: Sequence[Path], limits: dict[str, int]
) -> Iterator[tuple[str, bytes, str]]:
    path = paths[0]
    try:
        with gzip.open(path, "rb") as packed:
            stream = _Limited(cast(BinaryIO, packed), sum(limits.values()) + 2 * 1024**2)
            with tarfile.open(fileobj=cast(BinaryIO, stream), mode="r|") as archive:
                for member in archive:
                    folder, _, name = member.name.rpartition("/")
                    if folder != batches.folder or name not in limits or not member.isreg():
                        continue
                    if member.size > limits[name]:
                        raise DataError(
                            f"{member.name}: larger than a {batches.title} batch can be"
                        )
                    file = archive.extractfile(member)
                    assert file is not None
                    yield name, file.read(), f"{path}: {member.name}"
            while stream.read(1024**2):
                pass  # the archive's checksum stands at its end
    except DataError as error:
        text = str(error)
        raise DataError(text if str(path) in text else f"{path}: {text}") from error
    except EOFError as error:
        raise DataError(f"{path}: truncated: the compressed data ends early") from error
    except (OSError, zlib.error, tarfile.TarError, ValueError) as error:
        raise DataError(f"{path}: not the {batches.title} archive, or damaged: {error}") from error
