"""Exact sums over examples, and the scores made of them.

Importing this file loads no torch; the classes work on tensors that callers hand in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

CALIBRATION_BINS = 15
# As many as TensorBoard reads of a precision-recall curve.
NUM_THRESHOLDS = 127


@dataclass(frozen=True)
class Scores:
    """What is known of a pass over some examples.

    Attributes:
        loss: mean over the examples; NaN without any.
        accuracy: a fraction in [0, 1]; NaN without any, and where targets are numbers.
        correct: examples whose largest logit is the target's.
        count: examples.
        of_numbers: where targets are numbers, ``r2`` (the share of their variance that is
            explained, at most 1) and ``mae`` (mean absolute error, in the target's unit).
    """

    loss: float
    accuracy: float
    correct: int
    count: int
    of_numbers: Mapping[str, float] = field(default_factory=dict)

    @property
    def metrics(self) -> Mapping[str, float]:
        """What was measured beside the loss, by name."""
        return self.of_numbers or {"accuracy": self.accuracy}

    def named(self, split: str) -> dict[str, float]:
        """Return loss and metrics by the names that files have for a split's."""
        values = {"loss": self.loss, **self.metrics}
        return {f"{split}/{name}": value for name, value in values.items()}

    def text(self, digits: int = 3) -> str:
        """Return the metrics in words, such as ``accuracy 0.893 [5358/6000]``."""
        values = " ".join(f"{name} {value:.{digits}f}" for name, value in self.metrics.items())
        return values if self.of_numbers else f"{values} [{self.correct}/{self.count}]"


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
        self._loss, self._correct = self._loss_and_correct.unbind()
        self._count = 0

    def add(self, loss_sum: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor) -> None:
        """Add a batch.

        Args:
            loss_sum: summed, not averaged, over the batch; shape ``()``.
            logits: shape ``(N, num_classes)``.
            targets: class indices; shape ``(N,)``.
        """
        self._loss += loss_sum.detach()
        self._correct += (logits.detach().argmax(dim=1) == targets).sum()
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
        """Continue from the sums of a checkpoint, made on any device."""
        self._loss_and_correct.copy_(state["loss_and_correct"])
        self._count = int(state["count"])

    def empty(self) -> Sums:
        """Return sums of the same kind, on the same device, without any example."""
        return Sums(self._loss_and_correct.device)


class NumberSums(Sums):
    """Running sums of a pass whose targets are numbers.

    Args:
        device: where the loss and the outputs are.
        target_std: by which the numbers were divided before they became targets; > 0.
    """

    def __init__(self, device: torch.device | str = "cpu", target_std: float = 1.0) -> None:
        super().__init__(device)
        # Loss, absolute errors, squared errors, targets and squared targets.
        self._sums = self._loss_and_correct.new_zeros(5)
        self._target_std = target_std

    def add(self, loss_sum: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor) -> None:
        """Add a batch.

        Args:
            loss_sum: summed, not averaged, over the batch; shape ``()``.
            logits: the predicted numbers; shape ``(N,)``.
            targets: numbers; shape ``(N,)``.
        """
        wanted = targets.to(self._sums.dtype)
        errors = logits.detach().to(self._sums.dtype) - wanted
        parts = (errors.abs(), errors.square(), wanted, wanted.square())
        self._sums[0] += loss_sum.detach()
        for place, part in enumerate(parts, start=1):
            self._sums[place] += part.sum()
        self._count += len(targets)

    def read(self) -> Scores:
        """Return the scores so far; waits for the device once.

        Equal targets have no variance to explain: ``r2`` is then 1 without any error, else 0.
        """
        if not self._count:
            nan = float("nan")
            return Scores(nan, nan, 0, 0, {"r2": nan, "mae": nan})
        loss, absolute, squared, total, squares = self._sums.tolist()
        variance = squares - total**2 / self._count
        is_flat = variance <= 1e-12 * max(squares, 1e-300)
        r2 = float(squared == 0) if is_flat else 1 - squared / variance
        mae = absolute / self._count * self._target_std
        scores = {"r2": r2, "mae": mae}
        return Scores(loss / self._count, float("nan"), 0, self._count, scores)

    def state_dict(self) -> dict[str, Any]:
        """Return the sums for a checkpoint."""
        return {"sums": self._sums.clone(), "count": self._count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the sums of a checkpoint, made on any device."""
        self._sums.copy_(state["sums"])
        self._count = int(state["count"])

    def empty(self) -> NumberSums:
        """Return sums of the same kind, on the same device, without any example."""
        return NumberSums(self._sums.device, self._target_std)


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


@dataclass(frozen=True)
class Curves:
    """Each class against all others, at equal steps of the probability from which it is predicted.

    The arrays have shape ``(num_classes, NUM_THRESHOLDS)``; the thresholds go from 0 to 1.

    Attributes:
        true_positives: examples of the class with at least that probability of it.
        false_positives: examples of other classes with at least that probability of it.
    """

    true_positives: NDArray[np.int64]
    false_positives: NDArray[np.int64]

    @property
    def precision(self) -> NDArray[np.float64]:
        """The fraction of the predicted that is right; 0 where nothing is predicted."""
        predicted = np.maximum(1, self.true_positives + self.false_positives)
        precision: NDArray[np.float64] = self.true_positives / predicted
        return precision

    @property
    def recall(self) -> NDArray[np.float64]:
        """The fraction of the class that is predicted; 0 for a class without examples."""
        recall: NDArray[np.float64] = self.true_positives / np.maximum(
            1, self.true_positives[:, :1]
        )
        return recall


class CurveCounts:
    """Counts for precision-recall curves, kept on the device; the examples are not.

    Args:
        num_classes: >= 2.
        device: where the logits are.
    """

    def __init__(self, num_classes: int, device: torch.device | str = "cpu") -> None:
        import torch

        # [others or the class, class, highest threshold that the probability reaches]
        shape = (2, num_classes, NUM_THRESHOLDS)
        self._counts = torch.zeros(shape, dtype=torch.int64, device=device)

    def add(self, logits: torch.Tensor, targets: torch.Tensor) -> None:
        """Add a batch.

        Args:
            logits: shape ``(N, num_classes)``.
            targets: class indices; shape ``(N,)``.
        """
        import torch

        classes = torch.arange(logits.shape[1], device=logits.device)
        reached = (logits.softmax(dim=1) * (NUM_THRESHOLDS - 1)).long()
        is_class = (targets[:, None] == classes).long()
        cells = (is_class * len(classes) + classes) * NUM_THRESHOLDS + reached
        counts = cells.flatten().bincount(minlength=self._counts.numel())
        self._counts += counts.view_as(self._counts)

    def read(self) -> Curves:
        """Return the curves; waits for the device once."""
        others, same = self._counts.flip(2).cumsum(2).flip(2).cpu().numpy()
        return Curves(true_positives=same, false_positives=others)


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


@dataclass(frozen=True)
class Calibration:
    """How often predictions of some confidence are right (Guo et al., 2017).

    Each array has one value for each of ``CALIBRATION_BINS`` equal parts of [0, 1]; a part holds
    its upper edge, not its lower one.

    Attributes:
        counts: predictions whose probability is in the part.
        confidence: mean of their probabilities; NaN without any.
        accuracy: the fraction of them that is right; NaN without any.
    """

    counts: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]

    @property
    def ece(self) -> float:
        """The expected calibration error, a fraction: |accuracy - confidence|, by counts."""
        held = self.counts > 0
        gaps = np.abs(self.accuracy[held] - self.confidence[held])
        return float(gaps @ self.counts[held] / self.counts.sum())


def calibration(probabilities: NDArray[np.float64], correct: NDArray[np.bool_]) -> Calibration:
    """Return how well the probabilities of predictions tell how often they are right.

    Args:
        probabilities: of the class that was predicted, in [0, 1]; shape ``(N,)``, N >= 1.
        correct: whether it is the target's; shape ``(N,)``.
    """
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    bins = np.searchsorted(edges[1:-1], probabilities)
    counts, sums, right = (
        np.bincount(bins, weights, CALIBRATION_BINS) for weights in (None, probabilities, correct)
    )
    some = np.where(counts > 0, counts, np.nan)
    return Calibration(counts, sums / some, right / some)


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
