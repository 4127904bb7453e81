"""Figures of an evaluation: mistakes, accuracy by class, calibration and robustness."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnbench.data.images import Images
from cnnbench.metrics import CALIBRATION_BINS
from cnnbench.rendering.figures import bar_look, legend_below, line_look, plain, save, style
from cnnbench.rendering.text import setting_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from cnnbench.analysis.evaluate.measure import Measured

    Indices = NDArray[np.int64]
    ImagesAt = Callable[[Sequence[int]], Images]

# What the severities of each corruption count.
UNITS = {
    "translation": "pixels",
    "rotation": "degrees",
    "noise": "std of pixels in [0, 1]",
    "blur": "std in pixels",
    "contrast": "share taken away",
}
_MAX_IMAGES = 30
_GRID_COLUMNS = 6
_NAME_CHARACTERS = 18
# Matrices of more classes have no numbers in their cells, or not even names beside them.
_MAX_NUMBERED, _MAX_NAMED = 25, 60
# So many classes have a bar where not all have.
_MAX_WORST = 30


def plot_evaluation(measured: Measured, images: ImagesAt, directory: Path) -> list[Path]:
    """Write confusion matrix, accuracy per class, calibration diagram and worst mistakes.

    Args:
        measured: what to draw.
        images: from indices in the split to uint8 images (n, C, H, W).
        directory: made where it is missing; files of this split are replaced.

    Returns:
        The files.

    Raises:
        DiskError: a file cannot be written.
    """
    split = measured.result["split"]
    with style():
        files = [
            *save(_confusion_matrix(measured), directory / f"{split}_confusion_matrix"),
            *save(_class_accuracy(measured), directory / f"{split}_class_accuracy"),
            *save(_calibration(measured), directory / f"{split}_calibration"),
        ]
        wrong = np.flatnonzero(~measured.correct)
        figure = mistakes_grid(measured, wrong, images, _title(measured, "mistakes"))
        # Pixels gain nothing from SVG.
        return files + save(figure, directory / f"{split}_mistakes", ("png",))


def plot_robustness(
    curves: Mapping[str, Sequence[Mapping[str, Any]]], title: str, stem: Path
) -> list[Path]:
    """Write accuracy against the severity of each corruption, a line for each run.

    Args:
        curves: by the name of the run, as ``robustness`` returned them.
        title: of the figure.
        stem: path of the files without their ending.

    Raises:
        DiskError: a file cannot be written.
    """
    from matplotlib.figure import Figure

    with style():
        figure = Figure(figsize=(9.0, 5.2 + 0.1 * len(curves)), layout="constrained")
        axes = figure.subplots(2, 3, sharey=True).flat
        for ax, (corruption, unit) in zip(axes, UNITS.items(), strict=False):
            for index, (name, rows) in enumerate(curves.items()):
                points = [
                    (row["severity"], row["accuracy"])
                    for row in rows
                    if row["corruption"] == corruption
                ]
                ax.plot(*zip(*points, strict=True), label=plain(name), **line_look(index))
            ax.set(title=corruption, xlabel=unit, ylim=(0, 1))
        for ax in axes[len(UNITS) :]:
            ax.axis("off")
        for ax in axes[::3]:
            ax.set_ylabel("accuracy")
        figure.suptitle(plain(title), fontsize=10)
        legend_below(figure, axes[0])
        return save(figure, stem)


def plot_robustness_of(results: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Write the curves of some runs into the first one's ``plots``.

    Args:
        results: as ``cnnbench.evaluate`` returned them, with ``robustness``, of one split.

    Raises:
        DiskError: a file cannot be written.
    """
    split = results[0]["split"]
    rows = [result["robustness"] for result in results]
    curves = dict(zip(run_names(results), rows, strict=True))
    stem = Path(results[0]["run"]) / "plots" / f"{split}_robustness"
    return plot_robustness(curves, f"{split} accuracy on corrupted images", stem)


