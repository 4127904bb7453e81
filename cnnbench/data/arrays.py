"""What a data set is once it is read: images and targets of both splits, and their identity."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cnnbench.data.images import ON_WHITE, Decoding, Images, decode_image

Targets = NDArray[np.int64]
Indices = NDArray[np.int64]

# Images of one data set beyond this are not all held in memory.
MEMORY_LIMIT_BYTES = 2 * 1024**3
# How notes end that say where a part came from; folds draw it anew.
IS_TEST_PART = "is the test part"
DRAWS_NOTHING = "data.val_fraction draws nothing"


@dataclass(frozen=True)
class ImageArrays:
    """Images held in memory.

    Attributes:
        images: uint8, (N, C, H, W).
        targets: (N,), the class of each image.
    """

    images: Images
    targets: Targets

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, rows: Indices) -> ImageArrays:
        """Return the images at these indices, in memory of their own."""
        return ImageArrays(self.images[rows], self.targets[rows])

    def chunks(self, size: int = 4096) -> Iterator[Images]:
        """Yield the images in order, at most ``size`` at a time."""
        for start in range(0, len(self), size):
            yield self.images[start : start + size]


@dataclass(frozen=True)
class ImageFiles:
    """Images too many to hold: each is decoded when its batch asks for it.

    Attributes:
        paths: N image files.
        targets: (N,), the class of each image.
        in_channels: 1 (grey) or 3 (colour).
        image_size: pixels of a side after decoding.
        decoding: of all files of the data set.
    """

    paths: tuple[Path, ...]
    targets: Targets
    in_channels: int
    image_size: int
    decoding: Decoding = ON_WHITE

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, rows: Indices) -> ImageFiles:
        """Return the files at these indices."""
        paths = tuple(self.paths[row] for row in rows)
        return dataclasses.replace(self, paths=paths, targets=self.targets[rows])

    def decode(self, indices: Iterable[int]) -> Images:
        """Return the images at these indices as one array, (len(indices), C, S, S).

        Raises:
            DataError: a file is no image.
        """
        rows = list(indices)
        shape = (len(rows), self.in_channels, self.image_size, self.image_size)
        images = np.empty(shape, dtype=np.uint8)
        how = self.in_channels, self.image_size, self.decoding
        for row, index in enumerate(rows):
            images[row] = decode_image(self.paths[index], *how)
        return images

    def chunks(self, size: int = 256) -> Iterator[Images]:
        """Yield the images in order, at most ``size`` at a time."""
        for start in range(0, len(self), size):
            yield self.decode(range(start, min(start + size, len(self))))


Part = ImageArrays | ImageFiles


@dataclass(frozen=True)
class Fold:
    """Which fold of a data set is held out.

    Attributes:
        number: from 0.
        count: of all folds; at least 2.
        seed: draws them.
        split: what the fold is: ``test``, or ``val`` where the source has a test part of its own.
    """

    number: int
    count: int
    seed: int
    split: Literal["test", "val"]


@dataclass(frozen=True)
class DatasetArrays:
    """A data set that was read and verified.

    Attributes:
        train: the training images, those that will validate among them.
        test: the test images.
        class_names: the name of each target value.
        mean: of the training images in [0, 1], per channel.
        std: likewise.
        sha256: over the decoded images and targets of both splits.
        source: where it was read from.
        warnings: what the user should know, such as damaged files that were passed over.
        notes: what is worth a line before training, such as how many files are no images.
        train_names: where the split goes by names, that of each training image.
        test_names: that of each test image, where images have names.
        num_val: how many images at the end of ``train`` are a validation part of the source's own.
        columns: of a table, the name of each column of numbers; its rows are images of one pixel
            in float64, with a channel for each column, and its mean and std are of no use.
        is_test_drawn: whether the source has no test part, and some of its images were drawn.
        fold: that was held out of it, if any was.
        decoding: how its image files were decoded, where it has any.
    """

    train: Part
    test: Part
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sha256: str
    source: str
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    train_names: tuple[str, ...] | None = None
    test_names: tuple[str, ...] | None = None
    num_val: int = 0
    columns: tuple[str, ...] = ()
    is_test_drawn: bool = False
    fold: Fold | None = None
    decoding: Decoding | None = None

    @property
    def is_number(self) -> bool:
        """Whether the target is a number, which ``class_names`` names; else a class."""
        return self.train.targets.dtype.kind == "f"


def hash_images(part: Part) -> str:
    """Return the SHA-256 of the images' bytes, in order."""
    digest = hashlib.sha256()
    for chunk in part.chunks():
        digest.update(np.ascontiguousarray(chunk).data)
    return digest.hexdigest()


