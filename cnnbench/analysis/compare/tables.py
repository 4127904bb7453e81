"""Tables over runs: which rows they show, in which order, and against which baseline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from cnnbench.analysis.compare.changes import changes
from cnnbench.analysis.compare.conclusion import conclude
from cnnbench.analysis.compare.defaults import is_default
from cnnbench.analysis.compare.predicted import (
    add_intervals,
    mark_order,
    read_seen,
    with_predicted,
)
from cnnbench.analysis.compare.records import LeftOut, read_runs
from cnnbench.analysis.compare.rows import Row, fold_seeds, mark, paired_difference
from cnnbench.analysis.compare.verdicts import judge_rows
from cnnbench.analysis.compare.where import parse_where
from cnnbench.errors import UsageError, expected_names, real_argument
from cnnbench.files import expand_path
from cnnbench.rendering.text import counted, setting_text
from cnnbench.runs import columns as run_columns
from cnnbench.runs.directory import path_of

_SHOWN_FIRST = ("model", "data")


@dataclass(frozen=True)
class Table:
    """Rows that are shown together.

    Attributes:
        title: ``COLUMN = VALUE`` of its group; empty where there are no groups.
        rows: in the order asked for.
        settings: the columns of those settings in which the rows differ, but for those that only
            follow from others.
        margin: differences of accuracy below it are held to be equal.
        sentences: what the table says, in words.
        notes: what was not compared, and what limits the verdicts.
    """

    title: str
    rows: list[Row]
    settings: list[str]
    margin: float = 0.0
    sentences: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @cached_property
    def changes(self) -> dict[int, str]:
        """What sets each row apart, by its number; empty where each setting has a column."""
        return changes(self.rows, [name for name in self.settings if name != "data"])


@dataclass(frozen=True)
class Comparison:
    """All tables of one command, and the runs that are in none.

    Attributes:
        tables: at least one where any run is finished.
        left_out: by path.
        baseline: the row that the others are compared with.
        num_unmet: rows that do not meet the condition asked for.
    """

    tables: list[Table]
    left_out: list[LeftOut]
    baseline: Row | None
    num_unmet: int = 0

    @property
    def nothing(self) -> str:
        """Why there is no table, where there is none."""
        if not self.num_unmet:
            return "no finished run to show"
        return f"no row to show: {counted(self.num_unmet, 'row')}, and none meets --where"


def compare_runs(
    paths: Sequence[str | Path],
    *,
    where: str | None = None,
    sort: str | None = None,
    descending: bool = False,
    group: str | None = None,
    baseline: str | int | Path | None = None,
    margin: float | None = None,
    calibration: bool = False,
    without_duplicates: Sequence[str | Path] = (),
    pruned: bool = False,
) -> Comparison:
    """Fold runs into rows, and rows into tables.

    Args:
        paths: runs, or directories with runs below.
        where: a condition on the rows, as ``parse_where`` reads it.
        sort: a column; else by test accuracy, or R2 of a number, where none was tested by that on
            the validation images, the largest first.
        descending: the largest first.
        group: a column; each of its values gets a table. Else several data sets get one each.
        baseline: the number of a row, a run in it, or a model that only one row has.
        margin: differences of test accuracy below it do not matter; by default the larger of .002
            and two test images.
        calibration: add ECE, Brier score and NLL, from the runs' predictions.
        without_duplicates: files that ``data check`` wrote; add the accuracy without the images
            that training or choosing has seen.
        pruned: whether runs have rows that a search gave up.

    Raises:
        UsageError: a path holds no run, or a column, a condition, the baseline or the margin is
            wrong.
    """
    expected = "a fraction of the test images, 0 to 1"
    if margin is not None and not 0 <= real_argument("--margin ", margin, expected) <= 1:
        raise UsageError(f"--margin {margin:g}: expected {expected}")
    seen = read_seen(without_duplicates) if without_duplicates else None
    records, left_out = read_runs(paths, pruned=pruned)
    records = with_predicted(records, calibration=calibration, seen=seen)
    rows = fold_seeds(records, left_out)
    columns, num_rows = {column: None for row in rows for column in row.values}, len(rows)
    if where is not None and columns:
        condition = parse_where(where, columns)
        rows = [row for row in rows if condition(row.values)]
    num_unmet = num_rows - len(rows)
    for flag, column in (("--sort", sort), ("--group", group)):
        if column is not None and columns and column not in columns:
            known = sorted(columns)
            raise UsageError(f"{flag} {column}: unknown column{expected_names(column, known)}")
    rows.sort(key=lambda row: [_order(row.values.get(name)) for name in sorted(columns)])
    rows.sort(key=lambda row: [_order(row.values.get(name)) for name in _SHOWN_FIRST])
    is_falling = descending or sort is None
    is_tested = any(row.values.get(row.score) is not None for row in rows)

    def sorted_by(row: Row) -> Any:
        score = row.score if is_tested else row.score.replace("test/", "val/")
        return row.values.get(sort or score)

    present = [row for row in rows if sorted_by(row) is not None]
    present.sort(key=lambda row: _order(sorted_by(row)), reverse=is_falling)
    # What was not measured comes last in either direction.
    rows = [*present, *(row for row in rows if sorted_by(row) is None)]
    if group is None and len({setting_text(row.values.get("data")) for row in rows}) > 1:
        group = "data"
    groups = _grouped(rows, group)
    tables, others = _tables(groups, None)
    base = None
    if baseline is not None:
        base = _find_baseline(baseline, tables, rows)
        tables, others = _tables(groups, base)
        _add_differences(tables, base)
    tables = [_judged(table, base if base in table.rows else None, margin) for table in tables]
    for number, table in enumerate(tables):
        more = add_intervals(table.rows) if calibration else []
        more += mark_order(table.rows) if seen is not None else []
        tables[number] = replace(table, notes=(*table.notes, *more))
    left_out = sorted([*left_out, *others], key=lambda run: run.path)
    return Comparison(tables, left_out, base, num_unmet)


def _judged(table: Table, base: Row | None, margin: float | None) -> Table:
    """Fill in the verdicts of a table's rows, and say in words what it shows."""
    found = judge_rows(table.rows, base, margin)
    return replace(
        table,
        margin=found.margin,
        sentences=tuple(conclude(table.rows, table.settings, found.margin)),
        notes=tuple(found.notes),
    )


