"""What every sink of a run's numbers and images can do, and two plain sinks."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from torch import nn


class Tracker(Protocol):
    """A sink of a run's numbers and images."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Take numbers by name, such as ``train/loss``, and the ``epoch``.

        Args:
            values: plain numbers; those that are not finite are kept as far as the sink can.
            step: global step.
        """
        ...

    def images(self, tag: str, image: torch.Tensor, step: int) -> None:
        """Take an image.

        Args:
            tag: its name, such as ``train/augmented``.
            image: uint8 of shape ``(C, H, W)`` with 1 or 3 channels, on the CPU.
            step: global step.
        """
        ...

    def graph(self, module: nn.Module, example: torch.Tensor, step: int) -> None:
        """Take the structure of a network, which stays as it was.

        Args:
            module: the network.
            example: a batch it accepts, on its device.
            step: global step.
        """
        ...

    def flush(self) -> None:
        """Hand all that was taken to the file system."""
        ...

    def close(self) -> None:
        """Flush, and take nothing more."""
        ...


class Trackers:
    """Several trackers as one.

    Args:
        trackers: served in this order.
    """

    def __init__(self, *trackers: Tracker) -> None:
        self._trackers = trackers

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Hand numbers to each tracker."""
        for tracker in self._trackers:
            tracker.scalars(values, step)

    def images(self, tag: str, image: torch.Tensor, step: int) -> None:
        """Hand an image to each tracker."""
        for tracker in self._trackers:
            tracker.images(tag, image, step)

    def graph(self, module: nn.Module, example: torch.Tensor, step: int) -> None:
        """Hand a network to each tracker."""
        for tracker in self._trackers:
            tracker.graph(module, example, step)

    def flush(self) -> None:
        """Flush each tracker."""
        for tracker in self._trackers:
            tracker.flush()

    def close(self) -> None:
        """Close each tracker, also where another fails to."""
        with contextlib.ExitStack() as stack:
            for tracker in self._trackers:
                stack.callback(tracker.close)


class Memory:
    """Keeps everything in lists; for tests and notebooks.

    Attributes:
        records: flat dicts with ``global_step`` and the numbers, in the order of logging.
        logged_images: ``(tag, step, image)``.
        graphs: the networks.
    """

    def __init__(self) -> None:
        self.records: list[dict[str, float]] = []
        self.logged_images: list[tuple[str, int, torch.Tensor]] = []
        self.graphs: list[nn.Module] = []

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Keep numbers."""
        self.records.append({**values, "global_step": step})

    def images(self, tag: str, image: torch.Tensor, step: int) -> None:
        """Keep an image."""
        self.logged_images.append((tag, step, image))

    def graph(self, module: nn.Module, example: torch.Tensor, step: int) -> None:
        """Keep the network."""
        self.graphs.append(module)

    def flush(self) -> None:
        """Do nothing: memory needs no flush."""

    def close(self) -> None:
        """Do nothing: what was kept stays readable."""
