"""The losses by name: what a network's outputs mean, and what is minimised, measured and selected.

All that differs between classes and numbers is here and in ``metrics``: whoever trains, evaluates
or predicts is handed a `Loss` and asks it. A loss turns what the network gives into *outputs*:
for classes one logit each, (N, num_classes), whatever the network's own width; for a number (N,).

Importing this file loads no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cnnbench.errors import UsageError
from cnnbench.metrics import NumberSums, Sums
from cnnbench.registry import Registry

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Loss:
    """What a network is trained towards.

    Attributes:
        name: as in the config.
        metrics: what is measured beside the loss itself; the first is what runs are compared by.
        has_one_output: whether the network gives one number for each example, else one for each
            class.
        is_number: whether the target is a number; else a class.
    """

    name: str
    metrics: tuple[str, ...]
    has_one_output: bool = False
    is_number: bool = False

    @property
    def metric(self) -> str:
        """The metric that runs are compared by, of which more is better."""
        return self.metrics[0]

    def check(self, num_classes: int, *, is_number: bool, data: str) -> None:
        """Refuse targets that the loss does not measure.

        Args:
            num_classes: of the data.
            is_number: whether its targets are numbers.
            data: the data set's name, for the message.

        Raises:
            UsageError: they are of another kind, or of too many classes.
        """
        if self.is_number and not is_number:
            raise UsageError(
                f"loss={self.name}: predicts a number, and data={data} has {num_classes} classes; "
                "expected loss=cross_entropy, or data with a number as its target"
            )
        if is_number and not self.is_number:
            raise UsageError(
                f"loss={self.name}: tells classes apart, and the target of data={data} is a "
                "number; expected loss=mse"
            )
        if self.has_one_output and not is_number and num_classes != 2:
            raise UsageError(
                f"loss={self.name}: tells two classes apart, and data={data} has {num_classes}; "
                "expected loss=cross_entropy, or loss=mse where its target is a number"
            )

    def width(self, num_classes: int) -> int:
        """Return how many numbers the network gives for each example."""
        return 1 if self.has_one_output else num_classes

    def outputs(self, given: Tensor) -> Tensor:
        """Return what the network's own output means.

        Args:
            given: by the network, (N, width).

        Returns:
            Logits of the classes, (N, num_classes), or the predicted numbers, (N,). One logit of
            two classes is how much the second is above the first: sigmoid and softmax agree.
        """
        import torch

        if self.is_number:
            return given[:, 0]
        return torch.cat([-given, given], dim=1) / 2 if self.has_one_output else given

    def mean(
        self,
        outputs: Tensor,
        targets: Tensor,
        *,
        weights: Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> Tensor:
        """Return what training makes smaller, a scalar.

        Args:
            outputs: as ``outputs`` returned them, float32.
            targets: classes (N,), (N, num_classes) probabilities of mixed examples, or numbers.
            weights: of the classes, (num_classes,); None for equal ones.
            label_smoothing: share of a target that is spread over all classes.
        """
        from torch.nn import functional as F

        if self.is_number:
            return F.mse_loss(outputs, targets)
        return F.cross_entropy(outputs, targets, weights, label_smoothing=label_smoothing)

    def total(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the plain loss summed over examples: evaluation has no weights or smoothing.

        Args:
            outputs: as ``mean`` takes them.
            targets: classes or numbers, (N,).
        """
        from torch.nn import functional as F

        if self.is_number:
            return F.mse_loss(outputs, targets, reduction="sum")
        return F.cross_entropy(outputs, targets, reduction="sum")

    def sums(self, device: torch.device | str = "cpu", target_std: float = 1.0) -> Sums:
        """Return empty sums over examples.

        Args:
            device: where the outputs are.
            target_std: by which numbers were divided before they became targets.
        """
        return NumberSums(device, target_std) if self.is_number else Sums(device)


LOSSES: Registry[Loss] = Registry(
    "loss",
    {
        loss.name: loss
        for loss in (
            Loss("cross_entropy", metrics=("accuracy",)),
            Loss("bce", metrics=("accuracy",), has_one_output=True),
            Loss("mse", metrics=("r2", "mae"), has_one_output=True, is_number=True),
        )
    },
)
CROSS_ENTROPY = LOSSES["cross_entropy"]
