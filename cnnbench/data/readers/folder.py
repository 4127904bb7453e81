"""The user's own pictures: ``root/class/image.png``, torchvision's ImageFolder layout."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cnnbench.data.arrays import (
    MEMORY_LIMIT_BYTES,
    DatasetArrays,
    ImageArrays,
    ImageFiles,
    Part,
    Targets,
    combine_hashes,
    hash_targets,
    survey,
)
from cnnbench.data.images import SUFFIXES
from cnnbench.data.readers.sources import Facts
from cnnbench.data.split import stratified_split
from cnnbench.errors import DataError, UsageError
from cnnbench.files import expand_path

_TEST_FRACTION = 0.2
NATIVE_SIZE = 64


@dataclass(frozen=True)
class Listing:
    """The picture files below a folder, in ImageFolder's order.

    Attributes:
        class_names: sorted names of the class folders.
        paths: the files.
        targets: (N,), the class of each.
    """

    class_names: tuple[str, ...]
    paths: tuple[Path, ...]
    targets: Targets


def _class_folders(root: Path) -> list[str]:
    try:
        entries = list(os.scandir(root))
    except OSError as error:
        raise DataError(f"{root}: cannot be read as a folder: {error.strerror}") from error
    return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def list_pictures(root: Path) -> Listing:
    """Return the pictures of all class folders below ``root``.

    Raises:
        DataError: there are fewer than two class folders, or one holds no picture.
    """
    class_names = _class_folders(root)
    if len(class_names) < 2:
        raise DataError(
            f"{root}: expected at least two class folders with pictures in them "
            f"(root/class/image.png), found {', '.join(class_names) or 'none'}"
        )
    paths: list[Path] = []
    targets: list[int] = []
    for target, name in enumerate(class_names):
        found = list(_pictures_below(root / name))
        if not found:
            raise DataError(
                f"{root / name}: a class folder without pictures ({' '.join(sorted(SUFFIXES))})"
            )
        paths += found
        targets += [target] * len(found)
    return Listing(tuple(class_names), tuple(paths), np.array(targets, dtype=np.int64))


def _pictures_below(folder: Path) -> Iterator[Path]:
    seen: set[str] = set()
    found = []
    for parent, names, files in os.walk(folder, followlinks=True):
        # A link to a folder above would be walked without end.
        real = os.path.realpath(parent)
        if real in seen:
            names.clear()
            continue
        seen.add(real)
        found += [(parent, name) for name in files if Path(name).suffix.lower() in SUFFIXES]
    return (Path(parent) / name for parent, name in sorted(found) if not name.startswith("."))


def list_folder(root: Path) -> tuple[Listing, Listing]:
    """Return the training and the test pictures.

    Raises:
        DataError: the folder has not the layout.
    """
    folders = _class_folders(root)
    if "train" not in folders and "test" not in folders:
        return _split(list_pictures(root))
    if not {"train", "test"} <= set(folders):
        lacking = "test" if "train" in folders else "train"
        raise DataError(
            f"{root}: has no {lacking}/: expected both train/ and test/, or class folders alone"
        )
    train, test = list_pictures(root / "train"), list_pictures(root / "test")
    if strange := sorted(set(test.class_names) - set(train.class_names)):
        raise DataError(f"{root / 'test'}: classes without training pictures: {', '.join(strange)}")
    places = np.array([train.class_names.index(name) for name in test.class_names])
    return train, Listing(train.class_names, test.paths, places[test.targets])


def _split(listing: Listing) -> tuple[Listing, Listing]:
    train, test = (
        Listing(listing.class_names, tuple(listing.paths[i] for i in rows), listing.targets[rows])
        for rows in stratified_split(listing.targets, _TEST_FRACTION, seed=0)
    )
    return train, test


def folder_facts(root: Path | None, args: Mapping[str, Any]) -> Facts:
    """Return what the folder's names tell.

    Raises:
        DataError: the folder has not the layout.
    """
    train, test = list_folder(required_root(root))
    num_classes = len(train.class_names)
    return Facts(
        num_classes=num_classes,
        in_channels=_channels(args),
        image_size=NATIVE_SIZE,
        class_names=train.class_names,
        train_counts=tuple(np.bincount(train.targets, minlength=num_classes).tolist()),
        test_counts=tuple(np.bincount(test.targets, minlength=num_classes).tolist()),
    )


def folder_fingerprint(root: Path | None, args: Mapping[str, Any]) -> str:
    """Return a hash over the pictures' names and sizes, without reading them."""
    base = required_root(root)
    lines = [f"in_channels={args['in_channels']}"]
    for part in list_folder(base):
        for path in part.paths:
            status = path.stat()
            lines.append(f"{path.relative_to(base)}\0{status.st_size}")
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()


def required_root(root: Path | None) -> Path:
    """Return the folder the user named.

    Raises:
        DataError: none was named.
    """
    if root is None:
        raise DataError("data=folder: name the folder of pictures: data.root=FOLDER")
    return expand_path(root)


def _channels(args: Mapping[str, Any]) -> int:
    channels = int(args["in_channels"])
    if channels not in (1, 3):
        raise UsageError(f"data.in_channels={channels}: expected 1 (grey) or 3 (colour)")
    return channels


def read_folder(
    root: Path | None,
    args: Mapping[str, Any],
    image_size: int,
    limit_bytes: int = MEMORY_LIMIT_BYTES,
) -> DatasetArrays:
    """Decode a folder's pictures, into memory where they fit.

    Beyond ``limit_bytes`` every picture is still decoded once, for its checksum and the
    normalisation constants, and later again whenever its batch is made.

    Args:
        root: the folder.
        args: ``in_channels``.
        image_size: pixels of a side after decoding.
        limit_bytes: what both splits together may take in memory.

    Raises:
        DataError: the folder has not the layout, or a file is no picture.
    """
    base = required_root(root)
    listings = list_folder(base)
    channels = _channels(args)
    files = [
        ImageFiles(listing.paths, listing.targets, channels, image_size) for listing in listings
    ]
    total = sum(len(part) for part in files) * channels * image_size**2
    parts: list[Part] = [*files]
    if total <= limit_bytes:
        parts = [ImageArrays(part.decode(range(len(part))), part.targets) for part in files]
    train, test = parts
    surveys = [survey(part) for part in parts]
    hashes = [
        text
        for seen, part in zip(surveys, parts, strict=True)
        for text in (seen.sha256, hash_targets(part.targets))
    ]
    return DatasetArrays(
        train=train,
        test=test,
        class_names=listings[0].class_names,
        mean=surveys[0].mean,
        std=surveys[0].std,
        sha256=combine_hashes(hashes),
        source=f"folder {base}",
    )
