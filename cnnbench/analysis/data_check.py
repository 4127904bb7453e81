"""What is wrong with a data set: images that are there twice, classes too small, broken files."""

from __future__ import annotations

from typing import Any

import numpy as np

from cnnbench.config.run_config import RunConfig
from cnnbench.data.arrays import DatasetArrays, Indices, Targets
from cnnbench.data.duplicates import DuplicateReport, Group, find_duplicates
from cnnbench.data.folds import measured_sha256
from cnnbench.data.readers.folder import read_folder, unreadable_images
from cnnbench.data.split import split_train
from cnnbench.data.splits import Splits
from cnnbench.data.table import refuse_tables
from cnnbench.errors import UsageError
from cnnbench.files import expand_path
from cnnbench.notices import notice
from cnnbench.training.data import read_arrays, without_fold

# What a split's duplicates are looked for in: what training and choosing have seen before it.
SEEN_BEFORE = {"test": ("train", "val"), "val": ("train",)}


def check_data(config: RunConfig) -> dict[str, Any]:
    """Look for what would spoil training or testing on a data set.

    Args:
        config: its data counts; the splits are those that a run of it has.

    Returns:
        ``name``, ``source``, ``counts`` (images of each class by split), ``small_classes``
        (``split``, ``class``, ``count``, of fewer than ten), ``exact``, ``near`` and
        ``different_labels`` (lists of groups, each a list of ``split``, ``index``, ``class`` and,
        for a folder, ``file``), ``images_sha256`` (of the images of ``test`` and ``val``),
        ``seen_before`` (which of them are also, equal or nearly, in a split before),
        ``unreadable`` (a sentence for each file) and ``notes``.

    Raises:
        DataError: the data is missing, or not laid out as it must be.
    """
    data, broken = config.data, {}
    refuse_tables(data.name, "data check looks for equal images")
    if data.name == "folder":
        root = expand_path(data.root)
        broken = unreadable_images(root, data.args)
        arrays = read_folder(root, data.args, data.image_size, left_out=broken.keys())
        arrays = without_fold(config, arrays)
    else:
        arrays = read_arrays(config, notice)
    train, val = split_train(arrays, data.val_fraction, data.split_seed)
    rows = {"train": train, "val": val, "test": np.arange(len(arrays.test))}
    if len(arrays.train) + len(arrays.test) > 20_000:
        notice("looking for near duplicates takes a minute or two")
    found = find_duplicates(
        {split: _images(arrays, split, rows[split]) for split in rows},
        {
            split: (arrays.test if split == "test" else arrays.train).targets[rows[split]]
            for split in rows
        },
        num_classes=len(arrays.class_names),
    )
    names = {
        "train": _named(arrays.train_names, train),
        "val": _named(arrays.train_names, val),
        "test": arrays.test_names,
    }

    def plain(group: Group) -> list[dict[str, Any]]:
        return [
            {
                "split": member.split,
                "index": member.index,
                "class": arrays.class_names[member.target],
                **({"file": of_split[member.index]} if (of_split := names[member.split]) else {}),
            }
            for member in group.members
        ]

    return {
        "name": data.name,
        "source": arrays.source,
        "counts": {
            split: dict(zip(arrays.class_names, counts, strict=True))
            for split, counts in found.counts.items()
        },
        "small_classes": [
            {"split": c.split, "class": arrays.class_names[c.target], "count": c.count}
            for c in found.small_classes
            if len(rows[c.split])
        ],
        "exact": [plain(group) for group in found.exact],
        "near": [plain(group) for group in found.near],
        "different_labels": [plain(group) for group in found.conflicts],
        "images_sha256": {split: measured_sha256(arrays, rows[split]) for split in SEEN_BEFORE},
        "seen_before": {split: _seen(found, split).tolist() for split in SEEN_BEFORE},
        "unreadable": list(broken.values()),
        "notes": list(arrays.notes),
    }


def _named(names: tuple[str, ...] | None, rows: Indices) -> tuple[str, ...] | None:
    return None if names is None else tuple(names[row] for row in rows)


def _images(arrays: DatasetArrays, split: str, rows: Indices) -> Any:
    """Yield the images of a split in order."""
    part = (arrays.test if split == "test" else arrays.train).take(rows)
    return part.chunks()


def seen_before(data: Splits, split: str) -> Indices:
    """Return which images of a split training or choosing has seen, up to small damage.

    Args:
        data: images at their own size or the network's.
        split: test or val.

    Raises:
        UsageError: nothing comes before the training images.
    """
    if split not in SEEN_BEFORE:
        raise UsageError(f"--without-duplicates: {split} images come first; expected test or val")
    parts = {name: data.batches(name) for name in data.parts}
    targets: dict[str, Targets] = {
        name: np.concatenate([t.cpu().numpy() for _, t in batches] or [np.empty(0, np.int64)])
        for name, batches in parts.items()
    }
    found: DuplicateReport = find_duplicates(
        {name: (i.cpu().numpy() for i, _ in batches) for name, batches in parts.items()},
        targets,
        num_classes=data.num_classes,
    )
    return _seen(found, split)


def _seen(found: DuplicateReport, split: str) -> Indices:
    duplicated = [found.duplicated_in(split, other) for other in SEEN_BEFORE[split]]
    return np.unique(np.concatenate(duplicated))
