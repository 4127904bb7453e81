"""Exact sums over examples, and the scores made of them.

Importing this file loads no torch; the classes work on tensors that callers hand in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Scores:
    """What is known of a pass over some images.

    Attributes:
        loss: mean over the images; NaN without any.
        accuracy: a fraction in [0, 1]; NaN without any.
        correct: images whose largest logit is the target's.
        count: images.
    """

    loss: float
    accuracy: float
    correct: int
    count: int


class Sums:
    """Running sums of a pass, kept on the device so that no step waits for it.

    Args:
        device: where the loss and the logits are.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        import torch

        # MPS has no float64; a float32 still counts exactly up to 16.7 million images.
        dtype = torch.float32 if torch.device(device).type == "mps" else torch.float64
        self._loss_and_correct = torch.zeros(2, dtype=dtype, device=device)
        self._count = 0

    def add(self, loss_sum: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor) -> None:
        """Add a batch.

        Args:
            loss_sum: summed, not averaged, over the batch; shape ``()``.
            logits: shape ``(N, num_classes)``.
            targets: class indices; shape ``(N,)``.
        """
        import torch

        correct = (logits.detach().argmax(dim=1) == targets).sum()
        batch = (loss_sum.detach().to(self._loss_and_correct), correct.to(self._loss_and_correct))
        self._loss_and_correct += torch.stack(batch)
        self._count += len(targets)

    def read(self) -> Scores:
        """Return the scores so far; waits for the device once."""
        loss_sum, correct = self._loss_and_correct.tolist()
        if not self._count:
            return Scores(float("nan"), float("nan"), 0, 0)
        return Scores(loss_sum / self._count, correct / self._count, round(correct), self._count)

    def state_dict(self) -> dict[str, Any]:
        """Return the sums for a checkpoint."""
        return {"loss_and_correct": self._loss_and_correct.clone(), "count": self._count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from sums of a checkpoint, made on any device."""
        self._loss_and_correct.copy_(state["loss_and_correct"])
        self._count = int(state["count"])


class ConfusionMatrix:
    """Counts of (target, prediction) pairs, kept on the device.

    Args:
        num_classes: >= 2.
        device: where the logits are.
    """

    def __init__(self, num_classes: int, device: torch.device | str = "cpu") -> None:
        import torch

        self._counts = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)

    def add(self, logits: torch.Tensor, targets: torch.Tensor) -> None:
        """Add a batch.

        Args:
            logits: shape ``(N, num_classes)``.
            targets: class indices; shape ``(N,)``.
        """
        num_classes = len(self._counts)
        pairs = targets * num_classes + logits.argmax(dim=1)
        self._counts += pairs.bincount(minlength=num_classes**2).view_as(self._counts)

    def read(self) -> NDArray[np.int64]:
        """Return the counts, ``[target, prediction]``; waits for the device once."""
        counts: NDArray[np.int64] = self._counts.cpu().numpy().copy()
        return counts


def accuracy(confusion: NDArray[np.int64]) -> float:
    """Return the fraction of examples on the diagonal, in [0, 1]; NaN without any."""
    total = int(confusion.sum())
    return int(confusion.trace()) / total if total else float("nan")


def per_class(confusion: NDArray[np.int64]) -> list[dict[str, float]]:
    """Return precision, recall, f1 (fractions in [0, 1]) and support of each class.

    A class that is never predicted has precision 0, one without examples recall 0.

    Args:
        confusion: counts ``[target, prediction]``, square.
    """
    right = confusion.diagonal()
    predicted, support = confusion.sum(axis=0), confusion.sum(axis=1)
    return [
        {
            "precision": _ratio(r, p),
            "recall": _ratio(r, s),
            "f1": _ratio(2 * r, p + s),
            "support": s,
        }
        for r, p, s in zip(right.tolist(), predicted.tolist(), support.tolist(), strict=True)
    ]


def top_k_correct(logits: torch.Tensor, targets: torch.Tensor, k: int) -> torch.Tensor:
    """Return how many targets are among the ``k`` largest logits, as a tensor of shape ``()``.

    Args:
        logits: shape ``(N, num_classes)``.
        targets: class indices; shape ``(N,)``.
        k: >= 1; at most ``num_classes`` count.
    """
    largest = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return (largest == targets[:, None]).sum()


def _ratio(above: int, below: int) -> float:
    return above / below if below else 0.0
