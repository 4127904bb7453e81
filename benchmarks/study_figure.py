"""Draws the differences of a study's table, with their intervals, as the PNG beside it.

``python benchmarks/study_figure.py docs/studies/alexnet.md "images/s"`` reads the table that has a
column ``Δ`` and, where one more is named, draws that one's numbers beside it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from matplotlib.figure import Figure

from cnnbench.rendering.figures import plain, save, style

_NUMBER = r"([+-]?[\d.,]*\d)"


def read_table(text: str) -> list[dict[str, str]]:
    """Return the rows of the first Markdown table with a column whose head begins with Δ."""
    lines = [line.strip("|\n").split("|") for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip().strip("`") for cell in line] for line in lines]
    start = next(n for n, row in enumerate(rows) if any(cell.startswith("Δ") for cell in row))
    heads = rows[start]
    body = rows[start + 2 :]
    length = next((n for n, row in enumerate(body) if len(row) != len(heads)), len(body))
    return [dict(zip(heads, row, strict=True)) for row in body[:length]]


def difference(row: dict[str, str]) -> tuple[float, float, float]:
    """Return the difference of a row and the ends of its interval; zeros for the baseline."""
    cells = list(row.values())
    start = next(n for n, head in enumerate(row) if head.startswith("Δ"))
    if not cells[start]:
        return 0.0, 0.0, 0.0
    text = " ".join(cells[start : start + 2])
    found = re.match(rf"{_NUMBER}[ (]+{_NUMBER} to {_NUMBER}", text)
    if not found:
        raise ValueError(f"{text}: expected a difference and its interval")
    mean, low, high = map(float, found.groups())
    return mean, low, high


def draw(file: Path, beside: str | None = None) -> Path:
    """Write the figure of a study's page, and return its path."""
    rows = read_table(file.read_text(encoding="utf-8"))[::-1]
    names = [plain(next(iter(row.values()))) for row in rows]
    with style():
        figure = Figure(figsize=(7.2, 0.8 + 0.24 * len(rows)), layout="constrained")
        axes = figure.subplots(1, 2 if beside else 1, sharey=True, squeeze=False)[0]
        for number, row in enumerate(rows):
            mean, low, high = difference(row)
            fill = "black" if high > low else "white"
            look = {"color": "black", "markerfacecolor": fill, "capsize": 3}
            axes[0].errorbar(mean, number, xerr=[[mean - low], [high - mean]], fmt="o", **look)
        axes[0].axvline(0, color="#777777", linestyle="--", linewidth=1)
        axes[0].set_yticks(range(len(rows)), names)
        axes[0].set(xlabel="difference of accuracy (95 %)", ylim=(-0.7, len(rows) - 0.3))
        axes[0].locator_params(axis="x", nbins=5)
        if beside:
            values = [float(row[beside].replace(",", "")) for row in rows]
            axes[1].plot(values, range(len(rows)), "o", color="black")
            axes[1].set(xlabel=plain(beside), xlim=(0, 1.08 * max(values)))
        return save(figure, file.with_suffix(""), ["png"])[0]


if __name__ == "__main__":
    print(draw(Path(sys.argv[1]), *sys.argv[2:3]))
