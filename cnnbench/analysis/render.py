"""One table, in every format: text for people, Markdown, CSV and JSON for what comes after."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

FORMATS = ("text", "markdown", "csv", "json")
_LATEX = str.maketrans(
    {
        **{special: f"\\{special}" for special in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "±": r"$\pm$",
    }
)


def render_table(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    output_format: str,
    right: Collection[str] = (),
) -> str:
    """Return the rows as a table.

    Args:
        rows: values by column; an absent one is shown empty.
        columns: which, and in which order.
        output_format: one of ``FORMATS``, or ``latex``; ``json`` gives the rows alone, unrounded.
        right: columns to align to the right, beside those that hold numbers alone.
    """
    if output_format == "json":
        return render_json(list(rows))
    if output_format == "csv":
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return buffer.getvalue()
    cells = [[cell_text(row.get(column)) for column in columns] for row in rows]
    numeric = [
        column in right
        or all(isinstance(row.get(column), (int, float, type(None))) for row in rows)
        for column in columns
    ]
    if output_format == "markdown":
        rule = ["---:" if right else "---" for right in numeric]
        body = [[cell.replace("|", "\\|") for cell in row] for row in cells]
        return "".join(f"| {' | '.join(line)} |\n" for line in [list(columns), rule, *body])
    if output_format == "latex":
        return _latex([list(columns), *cells], numeric)
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    lines = []
    for row in [list(columns), *cells]:
        padded = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ]
        lines.append("  ".join(padded).rstrip() + "\n")
    return "".join(lines)


def _latex(lines: Sequence[Sequence[str]], numeric: Sequence[bool]) -> str:
    """Return a tabular for the package booktabs; the first line is the head."""
    head, *body = [" & ".join(cell.translate(_LATEX) for cell in line) + " \\\\" for line in lines]
    return "\n".join(
        [
            "% needs \\usepackage{booktabs}",
            f"\\begin{{tabular}}{{{''.join('r' if right else 'l' for right in numeric)}}}",
            "\\toprule",
            head,
            "\\midrule",
            *body,
            "\\bottomrule",
            "\\end{tabular}\n",
        ]
    )


def render_json(value: Any) -> str:
    """Return a value as JSON with a final newline."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def cell_text(value: Any) -> str:
    """Return a value as a person reads it: four digits after the point, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4f}"
    return str(value)
