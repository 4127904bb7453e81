"""Batches by one index operation each, in an order that depends on seed and epoch alone."""

from __future__ import annotations

import copy
import os
import signal
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from cnnbench.data.arrays import (
    MEMORY_LIMIT_BYTES,
    DatasetArrays,
    ImageFiles,
    Indices,
    Part,
)
from cnnbench.data.shards import Shard
from cnnbench.data.transforms import resize
from cnnbench.errors import UsageError
from cnnbench.seeds import derive_seed

Batch = tuple[Tensor, Tensor]
Batches = Iterable[Batch]
# What the images may take of a GPU's free memory; the rest is for training.
_DATA_SHARE = 0.25


class ImageDataset(Dataset[Batch]):
    """Images of one split; an item is a whole batch.

    Args:
        part: the images.
        image_size: pixels of a side that is trained on. Images in memory are resized once where
            that fits ``limit_bytes``, else they stay as they are and each batch is resized by the
            batch transform, to the same bits.
        rows: which of the images to hold, ascending; None for all.
        limit_bytes: what the resized images may take, >= 0.
    """

    def __init__(
        self,
        part: Part,
        image_size: int,
        *,
        rows: Indices | None = None,
        limit_bytes: int = MEMORY_LIMIT_BYTES,
    ) -> None:
        if rows is not None and len(rows) < len(part):
            part = part.take(rows)
        self._rows: Tensor | None = None
        self._targets = torch.from_numpy(part.targets)
        self._files = part if isinstance(part, ImageFiles) else None
        if not isinstance(part, ImageFiles):
            images = torch.from_numpy(part.images)
            fits = len(part) * images.shape[1] * image_size**2 <= limit_bytes
            self._images = resize(images, image_size) if fits else images

    def select(self, rows: Indices) -> ImageDataset:
        """Return a data set of some of these images, which shares their memory.

        Args:
            rows: indices, int64, from 0 to ``len(self) - 1``.
        """
        selected = copy.copy(self)
        chosen = torch.from_numpy(np.ascontiguousarray(rows))
        selected._rows = chosen if self._rows is None else self._rows[chosen]
        return selected

    def in_memory_bytes(self) -> int:
        """Return what the images take in memory; 0 where each batch is decoded from files."""
        return 0 if self._files is not None else self._images.nbytes

    def to(self, device: torch.device, moved: dict[int, Tensor]) -> ImageDataset:
        """Return this data set with its images on a device; they must be in memory.

        Args:
            device: where its batches are to be.
            moved: the copies already made, by the id of what was copied, so that data sets that
                share memory here share it there.
        """

        def move(tensor: Tensor) -> Tensor:
            return moved.setdefault(id(tensor), tensor.to(device))

        copied = copy.copy(self)
        copied._images, copied._targets = move(self._images), move(self._targets)
        copied._rows = None if self._rows is None else move(self._rows)
        return copied

    def __len__(self) -> int:
        return len(self._targets) if self._rows is None else len(self._rows)

    @property
    def targets(self) -> Tensor:
        """The class of each image, (len(self),)."""
        return self._targets if self._rows is None else self._targets[self._rows]

    def __getitem__(self, indices: Tensor) -> Batch:
        """Return the images and targets at these indices.

        Args:
            indices: int64, (n,), from 0 to ``len(self) - 1``.

        Returns:
            uint8 images (n, C, H, W) and int64 targets (n,).

        Raises:
            DataError: an image that is decoded now has been damaged since.
        """
        indices = indices.to(self._targets.device)
        if self._rows is not None:
            indices = self._rows[indices]
        targets = self._targets[indices]
        if self._files is not None:
            return torch.from_numpy(self._files.decode(indices.tolist())), targets
        return self._images.index_select(0, indices), targets


