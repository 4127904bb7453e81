"""What is worth a line before training: classes by split, and images that are there twice."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from cnnbench.data.arrays import DatasetArrays, ImageArrays, Indices, Part
from cnnbench.notices import visible

# So many classes are named one by one.
_NAMED_CLASSES = 12
# A class of fewer training rows may be a value of a number.
_FEW_ROWS = 5


def image_digests(part: Part) -> NDArray[np.bytes_]:
    """Return a hash of each image's pixels, in order; images that must be decoded are decoded."""
    digests = [
        hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()
        for chunk in part.chunks()
        for image in chunk
    ]
    return np.array(digests, dtype="S16")


def split_notes(arrays: DatasetArrays, train: Indices, val: Indices, test: Indices) -> list[str]:
    """Return sentences on the splits of a data set.

    Args:
        arrays: a data set that was read.
        train: indices of the training images in ``arrays.train``.
        val: of the validation images, likewise.
        test: of the test images in ``arrays.test``.
    """
    targets = {
        "train": arrays.train.targets[train],
        "val": arrays.train.targets[val],
        "test": arrays.test.targets[test],
    }
    if arrays.columns:
        return _row_notes(arrays, targets, (train, val, test))
    names = [visible(name) for name in arrays.class_names]
    counts = {part: np.bincount(t, minlength=len(names)) for part, t in targets.items()}
    notes = [_class_note(arrays, counts)]
    for part, of_class in counts.items():
        missing = [name for name, count in zip(names, of_class, strict=True) if not count]
        if missing and of_class.any():
            more = f" and {len(missing) - 4} more" if len(missing) > 4 else ""
            notes.append(f"no {part} image of {', '.join(missing[:4])}{more}")
    # What does not fit into memory is decoded by batch; `cnnbench data check` looks at it.
    if isinstance(arrays.train, ImageArrays) and isinstance(arrays.test, ImageArrays):
        whole, tested = image_digests(arrays.train), image_digests(arrays.test)
        notes += _duplicate_notes(
            {"train": whole[train], "val": whole[val], "test": tested[test]}, targets
        )
    return notes


def _row_notes(
    arrays: DatasetArrays,
    targets: dict[str, NDArray[np.int64]],
    indices: tuple[Indices, Indices, Indices],
) -> list[str]:
    """Return sentences on the splits of a table."""
    names = arrays.class_names
    notes = [f"a row is {len(arrays.columns)} numbers; the target is the number '{names[0]}'"]
    if not arrays.is_number:
        counts = {part: np.bincount(t, minlength=len(names)) for part, t in targets.items()}
        notes = [_class_note(arrays, counts)]
        if len(names) > _NAMED_CLASSES and counts["train"].min() < _FEW_ROWS:
            notes.append("if the target is a number, loss=mse predicts it")
    train, _, test = indices
    seen, tested = image_digests(arrays.train), image_digests(arrays.test)
    if count := int(np.isin(tested[test], seen[train]).sum()):
        notes.append(f"{count} of the test rows are also in train")
    return notes


def _class_note(arrays: DatasetArrays, counts: dict[str, NDArray[np.int64]]) -> str:
    names = [visible(name) for name in arrays.class_names]
    if len(names) > _NAMED_CLASSES:
        what = "rows" if arrays.columns else "images"
        least, most = counts["train"].min(), counts["train"].max()
        return f"{len(names)} classes of {least} to {most} training {what}"
    of_class = [
        f"{name} {counts['train'][i]}/{counts['val'][i]}/{counts['test'][i]}"
        for i, name in enumerate(names)
    ]
    return f"classes (train/val/test): {', '.join(of_class)}"


def _duplicate_notes(
    digests: dict[str, NDArray[np.bytes_]], targets: dict[str, NDArray[np.int64]]
) -> list[str]:
    notes = []
    for part, other in (("test", "train"), ("test", "val"), ("val", "train")):
        if count := int(np.isin(digests[part], digests[other]).sum()):
            are = "is" if count == 1 else "are"
            notes.append(f"{count} of the {part} images {are} also in {other}, pixel for pixel")
    every = np.concatenate(list(digests.values()))
    labels = np.concatenate(list(targets.values()))
    _, first, group = np.unique(every, return_index=True, return_inverse=True)
    differing = np.unique(group[labels != labels[first][group]])
    if count := len(differing):
        images = "image is" if count == 1 else "images are"
        notes.append(f"{count} {images} there with different labels")
    return notes
