"""Plots of a comparison.

Each row keeps its colour, line, marker and hatch through all figures of a table.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from cnnbench.analysis.compare.formats import row_name
from cnnbench.analysis.compare.rows import Row
from cnnbench.analysis.compare.tables import Comparison, Table
from cnnbench.rendering.figures import bar_look, legend_below, line_look, plain, save, style
from cnnbench.rendering.text import setting_text
from cnnbench.runs import columns
from cnnbench.runs.columns import Column

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_OPEN = "\nopen marker: not comparable"


def plot_comparison(comparison: Comparison, directory: Path) -> list[Path]:
    """Write the figures of each table as PNG and SVG.

    Args:
        comparison: with groups, each gets a directory of its own.
        directory: made where it is missing; files of these names are replaced.

    Returns:
        The files.

    Raises:
        DiskError: a file cannot be written.
    """
    files = []
    with style():
        for number, table in enumerate(comparison.tables, start=1):
            name = re.sub(r"[^A-Za-z0-9=._+-]+", "_", table.title)[:80]
            target = directory / f"{number:02d}_{name}" if name else directory
            for stem, figure in _figures(table).items():
                files += save(figure, target / stem)
    return files


def _figures(table: Table) -> dict[str, Figure]:
    figures = {"learning_curves": _learning_curves(table), "accuracy_bars": _bars(table)}
    for cost in columns.costs():
        if any(row.values[cost.name] for row in table.rows):
            figures[f"accuracy_{cost.name.replace('/', '_')}"] = _trade_off(table, cost)
    return figures


def _figure(table: Table, num_axes: int) -> tuple[Figure, list[Axes]]:
    """Return a figure with room for a legend of all rows below."""
    from matplotlib.figure import Figure

    size = (4.2 * num_axes + 1.2, 3.6 + 0.19 * len(table.rows))
    figure = Figure(figsize=size, layout="constrained")
    axes = [figure.add_subplot(1, num_axes, n + 1) for n in range(num_axes)]
    if table.title:
        figure.suptitle(setting_text(table.title), fontsize=10)
    return figure, axes


def _label(row: Row, table: Table) -> str:
    return plain(row_name(row, table))


def _look(row: Row) -> dict[str, Any]:
    look = line_look(row.number - 1)
    return {**look, "markerfacecolor": "white" if row.not_comparable else look["color"]}


def _learning_curves(table: Table) -> Figure:
    from matplotlib.ticker import MaxNLocator

    figure, axes = _figure(table, 2)
    metric = table.rows[0].score.partition("/")[2]
    has_val = any(f"val/{metric}" in record.curves for row in table.rows for record in row.records)
    for ax, name in zip(
        axes, ("train/loss", f"{'val' if has_val else 'train'}/{metric}"), strict=True
    ):
        most = 0
        for row in table.rows:
            points = by_epoch([record.curves.get(name, {}) for record in row.records])
            epochs = list(points)
            means = [fmean(values) for values in points.values()]
            spreads = [stdev(values) if len(values) > 1 else 0.0 for values in points.values()]
            every = max(1, math.ceil(len(epochs) / 12))
            line = ax.plot(epochs, means, markevery=every, label=_label(row, table), **_look(row))
            if any(spreads):
                low, high = (
                    [m + s * d for m, d in zip(means, spreads, strict=True)] for s in (-1, 1)
                )
                ax.fill_between(
                    epochs, low, high, color=line[0].get_color(), alpha=0.18, linewidth=0
                )
            most = max(most, *epochs, 0)
        ax.set(xlabel="epoch", title=name)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_xlim(1 - max(0.2, 0.03 * most), most + max(0.2, 0.03 * most))
    legend_below(figure, axes[0], "band: mean ± standard deviation over seeds")
    return figure


def by_epoch(curves: Sequence[Mapping[int, float]]) -> dict[int, list[float]]:
    """Return the values that curves have, by epoch."""
    epochs = sorted({epoch for curve in curves for epoch in curve})
    return {epoch: [curve[epoch] for curve in curves if epoch in curve] for epoch in epochs}


def _trade_off(table: Table, cost: Column) -> Figure:
    """Draw accuracy against one cost, with the rows that no other beats in both."""
    figure, (ax,) = _figure(table, 1)
    points = {}
    for row in table.rows:
        x, accuracy = row.values[cost.name], row.metric(row.score)
        if not x:
            continue
        mean, half = accuracy["mean"] or 0.0, interval(row, row.score)
        look = {**_look(row), "linestyle": "none"}
        ax.errorbar(x, mean, yerr=half, capsize=3, label=_label(row, table), **look)
        ax.annotate(
            str(row.number), (x, mean), xytext=(5, 4), textcoords="offset points", fontsize=8
        )
        if not row.not_comparable:
            points[row.number] = (x, mean)
    front = sorted(points[number] for number in pareto_front(points))
    xs, ys = [x for x, _ in front], [y for _, y in front]
    ax.plot(xs, ys, drawstyle="steps-post", color="#777777", linestyle="--", linewidth=1, zorder=1)
    score = table.rows[0].score.replace("/", " ")
    ax.set(xlabel=cost.axis, ylabel=score, title=f"{score} against {cost.axis}")
    shown = [row.values[cost.name] for row in table.rows if row.values[cost.name]]
    if max(shown) / min(shown) > 3:
        ax.set_xscale("log")
    ax.margins(0.12)
    note = "dashed: Pareto front; bars: 95 % interval of the mean over seeds"
    if any(row.not_comparable for row in table.rows):
        note += _OPEN
    legend_below(figure, ax, note)
    return figure


def pareto_front(points: Mapping[int, tuple[float, float]]) -> list[int]:
    """Return the keys of the points that no other beats in one and matches in the other.

    Args:
        points: cost and value by key.
    """
    front: list[int] = []
    best = -math.inf
    cheapest: float | None = None
    for key, (cost, value) in sorted(points.items(), key=lambda item: (item[1][0], -item[1][1])):
        if value > best or (value == best and cost == cheapest):
            front.append(key)
            best, cheapest = value, cost
    return front


def interval(row: Row, metric: str) -> float | None:
    """Return half the width of Student's 95 % interval of a row's mean; None for one seed."""
    if row.folds:  # they overlap: only the corrected interval of the accuracy holds
        ends = row.verdict.get("accuracy_interval") if metric == row.accuracy else None
        return (ends[1] - ends[0]) / 2 if ends else None
    values = row.metric_values(metric)
    if len(values) < 2:
        return None
    from scipy.special import stdtrit

    quantile = float(stdtrit(len(values) - 1, 0.975))
    return quantile * stdev(values) / math.sqrt(len(values))


def _bars(table: Table) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 1.2 + 0.44 * len(table.rows)), layout="constrained")
    ax = figure.add_subplot()
    for position, row in enumerate(table.rows):
        mean = row.metric(row.score)["mean"] or 0.0
        half = interval(row, row.score)
        ax.barh(position, mean, height=0.66, **bar_look(row.number - 1))
        if half is not None:
            ax.errorbar(mean, position, xerr=half, color="black", capsize=4, linewidth=1.6)
        text = f"{mean:.4f}" + ("" if half is None else f" ± {half:.4f}")
        text += " (not comparable)" if row.not_comparable else ""
        end = (min(1.0, mean + (half or 0.0)), position)
        ax.annotate(text, end, xytext=(6, 0), textcoords="offset points", va="center", fontsize=8)
    labels = [textwrap.fill(_label(row, table), 44) for row in table.rows]
    ax.set_yticks(range(len(table.rows)), labels, fontsize=8)
    ax.invert_yaxis()
    ax.grid(visible=False, axis="y")
    # Bars from zero: their lengths are what is compared. Room for the numbers at their ends.
    score = table.rows[0].score.replace("/", " ")
    ax.set(xlim=(0, 1.35), xticks=[0, 0.25, 0.5, 0.75, 1], xlabel=score)
    title = f"{score}, with 95 % interval of the mean over seeds"
    ax.set_title(f"{setting_text(table.title)}: {title}" if table.title else title)
    return figure
