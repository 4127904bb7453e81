"""A data set's splits for a training loop of one's own: what a run would be trained on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnnbench.config.run_config import RunConfig
from cnnbench.data.splits import Splits
from cnnbench.notices import notice
from cnnbench.seeds import derive_seed
from cnnbench.training.data import describe_data, read_splits


class LoadedSplit:
    """One split: iterating gives its batches, indexing nothing; the arrays are all of it.

    Each iteration over the training split is the next epoch, in an order of its own and augmented
    anew; seeds decide both, so that the same program sees the same batches.

    Attributes:
        images: uint8, (N, C, S, S), as they are before normalisation; of a table (N, columns) in
            float64.
        targets: (N,), classes; of a number float32, of mean 0 and deviation 1 where normalised.
    """

    def __init__(self, splits: Splits, name: str, seed: int) -> None:
        self._splits, self._name, self._seed = splits, name, seed
        self._epoch = 0

    def __repr__(self) -> str:
        what = "rows" if self._splits.columns else "images"
        return f"<{len(self._splits.parts[self._name])} {what} in {len(self)} batches>"

    def __len__(self) -> int:
        """Return the number of batches."""
        if self._name == "train":
            return self._splits.steps_per_epoch
        return -(-len(self._splits.parts[self._name]) // self._splits.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield network input, float32 (n, C, S, S), and targets (n,)."""
        splits = self._splits
        if self._name != "train":
            for batch in splits.batches(self._name, splits.batch_size):
                yield splits.prepare(*batch)
            return
        self._epoch += 1
        first_step = (self._epoch - 1) * len(self)
        generator = torch.Generator()
        for number, batch in enumerate(splits.train_batches(self._epoch, 0)):
            generator.manual_seed(derive_seed(self._seed, "augment", first_step + number))
            yield splits.prepare_train(*batch, generator)

    @property
    def images(self) -> NDArray[Any]:
        """All images, or rows, in order."""
        images = self._all()[0].numpy()
        return images[:, :, 0, 0] if self._splits.columns else images

    @property
    def targets(self) -> NDArray[Any]:
        """All targets, in order."""
        return self._all()[1].numpy()

    def _all(self) -> tuple[Tensor, Tensor]:
        part = self._splits.parts[self._name]
        return part[torch.from_numpy(np.arange(len(part)))]


class LoadedData:
    """A data set, read, verified and split.

    Attributes:
        train: the training split.
        val: the validation split, which may be empty.
        test: the test split.
        class_names: the name of each target; of the number, where that is predicted.
        mean: per channel or column, what normalisation takes away.
        std: likewise, what it divides by.
    """

    def __init__(self, config: RunConfig) -> None:
        describe_data(config)
        splits = read_splits(config, notice)
        for warning in splits.warnings:
            notice(warning)
        self.train, self.val, self.test = (
            LoadedSplit(splits, name, config.seed) for name in ("train", "val", "test")
        )
        self.class_names, self.mean, self.std = splits.class_names, splits.mean, splits.std

    def __repr__(self) -> str:
        return f"LoadedData(train={self.train}, val={self.val}, test={self.test})"
