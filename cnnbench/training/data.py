"""The data of a config: what is known of it, its identity, and its splits once it is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from cnnbench.config.run_config import RunConfig
from cnnbench.data import DatasetArrays, Facts, check_augment, describe, fingerprint, read_dataset
from cnnbench.data.augment import Augment
from cnnbench.data.splits import Splits
from cnnbench.data.table import dataset_row
from cnnbench.errors import DataError
from cnnbench.files import expand_path
from cnnbench.losses import LOSSES


def _root(config: RunConfig) -> Path | None:
    return expand_path(config.data.root)


def _args(config: RunConfig) -> dict[str, Any]:
    """Return a data set's own keys; a table's target is a number where the loss says so."""
    args = dict(config.data.args)
    if dataset_row(config.data.name).is_table:
        args["is_number"] = LOSSES[config.loss.name].is_number
    return args


def describe_data(config: RunConfig) -> Facts:
    """Return what is known of a config's data without reading its images.

    Raises:
        DataError: ``data=folder`` is not laid out as it must be.
        UsageError: the config's loss does not measure such targets.
    """
    facts = describe(config.data.name, _root(config), _args(config))
    LOSSES[config.loss.name].check(
        facts.num_classes, is_number=facts.is_number, data=config.data.name
    )
    return facts


def data_fingerprint(config: RunConfig) -> str:
    """Return a cheap identity of the contents of a config's data.

    Raises:
        DataError: ``data=folder`` is not laid out as it must be.
    """
    return fingerprint(config.data.name, _root(config), _args(config))


def build_augment(config: RunConfig) -> Augment:
    """Return the augmentation of a config.

    Raises:
        UsageError: it makes no sense, or not for this data.
    """
    args = config.augment.args
    augment = Augment(**args)
    check_augment(config.data.name, flip=bool(args.get("flip")), acts=augment.acts)
    return augment


def check_recorded_root(config: RunConfig, setting: str) -> None:
    """Refuse to go on with a run whose data is no longer where it was.

    Args:
        config: the recorded one, with what the user changed.
        setting: what names another place, in the words of who asks.

    Raises:
        DataError: there is nothing at ``data.root``.
    """
    root = config.data.root
    if root is not None and not Path(root).exists():
        raise DataError(
            f"{root}: the data of this run is no longer there; if it was moved, say where it is: "
            f"{setting}"
        )


def read_splits(
    config: RunConfig,
    report: Callable[[str], None],
    *,
    device: torch.device | None = None,
    channels_last: bool = False,
    resize_once: bool = True,
) -> Splits:
    """Read, verify and split the data of a config.

    Args:
        config: checked.
        report: is told, in one sentence, what takes long.
        device: where batches are prepared; by default the CPU.
        channels_last: whether network input is laid out channels last.
        resize_once: as ``Splits`` takes it.

    Raises:
        DataError: files are missing or damaged.
        UsageError: a loader option cannot act on this data.
    """
    arrays = read_arrays(config, report)
    return build_splits(
        config, arrays, device=device, channels_last=channels_last, resize_once=resize_once
    )


def read_arrays(config: RunConfig, report: Callable[[str], None]) -> DatasetArrays:
    """Read and verify the data of a config, unsplit.

    Raises:
        DataError: files are missing or damaged.
    """
    data = config.data
    return read_dataset(
        data.name, root=_root(config), args=_args(config), image_size=data.image_size, report=report
    )


def build_splits(
    config: RunConfig,
    arrays: DatasetArrays,
    *,
    device: torch.device | None = None,
    channels_last: bool = False,
    resize_once: bool = True,
) -> Splits:
    """Split data that was read, as a config says.

    Args:
        config: checked.
        arrays: the data set.
        device: as ``read_splits`` takes it.
        channels_last: likewise.
        resize_once: likewise.

    Raises:
        UsageError: a loader option cannot act on this data.
    """
    data = config.data
    return Splits(
        data.name,
        arrays,
        image_size=data.image_size,
        batch_size=data.batch_size,
        augment=build_augment(config),
        val_fraction=data.val_fraction,
        split_seed=data.split_seed,
        limit=data.limit,
        normalize=data.normalize == "dataset",
        shuffle=data.shuffle,
        drop_last=data.drop_last,
        num_workers=data.num_workers,
        seed=config.seed,
        device=device if device is not None else torch.device("cpu"),
        channels_last=channels_last,
        resize_once=resize_once,
    )
