"""What the images of an evaluation show, read from the figures themselves."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics
from sklearn.calibration import calibration_curve

from cnnbench.analysis.evaluate import plots as evaluation_plots
from cnnbench.analysis.evaluate.measure import Measured
from cnnbench.metrics import calibration, per_class


def measured(count: int = 250, num_classes: int = 4, right: float = 0.7) -> Measured:
    """Return invented predictions; the class names are hard to draw."""
    draw = np.random.default_rng(0)
    targets = draw.integers(0, num_classes, count)
    guesses = draw.integers(0, num_classes, count)
    predictions = np.where(draw.uniform(size=count) < right, targets, guesses)
    probabilities = draw.uniform(1 / num_classes, 1, count).round(2)
    labels = range(num_classes)
    counts = sklearn_metrics.confusion_matrix(targets, predictions, labels=labels)
    names = [f"$x_{place}$ a name longer than an image" for place in labels]
    calibrated = calibration(probabilities, targets == predictions)
    result = {
        "run": "nowhere",
        "model": "lenet",
        "split": "val",
        "accuracy": float((targets == predictions).mean()),
        "ece": calibrated.ece,
        "per_class": [
            {"class": name, **row} for name, row in zip(names, per_class(counts), strict=True)
        ],
        "confusion_matrix": counts.tolist(),
    }
    return Measured(result, targets, predictions, probabilities, calibrated)


def images(places: Sequence[int]) -> np.ndarray:
    """Return images whose grey says their place."""
    return np.array(places, dtype=np.uint8).reshape(-1, 1, 1, 1).repeat(3, 2).repeat(3, 3)


def figures(found: Measured, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the figures by the names of their files, in place of writing them."""
    kept: dict[str, Any] = {}

    def keep(figure: Any, stem: Path, kinds: Sequence[str] = ("png", "svg")) -> list[Path]:
        figure.draw_without_rendering()
        kept[stem.name] = figure
        return [stem]

    monkeypatch.setattr(evaluation_plots, "save", keep)
    files = evaluation_plots.plot_evaluation(found, images, Path("there"))
    assert [file.name for file in files] == list(kept)
    return kept


def test_the_matrix_and_the_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured()
    came = figures(found, monkeypatch)
    ax = came["val_confusion_matrix"].axes[0]
    shares = sklearn_metrics.confusion_matrix(found.targets, found.predictions, normalize="true")
    np.testing.assert_allclose(ax.images[0].get_array(), shares)
    counts = sklearn_metrics.confusion_matrix(found.targets, found.predictions)
    texts = {tuple(text.get_position()): text.get_text() for text in ax.texts}
    for row, column in zip(*counts.nonzero(), strict=True):
        assert texts[column, row] == str(counts[row, column])
    assert all(len(tick.get_text()) < 25 for tick in ax.get_yticklabels())
    bars = came["val_class_accuracy"].axes[0].patches
    recalls = sklearn_metrics.recall_score(found.targets, found.predictions, average=None)
    np.testing.assert_allclose([bar.get_width() for bar in bars], recalls)


def test_the_calibration_diagram(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured()
    above, below = figures(found, monkeypatch)["val_calibration"].axes
    line = next(line for line in above.lines if line.get_label() == "this run")
    accuracies, confidences = calibration_curve(found.correct, found.probabilities, n_bins=15)
    np.testing.assert_allclose(line.get_xdata(), confidences)
    np.testing.assert_allclose(line.get_ydata(), accuracies)
    assert f"ECE {found.calibration.ece:.4f}" in above.get_title()
    assert sum(bar.get_height() for bar in below.patches) == 250
    middles = [bar.get_x() + bar.get_width() / 2 for bar in below.patches]
    np.testing.assert_allclose(middles, (np.arange(15) + 0.5) / 15)


def test_the_surest_mistakes_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured()
    mistakes = [place for place in range(250) if found.targets[place] != found.predictions[place]]
    expected = sorted(mistakes, key=lambda place: (-found.probabilities[place], place))[:30]
    assert len(mistakes) > 30
    figure = figures(found, monkeypatch)["val_mistakes"]
    shown = [ax for ax in figure.axes if ax.images]
    assert [int(ax.images[0].get_array()[0, 0]) for ax in shown] == expected
    for ax, place in zip(shown, expected, strict=True):
        true, predicted = ax.get_title().split("\n")
        assert true.startswith(rf"\$x_{found.targets[place]}\$")
        assert predicted.startswith(rf"→ \$x_{found.predictions[place]}\$")
        assert predicted.endswith(f"({found.probabilities[place]:.3f})")
    assert f"the 30 surest of {len(mistakes)}" in figure.get_suptitle()


@pytest.mark.parametrize(
    ("count", "num_classes", "right"), [(1, 2, 1.0), (1, 2, 0.0), (90, 70, 0.5), (30, 10, 1.0)]
)
def test_one_image_many_classes_and_no_mistake(
    count: int, num_classes: int, right: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = measured(count, num_classes, right)
    came = figures(found, monkeypatch)
    num_shown = sum(bool(ax.images) for ax in came["val_mistakes"].axes)
    assert num_shown == min(30, int((~found.correct).sum()))
    assert all(math.isfinite(bar.get_width()) for bar in came["val_class_accuracy"].axes[0].patches)


def test_curves_have_a_line_for_each_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kept: list[Any] = []
    monkeypatch.setattr(evaluation_plots, "save", lambda figure, stem: kept.append(figure) or [])
    curves = {
        name: [
            {"corruption": kind, "severity": level, "accuracy": start / (1 + level)}
            for kind in evaluation_plots.UNITS
            for level in (0, 2, 5)
        ]
        for name, start in (("1 lenet", 0.9), ("2 lenet", 0.6))
    }
    evaluation_plots.plot_robustness(curves, "what", tmp_path / "curves")
    panels = {ax.get_title(): ax for ax in kept[0].axes if ax.get_title()}
    assert list(panels) == list(evaluation_plots.UNITS)
    for kind, ax in panels.items():
        assert ax.get_xlabel() == evaluation_plots.UNITS[kind]
        assert [line.get_label() for line in ax.lines] == list(curves)
        for line, start in zip(ax.lines, (0.9, 0.6), strict=True):
            np.testing.assert_allclose(line.get_xdata(), [0, 2, 5])
            np.testing.assert_allclose(line.get_ydata(), [start, start / 3, start / 6])
        looks = {(line.get_linestyle(), line.get_marker()) for line in ax.lines}
        assert len(looks) == 2, "lines alike in black and white"


def test_a_name_in_letters_that_the_font_lacks(tmp_path: Path) -> None:
    found = measured(20)
    found.result["per_class"][0]["class"] = "运动鞋"
    files = evaluation_plots.plot_evaluation(found, images, tmp_path / "new" / "place")
    assert all(file.stat().st_size > 1000 for file in files)


def test_hundreds_of_classes_are_drawn_in_seconds(tmp_path: Path) -> None:
    found = measured(4600, num_classes=230)
    since = time.process_time()
    files = evaluation_plots.plot_evaluation(found, images_of_28_pixels, tmp_path)
    # About 2 s on a 2-core EPYC; it was 22.
    assert time.process_time() - since < 5
    assert len(files) == 7


def images_of_28_pixels(places: Sequence[int]) -> np.ndarray:
    return np.zeros((len(places), 1, 28, 28), dtype=np.uint8)
