"""One table, in every format: text for people, Markdown, CSV and JSON for what comes after."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from cnnbench.notices import NEWLINE, cell_width, terminal_width, visible

FORMATS = ("text", "markdown", "csv", "json")
# Columns of a row in a transposed table: wider cells are folded.
_NARROWEST, _WIDEST = 12, 28
# No column of words becomes narrower than this to make a table fit.
_LEAST = 16
_PIECE = re.compile(r"[^ /_.,=-]*[ /_.,=-]*")
# What begins a formula in a spreadsheet, also as typed in East Asia.
_FORMULAS = "=+-@\uff1d\uff0b\uff0d\uff20"
_TAG = re.compile(r"<(?=[A-Za-z/!?])")
# Lists in lists that a setting shows.
_SHOWN_DEPTH = 20
_LATEX = str.maketrans(
    {
        **{special: f"\\{special}" for special in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "±": r"$\pm$",
        "|": r"\textbar{}",
        "Δ": r"$\Delta$",
    }
)
# Those of Latin scripts, which every engine has in its first font.
_LATEX_LETTERS = 0x180


def render_table(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    output_format: str,
    right: Collection[str] = (),
    width: int | None = 0,
    *,
    bold: Collection[int] = (),
    bold_columns: Collection[str] | None = None,
) -> str:
    """Return the rows as a table.

    Args:
        rows: values by column; an absent one is shown empty.
        columns: which, and in which order.
        output_format: one of ``FORMATS``, or ``latex``; ``json`` gives the rows alone, unrounded.
        right: columns to align to the right, beside those that hold numbers alone.
        width: columns of a terminal that a line of text may take; 0: of the one there is; None:
            any. In a wider table paths get lines of their own, then heads and words are folded;
            where that is not enough, it is transposed: its columns go down and its rows side by
            side, as many as fit.
        bold: indices of rows that stand out: by a terminal's control sequence in text that is not
            transposed, by their marks in Markdown and LaTeX.
        bold_columns: what of these rows stands out in LaTeX; by default all of them.
    """
    if output_format == "json":
        return render_json(list(rows))
    if output_format == "csv":
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, columns, extrasaction="ignore", lineterminator="\n")
        writer.writerow({column: _csv_cell(column) for column in columns})
        writer.writerows({column: _csv_cell(row.get(column)) for column in columns} for row in rows)
        return buffer.getvalue()
    cells = [[visible(cell_text(row.get(column))) for column in columns] for row in rows]
    numeric = [
        column in right
        or all(isinstance(row.get(column), (int, float, type(None))) for row in rows)
        for column in columns
    ]
    columns = [visible(column) for column in columns]
    if output_format == "markdown":
        rule = ["---:" if right else "---" for right in numeric]
        head, *body = [[_markdown_cell(cell) for cell in row] for row in [columns, *cells]]
        for index in bold:
            body[index] = [f"**{cell}**" if cell else "" for cell in body[index]]
        return "".join(f"| {' | '.join(line)} |\n" for line in [head, rule, *body])
    if output_format == "latex":
        marked = [bold_columns is None or column in bold_columns for column in columns]
        return _latex([list(columns), *cells], numeric, bold, marked)
    return _text(columns, cells, numeric, terminal_width() if width == 0 else width, bold)


def _text(
    columns: list[str],
    cells: list[list[str]],
    numeric: list[bool],
    width: int | None,
    bold: Collection[int],
) -> str:
    widths = _natural_widths(columns, cells)
    below = [""] * (len(cells) + 1)
    if width is not None and _line_width(widths) > width:
        at = next((at for at in range(len(columns)) if any(_is_path(r[at]) for r in cells)), None)
        if at is not None and len(columns) > 2:
            # A path that can be copied is worth more than a line for each row.
            below = [row.pop(at) for row in (columns, *cells)]
            del numeric[at]
        fitting = _fitting_widths(columns, cells, numeric, width)
        if fitting is None:
            return _transposed(columns, cells, width)
        widths = fitting
    heads = [
        head if cell_width(head) <= size else head.replace("_", " ")
        for head, size in zip(columns, widths, strict=True)
    ]
    lines = []
    for index, (row, path) in enumerate(zip([heads, *cells], below, strict=True), start=-1):
        for line in (*_folded_row(row, widths, numeric), *([f"  {path}"] if path else [])):
            lines.append(f"\x1b[1m{line}\x1b[0m\n" if index in bold else f"{line}\n")
    return "".join(lines)


def _is_path(text: str) -> bool:
    return text.startswith(("/", "http://", "https://")) and len(text) > 1


def _natural_widths(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(cell_width, column)) for column in zip(columns, *cells, strict=True)]


def _line_width(widths: Sequence[int]) -> int:
    return sum(widths) + 2 * (len(widths) - 1)


def _fitting_widths(
    columns: Sequence[str], cells: Sequence[Sequence[str]], numeric: Sequence[bool], width: int
) -> list[int] | None:
    """Return the widths of columns, folded where a line has no room; None where that fails."""
    widths, of_cells = _natural_widths(columns, cells), _natural_widths([""] * len(columns), cells)
    excess = _line_width(widths) - width
    # Heads are folded before words, and numbers never.
    of_heads = [max(map(cell_width, _pieces(c.replace("_", " ")))) for c in columns]
    no_less = [max(pair) for pair in zip(of_cells, of_heads, strict=True)]
    least = [
        size if right else min(size, max([_LEAST, head, *map(cell_width, _all_pieces(cells, at))]))
        for at, (size, head, right) in enumerate(zip(no_less, of_heads, numeric, strict=True))
    ]
    for limits in (no_less, least):
        while excess > 0:
            room = [size - limit for size, limit in zip(widths, limits, strict=True)]
            if max(room) <= 0:
                break
            at = max(range(len(widths)), key=lambda at: (room[at] > 0, widths[at]))
            widths[at] -= 1
            excess -= 1
    return widths if excess <= 0 else None


def _pieces(text: str) -> list[str]:
    """Return the parts of a text between which a line may end, none of them wide."""
    return [
        part
        for piece in _PIECE.findall(text)
        for part in (_chopped(piece, _WIDEST) if cell_width(piece) > _WIDEST else [piece])
    ] or [""]


def _chopped(text: str, size: int) -> list[str]:
    from rich.cells import chop_cells

    return list(chop_cells(text, size))


def _all_pieces(cells: Sequence[Sequence[str]], at: int) -> list[str]:
    return [piece.rstrip() for row in cells for piece in _pieces(row[at])]


def _wrap(text: str, size: int) -> list[str]:
    """Return a text as lines of at most so many columns."""
    lines = [""]
    for piece in _pieces(text):
        for part in _chopped(piece, size) if cell_width(piece.rstrip()) > size else [piece]:
            if lines[-1] and cell_width((lines[-1] + part).rstrip()) > size:
                lines.append("")
            lines[-1] += part
    return [line.rstrip() for line in lines]


def _folded_row(
    row: Sequence[str], widths: Sequence[int], numeric: Sequence[bool] | None = None
) -> list[str]:
    """Return the lines of a row, each cell padded to its column."""
    folded = [
        _wrap(cell, size) if cell_width(cell) > size else [cell]
        for cell, size in zip(row, widths, strict=True)
    ]
    return [
        "  ".join(
            _padded(
                parts[number] if number < len(parts) else "", size, bool(numeric and numeric[at])
            )
            for at, (parts, size) in enumerate(zip(folded, widths, strict=True))
        ).rstrip()
        for number in range(max(map(len, folded)))
    ]


def _padded(text: str, size: int, to_right: bool) -> str:
    blanks = " " * (size - cell_width(text))
    return f"{blanks}{text}" if to_right else f"{text}{blanks}"


def _csv_cell(value: Any) -> Any:
    """Return a cell that no spreadsheet takes for a formula; numbers stay what they are."""
    if not isinstance(value, str):
        return value
    text = visible(value)
    if text.lstrip()[:1] not in _FORMULAS or not text:
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text


def _markdown_cell(text: str) -> str:
    # A tag would be one in the page that the table becomes.
    return _TAG.sub("&lt;", text.replace("|", "\\|"))


def _transposed(columns: Sequence[str], cells: Sequence[Sequence[str]], width: int) -> str:
    """Return blocks of rows side by side, each with the names of the columns before them."""
    margin = max(map(cell_width, columns))
    room = max(width - margin - 2, _NARROWEST)
    limit = min(room, _WIDEST)
    blocks: list[list[Sequence[str]]] = []
    left = 0
    for row in cells:
        needed = min(max(map(cell_width, row)), limit) + 2
        if needed > left:
            blocks.append([])
            left = room + 2
        blocks[-1].append(row)
        left -= needed
    return "\n".join(_block(columns, block, margin, limit) for block in blocks)


def _block(columns: Sequence[str], rows: Sequence[Sequence[str]], margin: int, limit: int) -> str:
    widths = [margin, *(min(max(map(cell_width, row)), limit) for row in rows)]
    lines = []
    for index, column in enumerate(columns):
        lines += _folded_row([column, *(row[index] for row in rows)], widths)
    return "".join(f"{line}\n" for line in lines)


def escape_latex(text: str) -> str:
    """Return text that LaTeX sets as it stands; letters that its fonts lack by their number."""
    escaped = visible(text).translate(_LATEX)
    return "".join(c if ord(c) < _LATEX_LETTERS else f"[U+{ord(c):04X}]" for c in escaped)


def _latex(
    lines: Sequence[Sequence[str]],
    numeric: Sequence[bool],
    bold: Collection[int],
    marked: Sequence[bool],
) -> str:
    """Return a tabular for the package booktabs; the first line is the head."""
    escaped = [[escape_latex(cell) for cell in line] for line in lines]
    for index in bold:
        escaped[index + 1] = [
            f"\\textbf{{{cell}}}" if cell and is_marked else cell
            for cell, is_marked in zip(escaped[index + 1], marked, strict=True)
        ]
    # After the end of a line, a bracket or a star would be read as an argument of that end.
    body = ["{}" * line[0].startswith(("[", "*")) + " & ".join(line) + " \\\\" for line in escaped]
    return "\n".join(
        [
            f"\\begin{{tabular}}{{{''.join('r' if right else 'l' for right in numeric)}}}",
            "\\toprule",
            body[0],
            "\\midrule",
            *body[1:],
            "\\bottomrule",
            "\\end{tabular}\n",
        ]
    )


def render_json(value: Any) -> str:
    """Return a value as JSON with a final newline."""
    return visible(json.dumps(value, indent=2, ensure_ascii=False), kept=NEWLINE) + "\n"


def cell_text(value: Any) -> str:
    """Return a value as a person reads it: four digits after the point, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4f}"
    return str(value)


def format_megabytes(count: int) -> str:
    """Return bytes as megabytes of 10**6: whole ones, with one digit after the point below 10."""
    digits = 0 if count >= 10e6 else 1
    return f"{count / 1e6:,.{digits}f} MB"


def setting_text(value: Any, depth: int = _SHOWN_DEPTH) -> str:
    """Return a setting as it is written on a command line: ``[1,2]``, ``true``, ``null``.

    Args:
        value: as JSON gives it, or a tuple.
        depth: how far lists in lists are followed; a stranger's may go deep.
    """
    if isinstance(value, (list, tuple, dict)) and not depth:
        return "..."
    if isinstance(value, dict):
        pairs = (f"{setting_text(k)}:{setting_text(v, depth - 1)}" for k, v in value.items())
        return f"{{{','.join(pairs)}}}"
    if isinstance(value, (list, tuple)):
        return f"[{','.join(setting_text(part, depth - 1) for part in value)}]"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return visible(str(value))


def counted(number: int, noun: str) -> str:
    """Return ``1 run`` or ``2 runs``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
