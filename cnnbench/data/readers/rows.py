"""Rows of numbers with a target column: a CSV file of the user's own.

A row is kept as an image of one pixel, with a channel for each column: what trains, splits and
batches images does so with rows too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnbench.data.arrays import (
    IS_TEST_PART,
    DatasetArrays,
    ImageArrays,
    combine_hashes,
    hash_parts,
)
from cnnbench.data.readers.cells import (
    ABSENT,
    is_number,
    may_name_columns,
    names_columns,
    number_in,
    read_cells,
)
from cnnbench.data.readers.sources import Facts
from cnnbench.data.split import strata, stratified_split
from cnnbench.errors import DataError
from cnnbench.files import expand_path, why_no_file

_TEST_FRACTION = 0.2
# A target of so many different numbers, most of them once, is hardly one of classes.
_MAX_CLASSES = 1000


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
        has_names: whether the file names its columns.
        notes: what is worth a line before training.
    """

    where: str
    columns: tuple[str, ...]
    target: str
    values: NDArray[np.float64]
    targets: tuple[str, ...]
    lines: tuple[int, ...]
    has_names: bool = True
    notes: tuple[str, ...] = ()


def read_rows(path: Path, args: Mapping[str, Any], like: Rows | None = None) -> Rows:
    """Read a CSV file with a target column.

    Args:
        path: the file.
        args: ``target`` (a name, a number from 1, or None for the last column), ``header`` (True,
            False or ``auto``) and ``delimiter``.
        like: the training rows, of test rows: where both files name their columns, the names tell
            which is which; else they have the same order.

    Raises:
        DataError: it is missing, or something in it is not as it must be; the message has line and
            column.
    """
    cells = read_cells(path, str(args.get("delimiter", "auto")))
    first, target, header = cells[0][1], args.get("target"), args.get("header", "auto")
    wanted = () if like is None or not like.has_names else (*like.columns, like.target)
    is_asked = header == "auto"
    if is_asked:
        is_named = isinstance(target, str) or bool(wanted and set(wanted) <= set(first))
        header = is_named or names_columns(cells, _target_index(target, first, path))
    at = _target_index(wanted[-1] if header and wanted else target, first, path)
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
    notes: list[str] = []
    used = [index for index in range(len(names)) if index != at]
    if like is not None:
        used, notes = _like(like, names, used, path, has_names=bool(header))
    elif is_asked and not header and may_name_columns(first):
        shown = ",".join(first[:4])
        notes = [f"line {cells[0][0]}, {shown}, is a row; if it has names: data.header=true"]
    numbers = [
        [number_in(row[index], f"{path}: line {line}, column '{names[index]}'") for index in used]
        for line, row in body
    ]
    values = np.array(numbers, dtype=np.float64)
    # As pandas writes an index: where the rows are sorted by class it tells the class.
    notes += [
        f"column '{names[index]}' counts the rows, which a network learns from"
        for index, column in zip(used, values.T, strict=True)
        if like is None and _is_index(column)
    ]
    for line, row in body:
        if row[at].lower() in ABSENT:
            where = f"{path}: line {line}, column '{names[at]}'"
            raise DataError(f"{where}: '{row[at]}' is a missing target; leave the row out")
    return Rows(
        where=str(path),
        columns=tuple(names[index] for index in used),
        target=names[at],
        values=values,
        targets=tuple(row[at] for _, row in body),
        lines=tuple(line for line, _ in body),
        has_names=bool(header),
        notes=tuple(notes),
    )


def _is_index(values: NDArray[np.float64]) -> bool:
    return len(values) > 2 and np.array_equal(values, values[0] + np.arange(len(values)))


def _like(
    train: Rows, names: Sequence[str], used: list[int], path: Path, *, has_names: bool
) -> tuple[list[int], list[str]]:
    """Return which columns of a test file are those of the training rows, and what to say of it.

    Args:
        train: the training rows.
        names: of the test file's columns.
        used: all but the target.
        path: of the test file.
        has_names: whether the test file has a line of them.

    Raises:
        DataError: it lacks a column, or without names to go by has another number of them.
    """
    if has_names and train.has_names:
        if lacking := [name for name in train.columns if name not in names]:
            raise DataError(f"{path}: no column is named '{lacking[0]}', as in {train.where}")
        others = sorted({*names} - {*train.columns, train.target})
        notes = [f"{path.name}: passed over, as {train.where} has none: {', '.join(others)}"]
        return [names.index(name) for name in train.columns], notes if others else []
    if len(used) != len(train.columns):
        raise DataError(
            f"{path}: has {len(used)} columns of numbers, expected those of {train.where}: "
            f"{len(train.columns)}"
        )
    differ = has_names != train.has_names
    notes = [f"{path.name}: one file alone names its columns, so that their order counts"]
    return used, notes if differ else []


