"""Figures of what a network sees, in the one look of all plots."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from cnnbench.analysis.features.extract import Box, Features, Filters, Stage, gradient_center
from cnnbench.data import sample_grid
from cnnbench.rendering.figures import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

_MAX_FILTERS, _MAX_MAPS, _MAX_CLASSES, _NAME_CHARACTERS = 64, 10, 5, 22
_TILE_PIXELS, _GAP = 60, 4
# The lightest grey of a map, darker than the white between maps.
_LIGHTEST = 225


@dataclass(frozen=True)
class Seen:
    """An image, and what one network makes of it.

    Attributes:
        label: the network's name, or whatever tells it from the others.
        image: as the network takes it, uint8 (C, image_size, image_size).
        features: of the image.
        top: likeliest first, each with ``class`` and ``probability``.
    """

    label: str
    image: NDArray[np.uint8]
    features: Features
    top: Sequence[Mapping[str, Any]]


def figures(seen: Seen) -> dict[str, Figure]:
    """Return the figures of one network and one image, by name."""
    found = seen.features
    drawn = {}
    if found.filters is not None:
        drawn["filters"] = _draw_filters(seen.label, found.filters)
    if found.stages:
        drawn["maps"] = _draw_maps(seen)
        drawn["receptive_field"] = _draw_fields(seen)
    drawn["grad_cam" if found.stages else "prediction"] = _draw_prediction(seen)
    return drawn


def draw_side_by_side(rows: Sequence[Seen]) -> Figure:
    """Draw a row for each network: the image, Grad-CAM, and the strongest maps of each stage."""
    num_columns = 2 + max(len(row.features.stages) for row in rows)
    figure = _figure(1.55 * num_columns + 0.4, 2.0 * len(rows) + 0.5)
    for number, row in enumerate(rows):
        axes = [
            figure.add_subplot(len(rows), num_columns, number * num_columns + column + 1)
            for column in range(num_columns)
        ]
        found = row.features
        _show_image(axes[0], row.image)
        axes[0].set_title(plain(textwrap.shorten(row.label, 30)), fontsize=9, fontweight="bold")
        _show_cam(axes[1], row)
        axes[1].set_title(_answer(row.top[0]), fontsize=8)
        for ax, stage in zip(axes[2:], found.stages, strict=False):
            _show_tiles(ax, _shades(_strongest(stage.maps, 4)), columns=2)
            ax.set_title(_stage_name(stage), fontsize=7)
        for ax in axes[2 + len(found.stages) :]:
            ax.set_axis_off()
    figure.suptitle("image, Grad-CAM of the likeliest class, the four strongest maps per stage")
    return figure


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _bare(ax: Axes) -> None:
    ax.set(xticks=[], yticks=[])
    ax.grid(visible=False)
    for spine in ax.spines.values():
        spine.set_visible(False)


def _show_image(ax: Axes, image: NDArray[np.uint8]) -> None:
    pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    ax.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    _bare(ax)


def _show_tiles(ax: Axes, tiles: NDArray[np.uint8], columns: int) -> None:
    """Show (N, C, H, W) images in rows, as large as each other whatever their sides."""
    zoom = max(1, round(_TILE_PIXELS / max(tiles.shape[2:])))
    large = tiles.repeat(zoom, axis=2).repeat(zoom, axis=3)
    _show_image(ax, sample_grid(large, columns, _GAP))


def _shades(maps: Tensor) -> NDArray[np.uint8]:
    """Return maps (N, H, W) as grey images (N, 1, H, W), each from its least to its largest."""
    values = maps.double()
    low, high = values.amin((1, 2), keepdim=True), values.amax((1, 2), keepdim=True)
    span = (high - low).clamp(min=1e-12)
    shades: NDArray[np.uint8] = ((values - low) / span * _LIGHTEST).round().numpy().astype(np.uint8)
    return shades[:, None]


def _strongest(maps: Tensor, count: int) -> Tensor:
    """Return the maps (C, H, W) with the largest mean magnitude, strongest first."""
    strength = maps.abs().mean((1, 2))
    return maps[strength.sort(descending=True, stable=True).indices[:count]]


def _stage_name(stage: Stage) -> str:
    channels, height, width = stage.maps.shape
    return plain(f"{_short(stage.name)}\n{channels} of {height} x {width}")


def _short(name: str) -> str:
    return name if len(name) <= _NAME_CHARACTERS else f"...{name[3 - _NAME_CHARACTERS :]}"


def _answer(row: Mapping[str, Any]) -> str:
    name = textwrap.shorten(row["class"], _NAME_CHARACTERS, placeholder="...")
    return plain(f"{name}  {row['probability']:.3f}")


def _draw_filters(label: str, filters: Filters) -> Figure:
    """Draw the first layer's filters, on one scale for all, and beside them their responses."""
    weights = filters.weights[:_MAX_FILTERS].double()
    if weights.shape[1] not in (1, 3):
        weights = weights.mean(1, keepdim=True)
    largest = weights.abs().max().clamp(min=1e-12)
    tiles = ((weights / largest + 1) / 2 * _LIGHTEST).round().numpy().astype(np.uint8)
    columns = math.ceil(math.sqrt(len(tiles)))
    panels = 1 if filters.responses is None else 2
    figure = _figure(0.5 + panels * (1.2 + 0.42 * columns), 1.0 + 0.42 * columns)
    ax = figure.add_subplot(1, panels, 1)
    _show_tiles(ax, tiles, columns)
    total, (height, width) = len(filters.weights), filters.weights.shape[2:]
    shown = f"{total}" if total == len(tiles) else f"first {len(tiles)} of {total}"
    kind = "convolution" if filters.is_convolution else "linear layer"
    figure.suptitle(plain(f"{label}: {_short(filters.layer)}, the first {kind}"))
    ax.set_title(
        f"{shown} filters of {height} x {width}\ngrey is 0, the lightest the largest", fontsize=8
    )
    if filters.responses is not None:
        ax = figure.add_subplot(1, panels, 2)
        _show_tiles(ax, _shades(filters.responses[:_MAX_FILTERS]), columns)
        ax.set_title("what each makes of the image\nlight is most", fontsize=8)
    return figure


