"""Plots of a comparison.

Each row keeps its colour, line, marker and hatch through all figures of a table.
"""

from __future__ import annotations

import itertools
import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from cnnbench.analysis.compare.data_sets import RankedRecipes, rank_over_data_sets
from cnnbench.analysis.compare.formats import row_name
from cnnbench.analysis.compare.rows import Row, is_one_device
from cnnbench.analysis.compare.tables import Comparison, Table
from cnnbench.rendering.figures import legend_below, line_look, plain, save, style
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
        if (ranked := rank_over_data_sets(comparison)) is not None:
            files += save(_critical_difference(ranked), directory / "critical_difference")
    return files


def _figures(table: Table) -> dict[str, Figure]:
    figures = {"learning_curves": _learning_curves(table)}
    if over := _over_work(table):
        figures["accuracy_over_work"] = over
    if not (measured := _measured(table)):
        return figures
    figures["accuracy_dots"] = _dots(table)
    for cost in columns.costs():
        if any(row.values[cost.name] for row, _ in measured):
            figures[f"accuracy_{cost.name.replace('/', '_')}"] = _trade_off(table, cost)
    return figures


def _measured(table: Table) -> list[tuple[Row, float]]:
    """Return the rows that have a mean score, with it: test images may be unread."""
    found = [(row, row.metric(row.score)["mean"]) for row in table.rows]
    return [(row, mean) for row, mean in found if mean is not None]


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
    has_bands = any(ax.collections for ax in axes)
    note = "band: mean ± standard deviation over seeds" if has_bands else ""
    legend_below(figure, axes[0], note)
    return figure


def by_epoch(curves: Sequence[Mapping[int, float]]) -> dict[int, list[float]]:
    """Return the values that curves have, by epoch."""
    epochs = sorted({epoch for curve in curves for epoch in curve})
    return {epoch: [curve[epoch] for curve in curves if epoch in curve] for epoch in epochs}


def _trade_off(table: Table, cost: Column) -> Figure:
    """Draw accuracy against one cost, with the rows that no other beats in both."""
    figure, (ax,) = _figure(table, 1)
    points = {}
    measured = [each for each in _measured(table) if each[0].values[cost.name]]
    has_front = not cost.is_time or is_one_device(row for row, _ in measured)
    for row, mean in measured:
        x = row.values[cost.name]
        errors = _errors(mean, interval(row, row.score))
        look = {**_look(row), "linestyle": "none"}
        ax.errorbar(x, mean, yerr=errors, capsize=3, label=_label(row, table), **look)
        ax.annotate(
            str(row.number), (x, mean), xytext=(5, 4), textcoords="offset points", fontsize=8
        )
        if has_front and not row.not_comparable:
            points[row.number] = (x, mean)
    front = sorted(points[number] for number in pareto_front(points))
    xs, ys = [x for x, _ in front], [y for _, y in front]
    ax.plot(xs, ys, drawstyle="steps-post", color="#777777", linestyle="--", linewidth=1, zorder=1)
    score = columns.score_text(table.rows[0].score)
    ax.set(xlabel=cost.axis, ylabel=score, title=f"{score} against {cost.axis}")
    shown = [row.values[cost.name] for row, _ in measured]
    if max(shown) / min(shown) > 3:
        ax.set_xscale("log")
    ax.margins(0.12)
    note = "dashed: Pareto front" if has_front else "seconds of different devices: no Pareto front"
    if _has_intervals(row for row, _ in measured):
        note += "; bars: 95 % interval of the mean over seeds"
    if any(row.not_comparable for row, _ in measured):
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


def interval(row: Row, metric: str) -> tuple[float, float] | None:
    """Return what the mean of a row over more seeds may be, at 95 %; None for one seed.

    It is the interval that the verdict names, or else Student's, as of two seeds.
    """
    named = row.verdict.get("accuracy_interval") if metric == row.accuracy else None
    if named is not None:
        return float(named[0]), float(named[1])
    if row.folds:  # they overlap: only the corrected interval of the accuracy holds
        return None
    values = row.metric_values(metric)
    if len(values) < 2:
        return None
    from scipy.special import stdtrit

    quantile = float(stdtrit(len(values) - 1, 0.975))
    half = quantile * stdev(values) / math.sqrt(len(values))
    return columns.COLUMNS[metric].within((fmean(values) - half, fmean(values) + half))


def _has_intervals(rows: Iterable[Row]) -> bool:
    return any(interval(row, row.score) is not None for row in rows)


def _errors(mean: float, ends: tuple[float, float] | None) -> list[list[float]] | None:
    """Return an interval as matplotlib's error bars take it."""
    return None if ends is None else [[max(0.0, mean - ends[0])], [max(0.0, ends[1] - mean)]]


def _dots(table: Table) -> Figure:
    """Draw each row's accuracy and the interval of its mean, on an axis that shows differences."""
    from matplotlib.figure import Figure

    measured = _measured(table)
    rows = [row for row, _ in measured]
    figure = Figure(figsize=(7.5, 1.4 + 0.4 * len(rows)), layout="constrained")
    ax = figure.add_subplot()
    for position, (row, mean) in enumerate(measured):
        ends = interval(row, row.score)
        look = {**_look(row), "linestyle": "none", "color": line_look(row.number - 1)["color"]}
        ax.errorbar(mean, position, xerr=_errors(mean, ends), capsize=3, **look)
        shown = "" if ends is None else f" ({ends[0]:.4f} to {ends[1]:.4f})"
        text = f"{mean:.4f}{shown}" + (" (not comparable)" if row.not_comparable else "")
        ax.annotate(
            text,
            (1.02, position),
            xycoords=ax.get_yaxis_transform(),
            va="center",
            fontsize=8,
            annotation_clip=False,
        )
    labels = [textwrap.fill(_label(row, table), 44) for row in rows]
    ax.set_yticks(range(len(rows)), labels, fontsize=8)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.margins(x=0.08)
    ax.locator_params(axis="x", nbins=6)
    score = columns.score_text(rows[0].score)
    ax.set_xlabel(f"{score}; the axis does not begin at 0")
    title = score + (": means and 95 % intervals over seeds" if _has_intervals(rows) else "")
    ax.set_title(f"{setting_text(table.title)}: {title}" if table.title else title)
    return figure