def hash_targets(targets: Targets) -> str:
    """Return the SHA-256 of the targets as little-endian 64-bit integers, or floats."""
    kind = "<f8" if targets.dtype.kind == "f" else "<i8"
    return hashlib.sha256(targets.astype(kind).tobytes()).hexdigest()


def combine_hashes(parts: Iterable[str]) -> str:
    """Return one SHA-256 for those of train images, train targets, test images, test targets."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def hash_parts(train: Part, test: Part) -> tuple[str, str, str, str]:
    """Return the SHA-256 of train images, train targets, test images and test targets."""
    return (
        hash_images(train),
        hash_targets(train.targets),
        hash_images(test),
        hash_targets(test.targets),
    )


@dataclass(frozen=True)
class Survey:
    """What one pass over images tells.

    Attributes:
        sha256: of the images' bytes, in order.
        mean: per channel, of pixels scaled to [0, 1].
        std: likewise.
    """

    sha256: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


def survey(part: Part) -> Survey:
    """Hash the images and take each channel's mean and standard deviation in one pass.

    The sums are exact integers, so the result does not depend on the order of the images.

    Args:
        part: at least one image.
    """
    digest = hashlib.sha256()
    counts: NDArray[np.int64] | None = None
    for chunk in part.chunks():
        digest.update(np.ascontiguousarray(chunk).data)
        channels = chunk.swapaxes(0, 1).reshape(chunk.shape[1], -1)
        chunk_counts = np.stack([np.bincount(pixels, minlength=256) for pixels in channels])
        counts = chunk_counts if counts is None else counts + chunk_counts
    assert counts is not None
    levels = np.arange(256)
    totals = counts.sum(axis=1)
    means = (counts * levels).sum(axis=1) / totals
    variances = (counts * (levels - means[:, None]) ** 2).sum(axis=1) / totals
    return Survey(
        sha256=digest.hexdigest(),
        mean=tuple((means / 255).tolist()),
        std=tuple((np.sqrt(variances) / 255).tolist()),
    )


@dataclass(frozen=True)
class Scale:
    """What brings a data set's inputs, and targets that are numbers, to mean 0 and deviation 1.

    Attributes:
        mean: per channel, or per column of a table.
        std: likewise.
        target_mean: 0 for classes.
        target_std: 1 for classes.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    target_mean: float = 0.0
    target_std: float = 1.0

    def with_targets(self, arrays: DatasetArrays) -> DatasetArrays:
        """Return a data set whose numbers are scaled, in float32; classes stay as they are."""
        if not arrays.is_number:
            return arrays

        def scaled(part: Part) -> Part:
            numbers = (part.targets - self.target_mean) / self.target_std
            return dataclasses.replace(part, targets=numbers.astype(np.float32))

        return dataclasses.replace(arrays, train=scaled(arrays.train), test=scaled(arrays.test))


def scale_of(arrays: DatasetArrays, rows: Indices, *, normalize: bool) -> Scale:
    """Return the scale of a data set.

    Args:
        arrays: as it was read. Images have constants of their whole training part.
        rows: indices of the training rows of a table, whose constants are of these alone.
        normalize: otherwise nothing is moved or divided.
    """
    if not normalize:
        return Scale((0.0,) * len(arrays.mean), (1.0,) * len(arrays.mean))
    mean, std = arrays.mean, arrays.std
    if arrays.columns:
        values = np.concatenate(list(arrays.train.take(rows).chunks())).astype(np.float64)
        mean = tuple(values.mean(axis=(0, 2, 3)).tolist())
        std = tuple(values.std(axis=(0, 2, 3)).tolist())
    if not arrays.is_number:
        return Scale(mean, std)
    numbers = arrays.train.targets[rows]
    return Scale(mean, std, float(numbers.mean()), float(numbers.std()) or 1.0)
