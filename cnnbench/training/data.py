"""From names and arguments to objects: data, network, optimizer, schedule."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cnnbench.config.run_config import RunConfig, expand_path
from cnnbench.data import (
    DatasetArrays,
    check_augment,
    fingerprint,
    read_dataset,
    sample_grid,
    split_notes,
    split_train,
    stratified_sample,
)
from cnnbench.data.arrays import MEMORY_LIMIT_BYTES, Indices, Targets
from cnnbench.data.augment import Augment
from cnnbench.data.loader import BatchOrder, ImageDataset, make_loader
from cnnbench.data.transforms import InputTransform
from cnnbench.engine import TrainState
from cnnbench.engine.loop import Batches
from cnnbench.errors import UsageError
from cnnbench.metrics import Sums
from cnnbench.models.build import Network
from cnnbench.optim import Schedule, build_optimizer, build_schedule
from cnnbench.training import estimates

_EVAL_BYTES = 256 << 20
_MAX_EVAL_BATCH = 1024
# What the pictures may take of a GPU's free memory; the rest is for training.
_DATA_SHARE = 0.25


def check_names(config: RunConfig) -> None:
    """Refuse arguments of optimizer, schedule and augmentation that make no sense together.

    Raises:
        UsageError: as their constructors do.
    """
    build_schedule_of(config)
    _optimizer_of(config, nn.Linear(1, 1))
    Augment(**config.augment.args)
    check_augment(config.data.name, flip=bool(config.augment.args.get("flip")))


def build_schedule_of(config: RunConfig) -> Schedule:
    """Return the learning-rate schedule of a config."""
    scheduler = config.scheduler
    return build_schedule(
        scheduler.name, warmup_fraction=scheduler.warmup_fraction, args=scheduler.args
    )


def _optimizer_of(config: RunConfig, model: nn.Module) -> torch.optim.Optimizer:
    optimizer = config.optimizer
    return build_optimizer(
        optimizer.name,
        model,
        lr=optimizer.lr,
        weight_decay=optimizer.weight_decay,
        decay_norms_and_biases=optimizer.decay_norms_and_biases,
        args=optimizer.args,
    )


def build_state(
    config: RunConfig,
    model: nn.Module,
    device: torch.device,
    scaler: torch.amp.GradScaler | None,
) -> tuple[TrainState, Schedule]:
    """Return the state at the start of training, and the schedule.

    Args:
        config: checked.
        model: on its device.
        device: that device.
        scaler: for fp16, else ``None``.
    """
    optimizer = _optimizer_of(config, model)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    decay = config.optimizer.ema_decay
    average = None
    if decay is not None:
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    state = TrainState(
        model=model, optimizer=optimizer, sums=Sums(device), average=average, scaler=scaler
    )
    return state, build_schedule_of(config)


def resumed_config(config: RunConfig) -> RunConfig:
    """Return the config with which a run goes on.

    Args:
        config: its recorded config with what may change changed.

    Raises:
        UsageError: ``extend_epochs`` would change the learning rates of the epochs already run.
    """
    more = config.extend_epochs
    if more is None:
        return dataclasses.replace(config, resume=None)
    if build_schedule_of(config).depends_on_length:
        raise UsageError(
            f"extend_epochs={more}: scheduler={config.scheduler.name} spreads over the run's "
            f"{config.num_epochs} epochs, so a longer run is another one; "
            "only scheduler=constant without warm-up can be extended"
        )
    return dataclasses.replace(
        config, num_epochs=config.num_epochs + more, extend_epochs=None, resume=None
    )


def _root(config: RunConfig) -> Path | None:
    return expand_path(config.data.root) if config.data.root is not None else None


def build_data(
    config: RunConfig, report: Callable[[str], None], *, resize_once: bool = True
) -> RunData:
    """Read, verify and split the data of a config.

    Args:
        config: checked.
        report: is told, in one sentence, what takes long.
        resize_once: as ``RunData`` takes it.

    Raises:
        DataError: files are missing or damaged.
        UsageError: a loader option cannot act on this data.
    """
    data = config.data
    arrays = read_dataset(
        data.name, root=_root(config), args=data.args, image_size=data.image_size, report=report
    )
    return RunData(config, arrays, resize_once=resize_once)


class RunData:
    """The splits of a run, as batches.

    Args:
        config: checked.
        arrays: as ``read_dataset`` gave them.
        resize_once: whether pictures in memory are resized now, where they fit; else batches have
            them at their own size, and ``prepare`` resizes, to the same bits.

    Raises:
        UsageError: a loader option cannot act on this data.
    """

    def __init__(
        self, config: RunConfig, arrays: DatasetArrays, *, resize_once: bool = True
    ) -> None:
        self._data = data = config.data
        self.batch_size = data.batch_size
        self._augment = Augment(**config.augment.args)
        self.sha256, self.source = arrays.sha256, arrays.source
        self.warnings = list(arrays.warnings)
        self.notes = list(arrays.notes)
        self.class_names = arrays.class_names
        self.in_channels = len(arrays.mean)
        self.num_classes = len(arrays.class_names)
        plain = data.normalize == "none"
        self.mean = (0.0,) * self.in_channels if plain else arrays.mean
        self.std = (1.0,) * self.in_channels if plain else arrays.std
        train_rows, val_rows = split_train(arrays, data.val_fraction, data.split_seed)
        train_rows, val_rows, test_rows = (
            self._limited(targets, rows)
            for targets, rows in (
                (arrays.train.targets, train_rows),
                (arrays.train.targets, val_rows),
                (arrays.test.targets, np.arange(len(arrays.test))),
            )
        )
        if not len(train_rows):
            raise UsageError(
                f"data.limit={data.limit} leaves no training image of {self.num_classes} classes; "
                "raise it"
            )
        self.notes += split_notes(arrays, train_rows, val_rows, test_rows)
        limit_bytes = MEMORY_LIMIT_BYTES if resize_once else 0
        kept = np.sort(np.concatenate([train_rows, val_rows]))
        whole = ImageDataset(arrays.train, data.image_size, rows=kept, limit_bytes=limit_bytes)
        self.splits = {
            "train": whole.select(np.searchsorted(kept, train_rows)),
            "val": whole.select(np.searchsorted(kept, val_rows)),
            "test": ImageDataset(
                arrays.test, data.image_size, rows=test_rows, limit_bytes=limit_bytes
            ),
        }
        if data.batch_size > self.num_train:
            self.warnings.append(
                f"data.batch_size={data.batch_size} is more than the {self.num_train} training "
                "images; each epoch is one step"
            )
        self._order = BatchOrder(
            self.num_train,
            data.batch_size,
            shuffle=data.shuffle,
            drop_last=data.drop_last,
            seed=config.seed,
        )
        self.steps_per_epoch = len(self._order)
        self.fingerprint = fingerprint(data.name, _root(config), data.args)
        self.to(torch.device("cpu"), channels_last=False)

    def _limited(self, targets: Targets, rows: Indices) -> Indices:
        """Return the rows, or where ``data.limit`` asks for fewer, a stratified sample of them."""
        limit = self._data.limit
        if limit is None or limit >= len(rows):
            return rows
        return rows[stratified_sample(targets[rows], limit, self._data.split_seed)]

    @property
    def num_train(self) -> int:
        """Training images."""
        return len(self.splits["train"])

    @property
    def num_val(self) -> int:
        """Validation images, drawn from the training file."""
        return len(self.splits["val"])

    @property
    def num_test(self) -> int:
        """Test images."""
        return len(self.splits["test"])

    def to(self, device: torch.device, *, channels_last: bool) -> None:
        """Choose where batches are prepared, and in which memory format.

        On a GPU with room for them, the pictures themselves go there, and no step waits for a copy.
        """
        self._device = device
        self._is_resident = device.type == "cuda" and self._fits(device)
        if self._is_resident:
            moved: dict[int, Tensor] = {}
            self.splits = {name: part.to(device, moved) for name, part in self.splits.items()}
            self._order.device = device
        self._eval_loaders: dict[tuple[str, int], Batches] = {}
        self._transform = InputTransform(
            image_size=self._data.image_size,
            mean=self.mean,
            std=self.std,
            device=device,
            channels_last=channels_last,
        )

    def _fits(self, device: torch.device) -> bool:
        sizes = {split.in_memory_bytes() for split in self.splits.values()}
        return 0 not in sizes and sum(sizes) <= torch.cuda.mem_get_info(device)[0] * _DATA_SHARE

    @cached_property
    def _train_loader(self) -> Batches:
        return make_loader(
            self.splits["train"],
            self._order,
            num_workers=0 if self._is_resident else self._data.num_workers,
            pin_memory=self._device.type == "cuda" and not self._is_resident,
        )

    def train_batches(self, epoch: int, first_batch: int) -> Batches:
        """Return an epoch's training batches from the given one on; epochs count from 1."""
        self._order.set_epoch(epoch, first_batch)
        return self._train_loader

    def batches(self, split: str, batch_size: int = _MAX_EVAL_BATCH) -> Batches:
        """Return a split's batches in order, every image once."""
        key = split, batch_size
        if key not in self._eval_loaders:  # made once: workers live as long as their loader
            dataset = self.splits[split]
            order = BatchOrder(len(dataset), min(batch_size, _MAX_EVAL_BATCH))
            order.device = self._order.device
            self._eval_loaders[key] = make_loader(
                dataset, order, num_workers=0 if self._is_resident else self._data.num_workers
            )
        return self._eval_loaders[key]

    def prepare(
        self, images: Tensor, targets: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Turn raw images into network input on the device, unaugmented."""
        return self._transform(self._moved(images)), self._moved(targets)

    def prepare_train(
        self, images: Tensor, targets: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Turn raw training images into augmented network input on the device."""
        assert generator is not None
        images, targets = self._transform.resize(self._moved(images)), self._moved(targets)
        inputs = self._transform(self._augment.images(images, generator))
        return self._augment.mix(inputs, targets, self.num_classes, generator)

    def _moved(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._device, non_blocking=True)

    def sample_grids(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return a grid of the first training images, and of the same images augmented.

        Mixing is left out: it acts on network input, which is no picture.

        Returns:
            Two uint8 tensors (C, H, W).
        """
        indices = torch.arange(min(count, self.num_train))
        images = self._transform.resize(self.splits["train"][indices][0].to(self._device))
        generator = torch.Generator(self._device).manual_seed(seed)
        augmented = self._augment.images(images, generator)
        plain, changed = (
            torch.from_numpy(sample_grid(part.cpu().numpy(), 8)) for part in (images, augmented)
        )
        return plain, changed

    def example(self) -> Tensor:
        """Return network input of two training images, on the device."""
        return self.prepare(*self.first_images(min(2, self.num_train)))[0]

    def first_images(self, count: int) -> tuple[Tensor, Tensor]:
        """Return the first so many training images and their targets, as a batch has them."""
        return self.splits["train"][torch.arange(count)]

    def batch_sizes(self) -> list[int]:
        """Return the sizes that an epoch's batches have, the most usual first."""
        return list(dict.fromkeys((min(self.batch_size, self.num_train), self.last_batch_size)))

    @property
    def last_batch_size(self) -> int:
        """Images in an epoch's last batch."""
        return self._order.last_batch_size

    def preprocessing(self) -> dict[str, Any]:
        """Return what turns a picture into network input, and a logit into a name."""
        return {
            "class_names": list(self.class_names),
            "preprocessing": {
                "image_size": self._data.image_size,
                "in_channels": self.in_channels,
                "mean": list(self.mean),
                "std": list(self.std),
            },
        }

    def record(self) -> dict[str, Any]:
        """Return what ``run.json`` says of the data."""
        return {
            "name": self._data.name,
            "source": self.source,
            "sha256": self.sha256,
            "num_classes": self.num_classes,
            "class_names": list(self.class_names),
            "num_train": self.num_train,
            "num_val": self.num_val,
            "num_test": self.num_test,
            "split_seed": self._data.split_seed,
        }


def eval_batch_size(activation_bytes: int) -> int:
    """Return how many images to evaluate at once: many, unless their activations are large.

    Args:
        activation_bytes: of all layers' outputs for one image.
    """
    return max(1, min(_MAX_EVAL_BATCH, _EVAL_BYTES // max(1, activation_bytes)))


def expected_bytes(config: RunConfig, state: TrainState, network: Network) -> tuple[int, int]:
    """Return the bytes that a run's checkpoints and its training will about take."""
    going_on = estimates.state_bytes(
        state.model, state.optimizer, has_average=state.average is not None
    )
    weights, keep_last = estimates.model_bytes(state.model), config.checkpoint.keep_last
    return (
        estimates.disk_bytes(weights, going_on, config.num_epochs, keep_last),
        estimates.training_bytes(
            state.model, going_on, network.activation_bytes, config.data.batch_size
        ),
    )