def _draw_maps(seen: Seen) -> Figure:
    stages = seen.features.stages
    figure = _figure(8.4, 0.6 + 0.78 * len(stages))
    grid = figure.add_gridspec(len(stages), 2, width_ratios=[1.1, _MAX_MAPS])
    _show_image(figure.add_subplot(grid[0, 0]), seen.image)
    for number, stage in enumerate(stages):
        ax = figure.add_subplot(grid[number, 1])
        maps = _strongest(stage.maps, _MAX_MAPS)
        _show_tiles(ax, _shades(maps), len(maps))
        ax.set_anchor("W")
        text = _stage_name(stage)
        ax.set_ylabel(text, rotation=0, ha="right", va="center", fontsize=8)
    figure.suptitle(
        plain(
            f"{seen.label}: the strongest maps of each resolution, strongest first; light is most"
        )
    )
    return figure


def _show_cam(ax: Axes, seen: Seen) -> None:
    """Lay Grad-CAM over the image; the line runs where it is half of its largest."""
    _show_image(ax, seen.image)
    if seen.features.grad_cam is None:
        ax.text(
            *(0.5, 0.5, "no\nconvolution"),
            transform=ax.transAxes,
            ha="center",
            va="center",
            bbox={"facecolor": "white", "edgecolor": "none"},
        )
        return
    cam = seen.features.grad_cam.numpy()
    ax.imshow(cam, cmap="inferno", vmin=0, vmax=1, alpha=0.25 + 0.5 * cam)
    if cam.max() > 0.5 > cam.min():
        for color, width in (("black", 2.4), ("white", 1.2)):
            ax.contour(cam, levels=[0.5], colors=[color], linewidths=width)


