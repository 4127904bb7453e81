"""``predictions.npz``: what the selected epoch's network says of each test image.

Comparing runs image by image then needs no weights, no data and no torch. The file is a stranger's
until it is read: its arrays are checked against their declared sizes before memory is taken, and
nothing in it is unpickled.
"""

from __future__ import annotations

import io
import math
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cnnbench.errors import CheckpointError
from cnnbench.files import atomic_write, open_regular

if TYPE_CHECKING:
    from torch import Tensor

FILE_NAME = "predictions.npz"
Ints: TypeAlias = NDArray[np.integer[Any]]
Flags: TypeAlias = NDArray[np.bool_]

_LOG_PROBABILITIES, _PREDICTIONS, _TARGETS = "log_probabilities", "predictions", "targets"
_IMAGES = "images_sha256"
# Ten million images, or the probabilities of ImageNet's validation images thrice.
_MAX_CLASS_BYTES = 40 << 20
_MAX_FLOAT_BYTES = 300 << 20
_MAX_HEADER_BYTES = 4096
_MAGIC = b"\x93NUMPY\1\0"
_HEADER = re.compile(
    rb"\{'descr': '(\|u1|<[uf][248])', 'fortran_order': False, "
    rb"'shape': \((\d{1,12}(?:,|(?:, \d{1,12}){1,3}))\), \} *\n"
)
_ENTRY_BYTES = 1024  # what an array's header and its entries in the archive take at most
_SMALLEST = float(np.finfo(np.float16).min)


@dataclass(frozen=True)
class Answers:
    """Which class a network takes each test image for.

    Attributes:
        predictions: classes, in the test images' order, (N,).
        targets: the true classes, likewise.
        images_sha256: of what data the images are, and which of them; equal for equal images.
    """

    predictions: Ints
    targets: Ints
    images_sha256: str

    @property
    def correct(self) -> Flags:
        """Whether each image is classified correctly, (N,)."""
        return np.equal(self.predictions, self.targets)

    @property
    def accuracy(self) -> float:
        """The fraction of the images that is classified correctly."""
        return int(self.correct.sum()) / len(self.targets)


class Outputs:
    """Collects a pass over the test images for the file; shifting loses no class to rounding.

    Plain logits in float16 would make equal some that are not; where the largest is 0, the steps
    near it are finest. The predicted class is kept beside them all the same.
    """

    def __init__(self) -> None:
        self._batches: list[tuple[NDArray[np.float16], Ints, Ints]] = []

    def add(self, logits: Tensor, targets: Tensor) -> None:
        """Add a batch.

        Args:
            logits: shape ``(N, num_classes)``.
            targets: class indices; shape ``(N,)``.
        """
        largest = logits.max(dim=1, keepdim=True).values
        shifted = (logits - largest).clamp(min=_SMALLEST).cpu().numpy().astype(np.float16)
        kind = np.min_scalar_type(max(1, logits.shape[1] - 1))
        predicted, true = (part.cpu().numpy() for part in (logits.argmax(dim=1), targets))
        self._batches.append((shifted, predicted.astype(kind), true.astype(kind)))

    def write(self, run_path: Path, images_sha256: str) -> None:
        """Replace the file of a run atomically.

        Args:
            run_path: directory of the run.
            images_sha256: as ``Splits.measured_sha256`` gives it.

        Raises:
            DiskError: it cannot be written; the old file stands.
        """
        if not self._batches:
            return
        shifted, predicted, true = (
            np.concatenate(column) for column in zip(*self._batches, strict=True)
        )
        buffer = io.BytesIO()
        np.savez(
            buffer,
            log_probabilities=shifted,
            predictions=predicted,
            targets=true,
            images_sha256=np.frombuffer(bytes.fromhex(images_sha256), np.uint8),
        )
        atomic_write(run_path / FILE_NAME, buffer.getvalue())


