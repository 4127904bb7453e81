"""Stratified splits that are the same on every machine and with every version of numpy."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from cnnbench.data.arrays import DatasetArrays, Indices, Targets


def split_train(arrays: DatasetArrays, val_fraction: float, seed: int) -> tuple[Indices, Indices]:
    """Return the indices of the training and of the validation images in ``arrays.train``.

    Args:
        arrays: a data set that was read.
        val_fraction: of the training images, in [0, 1). A validation part of the source's own
            validates whole, or with 0 not at all.
        seed: decides which images validate, where the source does not.
    """
    targets = strata(arrays.train.targets)
    if arrays.num_val:
        rest, val = np.split(np.arange(len(targets)), [len(targets) - arrays.num_val])
        is_kept = val_fraction > 0 or (arrays.fold is not None and arrays.fold.split == "val")
        return rest, val if is_kept else val[:0]
    if arrays.train_names is not None:
        return hashed_split(targets, arrays.train_names, val_fraction, f"val {seed}")
    return stratified_split(targets, val_fraction, seed)


def images_sha256(data_sha256: str, rows: Indices) -> str:
    """Return what is the same for the same images of the same data, and for no others.

    Args:
        data_sha256: of the data set.
        rows: indices of the images.
    """
    digest = hashlib.sha256(data_sha256.encode())
    digest.update(rows.astype("<i8").tobytes())
    return digest.hexdigest()


def strata(targets: Targets) -> Targets:
    """Return what a split keeps in proportion: classes, or of numbers nothing."""
    return targets if targets.dtype.kind != "f" else np.zeros(len(targets), dtype=np.int64)


def stratified_split(targets: Targets, fraction: float, seed: int) -> tuple[Indices, Indices]:
    """Split the indices of ``targets`` in two, each class in the same proportion.

    Class counts are rounded by largest remainder, so the second part holds
    ``round(fraction * N)`` images. No class loses its last image to it.

    Args:
        targets: (N,), classes from 0.
        fraction: of the second part, in [0, 1).
        seed: decides which images are drawn, in [0, 2**64).

    Returns:
        The indices of the first and of the second part, each ascending.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"fraction={fraction}: expected a number from 0 to below 1")
    # The decimal the user wrote: 0.29 of 100 is 29, though 0.29 * 100 is 28.999...
    exact = Fraction(str(float(fraction)))
    count = min(int(exact * len(targets) + Fraction(1, 2)), max(len(targets) - 1, 0))
    taken = stratified_sample(targets, count, seed)
    rest = np.ones(len(targets), dtype=bool)
    rest[taken] = False
    return np.flatnonzero(rest), taken


def stratified_sample(targets: Targets, count: int, seed: int) -> Indices:
    """Draw about ``count`` indices, each class in proportion; never the last of a class.

    Args:
        targets: (N,), classes from 0.
        count: how many are drawn, if classes with one image allow it; from ``N`` on, all.
        seed: decides which images are drawn, in [0, 2**64).

    Returns:
        The drawn indices, ascending.
    """
    if count >= len(targets):
        return np.arange(len(targets))
    if count == 0:
        return np.arange(0)
    # One raw number for each image: numpy promises this stream, but not that of `permutation`.
    keys = np.random.Philox(key=seed).random_raw(len(targets))
    sizes = np.bincount(targets)
    quotas = [Fraction(int(size) * count, len(targets)) for size in sizes]
    takes = [int(quota) for quota in quotas]
    by_remainder = sorted(range(len(sizes)), key=lambda c: (takes[c] - quotas[c], c))
    for label in by_remainder:
        if sum(takes) < count and takes[label] + 1 < sizes[label]:
            takes[label] += 1
    drawn = []
    for label, take in enumerate(takes):
        members = np.flatnonzero(targets == label)
        drawn.append(members[np.argsort(keys[members], kind="stable")][:take])
    return np.sort(np.concatenate(drawn))


def hashed_split(
    targets: Targets, names: Sequence[str], fraction: float, key: str
) -> tuple[Indices, Indices]:
    """Split images in two by a hash of their names, each class by itself.

    An added image moves at most one other image of its class across the border, and none of
    another class. No class loses its last image to the second part.

    Args:
        targets: (N,), classes from 0.
        names: of the N images, the same on every machine; each once.
        fraction: of the second part, in [0, 1).
        key: decides which images are drawn.

    Returns:
        The indices of the first and of the second part, each ascending.
    """
    exact = Fraction(str(float(fraction)))
    ranks = _ranks(names, key)
    is_second = np.zeros(len(targets), dtype=bool)
    for label in np.unique(targets):
        members = sorted(np.flatnonzero(targets == label), key=lambda index: ranks[index])
        count = min(int(exact * len(members) + Fraction(1, 2)), len(members) - 1)
        is_second[members[:count]] = True
    return np.flatnonzero(~is_second), np.flatnonzero(is_second)


def _ranks(names: Sequence[str], key: str) -> list[bytes]:
    """Return a hash of each name, by which images are ordered."""
    return [
        hashlib.sha256(f"{key}\0{name}".encode(errors="surrogateescape")).digest() for name in names
    ]


def fold_numbers(
    targets: Targets, num_folds: int, seed: int, names: Sequence[str] | None = None
) -> Indices:
    """Deal images into folds, each class in the same proportion.

    Within a class, sizes of folds differ by one at most. Without names, so do sizes of whole
    folds. With names, each class is cut into consecutive parts in the order of a hash: an added
    image moves at most one other across each border, and none of another class.

    Args:
        targets: (N,), classes from 0.
        num_folds: at least 2.
        seed: decides which images share a fold, in [0, 2**63).
        names: of the N images, the same on every machine, where they have names; each once.

    Returns:
        (N,), the fold of each image, from 0.
    """
    folds = np.empty(len(targets), dtype=np.int64)
    if names is None:
        keys = np.random.Philox(key=[seed, 1]).random_raw(len(targets))
        folds[np.lexsort((keys, targets))] = np.arange(len(targets)) % num_folds
        return folds
    ranks = _ranks(names, f"fold {seed}")
    for label in np.unique(targets).tolist():
        members = sorted(np.flatnonzero(targets == label), key=lambda index: ranks[index])
        size, rest = divmod(len(members), num_folds)
        # Which folds have one image more turns with the class, so that the first are not larger.
        sizes = [size + ((fold - label) % num_folds < rest) for fold in range(num_folds)]
        folds[members] = np.repeat(np.arange(num_folds), sizes)
    return folds
