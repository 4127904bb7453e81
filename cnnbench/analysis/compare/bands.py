"""TensorBoard's custom scalars of a sweep: a line for each network, with a band over its seeds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev

from cnnbench.analysis.compare.conclusion import row_names
from cnnbench.analysis.compare.plots import by_epoch
from cnnbench.analysis.compare.tables import Comparison
from cnnbench.notices import visible
from cnnbench.rendering.text import setting_text
from cnnbench.tracking import TensorBoard

_METRICS = ("val/accuracy", "val/r2", "val/loss", "train/accuracy", "train/loss")


def write_bands(found: Comparison, directory: Path, warn: Callable[[str], None]) -> None:
    """Write an event file with mean and band of each row by epoch; an earlier one's events go.

    Args:
        found: of the sweep's runs.
        directory: of the sweep, which exists.
        warn: takes a message where the file cannot be written.
    """
    board = TensorBoard(directory, warn=warn)
    charts: dict[str, list[tuple[str, str, str]]] = {}
    points: dict[int, dict[str, float]] = {}
    for table in found.tables:
        names = row_names(table.rows, table.settings)
        for metric in _METRICS:
            for row in table.rows:
                epochs = by_epoch([record.curves.get(metric, {}) for record in row.records])
                if not epochs:
                    continue
                # The page's legends show these names, and nothing else tells lines apart.
                data = f" on {setting_text(row.values['data'])}" if len(found.tables) > 1 else ""
                name = visible(f"{names[row.number]}{data}")
                tags = (name, f"{name} lower", f"{name} upper")
                line = tuple(f"{metric}/{tag}" for tag in tags)
                title = f"{metric}{data} by epoch"
                charts.setdefault(title, []).append((line[0], line[1], line[2]))
                for epoch, values in epochs.items():
                    mean, std = fmean(values), stdev(values) if len(values) > 1 else 0.0
                    edges = (mean, mean - std, mean + std)
                    points.setdefault(epoch, {}).update(zip(line, edges, strict=True))
    board.bands(charts)
    for epoch, scalars in sorted(points.items()):
        board.scalars(scalars, epoch)
    board.close()
