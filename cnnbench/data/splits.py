"""The training, validation and test images of a data set, as batches on a device."""

from __future__ import annotations

from dataclasses import asdict
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cnnbench.data.arrays import (
    MEMORY_LIMIT_BYTES,
    DatasetArrays,
    Indices,
    Targets,
    scale_of,
)
from cnnbench.data.augment import Augment
from cnnbench.data.folds import measured_sha256
from cnnbench.data.images import border_brightness, sample_grid
from cnnbench.data.loader import Batch, Batches, BatchOrder, divided, fit_into, make_loader
from cnnbench.data.notes import split_notes
from cnnbench.data.shards import Shard
from cnnbench.data.split import split_train, strata, stratified_sample
from cnnbench.data.transforms import InputTransform, RowTransform
from cnnbench.errors import UsageError

# What the outputs of all layers may take while a batch is evaluated.
_EVAL_BYTES = 256 << 20
_MAX_EVAL_BATCH = 1024
# So many images tell how bright a data set's background is.
_BORDER_IMAGES = 256
_CPU = torch.device("cpu")


class Splits:
    """The images of a data set, split, with their batches and what turns them into network input.

    On a GPU with room for them the images themselves are kept there, unless worker processes make
    the batches, and no step waits for a copy.

    Args:
        name: of the data set, for the record.
        arrays: as ``read_dataset`` returned them.
        image_size: pixels of a side of the network's input; >= 1.
        batch_size: training images in a batch; >= 1.
        augment: of the training images; by default none.
        val_fraction: of the training file that validates; in [0, 1).
        split_seed: draws the validation images and those within ``limit``; in [0, 2**63).
        limit: most images of each split, drawn class by class; None for all.
        normalize: whether channels are brought to mean 0 and deviation 1; else pixels in [0, 1].
        shuffle: whether each epoch has an order of its own.
        drop_last: whether the last images of an epoch are left out where they fill no batch.
        num_workers: processes that make batches, for which the images stay in the host's memory;
            >= 0.
        seed: of the run; decides the order of each epoch.
        device: where batches are prepared.
        channels_last: whether network input is laid out channels last.
        resize_once: whether images in memory are resized now, where they fit; else batches have
            them at their own size, and ``prepare`` resizes them, to the same bits.
        shard: the part of each batch that this process computes; by default all of it.

    Attributes:
        parts: the images of ``train``, ``val`` and ``test``, each a data set of whole batches.
        batch_size: as given.
        class_names: the name of each target value.
        in_channels: channels of an image.
        num_classes: number of classes.
        mean: per channel, what is subtracted from pixels in [0, 1].
        std: per channel, what is divided by.
        columns: of a table, their names; its rows come as images of one pixel.
        target_mean: what was taken from numbers to make targets; 0 for classes.
        target_std: what numbers were divided by to become targets; 1 for classes.
        sha256: over the decoded images and targets of the data set.
        measured: the split that results are of: test, or val where that is a fold.
        measured_sha256: over the hash of the data and which images these are.
        source: where they were read from.
        shard: as given; knows the size of the whole batch at hand.
        steps_per_epoch: training batches of a whole epoch.
        last_batch_size: images in an epoch's last batch.
        warnings: what the user should know.
        notes: what is worth a line before training.

    Raises:
        UsageError: ``limit`` leaves no training image, or ``drop_last`` no batch.
    """

    def __init__(
        self,
        name: str,
        arrays: DatasetArrays,
        *,
        image_size: int,
        batch_size: int,
        augment: Augment | None = None,
        val_fraction: float = 0.0,
        split_seed: int = 0,
        limit: int | None = None,
        normalize: bool = True,
        shuffle: bool = True,
        drop_last: bool = False,
        num_workers: int = 0,
        seed: int = 0,
        device: torch.device = _CPU,
        channels_last: bool = False,
        resize_once: bool = True,
        shard: Shard | None = None,
    ) -> None:
        self.shard = shard if shard is not None else Shard()
        self.name, self.batch_size = name, batch_size
        self._augment = augment if augment is not None else Augment()
        self._image_size, self._split_seed, self._device = image_size, split_seed, device
        self.sha256, self.source = arrays.sha256, arrays.source
        self.class_names = arrays.class_names
        self.in_channels, self.num_classes = len(arrays.mean), len(arrays.class_names)
        self.columns = arrays.columns
        rows = _rows(arrays, val_fraction=val_fraction, split_seed=split_seed, limit=limit)
        self.measured = "test" if arrays.fold is None else arrays.fold.split
        self.measured_sha256 = measured_sha256(arrays, rows[1 if self.measured == "val" else 2])
        scale = scale_of(arrays, rows[0], normalize=normalize)
        self.mean, self.std = scale.mean, scale.std
        self.target_mean, self.target_std = scale.target_mean, scale.target_std
        self.notes = [*arrays.notes, *split_notes(arrays, *rows)]
        if self._augment.mixes:
            self.notes.append("train/accuracy counts mixed images, each for its heavier class")
        self._border = None if arrays.columns else _border(arrays, rows[0])
        self._decoding = arrays.decoding
        arrays = scale.with_targets(arrays)
        self.parts = divided(arrays, rows, image_size, MEMORY_LIMIT_BYTES if resize_once else 0)
        # Worker processes cannot read what lies on a GPU.
        may_move = device.type == "cuda" and num_workers == 0 and not arrays.columns
        self._is_resident = may_move and fit_into(self.parts, device)
        if self._is_resident:
            moved: dict[int, Tensor] = {}
            self.parts = {split: part.to(device, moved) for split, part in self.parts.items()}
        self._num_workers, self._seed, self._epoch = num_workers, seed, 1
        self._order = self._train_order(shuffle=shuffle, drop_last=drop_last, seed=seed)
        self.steps_per_epoch, self.last_batch_size = len(self._order), self._order.last_batch_size
        self._eval_loaders: dict[tuple[str, int], tuple[Batches, BatchOrder]] = {}
        self._transform = self._make_transform(channels_last)
        self.warnings = list(arrays.warnings)
        if batch_size > self.num_train:
            self.warnings.append(
                f"data.batch_size={batch_size} is more than the {self.num_train} training "
                "images; each epoch is one step"
            )

    def _make_transform(self, channels_last: bool) -> InputTransform | RowTransform:
        if self.columns:
            return RowTransform(self.mean, self.std)
        return InputTransform(
            image_size=self._image_size,
            mean=self.mean,
            std=self.std,
            device=self._device,
            channels_last=channels_last,
        )

    def keep(self, split: str, rows: Indices) -> None:
        """Leave of a split that is only evaluated the images at these indices.

        Args:
            split: val or test.
            rows: ascending indices in the split.
        """
        self.parts[split] = self.parts[split].select(rows)
        self._eval_loaders = {
            key: loader for key, loader in self._eval_loaders.items() if key[0] != split
        }

    @property
    def num_train(self) -> int:
        """Training images."""
        return len(self.parts["train"])

    @property
    def images_per_epoch(self) -> int:
        """Images that an epoch trains on."""
        whole_batch = min(self.batch_size, self.num_train)
        return (self.steps_per_epoch - 1) * whole_batch + self.last_batch_size

    @property
    def num_val(self) -> int:
        """Validation images, drawn from the training file."""
        return len(self.parts["val"])

    @property
    def num_test(self) -> int:
        """Test images."""
        return len(self.parts["test"])

    def class_counts(self, split: str) -> Tensor:
        """Return how many images of each class a split has, (num_classes,)."""
        return self.parts[split].targets.bincount(minlength=self.num_classes)

    def _batch_order(self, split: str, batch_size: int, **options: Any) -> BatchOrder:
        device = self._device if self._is_resident else _CPU
        return BatchOrder(len(self.parts[split]), batch_size, device=device, **options)

    def _train_order(self, **options: Any) -> BatchOrder:
        # An image is mixed with any other of its batch, so each process has all of them.
        shard = None if self._augment.mixes else self.shard
        return self._batch_order("train", self.batch_size, shard=shard, **options)

    @cached_property
    def _train_loader(self) -> Batches:
        return make_loader(
            self.parts["train"],
            self._order,
            num_workers=self._num_workers,
            pin_memory=self._device.type == "cuda" and not self._is_resident,
        )

    def train_batches(self, epoch: int, first_batch: int) -> Batches:
        """Return an epoch's raw training batches, for ``prepare_train``.

        Args:
            epoch: from 1.
            first_batch: how many batches at its start are left out.
        """
        self._epoch = epoch
        self._order.set_epoch(epoch, first_batch)
        return self.shard.following(self._train_loader, self._order.size_of, first_batch)

    def batches(self, split: str, batch_size: int = _MAX_EVAL_BATCH) -> Batches:
        """Return a split's raw batches in order, every image once, for ``prepare``.

        Several processes have the same batches, so many times as large, and each its part of them.
        """
        key = split, batch_size
        if key not in self._eval_loaders:  # made once: workers live as long as their loader
            size, count = min(batch_size, _MAX_EVAL_BATCH), self.shard.count
            order = self._batch_order(split, size * count, shard=self.shard, smallest=max(2, count))
            loader = make_loader(self.parts[split], order, num_workers=self._num_workers)
            self._eval_loaders[key] = loader, order
        loader, order = self._eval_loaders[key]
        return self.shard.following(loader, order.size_of)

    def prepare(
        self, images: Tensor, targets: Tensor, generator: torch.Generator | None = None
    ) -> Batch:
        """Turn raw images into network input on the device, unaugmented.

        Args:
            images: uint8, (N, C, H, W).
            targets: classes, (N,).
            generator: unused; augmentation has one.

        Returns:
            float32 (N, C, image_size, image_size), and the targets (N,).
        """
        if self.columns:  # not every device has float64
            return self._to_device(self._transform(images)), self._to_device(targets)
        return self._transform(self._to_device(images)), self._to_device(targets)

    def prepare_train(
        self,
        images: Tensor,
        targets: Tensor,
        generator: torch.Generator | None,
        image_size: int | None = None,
    ) -> Batch:
        """Turn raw training images into augmented network input on the device.

        Args:
            images: uint8, (N, C, H, W).
            targets: classes, (N,).
            generator: where the draws of augmentation come from.
            image_size: of the input, where it is another one than evaluation's.

        Returns:
            float32 (N, C, image_size, image_size), and targets: classes (N,), or where images are
            mixed probabilities (N, num_classes).
        """
        if self.columns:
            return self.prepare(images, targets)
        assert generator is not None
        mixes, targets = self._augment.mixes, self._to_device(targets)
        generator = generator if mixes else self.shard.generator(generator)
        images = self._transform.resize(self._to_device(images))
        changed = self._augment.images(images, generator, epoch=self._epoch, seed=self._seed)
        inputs = self._transform(changed, image_size)
        if not mixes:
            return inputs, targets
        mixed = self._augment.mix(inputs, targets, self.num_classes, generator)
        rows = self.shard.rows(len(inputs))
        return mixed[0][rows], mixed[1][rows]

    def _to_device(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._device, non_blocking=True)

    def first_images(self, count: int) -> Batch:
        """Return the first so many training images and their targets, as a raw batch."""
        return self.parts["train"][torch.arange(min(count, self.num_train))]

    def spread_images(self, count: int) -> Batch:
        """Return training images from all over the split, which may be ordered by class."""
        rows = torch.linspace(0, self.num_train - 1, min(count, self.num_train)).long()
        return self.parts["train"][rows]

    def sample_grids(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return a grid of the first training images, and of the same images augmented.

        Mixing is left out: it acts on network input, which cannot be shown.

        Args:
            count: images in a grid, where there are as many.
            seed: of the augmentation.

        Returns:
            Two uint8 tensors (C, H, W).
        """
        images = self._transform.resize(self.first_images(count)[0].to(self._device))
        generator = torch.Generator(self._device).manual_seed(seed)
        augmented = self._augment.images(images, generator)
        plain, changed = (
            torch.from_numpy(sample_grid(part.cpu().numpy(), 8)) for part in (images, augmented)
        )
        return plain, changed

    def batch_sizes(self) -> list[int]:
        """Return the sizes that an epoch's batches have, the most usual first."""
        return list(dict.fromkeys((min(self.batch_size, self.num_train), self.last_batch_size)))

    def preprocessing(self) -> dict[str, Any]:
        """Return what turns an image into network input, and a logit into a name."""
        return {
            "class_names": list(self.class_names),
            "preprocessing": {
                "image_size": self._image_size,
                "in_channels": self.in_channels,
                "mean": list(self.mean),
                "std": list(self.std),
                "border": self._border,
                **({"decoding": asdict(self._decoding)} if self._decoding else {}),
                **self._of_table(),
            },
        }

    def _of_table(self) -> dict[str, Any]:
        if not self.columns:
            return {}
        scale = {"target_mean": self.target_mean, "target_std": self.target_std}
        return {"columns": list(self.columns), **scale}

    def record(self) -> dict[str, Any]:
        """Return what ``run.json`` says of the data."""
        return {
            "name": self.name,
            "source": self.source,
            "sha256": self.sha256,
            "num_classes": self.num_classes,
            "class_names": list(self.class_names),
            "num_train": self.num_train,
            "num_val": self.num_val,
            "num_test": self.num_test,
            "split_seed": self._split_seed,
            "measured": self.measured,
        }


def _rows(
    arrays: DatasetArrays, *, val_fraction: float, split_seed: int, limit: int | None
) -> tuple[Indices, Indices, Indices]:
    """Return the indices of the training, validation and test images."""

    def limited(targets: Targets, rows: Indices) -> Indices:
        if limit is None or limit >= len(rows):
            return rows
        return rows[stratified_sample(targets[rows], limit, split_seed)]

    targets = strata(arrays.train.targets)
    train, val = (limited(targets, rows) for rows in split_train(arrays, val_fraction, split_seed))
    test = limited(strata(arrays.test.targets), np.arange(len(arrays.test)))
    if not len(train):
        raise UsageError(
            f"data.limit={limit} leaves no training image of {len(arrays.class_names)} classes; "
            "raise it"
        )
    return train, val, test


def _border(arrays: DatasetArrays, rows: Indices) -> float:
    """Return how bright the borders of the first training images are."""
    first = arrays.train.take(rows[:_BORDER_IMAGES])
    return border_brightness(np.concatenate(list(first.chunks())))


def eval_batch_size(activation_bytes: int) -> int:
    """Return how many images to evaluate at once: many, unless their activations are large.

    Args:
        activation_bytes: of all layers' outputs for one image.
    """
    return max(1, min(_MAX_EVAL_BATCH, _EVAL_BYTES // max(1, activation_bytes)))
