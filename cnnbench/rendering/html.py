"""Tables and curves as pieces of HTML for notebooks: without scripts or files, all escaped."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from cnnbench.notices import visible
from cnnbench.rendering.figures import line_look
from cnnbench.rendering.text import cell_text

# More would make a notebook's file large; the data frame has them all.
_MAX_ROWS = 200
_WIDTH, _HEIGHT = 340, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 8, 22, 24
_LARGEST = 1e100
# SVG has other names for the lines of `line_look`.
_DASHES = {"-": "", "--": "6 3", "-.": "6 3 1 3", ":": "1 3"}

Points = Sequence[tuple[float, float]]


def escaped(value: Any) -> str:
    """Return a value as text of HTML, in which nothing is a tag or steers a reader's eye."""
    return html.escape(visible(cell_text(value)))


def html_table(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None, caption: str = ""
) -> str:
    """Return rows as a table.

    Args:
        rows: values by column; an absent one is shown empty.
        columns: which, in which order; by default all that any row has.
        caption: above the table.
    """
    heads = list(dict.fromkeys(key for row in rows for key in row) if columns is None else columns)
    shown = rows[:_MAX_ROWS]
    head = "".join(f"<th>{escaped(name)}</th>" for name in heads)
    body = "".join(
        f"<tr>{''.join(f'<td>{escaped(row.get(name))}</td>' for name in heads)}</tr>"
        for row in shown
    )
    title = f"<caption>{escaped(caption)}</caption>" if caption else ""
    more = f"<p>and {len(rows) - len(shown)} more rows</p>" if len(rows) > len(shown) else ""
    return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def svg_curves(title: str, curves: Mapping[str, Points]) -> str:
    """Return curves over epochs as one SVG image with a legend below.

    Args:
        title: above them.
        curves: by name, points (epoch, value) in order; numbers that no training gives are left
            out.

    Returns:
        Nothing where there is no point.
    """
    lines = {
        name: [(x, y) for x, y in points if abs(x) < _LARGEST and abs(y) < _LARGEST]
        for name, points in curves.items()
    }
    lines = {name: points for name, points in lines.items() if points}
    if not lines:
        return ""
    (low_x, high_x), (low_y, high_y) = (
        _ends([point[axis] for points in lines.values() for point in points]) for axis in (0, 1)
    )
    height = _HEIGHT + 15 * len(lines)

    def place(x: float, y: float) -> tuple[float, float]:
        across = _LEFT + (x - low_x) / (high_x - low_x) * (_WIDTH - _LEFT - _RIGHT)
        down = _TOP + (high_y - y) / (high_y - low_y) * (_HEIGHT - _TOP - _BOTTOM)
        return round(across, 1), round(down, 1)

    left, bottom = place(low_x, low_y)
    right, top = place(high_x, high_y)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="11" role="img">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<path d="M{left} {top}V{bottom}H{right}" fill="none" stroke="#666666"/>',
        _text(_LEFT, 14, title, "start"),
        _text(left - 4, top + 8, f"{high_y:.3g}", "end"),
        _text(left - 4, bottom, f"{low_y:.3g}", "end"),
        _text(left, bottom + 14, f"{low_x:g}", "middle"),
        _text(right - 8, bottom + 14, f"{high_x:g}", "middle"),
        _text((left + right) / 2, bottom + 14, "epoch", "middle"),
    ]
    for index, (name, points) in enumerate(lines.items()):
        look = line_look(index)
        dash = _DASHES.get(look["linestyle"], "6 1 1 1")
        stroke = f'stroke="{look["color"]}" stroke-width="1.6" stroke-dasharray="{dash}"'
        path = " ".join(f"{x},{y}" for x, y in (place(*point) for point in points))
        if len(points) == 1:
            x, y = place(*points[0])
            parts.append(f'<circle cx="{x}" cy="{y}" r="2.5" fill="{look["color"]}"/>')
        row = _HEIGHT + 15 * index + 6
        parts += [
            f'<polyline points="{path}" fill="none" {stroke}/>',
            f'<path d="M{_LEFT} {row - 4}h22" {stroke}/>',
            _text(_LEFT + 28, row, name, "start"),
        ]
    return "".join([*parts, "</svg>"])


def _ends(values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of an axis, which are never the same."""
    low, high = min(values), max(values)
    margin = max(0.5, abs(low) / 100)
    return (low, high) if high > low else (low - margin, high + margin)


def _text(x: float, y: float, text: str, anchor: str) -> str:
    where = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {where} fill="#222222">{escaped(text)}</text>'
