from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics
from torch.nn import functional as F

from cnnbench.metrics import (
    CALIBRATION_BINS,
    ConfusionMatrix,
    Sums,
    accuracy,
    calibration,
    per_class,
    top_k_correct,
)

NUM_CLASSES = 7


def predictions(count: int = 500, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits and targets; class 5 never occurs and class 6 is never predicted."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(NUM_CLASSES, (count,), generator=generator)
    targets[targets == 5] = 6
    logits = torch.randn(count, NUM_CLASSES, generator=generator)
    logits += 1.5 * F.one_hot(targets, NUM_CLASSES)
    logits[:, 6] = -9.0
    return logits, targets


def test_sums_over_uneven_batches_are_exact() -> None:
    logits, targets = predictions()
    sums = Sums()
    for part_logits, part_targets in zip(logits.split(64), targets.split(64), strict=True):
        loss_sum = F.cross_entropy(part_logits, part_targets, reduction="sum")
        sums.add(loss_sum, part_logits, part_targets)
    scores = sums.read()
    probabilities = logits.double().softmax(dim=1).numpy()
    labels = range(NUM_CLASSES)
    assert scores.loss == pytest.approx(
        sklearn_metrics.log_loss(targets, probabilities, labels=labels), rel=1e-6
    )
    predicted = logits.argmax(dim=1)
    assert scores.accuracy == sklearn_metrics.accuracy_score(targets, predicted)
    assert (scores.correct, scores.count) == (int((predicted == targets).sum()), 500)


def test_sums_do_not_lose_small_losses_in_a_long_epoch() -> None:
    sums = Sums()
    logits, targets = torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64)
    sums.add(torch.tensor(2.0**24), logits, targets)
    for _ in range(10):
        sums.add(torch.tensor(1.0), logits, targets)
    assert sums.read().loss == (2**24 + 10) / 11


def test_sums_hold_no_graph() -> None:
    logits = torch.randn(4, 3, requires_grad=True)
    sums = Sums()
    sums.add(logits.sum(), logits, torch.zeros(4, dtype=torch.int64))
    assert not sums.state_dict()["loss_and_correct"].requires_grad


def test_sums_go_on_from_a_state() -> None:
    logits, targets = predictions()
    whole, first, second = Sums(), Sums(), Sums()
    whole.add(torch.tensor(3.0), logits, targets)
    whole.add(torch.tensor(4.0), logits[:9], targets[:9])
    first.add(torch.tensor(3.0), logits, targets)
    state = first.state_dict()
    first.add(torch.tensor(5.0), logits, targets)
    second.load_state_dict(state)
    second.add(torch.tensor(4.0), logits[:9], targets[:9])
    assert second.read() == whole.read()


def test_sums_of_nothing_are_not_a_number() -> None:
    scores = Sums().read()
    assert math.isnan(scores.loss)
    assert math.isnan(scores.accuracy)
    assert (scores.correct, scores.count) == (0, 0)


def test_confusion_matrix_and_class_scores_are_sklearns() -> None:
    logits, targets = predictions()
    matrix = ConfusionMatrix(NUM_CLASSES)
    for part_logits, part_targets in zip(logits.split(77), targets.split(77), strict=True):
        matrix.add(part_logits, part_targets)
    counts = matrix.read()
    predicted = logits.argmax(dim=1)
    labels = list(range(NUM_CLASSES))
    np.testing.assert_array_equal(
        counts, sklearn_metrics.confusion_matrix(targets, predicted, labels=labels)
    )
    assert accuracy(counts) == sklearn_metrics.accuracy_score(targets, predicted)
    expected = sklearn_metrics.precision_recall_fscore_support(
        targets, predicted, labels=labels, zero_division=0
    )
    rows = per_class(counts)
    for name, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        assert [row[name] for row in rows] == pytest.approx(values.tolist(), rel=1e-12), name
    assert rows[5]["support"] == 0
    assert rows[6]["precision"] == 0


def test_reading_does_not_tie_the_result_to_later_batches() -> None:
    logits, targets = predictions(10)
    matrix = ConfusionMatrix(NUM_CLASSES)
    matrix.add(logits, targets)
    counts = matrix.read()
    matrix.add(logits, targets)
    assert counts.sum() == 10


def test_accuracy_of_nothing_is_not_a_number() -> None:
    assert math.isnan(accuracy(ConfusionMatrix(3).read()))


@pytest.mark.parametrize("k", [1, 2, 5, NUM_CLASSES])
def test_top_k_is_sklearns(k: int) -> None:
    logits, targets = predictions()
    expected = sklearn_metrics.top_k_accuracy_score(
        targets, logits, k=min(k, NUM_CLASSES - 1), labels=range(NUM_CLASSES), normalize=False
    )
    correct = top_k_correct(logits, targets, k).item()
    assert correct == (len(targets) if k == NUM_CLASSES else expected)
    assert top_k_correct(logits, targets, NUM_CLASSES + 3).item() == len(targets)


def test_importing_metrics_loads_no_torch() -> None:
    code = "import cnnbench.metrics, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("count", [1, 7, 2000])
def test_calibration_agrees_with_scikit_learn_and_by_hand(count: int) -> None:
    from sklearn.calibration import calibration_curve

    draw = np.random.default_rng(count)
    probabilities = draw.uniform(0.1, 1, count)
    # On the edges too: 3/15 belongs to the third part, not to the fourth.
    probabilities[: count // 3] = draw.integers(2, 16, count // 3) / 15
    correct = draw.uniform(size=count) < probabilities**2
    found = calibration(probabilities, correct)
    accuracies, confidences = calibration_curve(correct, probabilities, n_bins=15)
    held = found.counts > 0
    assert CALIBRATION_BINS == 15
    assert found.counts.sum() == count
    np.testing.assert_allclose(found.accuracy[held], accuracies)
    np.testing.assert_allclose(found.confidence[held], confidences)
    assert np.isnan(found.accuracy[~held]).all()
    ece = 0.0
    for place in range(15):
        edges = np.linspace(0, 1, 16)[place : place + 2]
        inside = (probabilities > edges[0]) & (probabilities <= edges[1])
        assert inside.sum() == found.counts[place]
        if inside.any():
            gap = abs(correct[inside].mean() - probabilities[inside].mean())
            ece += inside.sum() / count * gap
    assert found.ece == pytest.approx(ece)


def test_calibration_of_those_who_are_always_right_when_they_say_so() -> None:
    sure = np.ones(5)
    assert calibration(sure, np.ones(5, dtype=bool)).ece == 0
    assert calibration(sure, np.zeros(5, dtype=bool)).ece == 1