def run_names(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a short name for each run: its network's, numbered where that is not enough."""
    names = [str(result["model"]) for result in results]
    if len(set(names)) == len(names):
        return names
    return [f"{number} {name}" for number, name in enumerate(names, start=1)]


def mistakes_grid(measured: Measured, wrong: Indices, images: ImagesAt, title: str) -> Figure:
    """Draw the surest of some mistakes: image, true class, prediction and its probability.

    Args:
        measured: of the run that is mistaken.
        wrong: indices of the mistakes in the split.
        images: from indices to uint8 images (n, C, H, W); of other than three channels, the
            first is drawn.
        title: what these are.
    """
    from matplotlib.figure import Figure

    # Of equally sure ones, in the split's order.
    surest = wrong[np.argsort(-measured.probabilities[wrong], kind="stable")][:_MAX_IMAGES]
    num_rows = max(1, math.ceil(len(surest) / _GRID_COLUMNS))
    width, height = 1.45 * _GRID_COLUMNS, 0.5 + 1.75 * num_rows
    # Placed by hand: to lay thirty titles out takes longer than all else.
    figure = Figure(figsize=(width, height))
    room = {"left": 0.1 / width, "right": 1 - 0.1 / width, "bottom": 0.1 / height}
    room |= {"top": 1 - 0.85 / height, "wspace": 0.12, "hspace": 0.42}
    axes = list(figure.subplots(num_rows, _GRID_COLUMNS, squeeze=False, gridspec_kw=room).flat)
    for ax in axes:
        ax.set(xticks=[], yticks=[])
        ax.axis("off")
    names = [_label(name) for name in measured.class_names]
    for ax, index, image in zip(axes, surest, images(surest.tolist()), strict=False):
        pixels = image.transpose(1, 2, 0) if len(image) == 3 else image[0]
        ax.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        true, predicted = names[measured.targets[index]], names[measured.predictions[index]]
        sure = measured.probabilities[index]
        ax.set_title(f"{true}\n→ {predicted} ({sure:.3f})", fontsize=7.5, y=1.0, pad=3)
    shown = "all" if len(surest) == len(wrong) else f"the {len(surest)} surest of"
    text = f"{title}: {shown} {len(wrong)} (true class → predicted, probability)"
    figure.suptitle(text, fontsize=10, y=1 - 0.12 / height, va="top")
    return figure


def _label(name: str) -> str:
    """Return a class name as it fits a figure."""
    text = setting_text(name)
    short = text if len(text) <= _NAME_CHARACTERS else f"{text[: _NAME_CHARACTERS - 1]}…"
    return plain(short)


def _title(measured: Measured, text: str) -> str:
    result = measured.result
    return plain(f"{setting_text(result['model'])}, {result['split']}: {text}")


def _confusion_matrix(measured: Measured) -> Figure:
    from matplotlib.figure import Figure

    counts = np.array(measured.result["confusion_matrix"])
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    num_classes = len(counts)
    # Without names beside them, cells need no room for letters.
    side = min(14.0, 2.4 + 0.42 * num_classes) if num_classes <= _MAX_NAMED else 8.0
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    ax = figure.add_subplot()
    image = ax.imshow(shares, cmap="Greys", vmin=0, vmax=1)
    if num_classes <= _MAX_NUMBERED:
        for row, column in zip(*counts.nonzero(), strict=True):
            color = "white" if shares[row, column] > 0.5 else "black"
            text = str(counts[row, column])
            ax.text(column, row, text, ha="center", va="center", color=color, fontsize=7.5)
    if num_classes <= _MAX_NAMED:
        names = [_label(name) for name in measured.class_names]
        is_upright = any(len(name) > 2 for name in names)
        ax.set_xticks(range(num_classes), names, rotation=90 if is_upright else 0)
        ax.set_yticks(range(num_classes), names)
    ax.grid(visible=False)
    ax.spines[["top", "right"]].set_visible(True)
    ax.set(xlabel="predicted", ylabel="true")
    ax.set_title(_title(measured, f"accuracy {measured.result['accuracy']:.4f}"))
    figure.colorbar(image, ax=ax, shrink=0.7, label="share of the true class")
    return figure


def _class_accuracy(measured: Measured) -> Figure:
    from matplotlib.figure import Figure

    rows = measured.result["per_class"]
    text = "accuracy by class"
    if len(rows) > _MAX_NAMED:
        # Hundreds of names take half a minute to lay out, and nobody reads them.
        text = f"the {_MAX_WORST} of {len(rows)} classes of lowest accuracy"
        rows = sorted(rows, key=lambda row: (not row["support"], row["recall"]))[:_MAX_WORST]
    figure = Figure(figsize=(6.5, min(60.0, 1.1 + 0.27 * len(rows))), layout="constrained")
    ax = figure.add_subplot()
    recalls = [row["recall"] for row in rows]
    ax.barh(range(len(rows)), recalls, height=0.7, **bar_look(0))
    for index, row in enumerate(rows):
        text = f"{row['recall']:.3f} of {row['support']}" if row["support"] else "no images"
        ax.text(1.02, index, text, va="center", fontsize=8)
    accuracy = measured.result["accuracy"]
    ax.axvline(accuracy, color="black", linestyle="--", linewidth=1)
    ax.set_yticks(range(len(rows)), [_label(row["class"]) for row in rows], fontsize=8)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.grid(visible=False, axis="y")
    # Bars from zero: their lengths are what is compared. Room for the numbers beside them.
    ax.set(xlim=(0, 1.2), xticks=[0, 0.25, 0.5, 0.75, 1])
    ax.set_xlabel("accuracy on the images of each class")
    ax.set_title(_title(measured, f"{text}; dashed: all, {accuracy:.4f}"))
    return figure


def _calibration(measured: Measured) -> Figure:
    from matplotlib.figure import Figure

    found = measured.calibration
    figure = Figure(figsize=(4.6, 5.4), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    width = 1 / CALIBRATION_BINS
    middles = (np.arange(CALIBRATION_BINS) + 0.5) * width
    held = found.counts > 0
    above.bar(middles[held], found.accuracy[held], width, **bar_look(0))
    above.plot([0, 1], [0, 1], color="black", linestyle="--", linewidth=1, label="calibrated")
    points = found.confidence[held], found.accuracy[held]
    above.plot(*points, label="this run", clip_on=False, **line_look(1))
    above.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    above.legend(loc="upper left")
    above.set_title(_title(measured, f"calibration, ECE {found.ece:.4f}"))
    bars = below.bar(middles, found.counts, width, **bar_look(1))
    below.bar_label(bars, [f"{n:,}" if n else "" for n in found.counts], fontsize=6.5, rotation=45)
    below.margins(y=0.35)  # room for the numbers
    below.set(xlabel="probability of the predicted class", ylabel="images")
    return figure
