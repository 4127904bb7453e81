"""The part of each batch that one of several processes computes, and draws by example for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch

_Batch = TypeVar("_Batch")


class Shard:
    """The part of each batch that one of the processes that train together computes.

    The parts of a batch are consecutive, differ in size by one image at most, and make up the
    batch.

    Args:
        index: of the process, from 0.
        count: processes; >= 1.

    Attributes:
        total: images of the whole batch at hand.

    Example:
        >>> [Shard(index, 3).rows(8) for index in range(3)]
        [slice(0, 3, None), slice(3, 6, None), slice(6, 8, None)]
    """

    def __init__(self, index: int = 0, count: int = 1) -> None:
        self.index, self.count = index, count
        self.total = 0

    def rows(self, total: int) -> slice:
        """Return which images of a batch of so many are this process's."""
        size, rest = divmod(total, self.count)
        start = self.index * size + min(self.index, rest)
        return slice(start, start + size + (self.index < rest))

    def following(
        self, batches: Iterable[_Batch], size_of: Callable[[int], int], first_batch: int = 0
    ) -> Iterable[_Batch]:
        """Return batches that keep ``total`` at the size of the newest one.

        Args:
            batches: this process's part of each.
            size_of: number of a batch, from 0 -> images of the whole batch.
            first_batch: number of the first of the batches.
        """
        return batches if self.count == 1 else self._follow(batches, size_of, first_batch)

    def _follow(
        self, batches: Iterable[_Batch], size_of: Callable[[int], int], first_batch: int
    ) -> Iterator[_Batch]:
        for number, batch in enumerate(batches, first_batch):
            self.total = size_of(number)
            yield batch

    def generator(self, whole: torch.Generator) -> torch.Generator:
        """Return what draws for this part of the batch as ``whole`` would for all of it.

        Args:
            whole: seeded, and not drawn from yet.
        """
        if self.count == 1:
            return whole
        part = _PartGenerator(whole.device)
        part.manual_seed(whole.initial_seed())
        part.total, part.rows = self.total, self.rows(self.total)
        return part


class _PartGenerator(torch.Generator):
    """Draws for all images of a batch, of which some rows are wanted."""

    total: int
    rows: slice


def draws_of(num_images: int, generator: torch.Generator) -> tuple[int, slice]:
    """Return for how many images to draw, and which of the draws count.

    Args:
        num_images: that are changed here.
        generator: as ``Shard.generator`` returned it; any other one draws for these images.
    """
    if isinstance(generator, _PartGenerator):
        return generator.total, generator.rows
    return num_images, slice(None)