def read_values(path: Path, columns: Sequence[str]) -> tuple[tuple[int, ...], NDArray[np.float64]]:
    """Read the rows of a CSV file of which no target is asked.

    Args:
        path: the file. A first line with the wanted names tells which columns they are; others
            are passed over.
        columns: that are wanted, in their order; ``column 2`` and so on are the places that they
            had in a table without names.

    Returns:
        The line of each row, and its numbers (N, columns).

    Raises:
        DataError: the file is missing, lacks a column, or something in it is no number.
    """
    cells = read_cells(path)
    first, body = cells[0][1], cells[1:]
    numbered = [re.fullmatch(r"column ([1-9]\d{0,5})", name) for name in columns]
    if set(columns) <= set(first):
        used = [first.index(name) for name in columns]
    elif all(numbered):  # of a table without names
        used = [int(match[1]) - 1 for match in numbered if match]
        if len(first) == len(columns):
            used = list(range(len(columns)))
        if max(used) >= len(first):
            raise DataError(f"{path}: has {len(first)} cells in a row, expected {len(columns)}")
        body = cells if all(is_number(first[index]) for index in used) else body
    elif all(map(is_number, first)):
        if len(first) != len(columns):
            raise DataError(
                f"{path}: has {len(first)} cells in a row and no line of names; expected "
                f"{len(columns)}: {', '.join(columns[:12])}"
            )
        used, body = list(range(len(columns))), cells
    else:
        lacking = next(name for name in columns if name not in first)
        raise DataError(f"{path}: line {cells[0][0]}: no column is named '{lacking}'")
    values = [
        [
            number_in(row[index], f"{path}: line {line}, column '{name}'")
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
    if all(map(is_number, names)) and not any(map(_is_code, names)):
        for line, cell in zip(rows.lines, rows.targets, strict=True):
            if not float(cell).is_integer():
                raise DataError(
                    f"{rows.where}: line {line}, column '{rows.target}': a number that is no "
                    "class; expected whole numbers or words, or loss=mse"
                )
        ordered = sorted({_whole(name) for name in names}, key=int)
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


def _is_code(cell: str) -> bool:
    """Return whether a cell has leading zeros, as codes have, of which 07 is not 7."""
    return cell.isdigit() and cell.startswith("0") and len(cell) > 1


def _whole(cell: str) -> str:
    """Return a whole number alike however it is written, 10 for 10.0; other cells as they are."""
    try:
        return str(int(cell))  # exact with any number of digits
    except ValueError:
        return str(int(float(cell))) if is_number(cell) and float(cell).is_integer() else cell


def _targets(rows: Rows, class_names: tuple[str, ...], *, is_number: bool) -> NDArray[Any]:
    if is_number:
        return np.array(
            [
                number_in(cell, f"{rows.where}: line {line}, column '{rows.target}'")
                for line, cell in zip(rows.lines, rows.targets, strict=True)
            ]
        )
    index = {name: number for number, name in enumerate(class_names)}
    found = []
    for line, cell in zip(rows.lines, rows.targets, strict=True):
        name = cell if cell in index else _whole(cell)
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
        parts = [
            part_of(rows.values, targets),
            part_of(test.values, _targets(test, names, is_number=is_number)),
        ]
    fifth = f"no data.test_root: a fixed fifth, {len(parts[1])} rows, {IS_TEST_PART}"
    return DatasetArrays(
        train=parts[0],
        test=parts[1],
        class_names=names,
        mean=(0.0,) * len(rows.columns),
        std=(1.0,) * len(rows.columns),
        sha256=combine_hashes(hash_parts(*parts)),
        source=source,
        notes=(*rows.notes, *((fifth,) if test is None else test.notes)),
        columns=rows.columns,
        is_test_drawn=test is None,
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
    rows = read_rows(path, args)
    return table_arrays(
        rows,
        None if test is None else read_rows(test, args, like=rows),
        is_number=bool(args.get("is_number")),
        source=f"CSV {path}",
    )
