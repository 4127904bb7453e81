"""The user's own images: ``root/class/image.png``, torchvision's ImageFolder layout."""

from __future__ import annotations

import dataclasses
import hashlib
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cnnbench.data.arrays import (
    DRAWS_NOTHING,
    IS_TEST_PART,
    MEMORY_LIMIT_BYTES,
    DatasetArrays,
    ImageArrays,
    ImageFiles,
    Indices,
    Part,
    Targets,
    combine_hashes,
    hash_targets,
    survey,
)
from cnnbench.data.images import SUFFIXES, decode_image, decoding_of
from cnnbench.data.readers.content import content_hashes
from cnnbench.data.readers.parts import find_parts, refuse_inner_classes, sub_folders
from cnnbench.data.readers.sources import Facts
from cnnbench.data.readers.walk import ImageWalk, find_images, pass_over_loose
from cnnbench.data.split import hashed_split, stratified_split
from cnnbench.errors import DataError, UsageError
from cnnbench.files import expand_path

_TEST_FRACTION = 0.2
NATIVE_SIZE = 64


@dataclass(frozen=True)
class Listing:
    """The images of one part, in ImageFolder's order.

    Attributes:
        class_names: sorted names of the class folders.
        paths: the files.
        targets: (N,), the class of each.
    """

    class_names: tuple[str, ...]
    paths: tuple[Path, ...]
    targets: Targets

    def take(self, indices: Indices) -> Listing:
        """Return the images at these indices."""
        paths = tuple(self.paths[index] for index in indices)
        return Listing(self.class_names, paths, self.targets[indices])

    def with_classes(self, class_names: tuple[str, ...], folder: Path) -> Listing:
        """Return the same images with their targets by other class names.

        Raises:
            DataError: one of the classes is not among them.
        """
        if strange := sorted(set(self.class_names) - set(class_names)):
            raise DataError(f"{folder}: classes without training images: {', '.join(strange)}")
        targets = np.array([class_names.index(name) for name in self.class_names])
        return Listing(class_names, self.paths, targets[self.targets])


@dataclass(frozen=True)
class FolderListing:
    """All images of a folder by part.

    Attributes:
        train: the training images; those that validate are not among them.
        val: a validation part of the folder's own, or None.
        test: the test images.
        notes: what was passed over, and how the parts were found.
        is_test_drawn: whether the folder has no test part of its own.
    """

    train: Listing
    val: Listing | None
    test: Listing
    notes: tuple[str, ...]
    is_test_drawn: bool


def list_images(root: Path, walk: ImageWalk, fewest: int = 2) -> Listing:
    """Return the images of all class folders below ``root``.

    Args:
        root: the folder.
        walk: what is passed over is counted here.
        fewest: class folders that there must be.

    Raises:
        DataError: there are fewer class folders, or one holds no image.
    """
    folders = sub_folders(root)
    if len(folders) < fewest:
        inner = "".join(
            f"; did you mean data.root={folder}?" for folder in folders if sub_folders(folder)
        )
        raise DataError(
            f"{root}: expected at least two class folders with images in them "
            f"(root/class/image.png), found {', '.join(f.name for f in folders) or 'none'}{inner}"
        )
    pass_over_loose(root, walk)
    paths: list[Path] = []
    targets: list[int] = []
    for target, folder in enumerate(folders):
        found = find_images(folder)
        if not found.files:
            reasons = "; ".join(found.notes())
            raise DataError(
                f"{folder}: a class folder without images ({' '.join(sorted(SUFFIXES))})"
                + (f": {reasons}" if reasons else "")
            )
        kept = [path for path in found.files if _is_first(path, walk)]
        walk.add(found)
        paths += kept
        targets += [target] * len(kept)
    refuse_inner_classes(root, folders)
    names = tuple(folder.name for folder in folders)
    return Listing(names, tuple(paths), np.array(targets, dtype=np.int64))


def list_folder(root: Path, split_by: str = "path") -> FolderListing:
    """Return the images of a folder by part.

    Args:
        root: the folder.
        split_by: how a part that the folder lacks is drawn: ``path`` by a hash of each relative
            path, ``position`` by each image's index in its class, as versions before 0.2 did.

    Raises:
        DataError: the folder has not the layout, or too few images to draw a test part.
    """
    walk = ImageWalk()
    parts, notes = find_parts(root)
    if parts:
        pass_over_loose(root, walk)
    listings = {
        name: list_images(folder, walk, 2 if name == "train" else 1)
        for name, folder in parts.items()
    }
    if not parts:
        listings["train"] = list_images(root, walk)
    train = listings["train"]
    val, test = (
        listings[name].with_classes(train.class_names, parts[name]) if name in parts else None
        for name in ("val", "test")
    )
    if test is None:
        # Drawn without a seed: the test part is the same for every run.
        first, second = (
            stratified_split(train.targets, _TEST_FRACTION, seed=0)
            if split_by == "position"
            else hashed_split(train.targets, relative_names(root, train), _TEST_FRACTION, "test")
        )
        if not len(second):
            raise DataError(
                f"{root}: the largest class has {np.bincount(train.targets).max()} images, too few "
                "to test on some of them; add images, or a test folder (test/class/image.png)"
            )
        train, test = train.take(first), train.take(second)
        notes.append(f"no test folder: a fixed fifth, {len(second)} images, {IS_TEST_PART}")
    if val is not None:
        notes.append(f"{parts['val'].name}/ validates: {DRAWS_NOTHING}")
    is_drawn = "test" not in parts
    return FolderListing(train, val, test, (*notes, *walk.notes()), is_drawn)


