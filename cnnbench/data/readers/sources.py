"""Published data sets: where their files may lie, in which order they are tried, and the proof.

Order: the data root, a system package, the mirrors. A damaged copy is passed over with a warning
when a sound one exists further down.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cnnbench.data.arrays import (
    DatasetArrays,
    ImageArrays,
    combine_hashes,
    hash_parts,
    survey,
)
from cnnbench.data.readers.download import Report, download_files
from cnnbench.errors import DataError
from cnnbench.files import expand_path

_PARTS = ("train images", "train labels", "test images", "test labels")


@dataclass(frozen=True)
class PublishedFile:
    """One file as its publisher offers it.

    Attributes:
        name: as on the mirrors.
        md5: of the file, from torchvision's lists.
        num_bytes: its length; a download that goes beyond is given up.
    """

    name: str
    md5: str
    num_bytes: int


@dataclass(frozen=True)
class Published:
    """Where a data set's files come from and where they are kept.

    Attributes:
        folder: below the data root, as torchvision has it; downloads go there.
        files: what the mirrors offer.
        mirrors: base addresses, in the order they are tried.
        layouts: complete sets of paths below the data root, any of which will do.
        decode: reads one such set.
        system_folder: below the ``datasets`` folder of each of ``XDG_DATA_DIRS``, or None.
        debian_package: what puts them there, or None.
    """

    folder: str
    files: tuple[PublishedFile, ...]
    mirrors: tuple[str, ...]
    layouts: tuple[tuple[str, ...], ...]
    decode: Decode
    system_folder: str | None = None
    debian_package: str | None = None


@dataclass(frozen=True)
class Facts:
    """What is known of a data set without reading it.

    Attributes:
        num_classes: number of classes.
        in_channels: 1 (grey) or 3 (colour).
        image_size: native pixels of a side.
        class_names: the name of each target value.
        mean: of the training images in [0, 1], per channel; None where it has to be computed.
        std: likewise.
        train_counts: training images of each class; empty where unknown.
        test_counts: likewise.
        part_sha256: of train images, train targets, test images and test targets, where known.
        file_md5: of the files by name, where known; unpacked, or else packed as ``NAME.gz``.
        is_number: whether the target is a number, which ``class_names`` names; else a class.
        columns: of a table, the name of each column of numbers.
    """

    num_classes: int
    in_channels: int
    image_size: int
    class_names: tuple[str, ...]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    train_counts: tuple[int, ...] = ()
    test_counts: tuple[int, ...] = ()
    part_sha256: tuple[str, str, str, str] | None = None
    file_md5: Mapping[str, str] = field(default_factory=dict)
    is_number: bool = False
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Location:
    """A set of files that may hold a data set.

    Attributes:
        label: "data root" or "system package".
        paths: the files.
    """

    label: str
    paths: tuple[Path, ...]

    def missing(self) -> tuple[Path, ...]:
        """Return those of the files that are not there."""
        return tuple(path for path in self.paths if not path.is_file())


Decode = Callable[[Sequence[Path], Facts], tuple[ImageArrays, ImageArrays]]


def data_root(root: Path | None) -> Path:
    """Return where data is kept: the given folder, ``$CNNBENCH_DATA``, or the user's cache.

    Raises:
        DataError: the user has no home directory, and names no folder.
    """
    if root is not None:
        return expand_path(root)
    if chosen := os.environ.get("CNNBENCH_DATA"):
        return expand_path(chosen)
    cache = cache_root()
    if cache is None:
        raise DataError(
            "data is kept below the home directory, and none is known; say where else: "
            "data.root=FOLDER"
        )
    return cache / "data"


def cache_root() -> Path | None:
    """Return where the user's caches of ours are; None where no home directory is known."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    try:
        base = Path(cache) if os.path.isabs(cache) else Path.home() / ".cache"
    except RuntimeError:
        return None
    return base / "cnnbench"


def locations(published: Published, root: Path) -> Iterator[Location]:
    """Yield where the files may lie, in the order they are tried."""
    for layout in published.layouts:
        yield Location("data root", tuple(root / name for name in layout))
    if published.system_folder is not None:
        shared = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
        for base in shared.split(":"):
            folder = Path(base) / "datasets" / published.system_folder
            yield Location("system package", tuple(folder / file.name for file in published.files))


def downloaded(published: Published, root: Path) -> Location:
    """Return where the mirrors' files are kept."""
    folder = root / published.folder
    return Location("data root", tuple(folder / file.name for file in published.files))