def _over_work(table: Table) -> Figure | None:
    """Draw what was learnt after so many seconds, and so much arithmetic; None without either."""
    metric = table.rows[0].score.replace("test/", "val/")
    units = {"seconds": "seconds of training", "tflop": "TFLOP of training"}
    found = {
        unit: {row.number: work for row in table.rows if (work := work_by_epoch(row, unit))}
        for unit in units
    }
    shown = [unit for unit, rows in found.items() if rows]
    if not shown or not any(metric in r.curves for row in table.rows for r in row.records):
        return None
    figure, axes = _figure(table, len(shown))
    for ax, unit in zip(axes, shown, strict=True):
        for row in table.rows:
            work = found[unit].get(row.number, {})
            points = by_epoch([record.curves.get(metric, {}) for record in row.records])
            epochs = [epoch for epoch in points if epoch in work]
            xs, means = [work[epoch] for epoch in epochs], [fmean(points[e]) for e in epochs]
            every = max(1, math.ceil(len(epochs) / 12))
            ax.plot(xs, means, markevery=every, label=_label(row, table), **_look(row))
        ax.set(xlabel=units[unit], ylabel=metric, title=f"{metric} against {units[unit]}")
        ends = [max(work.values()) for work in found[unit].values()]
        if max(ends) / min(ends) > 10:
            ax.set_xscale("log")
    legend_below(figure, axes[0], "means over seeds, at the mean work of an epoch's end")
    return figure


def work_by_epoch(row: Row, unit: str) -> dict[int, float]:
    """Return what training had cost by the end of each epoch, as the mean over seeds.

    Args:
        row: its runs that had the machine alone count, where there is one.
        unit: ``seconds``, evaluation left out, or ``tflop``.

    Returns:
        Nothing where it was not recorded, or other jobs ran beside each run.
    """
    runs = []
    for record in row.records:
        curves = record.curves
        if unit == "seconds":
            sums = itertools.accumulate(curves.get("perf/epoch_seconds", {}).values())
            if record.is_alone:
                runs.append(dict(zip(curves.get("perf/epoch_seconds", {}), sums, strict=True)))
        elif (total := record.metrics["train_tflop"]) and curves.get("global_step"):
            steps = curves["global_step"]
            last = max(steps.values())
            runs.append({epoch: total * step / last for epoch, step in steps.items() if last})
    return {epoch: fmean(values) for epoch, values in by_epoch(runs).items() if min(values) > 0}


def _critical_difference(ranked: RankedRecipes) -> Figure:
    """Draw mean ranks on a line, with bars over those that are not told apart (Demsar 2006)."""
    from matplotlib.figure import Figure

    ranks, order = ranked.ranks, ranked.order
    count, half = len(order), (len(order) + 1) // 2
    height = 0.5 + 0.22 * len(ranks.groups) + 0.3 * half
    figure = Figure(figsize=(7.5, 1.1 + height), layout="constrained")
    ax = figure.add_subplot()
    left, right = 1 - 0.25 * count, 1.25 * count  # room for the names beside the ranks
    ax.set(xlim=(left, max(right, 1.1 + ranks.critical_difference)), ylim=(height, -0.75))
    ax.axis("off")
    black: dict[str, Any] = {"color": "black", "linewidth": 1}
    ax.plot([1, count], [0, 0], **black)
    for rank in range(1, count + 1):
        ax.plot([rank, rank], [0, -0.1], **black)
        ax.text(rank, -0.15, str(rank), ha="center", va="bottom", fontsize=8)
    ax.plot([1, 1 + ranks.critical_difference], [-0.5, -0.5], color="black", linewidth=2)
    text = f"critical difference {ranks.critical_difference:.2f}"
    ax.text(1, -0.55, text, ha="left", va="bottom", fontsize=8)
    for number, group in enumerate(ranks.groups):
        ends = [ranks.mean_ranks[index] for index in (group[0], group[-1])]
        at = 0.15 + 0.22 * number
        ax.plot([ends[0] - 0.03, ends[1] + 0.03], [at, at], color="black", linewidth=3)
    for place, index in enumerate(order):
        is_left = place < half
        level = place if is_left else count - 1 - place
        row = 0.35 + 0.22 * len(ranks.groups) + 0.3 * level
        side = left if is_left else right
        mean = ranks.mean_ranks[index]
        ax.plot([mean, mean, side], [0, row, row], **{**black, "linewidth": 0.8})
        label = plain(f"{textwrap.shorten(ranked.names[index], 40)} {mean:.2f}")
        align = "left" if is_left else "right"
        ax.text(side, row - 0.03, label, ha=align, va="bottom", fontsize=8.5)
    rough = ", rough for so few" if ranks.is_small else ""
    ax.set_title(
        f"mean ranks over {ranks.num_data_sets} data sets, 1 is best; bars: not told apart at 5 %\n"
        f"Friedman p = {ranks.p:.2g}{rough}; Nemenyi's test",
        fontsize=9,
    )
    return figure
