"""How far a network's probabilities can be trusted, with what other test images would give."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnnbench.analysis.statistics.sign_flips import Floats
from cnnbench.errors import UsageError
from cnnbench.metrics import CALIBRATION_BINS, calibration

LEVEL = 0.05
RESAMPLES = 1_000
CALIBRATION = ("ece", "brier", "nll")
# Images are resampled in cells: this many parts of each bin, correct and wrong ones apart.
_PARTS = 4


@dataclass(frozen=True)
class Estimate:
    """A value over some images, and its 95 % interval over other images of the same kind."""

    value: float
    low: float
    high: float


def calibration_values(
    log_probabilities: NDArray[np.floating], targets: NDArray[np.integer]
) -> dict[str, float]:
    """Return ``ece``, ``brier`` and ``nll`` as ``calibration_estimates``, without intervals."""
    confidence, correct, squares, surprise = _measured(log_probabilities, targets)
    values = calibration(confidence, correct).ece, squares.mean(), surprise.mean()
    return dict(zip(CALIBRATION, map(float, values), strict=True))


def calibration_estimates(
    log_probabilities: NDArray[np.floating], targets: NDArray[np.integer]
) -> dict[str, Estimate]:
    """Return ``ece``, ``brier`` and ``nll`` with bootstrap intervals over images.

    Args:
        log_probabilities: of each image and class, up to a constant for each image; shape
            ``(N, C)``, N at least 1, C at least 2.
        targets: the true classes; shape ``(N,)``.

    Returns:
        ``ece``: expected calibration error over ``CALIBRATION_BINS`` equal bins of the largest
        probability (Guo et al., 2017), a fraction. ``brier``: squared distance between the
        probabilities and the true class, summed over classes (Brier, 1950), in [0, 2]. ``nll``:
        mean negative log-likelihood in nats.

    Raises:
        UsageError: shapes or classes do not fit, or there is no image.
    """
    confidence, correct, squares, surprise = _measured(log_probabilities, targets)
    found = _ece(confidence, correct), _mean(squares, lowest=0.0), _mean(surprise, lowest=0.0)
    return dict(zip(CALIBRATION, found, strict=True))


def _measured(
    log_probabilities: NDArray[np.floating], targets: NDArray[np.integer]
) -> tuple[Floats, NDArray[np.bool_], Floats, Floats]:
    """Return of each image: confidence, whether it is right, squared distance, surprise.

    Raises:
        UsageError: as ``calibration_estimates``.
    """
    logits = np.asarray(log_probabilities, dtype=np.float64)
    if logits.ndim != 2 or not len(logits) or targets.shape != logits.shape[:1]:
        raise UsageError(
            f"log-probabilities of shape {logits.shape} and targets of shape {targets.shape}; "
            "expected (images, classes) and (images,)"
        )
    if targets.min() < 0 or targets.max() >= logits.shape[1]:
        raise UsageError(f"targets up to {targets.max()}; expected 0 to {logits.shape[1] - 1}")
    shifted = logits - logits.max(1, keepdims=True)
    exponentials = np.exp(shifted)
    totals = exponentials.sum(1)
    probabilities = exponentials / totals[:, None]
    images = np.arange(len(logits))
    of_target = probabilities[images, targets]
    squares = (probabilities**2).sum(1) - 2 * of_target + 1
    surprise = np.log(totals) - shifted[images, targets]
    return probabilities.max(1), probabilities.argmax(1) == targets, squares, surprise


def _mean(values: Floats, lowest: float) -> Estimate:
    """Return a mean over images; its bootstrap error needs no resampling."""
    from scipy.special import ndtri

    mean = float(values.mean())
    if not np.isfinite(mean):
        return Estimate(mean, mean, mean)
    half = float(ndtri(1 - LEVEL / 2)) * float(values.std()) / len(values) ** 0.5
    return Estimate(mean, max(lowest, mean - half), mean + half)


def _ece(confidence: Floats, correct: NDArray[np.bool_]) -> Estimate:
    """Return the expected calibration error; its interval is the basic bootstrap's.

    Absolute values make the error of a sample larger than that of the population, and that of a
    resample larger again by about as much, so that the interval is reflected at the value seen. It
    starts at zero where a network whose confidence is the truth would often show as much (Broecker
    and Smith, 2007).
    """
    value = float(calibration(confidence, correct).ece)
    num_images, fine = len(confidence), CALIBRATION_BINS * _PARTS
    edges = np.linspace(0, 1, fine + 1)
    cells = np.searchsorted(edges[1:-1], confidence) * 2 + correct
    counts = np.bincount(cells, minlength=2 * fine)
    sums = np.bincount(cells, confidence - correct, 2 * fine)
    used = np.flatnonzero(counts)
    rng = np.random.default_rng(0)
    draws = rng.multinomial(num_images, counts[used] / num_images, RESAMPLES)
    resampled = _errors(draws * (sums[used] / counts[used]), used // (2 * _PARTS)) / num_images
    low, high = 2 * value - np.quantile(resampled, [1 - LEVEL / 2, LEVEL / 2])

    totals = counts.reshape(fine, 2).sum(1)
    parts = np.flatnonzero(totals)
    expected = np.bincount(cells // 2, confidence, fine)[parts]
    right = rng.binomial(totals[parts], expected / totals[parts], (RESAMPLES, len(parts)))
    perfect = _errors(right - expected, parts // _PARTS) / num_images
    if value <= np.quantile(perfect, 1 - LEVEL / 2):
        low = 0.0
    return Estimate(value, min(value, max(0.0, float(low))), max(value, float(high)))


def _errors(gaps: NDArray[np.number], bins: NDArray[np.intp]) -> Floats:
    """Sum gaps within bins, which are in order, and their sizes over the bins; shape ``(R,)``."""
    starts = np.flatnonzero(np.diff(bins, prepend=-1))
    sizes: Floats = np.abs(np.add.reduceat(gaps, starts, axis=1)).sum(1)
    return sizes
