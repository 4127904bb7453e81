"""Rows of numbers with a target column: a CSV file of the user's own.

A row is kept as an image of one pixel, with a channel for each column: what trains, splits and
batches images does so with rows too.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnbench.data.arrays import DatasetArrays, ImageArrays, combine_hashes, hash_parts
from cnnbench.data.readers.sources import Facts
from cnnbench.data.split import strata, stratified_split
from cnnbench.errors import DataError
from cnnbench.files import expand_path, read_regular, why_no_file

DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|"}
_TEST_FRACTION = 0.2
# A target of so many different numbers, most of them once, is hardly one of classes.
_MAX_CLASSES = 1000
_ABSENT = ("", "na", "n/a", "nan", "null", "none", "?")


@dataclass(frozen=True)
class Rows:
    """The cells of a table.

    Attributes:
        where: what to name in messages.
        columns: names of the columns of numbers.
        target: name of the target column.
        values: (N, columns).
        targets: the target's cells as they were read; empty where none was asked for.
        lines: (N,), the line of each row in its file.
    """

    where: str
    columns: tuple[str, ...]
    target: str
    values: NDArray[np.float64]
    targets: tuple[str, ...]
    lines: tuple[int, ...]


def read_cells(path: Path, delimiter: str = "auto") -> list[tuple[int, list[str]]]:
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
    rows: list[tuple[int, list[str]]] = []
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


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _number(cell: str, where: str) -> float:
    """Return the number in a cell.

    Raises:
        DataError: there is none, or it is not finite.
    """
    if cell.lower() in _ABSENT:
        raise DataError(
            f"{where}: '{cell}' is a missing value; fill it in, or leave the row or column out"
        )
    try:
        value = float(cell)
    except ValueError:
        comma = "; decimals have a point" if _is_number(cell.replace(",", ".", 1)) else ""
        raise DataError(f"{where}: '{cell[:40]}', expected a number{comma}") from None
    if not math.isfinite(value):
        raise DataError(f"{where}: '{cell}', expected a finite number")
    return value


def read_rows(path: Path, args: Mapping[str, Any]) -> Rows:
    """Read a CSV file with a target column.

    Args:
        path: the file.
        args: ``target`` (a name, a number from 1, or None for the last column), ``header`` (True,
            False or ``auto``) and ``delimiter``.

    Raises:
        DataError: it is missing, or something in it is not as it must be; the message has line and
            column.
    """
    cells = read_cells(path, str(args.get("delimiter", "auto")))
    first, target, header = cells[0][1], args.get("target"), args.get("header", "auto")
    at = _target_index(target, first, path)
    if header == "auto":
        # Classes may be words, so that the target's cell tells nothing.
        others = [cell for index, cell in enumerate(first) if index != at]
        header = isinstance(target, str) or not all(map(_is_number, others))
    names = first if header else [f"column {number}" for number in range(1, len(first) + 1)]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{path}: line {cells[0][0]}: two columns are named '{twice}'")
    body = cells[1:] if header else cells
    if not body:
        raise DataError(f"{path}: has a line of names and no row of numbers")
    if len(names) < 2:
        raise DataError(
            f"{path}: has one column; expected numbers and a target, or another data.delimiter"
        )
    used = [index for index in range(len(names)) if index != at]
    values = [
        [_number(row[index], f"{path}: line {line}, column '{names[index]}'") for index in used]
        for line, row in body
    ]
    for line, row in body:
        if row[at].lower() in _ABSENT:
            where = f"{path}: line {line}, column '{names[at]}'"
            raise DataError(f"{where}: '{row[at]}' is a missing target; leave the row out")
    return Rows(
        where=str(path),
        columns=tuple(names[index] for index in used),
        target=names[at],
        values=np.array(values, dtype=np.float64),
        targets=tuple(row[at] for _, row in body),
        lines=tuple(line for line, _ in body),
    )


def read_values(path: Path, columns: Sequence[str]) -> tuple[tuple[int, ...], NDArray[np.float64]]:
    """Read the rows of a CSV file of which no target is asked.

    Args:
        path: the file. A first line with other than numbers names its columns, of which the others
            are passed over.
        columns: that are wanted, in their order.

    Returns:
        The line of each row, and its numbers (N, columns).

    Raises:
        DataError: the file is missing, lacks a column, or something in it is no number.
    """
    cells = read_cells(path)
    first = cells[0][1]
    if all(map(_is_number, first)):
        if len(first) != len(columns):
            raise DataError(
                f"{path}: has {len(first)} cells in a row and no line of names; expected "
                f"{len(columns)}: {', '.join(columns[:12])}"
            )
        used, body = list(range(len(columns))), cells
    else:
        if lacking := [name for name in columns if name not in first]:
            raise DataError(f"{path}: line {cells[0][0]}: no column is named '{lacking[0]}'")
        used, body = [first.index(name) for name in columns], cells[1:]
    values = [
        [
            _number(row[index], f"{path}: line {line}, column '{name}'")
            for index, name in zip(used, columns, strict=True)
        ]
        for line, row in body
    ]
    if not values:
        raise DataError(f"{path}: has a line of names and no row of numbers")
    return tuple(line for line, _ in body), np.array(values, dtype=np.float64)


def _target_index(target: str | int | None, first: Sequence[str], path: Path) -> int:
    if target is None:
        return len(first) - 1
    if isinstance(target, str):
        if target in first:
            return first.index(target)
        shown = ", ".join(first[:12])
        raise DataError(f"data.target={target}: no column of {path} has this name: {shown}")
    if not 1 <= target <= len(first):
        raise DataError(f"data.target={target}: {path} has columns 1 to {len(first)}")
    return target - 1


def class_names_of(rows: Rows) -> tuple[str, ...]:
    """Return the classes that a target column has: numbers by size, words by letter.

    Raises:
        DataError: there is one class alone, or the column is of numbers that are no classes.
    """
    names = set(rows.targets)
    if all(map(_is_number, names)):
        numbers = {float(name) for name in names}
        if any(number != int(number) for number in numbers if math.isfinite(number)):
            line = next(n for n, t in zip(rows.lines, rows.targets, strict=True) if "." in t)
            raise DataError(
                f"{rows.where}: line {line}, column '{rows.target}': a number that is no class; "
                "expected whole numbers or words, or loss=mse"
            )
        names = {f"{number:g}" for number in numbers}
        ordered = sorted(names, key=float)
    else:
        ordered = sorted(names)
    if len(ordered) < 2:
        raise DataError(
            f"{rows.where}: column '{rows.target}' has one class, {ordered[0]}, in all rows; "
            "expected two or more, or another data.target"
        )
    if len(ordered) > _MAX_CLASSES:
        raise DataError(
            f"{rows.where}: column '{rows.target}' has {len(ordered)} classes; expected at most "
            f"{_MAX_CLASSES}, or loss=mse"
        )
    return tuple(ordered)


def _targets(rows: Rows, class_names: tuple[str, ...], *, is_number: bool) -> NDArray[Any]:
    if is_number:
        return np.array(
            [
                _number(cell, f"{rows.where}: line {line}, column '{rows.target}'")
                for line, cell in zip(rows.lines, rows.targets, strict=True)
            ]
        )
    index = {name: number for number, name in enumerate(class_names)}
    found = []
    for line, cell in zip(rows.lines, rows.targets, strict=True):
        name = cell if cell in index or not _is_number(cell) else f"{float(cell):g}"
        if name not in index:
            raise DataError(
                f"{rows.where}: line {line}, column '{rows.target}': class '{cell}' has no "
                "training row"
            )
        found.append(index[name])
    return np.array(found, dtype=np.int64)


def part_of(values: NDArray[np.float64], targets: NDArray[Any]) -> ImageArrays:
    """Return rows as images of one pixel."""
    return ImageArrays(values[:, :, None, None], targets)  # type: ignore[arg-type]


def table_arrays(rows: Rows, test: Rows | None, *, is_number: bool, source: str) -> DatasetArrays:
    """Return rows as a data set; without a test table, a fixed fifth of the rows tests.

    Raises:
        DataError: the target has one class, or the tables differ in their columns or classes.
    """
    names = (rows.target,) if is_number else class_names_of(rows)
    targets = _targets(rows, names, is_number=is_number)
    if test is None:
        first, second = stratified_split(strata(targets), _TEST_FRACTION, seed=0)
        parts = [part_of(rows.values[at], targets[at]) for at in (first, second)]
    else:
        if len(test.columns) != len(rows.columns):
            raise DataError(
                f"{test.where}: has {len(test.columns)} columns of numbers, expected those of "
                f"{rows.where}: {len(rows.columns)}"
            )
        parts = [
            part_of(rows.values, targets),
            part_of(test.values, _targets(test, names, is_number=is_number)),
        ]
    fifth = f"no data.test_root: a fixed fifth, {len(parts[1])} rows, is the test part"
    return DatasetArrays(
        train=parts[0],
        test=parts[1],
        class_names=names,
        mean=(0.0,) * len(rows.columns),
        std=(1.0,) * len(rows.columns),
        sha256=combine_hashes(hash_parts(*parts)),
        source=source,
        notes=(fifth,) if test is None else (),
        columns=rows.columns,
    )


def table_facts(arrays: DatasetArrays) -> Facts:
    """Return what is known of a table before it is split."""
    counts = [
        tuple(np.bincount(strata(part.targets), minlength=len(arrays.class_names)).tolist())
        for part in (arrays.train, arrays.test)
    ]
    return Facts(
        num_classes=len(arrays.class_names),
        in_channels=len(arrays.columns),
        image_size=1,
        class_names=arrays.class_names,
        train_counts=counts[0],
        test_counts=counts[1],
        is_number=arrays.is_number,
        columns=arrays.columns,
    )


def _required(root: Path | None) -> Path:
    if root is None:
        raise DataError("data=csv: name the file: data.root=FILE.csv")
    if why := why_no_file(root):
        raise DataError(f"data.root={root}: {why}; expected a CSV file")
    return root


def read_csv(root: Path | None, args: Mapping[str, Any]) -> DatasetArrays:
    """Read ``data=csv``.

    Args:
        root: the file.
        args: as ``read_rows`` takes them, with ``test_root``, a file of test rows or None, and
            ``is_number``, whether the target is a number.

    Raises:
        DataError: a file is missing, or something in it is not as it must be.
    """
    path, test = _required(root), expand_path(args.get("test_root"))
    files = [file for file in (path, test) if file is not None]
    return _read_csv(path, test, json.dumps(dict(args), sort_keys=True), _stamps(files))


def _stamps(files: Sequence[Path]) -> tuple[tuple[int, int], ...]:
    """Return what changes when files do."""
    try:
        return tuple((s.st_mtime_ns, s.st_size) for s in (file.stat() for file in files))
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from None


@lru_cache(maxsize=4)
def _read_csv(
    path: Path, test: Path | None, args_json: str, _: tuple[tuple[int, int], ...]
) -> DatasetArrays:
    """Read once what is described, identified and then read."""
    args = json.loads(args_json)
    return table_arrays(
        read_rows(path, args),
        None if test is None else read_rows(test, args),
        is_number=bool(args.get("is_number")),
        source=f"CSV {path}",
    )