class BatchOrder(Sampler[Tensor]):
    """The batches of an epoch, each as the indices of its images.

    A single image left over joins the batch before: batch norm cannot learn from one value.
    Several processes have the same batches, and each has its part of every one.

    Args:
        num_images: images in the split.
        batch_size: images in a batch, >= 1.
        shuffle: draw a new order each epoch, from ``seed`` and the epoch alone.
        drop_last: leave out the last images where they fill no batch.
        seed: of the run.
        device: where the indices are made; to be that of the images.
        shard: the part of each batch that is this process's; by default all of it.
        smallest: fewer images that are left over join the batch before; >= 1.

    Attributes:
        last_batch_size: images in an epoch's last batch.

    Raises:
        UsageError: ``drop_last`` would leave no image.
    """

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        *,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int = 0,
        device: torch.device | str = "cpu",
        shard: Shard | None = None,
        smallest: int = 2,
    ) -> None:
        if drop_last and num_images < batch_size:
            raise UsageError(
                f"data.drop_last=true: the {num_images} images fill no batch of "
                f"data.batch_size={batch_size}; expected a batch size of at most {num_images}"
            )
        self._num_images, self._batch_size = num_images, batch_size
        self._shuffle, self._seed = shuffle, seed
        self._epoch, self._first_batch = 1, 0
        whole, rest = divmod(num_images, batch_size)
        self._joined = rest if rest < smallest and whole > 0 and not drop_last else 0
        self._num_batches = whole + (rest > 0 and not drop_last and not self._joined)
        self._device, self._shard = device, shard if shard is not None else Shard()
        self.last_batch_size = rest if rest and whole < self._num_batches else batch_size
        self.last_batch_size += self._joined

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Choose what the next iteration yields.

        Args:
            epoch: from 1.
            first_batch: batches at the epoch's start that are left out, when a run is resumed
                within an epoch.
        """
        self._epoch, self._first_batch = epoch, first_batch

    def __len__(self) -> int:
        """Return the number of batches of a whole epoch."""
        return self._num_batches

    def size_of(self, batch: int) -> int:
        """Return the images of a whole batch.

        Args:
            batch: its number in the epoch, from 0.
        """
        is_last = batch == self._num_batches - 1
        return self.last_batch_size if is_last else self._batch_size

    def __iter__(self) -> Iterator[Tensor]:
        if self._shuffle:
            generator = torch.Generator().manual_seed(derive_seed(self._seed, "order", self._epoch))
            order = torch.randperm(self._num_images, generator=generator)
        else:
            order = torch.arange(self._num_images)
        # Once for the whole epoch, so that no step waits for a copy.
        order = order.to(self._device)
        for batch in range(self._first_batch, self._num_batches):
            start, size = batch * self._batch_size, self.size_of(batch)
            yield order[start : start + size][self._shard.rows(size)]


class _Batches:
    """The batches of an order, made in this process: a ``DataLoader`` would add 30 us to each."""

    def __init__(self, dataset: ImageDataset, order: BatchOrder) -> None:
        self._dataset, self._order = dataset, order

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[Batch]:
        return map(self._dataset.__getitem__, self._order)


def make_loader(
    dataset: ImageDataset, order: BatchOrder, *, num_workers: int = 0, pin_memory: bool = False
) -> Batches:
    """Return the batches that ``order`` yields, anew each time it is iterated.

    It never draws from torch's global generator.

    Args:
        dataset: the images.
        order: the batches.
        num_workers: processes that make batches; 0 is fastest for images in memory.
        pin_memory: whether batches are copied to where a GPU fetches them fastest.
    """
    if num_workers == 0 and not pin_memory:
        return _Batches(dataset, order)
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=order,
        num_workers=num_workers,
        pin_memory=pin_memory,
        persistent_workers=num_workers > 0,
        worker_init_fn=_leave_interrupts_to_parent,
        generator=torch.Generator(),
    )


def _leave_interrupts_to_parent(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # torchrun ends the whole group of a process that it started, which has to save its state first.
    if "TORCHELASTIC_RUN_ID" in os.environ and hasattr(os, "setpgid"):
        os.setpgid(0, 0)


def divided(
    arrays: DatasetArrays,
    rows: tuple[Indices, Indices, Indices],
    image_size: int,
    limit_bytes: int,
) -> dict[str, ImageDataset]:
    """Return the images of each split; training and validation images share their memory."""
    train, val, test = rows
    kept = np.sort(np.concatenate([train, val]))
    shared = ImageDataset(arrays.train, image_size, rows=kept, limit_bytes=limit_bytes)
    return {
        "train": shared.select(np.searchsorted(kept, train)),
        "val": shared.select(np.searchsorted(kept, val)),
        "test": ImageDataset(arrays.test, image_size, rows=test, limit_bytes=limit_bytes),
    }


def fit_into(parts: dict[str, ImageDataset], device: torch.device) -> bool:
    """Return whether a GPU has room for all images; those decoded from files have no size."""
    sizes = {part.in_memory_bytes() for part in parts.values()}
    return 0 not in sizes and sum(sizes) <= torch.cuda.mem_get_info(device)[0] * _DATA_SHARE
