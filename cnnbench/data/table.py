"""The data sets by name: what is known of each, and who reads it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cnnbench.data.arrays import DatasetArrays, combine_hashes, hash_parts, survey
from cnnbench.data.readers.custom import (
    custom_facts,
    custom_fingerprint,
    facts_of,
    fingerprint_of,
    read_custom,
    read_packaged,
)
from cnnbench.data.readers.digits import digits_path, read_digits
from cnnbench.data.readers.download import Report
from cnnbench.data.readers.folder import folder_facts, folder_fingerprint, read_folder
from cnnbench.data.readers.npz import npz_facts, npz_fingerprint, read_npz
from cnnbench.data.readers.published import (
    CIFAR10,
    CIFAR10_FILES,
    CIFAR100,
    CIFAR100_FILES,
    DIGITS,
    EMNIST,
    EMNIST_FILES,
    FASHION_MNIST,
    FASHION_MNIST_FILES,
    KMNIST,
    KMNIST_FILES,
    MNIST,
    MNIST_FILES,
)
from cnnbench.data.readers.rows import read_csv, table_facts
from cnnbench.data.readers.sources import Facts, Published, read_published, verify
from cnnbench.data.readers.synthetic import make_synthetic
from cnnbench.data.readers.tables import TABLES, read_table, table_fingerprint
from cnnbench.errors import UsageError
from cnnbench.registry import Registry, load_plugin, plugins


@dataclass(frozen=True)
class Request:
    """What a reader is asked for.

    Attributes:
        name: of the data set.
        root: the user's folder, or None.
        args: the data set's own keys.
        image_size: pixels of a side that will be trained on.
        download: whether the mirrors may be asked.
        report: is told, in one sentence, what takes long.
    """

    name: str
    root: Path | None
    args: Mapping[str, Any]
    image_size: int
    download: bool
    report: Report


@dataclass(frozen=True)
class DatasetRow:
    """One data set.

    Attributes:
        read: the reader.
        facts: what is known without reading; a function of root and arguments where it is theirs.
        fingerprint: tells one content from another without decoding, from root and arguments.
        may_flip: whether a mirrored image still shows its class.
        published: its files and mirrors, if it has any.
        is_table: whether it has rows of numbers, not images.
    """

    read: Callable[[Request], DatasetArrays]
    facts: Callable[[Path | None, Mapping[str, Any]], Facts]
    fingerprint: Callable[[Path | None, Mapping[str, Any]], str]
    may_flip: bool
    published: Published | None = None
    is_table: bool = False


def dataset_row(name: str) -> DatasetRow:
    """Return a data set's row, of this package or of another that is installed.

    Raises:
        UsageError: there is no such data set.
    """
    if name in DATASETS or name not in plugins("data", DATASETS):
        return DATASETS[name]
    row = load_plugin("data", name)
    if isinstance(row, DatasetRow):
        return row
    return DatasetRow(
        read=lambda request: read_packaged(name, request.root),
        facts=lambda root, _: facts_of(read_packaged(name, root)),
        fingerprint=lambda root, _: fingerprint_of(read_packaged(name, root)),
        may_flip=True,
    )


def read_dataset(
    name: str,
    *,
    root: Path | None,
    args: Mapping[str, Any],
    image_size: int,
    download: bool = True,
    report: Report | None = None,
) -> DatasetArrays:
    """Read and verify a data set.

    Args:
        name: a row of ``DATASETS``.
        root: the data root (for ``folder``, the folder); None for the default.
        args: the data set's own keys.
        image_size: pixels of a side to be trained on. Only ``folder`` decodes to it; the others
            come at their native size.
        download: whether missing files may be fetched.
        report: is told, in one sentence, what takes long.

    Raises:
        UsageError: there is no such data set.
        DataError: its files are missing or damaged.
        DiskError: a download could not be written.
    """
    tell = report if report is not None else _keep_quiet
    return dataset_row(name).read(Request(name, root, args, image_size, download, tell))


def _keep_quiet(_: str) -> None:
    pass


def describe(name: str, root: Path | None, args: Mapping[str, Any]) -> Facts:
    """Return what is known of a data set without reading its images.

    Raises:
        UsageError: there is no such data set.
        DataError: ``folder`` is not laid out as it must be.
    """
    return dataset_row(name).facts(root, args)


def fingerprint(name: str, root: Path | None, args: Mapping[str, Any]) -> str:
    """Return a cheap identity of the contents: it changes when they do, and nothing is decoded.

    Published sets have that of their publisher's files, synthetic ones that of their arguments,
    folders that of their files' names and sizes.

    Raises:
        UsageError: there is no such data set.
        DataError: ``folder`` is not laid out as it must be.
    """
    return dataset_row(name).fingerprint(root, args)


def refuse_tables(name: str, why: str) -> None:
    """Refuse data without images.

    Args:
        name: of the data set.
        why: what is done with images.

    Raises:
        UsageError: it has rows of numbers.
    """
    if dataset_row(name).is_table:
        raise UsageError(f"data={name}: {why}, and this data has rows of numbers")


def check_augment(name: str, *, flip: bool, acts: bool = False) -> None:
    """Refuse mirrored images where a mirror image shows something else, and moved rows.

    Args:
        name: of the data set.
        flip: whether images are mirrored.
        acts: whether anything is done to images.

    Raises:
        UsageError: the data set must not be flipped, or has no images.
    """
    if acts and dataset_row(name).is_table:
        raise UsageError(
            f"augment: data={name} has rows of numbers, which are not moved or mixed; "
            "use augment=none"
        )
    if flip and not dataset_row(name).may_flip:
        raise UsageError(
            f"augment.flip=true: data={name} shows digits or letters, and a mirrored one is none; "
            "set augment.flip=false too"
        )


def _constant(
    facts: Facts, published: Published | None = None
) -> tuple[
    Callable[[Path | None, Mapping[str, Any]], Facts],
    Callable[[Path | None, Mapping[str, Any]], str],
]:
    """Return the facts and fingerprint of a data set that is the same everywhere."""
    if facts.part_sha256 is not None:
        identity = combine_hashes(facts.part_sha256)
    else:
        assert published is not None
        identity = _hash_text([file.md5 for file in published.files])
    return (lambda root, args: facts), (lambda root, args: identity)


def _hash_text(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _published_row(facts: Facts, published: Published, may_flip: bool) -> DatasetRow:
    look, identify = _constant(facts, published)
    return DatasetRow(
        read=partial(_read_published, facts, published),
        facts=look,
        fingerprint=identify,
        may_flip=may_flip,
        published=published,
    )


def _read_published(facts: Facts, published: Published, request: Request) -> DatasetArrays:
    return read_published(
        request.name,
        facts,
        published,
        root=request.root,
        download=request.download,
        report=request.report,
    )


def _emnist_split(args: Mapping[str, Any]) -> str:
    return str(args.get("split", "letters"))


def _emnist_facts(_: Path | None, args: Mapping[str, Any]) -> Facts:
    return EMNIST[_emnist_split(args)]


def _read_digits(_: Request) -> DatasetArrays:
    path = digits_path()
    train, test = read_digits(path)
    assert DIGITS.mean is not None
    assert DIGITS.std is not None
    return DatasetArrays(
        train=train,
        test=test,
        class_names=DIGITS.class_names,
        mean=DIGITS.mean,
        std=DIGITS.std,
        sha256=verify(train, test, DIGITS, [str(path)] * 4),
        source=f"scikit-learn {path}",
        is_test_drawn=True,
    )


def _synthetic_facts(root: Path | None, args: Mapping[str, Any]) -> Facts:
    num_classes = int(args["num_classes"])
    return Facts(
        num_classes=num_classes,
        in_channels=int(args["in_channels"]),
        image_size=int(args["native_size"]),
        class_names=tuple(f"class {label}" for label in range(num_classes)),
        train_counts=_turns(int(args["num_train"]), num_classes),
        test_counts=_turns(int(args["num_test"]), num_classes),
    )


def _turns(count: int, num_classes: int) -> tuple[int, ...]:
    return tuple(count // num_classes + (c < count % num_classes) for c in range(num_classes))


def _synthetic_fingerprint(root: Path | None, args: Mapping[str, Any]) -> str:
    return _hash_text(dict(args))


def _read_synthetic(request: Request) -> DatasetArrays:
    train, test = make_synthetic(request.args)
    seen = survey(train)
    return DatasetArrays(
        train=train,
        test=test,
        class_names=_synthetic_facts(request.root, request.args).class_names,
        mean=seen.mean,
        std=seen.std,
        sha256=combine_hashes(hash_parts(train, test)),
        source="made",
        is_test_drawn=True,
    )


def _read_folder(request: Request) -> DatasetArrays:
    return read_folder(request.root, request.args, request.image_size)


def _table_row(read: Callable[[Path | None, Mapping[str, Any]], DatasetArrays]) -> DatasetRow:
    return DatasetRow(
        read=lambda request: read(request.root, request.args),
        facts=lambda root, args: table_facts(read(root, args)),
        fingerprint=lambda root, args: table_fingerprint(read(root, args)),
        may_flip=True,  # but nothing is done to rows at all
        is_table=True,
    )


def _read_shipped(name: str, _: Path | None, args: Mapping[str, Any]) -> DatasetArrays:
    return read_table(name, bool(args.get("is_number")))


_DIGITS_FACTS, _DIGITS_FINGERPRINT = _constant(DIGITS)

DATASETS: Registry[DatasetRow] = Registry(
    "data set",
    {
        "digits": DatasetRow(
            read=_read_digits,
            facts=_DIGITS_FACTS,
            fingerprint=_DIGITS_FINGERPRINT,
            may_flip=False,
        ),
        "fashion_mnist": _published_row(
            FASHION_MNIST,
            FASHION_MNIST_FILES,
            may_flip=True,
        ),
        "mnist": _published_row(
            MNIST,
            MNIST_FILES,
            may_flip=False,
        ),
        "cifar10": _published_row(
            CIFAR10,
            CIFAR10_FILES,
            may_flip=True,
        ),
        "cifar100": _published_row(
            CIFAR100,
            CIFAR100_FILES,
            may_flip=True,
        ),
        "kmnist": _published_row(
            KMNIST,
            KMNIST_FILES,
            may_flip=False,
        ),
        "emnist": DatasetRow(
            read=lambda request: _read_published(
                _emnist_facts(request.root, request.args), EMNIST_FILES, request
            ),
            facts=_emnist_facts,
            fingerprint=lambda root, args: _hash_text(
                [*(file.md5 for file in EMNIST_FILES.files), _emnist_split(args)]
            ),
            may_flip=False,
            published=EMNIST_FILES,
        ),
        "folder": DatasetRow(
            read=_read_folder,
            facts=folder_facts,
            fingerprint=folder_fingerprint,
            may_flip=True,
        ),
        "synthetic": DatasetRow(
            read=_read_synthetic,
            facts=_synthetic_facts,
            fingerprint=_synthetic_fingerprint,
            may_flip=True,
        ),
        "custom": DatasetRow(
            read=lambda request: read_custom(request.root, request.args),
            facts=custom_facts,
            fingerprint=custom_fingerprint,
            may_flip=True,
        ),
        "npz": DatasetRow(
            read=lambda request: read_npz(request.root),
            facts=npz_facts,
            fingerprint=npz_fingerprint,
            may_flip=True,
        ),
        "csv": _table_row(read_csv),
        **{name: _table_row(partial(_read_shipped, name)) for name in TABLES},
    },
)
