"""What ``cnnbench data`` answers: where a data set is, whether it is sound, how it looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnnbench.data.arrays import DatasetArrays, ImageArrays
from cnnbench.data.images import Images
from cnnbench.data.readers.download import Report
from cnnbench.data.readers.folder import required_root
from cnnbench.data.readers.sources import data_root, locations, read_location
from cnnbench.data.table import dataset_row, read_dataset
from cnnbench.errors import DataError, UsageError
from cnnbench.files import writing

Row = dict[str, Any]


def where(name: str, root: Path | None) -> list[Row]:
    """Return the locations a data set is looked for, in that order: location, path, state.

    Raises:
        UsageError: there is no such data set.
        DataError: ``folder`` without a folder, or a file's format without the file.
    """
    published = dataset_row(name).published
    if published is None:
        if name == "folder":
            return [_location("folder", required_root(root), "as it is")]
        if name in ("csv", "npz"):
            if root is None:
                raise DataError(f"data={name}: name the file: data.root=FILE.{name}")
            return [_location("file", root, "as it is" if root.is_file() else "absent")]
        if name == "custom":
            return [_location("code of your own", "", "named by data.path=FILE.py:NAME")]
        return [_location("cnnbench", "", "needs no files")]
    rows = []
    for location in locations(published, data_root(root)):
        missing = location.missing()
        states = {0: "all files there", len(location.paths): "absent"}
        lacking = ", ".join(path.name for path in missing)
        state = states.get(len(missing), f"incomplete: lacks {lacking}")
        rows.append(_location(location.label, _shown(location.paths), state))
    return rows + [_location("mirror", mirror, "not asked") for mirror in published.mirrors]


def _location(location: str, path: Path | str, state: str) -> Row:
    return {"location": location, "path": str(path), "state": state}


def _shown(paths: tuple[Path, ...]) -> Path | str:
    return paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"


def prepare(
    name: str, root: Path | None, args: Mapping[str, Any], image_size: int, report: Report
) -> Row:
    """Make a data set ready, fetching it where it is missing, and return its facts.

    Raises:
        UsageError: there is no such data set.
        DataError: its files are missing or damaged.
        DiskError: a download could not be written.
    """
    arrays = read_dataset(
        name, root=root, args=args, image_size=image_size, download=True, report=report
    )
    return _facts(name, arrays)


def _facts(name: str, arrays: DatasetArrays) -> Row:
    return {
        "name": name,
        "source": arrays.source,
        "num_train": len(arrays.train),
        "num_test": len(arrays.test),
        "class_names": list(arrays.class_names),
        "mean": list(arrays.mean),
        "std": list(arrays.std),
        "sha256": arrays.sha256,
        "warnings": list(arrays.warnings),
    }


def verify(name: str, root: Path | None, args: Mapping[str, Any], image_size: int) -> list[Row]:
    """Read every copy on this machine and return location, path and state of each.

    Raises:
        UsageError: there is no such data set.
        DataError: no copy is sound; the message has what is wrong with each.
    """
    row = dataset_row(name)
    if row.published is None:
        arrays = read_dataset(name, root=root, args=args, image_size=image_size, download=False)
        return [_location(name, arrays.source, f"sound, SHA-256 {arrays.sha256}")]
    facts = row.facts(root, args)
    rows, problems = [], []
    for location in locations(row.published, data_root(root)):
        if location.missing():
            continue
        try:
            arrays = read_location(location, facts, row.published.decode)
        except DataError as error:
            problems.append(str(error))
            state = f"damaged: {error}"
        else:
            state = "; ".join([f"sound, SHA-256 {arrays.sha256}", *arrays.warnings])
        rows.append(_location(location.label, _shown(location.paths), state))
    if len(problems) == len(rows):
        found = "\n".join(problems) or "none was found; `cnnbench data where` lists the locations"
        raise DataError(f"data={name}: no sound copy on this machine: {found}")
    return rows


def samples(arrays: DatasetArrays, count: int) -> tuple[Images, list[str]]:
    """Return the first training images of each class in turn, and their class names.

    Args:
        arrays: a data set that was read.
        count: how many images, >= 1.

    Returns:
        uint8 images (count, C, H, W), and the class name of each.
    """
    targets = arrays.train.targets
    # How many of its class came before each image: first one of every class, then the second.
    rank = np.empty(len(targets), dtype=np.int64)
    for label in range(len(arrays.class_names)):
        members = np.flatnonzero(targets == label)
        rank[members] = np.arange(len(members))
    chosen = np.lexsort((targets, rank))[:count]
    train = arrays.train
    images = train.images[chosen] if isinstance(train, ImageArrays) else train.decode(chosen)
    return images, [arrays.class_names[targets[i]] for i in chosen]


def save_samples(rows: Sequence[Images], names: Sequence[str], path: Path) -> None:
    """Save rows of images, each image's class name above the first row.

    Args:
        rows: uint8 arrays (N, C, H, W), such as images and augmented versions of them.
        names: the N class names.
        path: of the file.

    Raises:
        UsageError: the file's ending is no image's.
        DiskError: it cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.3 * len(names), 0.3 + 1.4 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), len(names), squeeze=False)
    for axis, image in zip(axes.flat, (image for row in rows for image in row), strict=True):
        pixels = image.transpose(1, 2, 0)
        pixels = pixels if pixels.shape[2] == 3 else pixels[:, :, 0]
        axis.imshow(pixels, cmap="gray", vmin=0, vmax=255)
        axis.axis("off")
    for axis, name in zip(axes[0], names, strict=True):
        axis.set_title(name, fontsize=9)
    if path.suffix.lower() not in (".png", ".svg", ".pdf", ".jpg"):
        raise UsageError(f"--output {path}: expected a file ending in .png, .svg, .pdf or .jpg")
    with writing(path):
        figure.savefig(path, dpi=120)