def _draw_prediction(seen: Seen) -> Figure:
    """Draw the image, what of it speaks for the likeliest class, and the likeliest classes."""
    has_cam = seen.features.grad_cam is not None
    figure = _figure(7.6 if has_cam else 5.4, 2.7)
    grid = figure.add_gridspec(1, 3 if has_cam else 2)
    ax = figure.add_subplot(grid[0])
    _show_image(ax, seen.image)
    ax.set_title("image", fontsize=9)
    if has_cam:
        ax = figure.add_subplot(grid[1])
        _show_cam(ax, seen)
        stage = seen.features.stages[-1]
        ax.set_title(f"Grad-CAM on {_stage_name(stage)}", fontsize=8)
    ax = figure.add_subplot(grid[-1])
    top = seen.top[:_MAX_CLASSES]
    names = [textwrap.shorten(row["class"], _NAME_CHARACTERS, placeholder="...") for row in top]
    ax.barh(
        range(len(top)), [row["probability"] for row in top], color="#bbbbbb", edgecolor="black"
    )
    ax.set_yticks(range(len(top)), [plain(name) for name in names], fontsize=8)
    for index, row in enumerate(top):
        end = (row["probability"], index)
        shown = f"{row['probability']:.3f}"
        ax.annotate(shown, end, xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)
    ax.invert_yaxis()
    ax.grid(visible=False, axis="y")
    ax.set(xlim=(0, 1.3), xticks=[0, 0.5, 1])
    ax.set_title("probability", fontsize=9)
    figure.suptitle(plain(f"{seen.label}: {_answer(seen.top[0])}"))
    return figure


def _draw_fields(seen: Seen) -> Figure:
    """Draw, for each stage, which pixels move its central unit, and which could."""
    stages = seen.features.stages
    figure = _figure(0.4 + 1.75 * (len(stages) + 1), 2.9)
    axes = [figure.add_subplot(1, len(stages) + 1, n + 1) for n in range(len(stages) + 1)]
    _show_image(axes[0], seen.image)
    axes[0].set_title("image\n", fontsize=8)
    for ax, stage in zip(axes[1:], stages, strict=True):
        strength = stage.gradient.sqrt().numpy()
        ax.imshow(strength, cmap="gray", vmin=0, interpolation="nearest")
        _bare(ax)
        _draw_box(ax, stage.box, "--", "#56b4e9")
        if stage.measured_side:
            row, column = gradient_center(stage.gradient)
            reach = stage.measured_side // 2
            box = Box(row - reach, column - reach, row + reach + 1, column + reach + 1)
            _draw_box(ax, box, "-", "#e69f00")
        side, size = len(strength), stage.receptive_field
        ax.set(xlim=(-1, side), ylim=(side, -1), facecolor="black")
        ax.set_title(_stage_name(stage), fontsize=8)
        theory = "all" if size is None else f"{size} x {size}"
        measured = stage.measured_side
        found = f"{measured} x {measured}" if measured else "none: the unit is off"
        ax.set_xlabel(f"theory {theory}\nmeasured {found}", fontsize=8)
    figure.suptitle(
        plain(
            f"{seen.label}: pixels that move the central unit of each map "
            "(brightness: square root of the gradient)\n"
        )
        + "dashed: what it can see, within the image; solid: nine tenths of the gradient",
        fontsize=9,
    )
    return figure


def _draw_box(ax: Axes, box: Box, line: str, color: str) -> None:
    """Draw the outline of pixels, whose centres are at whole numbers."""
    from matplotlib.patches import Rectangle

    corner, size = (box.left - 0.5, box.top - 0.5), (box.right - box.left, box.bottom - box.top)
    for edge, width in (("black", 3.0), (color, 1.5)):
        ax.add_patch(
            Rectangle(corner, *size, fill=False, edgecolor=edge, linestyle=line, linewidth=width)
        )
