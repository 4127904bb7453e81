"""Cross-validation: one fold of a data set is held out, and the rest trains."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np

from cnnbench.data.arrays import (
    DRAWS_NOTHING,
    IS_TEST_PART,
    DatasetArrays,
    Fold,
    ImageArrays,
    ImageFiles,
    Indices,
    Part,
    survey,
)
from cnnbench.data.split import fold_numbers, strata


def hold_out(arrays: DatasetArrays, number: int, num_folds: int, seed: int) -> DatasetArrays:
    """Return a data set with one of its folds held out.

    Where the source has no test part, the fold is cut from all images and is the test part; a
    validation part of the source's own stays. Where it has one, the fold is cut from the training
    images, those that validate among them, and validates. Folds are disjoint, hold each class in
    the same proportion, and make the whole together.

    Args:
        arrays: a data set that was read.
        number: of the fold, from 0.
        num_folds: how many there are, at least 2.
        seed: draws them.

    Returns:
        The same images in other parts; its hash is that of the data set, whatever the fold.
    """
    if arrays.is_test_drawn:
        return _as_test(arrays, Fold(number, num_folds, seed, "test"))
    return _as_val(arrays, Fold(number, num_folds, seed, "val"))


def measured_sha256(arrays: DatasetArrays, rows: Indices) -> str:
    """Return what is the same for the same rows of the same data and fold, and for no others."""
    fold = "" if arrays.fold is None else repr(dataclasses.astuple(arrays.fold))
    digest = hashlib.sha256(f"{arrays.sha256}{fold}".encode())
    digest.update(rows.astype("<i8").tobytes())
    return digest.hexdigest()


def _as_test(arrays: DatasetArrays, fold: Fold) -> DatasetArrays:
    own_val = np.arange(len(arrays.train) - arrays.num_val, len(arrays.train))
    free = np.arange(len(arrays.train) + len(arrays.test))
    free = np.delete(free, own_val)
    whole, names = _joined(arrays)
    held = _held(whole, names, free, fold)
    train_rows, test_rows = np.concatenate([free[~held], own_val]), free[held]
    train = whole.take(train_rows)
    mean, std = arrays.mean, arrays.std
    if not arrays.columns and len(train):
        seen = survey(train)
        mean, std = seen.mean, seen.std
    notes = [note for note in arrays.notes if not note.endswith(IS_TEST_PART)]
    return dataclasses.replace(
        arrays,
        train=train,
        test=whole.take(test_rows),
        mean=mean,
        std=std,
        train_names=None if arrays.train_names is None else _taken(names, train_rows),
        test_names=_taken(names, test_rows),
        notes=(*notes, f"{_name(fold, test_rows)} {IS_TEST_PART}"),
        fold=fold,
    )


def _as_val(arrays: DatasetArrays, fold: Fold) -> DatasetArrays:
    rows = np.arange(len(arrays.train))
    held = _held(arrays.train, arrays.train_names, rows, fold)
    rows, val = rows[~held], rows[held]
    order = np.concatenate([rows, val])
    notes = [note for note in arrays.notes if not note.endswith(DRAWS_NOTHING)]
    validates = f"{_name(fold, val)} validates; results are of it, and the test part is not read"
    return dataclasses.replace(
        arrays,
        train=arrays.train.take(order),
        train_names=_taken(arrays.train_names, order),
        notes=(*notes, f"{validates}; {DRAWS_NOTHING}"),
        num_val=len(val),
        fold=fold,
    )


def _joined(arrays: DatasetArrays) -> tuple[Part, tuple[str, ...] | None]:
    """Return training and test images as one part, and their names where both have any."""
    train, test = arrays.train, arrays.test
    targets = np.concatenate([train.targets, test.targets])
    names = None
    if arrays.train_names is not None and arrays.test_names is not None:
        names = (*arrays.train_names, *arrays.test_names)
    if isinstance(train, ImageFiles) and isinstance(test, ImageFiles):
        return dataclasses.replace(train, paths=(*train.paths, *test.paths), targets=targets), names
    images = [np.concatenate(list(part.chunks())) for part in (train, test) if len(part)]
    return ImageArrays(np.concatenate(images), targets), names


def _held(part: Part, names: tuple[str, ...] | None, rows: Indices, fold: Fold) -> Indices:
    """Return which of some rows the fold holds, as booleans."""
    targets = strata(part.targets)[rows]
    numbers = fold_numbers(targets, fold.count, fold.seed, _taken(names, rows))
    held: Indices = numbers == fold.number
    return held


def _taken(names: tuple[str, ...] | None, rows: Indices) -> tuple[str, ...] | None:
    return None if names is None else tuple(names[row] for row in rows)


def _name(fold: Fold, rows: Indices) -> str:
    return f"fold {fold.number} of 0 to {fold.count - 1}, {len(rows)} images,"
