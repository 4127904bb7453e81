"""How much work a run is: its images at each size, and what a teacher adds."""

from __future__ import annotations

from dataclasses import dataclass

from cnnbench.config.run_config import RunConfig
from cnnbench.data.splits import Splits
from cnnbench.errors import UsageError
from cnnbench.geometry.trace import analyze
from cnnbench.models.build import Network, build_meta, measure_network

# A budget pays for what costs this much more: sums round.
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Work:
    """What a run computes, from which its TFLOP follow.

    Attributes:
        macs: multiply-accumulates of the forward pass of one image.
        sizes: of the images that the first steps train on, rising; mostly none.
        early_macs: likewise, of an image of each of those sizes.
        fraction: of the steps, which those sizes share equally.
        teacher_macs: of a teacher's forward pass, which each training image takes.
        teacher_tflop: of the teacher's own training.

    Example:
        >>> work = Work(macs=100, sizes=(14, 20), early_macs=(25, 50), fraction=0.5)
        >>> [work.size_at(step, 8) for step in range(8)]
        [14, 14, 20, 20, None, None, None, None]
    """

    macs: int
    sizes: tuple[int, ...] = ()
    early_macs: tuple[int, ...] = ()
    fraction: float = 0.0
    teacher_macs: int = 0
    teacher_tflop: float = 0.0

    def size_at(self, step: int, num_steps: int) -> int | None:
        """Return the size of the images of a step, counted from 0; None for that of evaluation.

        Args:
            step: global step before its update.
            num_steps: of the whole run.
        """
        ends = zip(self._ends(num_steps), self.sizes, strict=True)
        return next((size for end, size in ends if step < end), None)

    def _ends(self, num_steps: int) -> list[int]:
        """Return the step at which each early size is over."""
        count = len(self.sizes)
        return [round(num_steps * self.fraction * (n + 1) / count) for n in range(count)]

    def tflop(self, data: Splits, num_steps: int, of_steps: int) -> float:
        """Return the work of the first updates of a run, in 10^12 floating-point operations.

        Counted as 6 for each multiply-accumulate and training image: 2 in the forward pass, and
        twice as many in the backward pass; 2 for those of a teacher. Norms, activations and
        evaluation are left out.

        Args:
            data: of the run.
            num_steps: updates that are counted.
            of_steps: updates of the whole run, which say when images grow.
        """
        flop, begun = 0, 0
        phases = (*zip(self._ends(of_steps), self.early_macs, strict=True), (num_steps, self.macs))
        for end, macs in phases:
            until = min(end, num_steps)
            images = _images(data, until) - _images(data, begun)
            flop += (6 * macs + 2 * self.teacher_macs) * images
            begun = until
        return self.teacher_tflop + 1e-12 * flop

    def affordable_steps(self, data: Splits, tflop: float) -> int:
        """Return the updates of the longest run that a budget pays for, at least 1."""

        def is_paid(num_steps: int) -> bool:
            return self.tflop(data, num_steps, num_steps) <= tflop * (1 + _TOLERANCE)

        low, high = 1, 2
        while is_paid(high):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if is_paid(middle) else (low, middle)
        return low


def _images(data: Splits, num_steps: int) -> int:
    """Return how many training images the first updates of a run take."""
    epochs, rest = divmod(num_steps, data.steps_per_epoch)
    return epochs * data.images_per_epoch + rest * data.batch_size


def early_macs(config: RunConfig, network: Network) -> tuple[int, ...]:
    """Return the multiply-accumulates of an image of each early size.

    Args:
        config: checked.
        network: as it was measured at ``data.image_size``.

    Raises:
        UsageError: the sizes do not rise up to that one, or the network takes one size alone.
    """
    sizes, full = config.data.progressive_sizes, config.data.image_size
    label = f"data.progressive_sizes={list(sizes)}"
    if list(sizes) != sorted({*sizes} - {full}) or any(size > full for size in sizes):
        raise UsageError(f"{label}: expected rising sizes below data.image_size={full}")
    if not sizes:
        return ()
    found = []
    for size in sizes:
        shape = (network.in_channels, size, size)
        try:
            small = measure_network(
                network.name, config.model.args, **{**network.sizes, "image_size": size}
            )
            # What is trained is the network for full images, which may treat others otherwise.
            module = build_meta(network.name, config.model.args, **network.sizes)
            found.append(
                analyze(module, shape).macs if small.num_params == network.num_params else 0
            )
        except UsageError as error:
            raise UsageError(f"{label}: {error}") from error
        if not found[-1]:
            head = "model.head=gap" if "head" in config.model.args else "model=googlenet"
            raise UsageError(
                f"{label}: model={network.name} flattens its maps, so that its first linear layer "
                f"fits images of {full} pixels alone; take what averages them, such as {head}, or "
                "leave the sizes out"
            )
    return tuple(found)
