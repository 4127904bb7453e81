"""The cells of a CSV file, and whether its first line names columns."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

from cnnbench.errors import DataError
from cnnbench.files import read_regular

DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|"}
# How a missing value is written.
ABSENT = ("", "na", "n/a", "nan", "null", "none", "?")

# The lines that are not empty, each with its number.
Cells = list[tuple[int, list[str]]]


def read_cells(path: Path, delimiter: str = "auto") -> Cells:
    """Return the lines of a CSV file that are not empty, each with its number.

    Raises:
        DataError: it is missing, no text, or has no row.
    """
    try:
        text = read_regular(path).decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: no text in UTF-8: byte {error.start} is none of its") from None
    first = text.lstrip("\r\n").partition("\n")[0]
    char = DELIMITERS.get(delimiter) or max(DELIMITERS.values(), key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=char, skipinitialspace=True)
    rows: Cells = []
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                rows.append((reader.line_num, [cell.strip() for cell in cells]))
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: no CSV: {error}") from None
    if not rows:
        raise DataError(f"{path}: is empty; expected rows of numbers")
    width = len(rows[0][1])
    for line, cells in rows:
        if len(cells) != width:
            raise DataError(f"{path}: line {line}: has {len(cells)} cells, expected {width}")
    return rows


def is_number(cell: str) -> bool:
    """Return whether a cell holds a number."""
    try:
        float(cell)
    except ValueError:
        return False
    return True


def number_in(cell: str, where: str) -> float:
    """Return the number in a cell.

    Raises:
        DataError: there is none, or it is not finite.
    """
    if cell.lower() in ABSENT:
        raise DataError(
            f"{where}: '{cell}' is a missing value; fill it in, or leave the row or column out"
        )
    try:
        value = float(cell)
    except ValueError:
        comma = "; decimals have a point" if is_number(cell.replace(",", ".", 1)) else ""
        raise DataError(f"{where}: '{cell[:40]}', expected a number{comma}") from None
    if not math.isfinite(value):
        raise DataError(f"{where}: '{cell}', expected a finite number")
    return value


def names_columns(cells: Cells, at: int) -> bool:
    """Return whether the first line is one of names, not of values.

    Args:
        cells: of all lines.
        at: the target's column. Its classes may be words, so that its own first cell tells
            something only where all below are numbers, or the other names just count.
    """

    def is_word(cell: str) -> bool:
        return not is_number(cell) and cell.lower() not in ABSENT

    first, below = cells[0][1], [row[at] for _, row in cells[1:]]
    others = [cell for index, cell in enumerate(first) if index != at and cell]
    if any(map(is_word, others)):
        return True
    if not (is_word(first[at]) and below):
        return False
    return all(map(is_number, below)) or (_counts(others) and first[at] not in below)


def may_name_columns(first: list[str]) -> bool:
    """Return whether a line of numbers may yet be one of names, as pandas makes them: 0, 1, 2."""
    return len(first) > 2 and _counts(first)


def _counts(names: list[str]) -> bool:
    return any(names == [str(n + start) for n in range(len(names))] for start in (0, 1))