def expected_bytes(num_images: int, num_classes: int) -> int:
    """Return about what the file will take on disk."""
    width = np.min_scalar_type(max(1, num_classes - 1)).itemsize
    return num_images * (2 * num_classes + 2 * width) + 4 * _ENTRY_BYTES


def read_answers(run_path: Path) -> Answers | None:
    """Return what a run's network takes its test images for; None where the file is missing.

    Raises:
        CheckpointError: the file is damaged or none of ours.
    """
    found = _read(run_path, (_PREDICTIONS, _TARGETS, _IMAGES))
    if found is None:
        return None
    predicted, true, digest = found
    kinds = predicted.dtype.kind + true.dtype.kind + digest.dtype.str
    if kinds != "uu|u1" or predicted.ndim != 1 or predicted.shape != true.shape or not len(true):
        raise _foreign(run_path, "its classes are no two equal lists of whole numbers")
    if digest.shape != (32,):
        raise _foreign(run_path, "the hash of its images has not 32 bytes")
    return Answers(predicted, true, digest.tobytes().hex())


def read_log_probabilities(run_path: Path) -> NDArray[np.float16] | None:
    """Return log-probabilities up to a constant for each image; None where the file is missing.

    Returns:
        float16 ``(N, num_classes)``, in each row at most 0; finite.

    Raises:
        CheckpointError: the file is damaged or none of ours.
    """
    found = _read(run_path, (_LOG_PROBABILITIES,))
    if found is None:
        return None
    [shifted] = found
    if shifted.dtype != np.float16 or shifted.ndim != 2 or not shifted.size:
        raise _foreign(run_path, "its log-probabilities are no float16 table")
    if not np.isfinite(shifted).all() or (shifted.max(axis=1) != 0).any():
        raise _foreign(run_path, "its log-probabilities are not finite numbers of at most 0")
    return shifted


def _foreign(run_path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{run_path / FILE_NAME}: not what this version reads: {reason}")


def _read(run_path: Path, names: tuple[str, ...]) -> list[NDArray[Any]] | None:
    """Return arrays of the file by name; only these are read from the disk.

    Raises:
        CheckpointError: the file is damaged or none of ours.
    """
    try:
        with open_regular(run_path / FILE_NAME) as file, zipfile.ZipFile(file) as archive:
            return [_read_array(archive, name) for name in names]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    except (NotImplementedError, RuntimeError, MemoryError, RecursionError) as error:
        reason = str(error) or type(error).__name__
    raise _foreign(run_path, reason)


def _read_array(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    """Return one array, which is stored as it is: what is packed could be a bomb.

    Raises:
        ValueError: it is larger than allowed, packed, or not as large as it says.
        KeyError: it is missing.
    """
    entry = archive.getinfo(f"{name}.npy")
    limit = _MAX_FLOAT_BYTES if name == _LOG_PROBABILITIES else _MAX_CLASS_BYTES
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
        raise ValueError(f"its {name} are packed")
    if entry.file_size > limit:
        raise ValueError(f"its {name} take more than {limit:,} bytes")
    with archive.open(entry) as stream:
        shape, dtype = _header(stream)
        size = math.prod(shape) * dtype.itemsize
        if size > entry.file_size:
            raise ValueError(f"its {name} are larger than what it stores")
        content = stream.read()
    if len(content) != size:
        raise ValueError(f"its {name} are not as large as they say")
    return np.frombuffer(content, dtype).reshape(shape)


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and type of an array in numpy's format, as numpy writes those of this file.

    Raises:
        ValueError: it is written in any other way.
    """
    start = stream.read(len(_MAGIC) + 2)
    text = stream.read(min(int.from_bytes(start[len(_MAGIC) :], "little"), _MAX_HEADER_BYTES))
    found = _HEADER.fullmatch(text)
    if not start.startswith(_MAGIC) or found is None:
        raise ValueError("an array has not the header that numpy gives one of plain numbers")
    kind, shape = found.groups()
    return tuple(map(int, shape.replace(b",", b" ").split())), np.dtype(kind.decode())