def _order(value: Any) -> tuple[int, float, str]:
    """Sort numbers before words before what is absent."""
    if value is None:
        return 2, 0.0, ""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return 0, value, ""
    return 1, 0.0, setting_text(value)


def _grouped(rows: Sequence[Row], column: str | None) -> dict[str, list[Row]]:
    if column is None:
        return {"": list(rows)} if rows else {}
    groups: dict[str, list[Row]] = {}
    ordered = sorted(rows, key=lambda row: _order(row.values.get(column)))
    values = list(dict.fromkeys(setting_text(row.values.get(column)) for row in ordered))
    for value in values:
        groups[f"{column} = {value}"] = [
            row for row in rows if setting_text(row.values.get(column)) == value
        ]
    return groups


def _tables(
    groups: Mapping[str, Sequence[Row]], base: Row | None
) -> tuple[list[Table], list[LeftOut]]:
    """Make a table of each group's commonest class set; the other rows are left out."""
    tables: list[Table] = []
    others: list[LeftOut] = []
    number = 0
    for title, candidates in groups.items():
        sizes: Counter[tuple[str, ...]] = Counter()
        for row in candidates:
            sizes[row.classes] += len(row.records)
        table_classes = base.classes if base in candidates and base else sizes.most_common(1)[0][0]
        rows = [row for row in candidates if row.classes == table_classes]
        for row in candidates:
            if row.classes != table_classes:
                reason = f"other classes than the table's: {_class_text(row.classes)}"
                others += [LeftOut(record.path, "done", reason) for record in row.records]
        for row in rows:
            number += 1
            row.number = number
        mark(rows, base if base in rows else None)
        tables.append(Table(title, rows, _differing(rows)))
    return tables, others


def _class_text(names: Sequence[str]) -> str:
    shown = ", ".join(setting_text(name) for name in names[:4])
    return f"{shown}, ... ({len(names)})" if len(names) > 4 else shown


def _differing(rows: Sequence[Row]) -> list[str]:
    """Return the settings that get a column.

    One that every row has differs where any two rows differ. One that only some choices of a group
    have, such as ``model.norm``, differs where two rows of the same choice do.
    """
    keys = {key: None for row in rows for key in row.records[0].settings}
    found = []
    for key in keys:
        if key == "model":
            continue
        having = [row.records[0].settings for row in rows if key in row.records[0].settings]
        group = key.partition(".")[0] if len(having) < len(rows) else ""
        seen: dict[str, set[str]] = {}
        for settings in having:
            choice = setting_text(settings.get(group))
            seen.setdefault(choice, set()).add(setting_text(settings[key]))
        if not any(len(values) > 1 for values in seen.values()):
            continue
        if not all(is_default(settings, key) for settings in having):
            found.append(key)
    return found


def _find_baseline(baseline: str | int | Path, tables: Sequence[Table], rows: Sequence[Row]) -> Row:
    shown = [row for table in tables for row in table.rows]
    text, is_path = str(baseline), isinstance(baseline, Path)
    if text.isdecimal() and not is_path:
        for row in shown:
            if row.number == int(text):
                return row
        raise UsageError(f"--baseline {text}: there are {len(shown)} rows")
    at_path = _row_of(text, rows) if is_path or expand_path(text).exists() else None
    if at_path is not None:
        return at_path
    if is_path:
        raise UsageError(f"--baseline {text}: is in no row; expected a run in the table")
    models = [str(row.values["model"]) for row in shown]
    if models.count(text) == 1:
        return shown[models.index(text)]
    if text in models:
        numbers = ", ".join(str(row.number) for row in shown if row.values["model"] == text)
        raise UsageError(f"--baseline {text}: several rows have this model; give one of {numbers}")
    if (found := _row_of(text, rows)) is not None:
        return found
    raise UsageError(
        f"--baseline {text}: expected the number of a row, a run in the table, or a model"
        f"{expected_names(text, sorted(set(models)))}"
    )


def _row_of(name: str, rows: Sequence[Row]) -> Row | None:
    """Return the row that a run is in, by its path, ``latest`` or a piece of its path."""
    path = path_of(name).resolve()
    for row in rows:
        if any(record.path.resolve() == path for record in row.records):
            return row
    return None


def _add_differences(tables: Sequence[Table], base: Row) -> None:
    names = [column.name for column in run_columns.metrics() if column.is_paired]
    for row in (row for table in tables for row in table.rows):
        if row is not base and row.classes == base.classes:
            row.differences = {
                name: paired_difference(row, base, name)
                for name in names
                if None not in (row.metric(name)["mean"], base.metric(name)["mean"])
            }