def relative_names(root: Path, listing: Listing) -> list[str]:
    """Return each image's path below the folder, the same on every system."""
    return [
        unicodedata.normalize("NFC", path.relative_to(root).as_posix()) for path in listing.paths
    ]


def _is_first(path: Path, walk: ImageWalk) -> bool:
    """Tell whether no other class or part holds the same file by a link."""
    status = path.stat()
    identity = status.st_dev, status.st_ino
    if identity in walk.seen:
        walk.pass_over(path, "links to an image of another class or part")
        return False
    walk.seen.add(identity)
    return True


def folder_facts(root: Path | None, args: Mapping[str, Any]) -> Facts:
    """Return what the folder's names tell.

    Raises:
        DataError: the folder has not the layout.
    """
    listing = list_folder(required_root(root), _split_by(args))
    num_classes = len(listing.train.class_names)

    def counts(part: Listing) -> tuple[int, ...]:
        return tuple(np.bincount(part.targets, minlength=num_classes).tolist())

    return Facts(
        num_classes=num_classes,
        in_channels=_channels(args),
        image_size=NATIVE_SIZE,
        class_names=listing.train.class_names,
        train_counts=counts(listing.train),
        test_counts=counts(listing.test),
    )


def folder_fingerprint(root: Path | None, args: Mapping[str, Any]) -> str:
    """Return a hash over the images' names and contents, without decoding them."""
    base = required_root(root)
    listing = list_folder(base, _split_by(args))
    parts = [part for part in (listing.train, listing.val, listing.test) if part is not None]
    digests = content_hashes(base, [path for part in parts for path in part.paths])
    lines = [f"in_channels={args['in_channels']} split_by={_split_by(args)}"]
    for part in parts:
        lines.append(f"{len(part.paths)} images")
        lines += [
            f"{name}\0{digests[path]}"
            for name, path in zip(relative_names(base, part), part.paths, strict=True)
        ]
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()


def required_root(root: Path | None) -> Path:
    """Return the folder the user named.

    Raises:
        DataError: none was named.
    """
    if root is None:
        raise DataError("data=folder: name the folder of images: data.root=FOLDER")
    return expand_path(root)


def _channels(args: Mapping[str, Any]) -> int:
    channels = int(args["in_channels"])
    if channels not in (1, 3):
        raise UsageError(f"data.in_channels={channels}: expected 1 (grey) or 3 (colour)")
    return channels


def _split_by(args: Mapping[str, Any]) -> str:
    return str(args.get("split_by", "path"))


def read_folder(
    root: Path | None,
    args: Mapping[str, Any],
    image_size: int,
    limit_bytes: int = MEMORY_LIMIT_BYTES,
    left_out: Collection[Path] = (),
) -> DatasetArrays:
    """Decode a folder's images, into memory where they fit.

    Beyond ``limit_bytes`` every image is still decoded once, for its checksum and the
    normalisation constants, and later again whenever its batch is made.

    Args:
        root: the folder.
        args: ``in_channels``.
        image_size: pixels of a side after decoding.
        limit_bytes: what both splits together may take in memory.
        left_out: files that are not read, after the parts were drawn.

    Raises:
        DataError: the folder has not the layout, or a file is no image.
    """
    base = required_root(root)
    listing = list_folder(base, _split_by(args))
    train, num_val = listing.train, 0
    if listing.val is not None:
        num_val = len(listing.val.paths)
        train = Listing(
            train.class_names,
            train.paths + listing.val.paths,
            np.concatenate([train.targets, listing.val.targets]),
        )
    if left_out:
        if listing.val is not None:
            num_val -= sum(path in left_out for path in listing.val.paths)
        train, test = (
            part.take(np.flatnonzero([path not in left_out for path in part.paths]))
            for part in (train, listing.test)
        )
        listing = dataclasses.replace(listing, test=test)
    channels = _channels(args)
    decoding = decoding_of([*train.paths, *listing.test.paths])
    files = [
        ImageFiles(part.paths, part.targets, channels, image_size, decoding)
        for part in (train, listing.test)
    ]
    total = sum(len(part) for part in files) * channels * image_size**2
    parts: list[Part] = [*files]
    if total <= limit_bytes:
        parts = [ImageArrays(part.decode(range(len(part))), part.targets) for part in files]
    surveys = [survey(part) for part in parts]
    hashes = [
        text
        for seen, part in zip(surveys, parts, strict=True)
        for text in (seen.sha256, hash_targets(part.targets))
    ]
    by_path = _split_by(args) == "path"
    return DatasetArrays(
        train=parts[0],
        test=parts[1],
        class_names=train.class_names,
        mean=surveys[0].mean,
        std=surveys[0].std,
        sha256=combine_hashes(hashes),
        source=f"folder {base}",
        notes=listing.notes,
        train_names=tuple(relative_names(base, train)) if by_path else None,
        test_names=tuple(relative_names(base, listing.test)),
        num_val=num_val,
        is_test_drawn=listing.is_test_drawn,
        decoding=decoding,
    )


def unreadable_images(root: Path | None, args: Mapping[str, Any]) -> dict[Path, str]:
    """Return every file of a folder's classes that cannot be decoded, and why.

    Raises:
        DataError: the folder has not the layout.
    """
    listing = list_folder(required_root(root), _split_by(args))
    broken = {}
    for part in (listing.train, listing.val, listing.test):
        for path in part.paths if part is not None else ():
            try:
                decode_image(path, _channels(args), 1)
            except DataError as error:
                broken[path] = str(error)
    return broken
