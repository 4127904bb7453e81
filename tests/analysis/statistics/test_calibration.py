"""Calibration with intervals: scikit-learn and scipy as oracles, coverage by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special, stats
from sklearn import metrics

from cnnbench.analysis.statistics.calibration import calibration_estimates
from cnnbench.errors import UsageError


def draw(rng: np.random.Generator, num_images: int, sharpness: float) -> tuple[np.ndarray, ...]:
    """Return log-probabilities that are right at sharpness 1, and targets."""
    logits = rng.normal(size=(num_images, 10))
    logits[:, 0] += 4
    true = special.softmax(logits, axis=1)
    targets = (true.cumsum(1) > rng.random((num_images, 1))).argmax(1)
    return special.log_softmax(sharpness * logits, axis=1), targets


def ece_by_hand(probabilities: np.ndarray, targets: np.ndarray) -> float:
    confidence, predicted = probabilities.max(1), probabilities.argmax(1)
    total = 0.0
    for part in range(15):
        held = (confidence > part / 15) & (confidence <= (part + 1) / 15)
        if held.any():
            gap = (predicted == targets)[held].mean() - confidence[held].mean()
            total += held.mean() * abs(gap)
    return total


def test_values_are_those_of_other_libraries() -> None:
    logs, targets = draw(np.random.default_rng(0), 700, 1.5)
    found = calibration_estimates(logs, targets)
    probabilities = np.exp(logs)
    assert found["nll"].value == pytest.approx(metrics.log_loss(targets, probabilities))
    squares = ((probabilities - np.eye(10)[targets]) ** 2).sum(1).mean()
    assert found["brier"].value == pytest.approx(squares)
    assert found["ece"].value == pytest.approx(ece_by_hand(probabilities, targets))
    # As runs keep them: shifted so that the largest is 0, in half precision.
    shifted = (logs - logs.max(1, keepdims=True)).astype(np.float16)
    kept = calibration_estimates(shifted, targets)
    for name, estimate in found.items():
        assert kept[name].value == pytest.approx(estimate.value, abs=2e-3)


def test_intervals_of_means_are_the_bootstraps() -> None:
    logs, targets = draw(np.random.default_rng(1), 900, 1.5)
    found = calibration_estimates(logs, targets)["nll"]
    surprise = -logs[np.arange(900), targets]
    scipys = stats.bootstrap(
        (surprise,), np.mean, n_resamples=3_000, method="percentile", rng=0, batch=300
    )
    width = found.high - found.low
    assert (found.low, found.high) == pytest.approx(
        tuple(scipys.confidence_interval), abs=width / 15
    )


@pytest.mark.parametrize("sharpness", [1.0, 1.3])
def test_ece_intervals_cover(sharpness: float) -> None:
    rng = np.random.default_rng(2)
    logs, targets = draw(rng, 300_000, sharpness)
    truth = ece_by_hand(np.exp(logs), targets)
    covered = 0
    for _ in range(100):
        found = calibration_estimates(*draw(rng, 1_000, sharpness))["ece"]
        assert 0 <= found.low <= found.value <= found.high
        covered += found.low <= truth <= found.high
    assert covered >= 85


def test_one_image_and_certainty() -> None:
    sure = np.array([[0.0, -np.inf]])
    right = calibration_estimates(sure, np.array([0]))
    assert [(e.value, e.low, e.high) for e in right.values()] == [(0, 0, 0)] * 3
    wrong = calibration_estimates(sure, np.array([1]))
    assert (wrong["brier"].value, wrong["nll"].low, wrong["nll"].high) == (2, np.inf, np.inf)


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(UsageError, match="shape"):
        calibration_estimates(np.zeros((2, 3)), np.zeros(3, int))
    with pytest.raises(UsageError, match="targets up to 3"):
        calibration_estimates(np.zeros((2, 3)), np.array([0, 3]))