def read_published(
    name: str,
    facts: Facts,
    published: Published,
    *,
    root: Path | None,
    download: bool,
    report: Report,
) -> DatasetArrays:
    """Read the first sound copy of a data set, fetching it where there is none.

    Args:
        name: of the data set, for messages.
        facts: what the files must hold.
        published: where they may be.
        root: the data root; None for the default.
        download: whether the mirrors may be asked.
        report: is told, in one sentence, what takes long.

    Raises:
        DataError: there is no sound copy and none could be fetched.
        DiskError: a download could not be written.
    """
    folder = data_root(root)
    damaged: list[str] = []
    for location in locations(published, folder):
        if not location.missing():
            try:
                return read_location(location, facts, published.decode, damaged)
            except DataError as error:
                damaged.append(str(error))
    reason = "downloads are off"
    if download:
        fetched = downloaded(published, folder)
        try:
            download_files(
                {path: (file.md5, file.num_bytes) for path, file in _targets(published, fetched)},
                published.mirrors,
                report,
            )
            return read_location(fetched, facts, published.decode, damaged)
        except DataError as error:
            reason = str(error)
    raise DataError(_missing_message(name, published, folder, damaged, reason))


def _targets(published: Published, location: Location) -> Iterator[tuple[Path, PublishedFile]]:
    return zip(location.paths, published.files, strict=True)


def read_location(
    location: Location, facts: Facts, decode: Decode, damaged: Sequence[str] = ()
) -> DatasetArrays:
    """Read and verify one copy of a data set.

    Args:
        location: its files.
        facts: what they must hold.
        decode: reads them.
        damaged: problems of the copies that were tried before.

    Raises:
        DataError: a file is missing, damaged, or another one than expected.
    """
    train, test = decode(location.paths, facts)
    same = location.paths if len(location.paths) == len(_PARTS) else [location.paths[0].parent] * 4
    sha256 = verify(train, test, facts, [str(path) for path in same])
    warnings = [f"passed over: {problem}" for problem in damaged]
    mean, std = facts.mean, facts.std
    if mean is None or std is None:
        seen = survey(train)
        mean, std = seen.mean, seen.std
    return DatasetArrays(
        train=train,
        test=test,
        class_names=facts.class_names,
        mean=mean,
        std=std,
        sha256=sha256,
        source=f"{location.label} {location.paths[0].parent}",
        warnings=tuple(warnings),
    )


def verify(train: ImageArrays, test: ImageArrays, facts: Facts, where: Sequence[str]) -> str:
    """Check shapes, labels, class counts and, where known, checksums; return the SHA-256.

    Args:
        train: the training part.
        test: the test part.
        facts: what is expected.
        where: what to name in messages for train images, train labels, test images, test labels.

    Raises:
        DataError: anything differs.
    """
    sides = (facts.in_channels, facts.image_size, facts.image_size)
    for at, part, expected in ((0, train, facts.train_counts), (2, test, facts.test_counts)):
        if part.images.shape != (len(part), *sides) or part.images.dtype != np.uint8:
            came = f"{part.images.dtype} {part.images.shape}"
            raise DataError(f"{where[at]}: holds {came}, expected uint8 {(len(part), *sides)}")
        outside = (part.targets < 0) | (part.targets >= facts.num_classes)
        if outside.any():
            raise DataError(
                f"{where[at + 1]}: damaged: label {part.targets[outside][0]}, "
                f"expected 0 to {facts.num_classes - 1}"
            )
        counts = tuple(np.bincount(part.targets, minlength=facts.num_classes).tolist())
        if counts != expected:
            raise DataError(
                f"{where[at + 1]}: damaged or another data set: images per class are "
                f"{counts}, expected {expected}"
            )
    parts = hash_parts(train, test)
    for location, part_name, came, known in zip(
        where, _PARTS, parts, facts.part_sha256 or parts, strict=True
    ):
        if came != known:
            raise DataError(
                f"{location}: damaged: the {part_name} have SHA-256 {came[:16]}..., "
                f"expected {known[:16]}..."
            )
    return combine_hashes(parts)


def check_file(facts: Facts, name: str, where: str, *pieces: bytes | memoryview) -> None:
    """Compare a file with its publisher's, where that one's MD5 is known.

    Args:
        facts: what is expected.
        name: the file's name; of unpacked bytes without ``.gz``.
        where: what to name in the message.
        pieces: its bytes, in order.

    Raises:
        DataError: it is another file.
    """
    known = facts.file_md5.get(name)
    if known is None:
        return
    md5 = hashlib.md5(usedforsecurity=False)
    for piece in pieces:
        md5.update(piece)
    if md5.hexdigest() != known:
        raise DataError(
            f"{where}: damaged or another file: its bytes have MD5 {md5.hexdigest()}, "
            f"expected {known}"
        )


def _missing_message(
    name: str, published: Published, root: Path, damaged: Sequence[str], reason: str
) -> str:
    files = ", ".join(file.name for file in published.files)
    lines = [
        f"data={name}: no usable copy was found, and none could be downloaded ({reason}).",
        *(f"Unusable: {problem}." for problem in damaged),
        f"Put {files} into {root / published.folder}"
        + (
            f", or install Debian's {published.debian_package}."
            if published.debian_package
            else "."
        ),
        "data=digits needs no files.",
    ]
    return "\n".join(lines)
