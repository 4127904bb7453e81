"""One table over runs: seeds folded, only what differs shown, what is not comparable marked."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from cnnbench.analysis.compare.records import FACTS, METRICS, LeftOut, Record, read_runs
from cnnbench.analysis.compare.where import parse_where, setting_text
from cnnbench.errors import UsageError, expected_names
from cnnbench.files import expand_path

# What two rows must share for their accuracies to be set side by side.
_SHARED = ("data.split_seed", "data.val_fraction", "data.limit", "num_epochs", "device.precision")
# Metrics whose differences against the baseline are taken.
PAIRED = ("val/accuracy", "test/accuracy", "epoch_seconds")
_SHOWN_FIRST = ("model", "data")


@dataclass
class Row:
    """The runs that differ in nothing but their seed.

    Attributes:
        records: by seed.
        values: by column, for conditions and sorting; a metric's is its mean.
        number: from 1, as shown.
        not_comparable: why its accuracies are not to be set beside the others'.
        differences: against the baseline, by metric, as ``paired_difference`` gives them.
    """

    records: tuple[Record, ...]
    values: Mapping[str, Any]
    number: int = 0
    not_comparable: list[str] = field(default_factory=list)
    differences: dict[str, dict[str, float | None]] = field(default_factory=dict)

    @property
    def classes(self) -> tuple[str, ...]:
        """What its networks tell apart."""
        first = self.records[0]
        return first.class_names or (f"{first.num_classes} classes of {self.values['data']}",)

    def metric(self, name: str) -> dict[str, float | None]:
        """Return ``mean`` and sample ``std`` over its runs; None where there are too few."""
        values = self.metric_values(name)
        return {
            "mean": fmean(values) if values else None,
            "std": stdev(values) if len(values) > 1 else None,
        }

    def metric_values(self, name: str) -> list[float]:
        """Return what its runs measured, in the order of their seeds."""
        values = [record.metrics[name] for record in self.records]
        return [value for value in values if value is not None]


@dataclass(frozen=True)
class Table:
    """Rows that are shown together.

    Attributes:
        title: ``COLUMN = VALUE`` of its group; empty where there are no groups.
        rows: in the order asked for.
        settings: the columns of those settings in which the rows differ.
    """

    title: str
    rows: list[Row]
    settings: list[str]


@dataclass(frozen=True)
class Comparison:
    """All tables of one command, and the runs that are in none.

    Attributes:
        tables: at least one where any run is finished.
        left_out: by path.
        baseline: the row that the others are compared with.
    """

    tables: list[Table]
    left_out: list[LeftOut]
    baseline: Row | None


def compare_runs(
    paths: Sequence[str | Path],
    *,
    where: str | None = None,
    sort: str | None = None,
    descending: bool = False,
    group: str | None = None,
    baseline: str | None = None,
) -> Comparison:
    """Fold runs into rows, and rows into tables.

    Args:
        paths: runs, or directories with runs below.
        where: a condition on the rows, as ``parse_where`` reads it.
        sort: a column; else by model and settings.
        descending: the largest first.
        group: a column; each of its values gets a table.
        baseline: the number of a row, a run in it, or a model that only one row has.

    Raises:
        UsageError: a path holds no run, or a column, a condition or the baseline is wrong.
    """
    records, left_out = read_runs(paths)
    rows = _fold(records, left_out)
    columns = {column: None for row in rows for column in row.values}
    if where is not None and columns:
        condition = parse_where(where, columns)
        rows = [row for row in rows if condition(row.values)]
    for flag, column in (("--sort", sort), ("--group", group)):
        if column is not None and columns and column not in columns:
            known = sorted(columns)
            raise UsageError(f"{flag} {column}: unknown column{expected_names(column, known)}")
    rows.sort(key=lambda row: [_order(row.values.get(name)) for name in sorted(columns)])
    rows.sort(key=lambda row: [_order(row.values.get(name)) for name in _SHOWN_FIRST])
    if sort is not None:
        present = [row for row in rows if row.values.get(sort) is not None]
        present.sort(key=lambda row: _order(row.values[sort]), reverse=descending)
        # What was not measured comes last in either direction.
        rows = [*present, *(row for row in rows if row.values.get(sort) is None)]
    groups = _grouped(rows, group)
    tables, others = _tables(groups, None)
    base = None
    if baseline is not None:
        base = _find_baseline(baseline, tables, rows)
        tables, others = _tables(groups, base)
        _add_differences(tables, base)
    left_out = sorted([*left_out, *others], key=lambda run: run.path)
    return Comparison(tables, left_out, base)


def _fold(records: Iterable[Record], left_out: list[LeftOut]) -> list[Row]:
    """Fold seeds into rows; of two runs of one seed the newer one counts."""
    folded: dict[str, dict[int, Record]] = {}
    records = sorted(records, key=lambda record: (record.started, record.path))
    # Runs of the same data have the same classes, also where an older version did not say which.
    names = {_class_key(record): record.class_names for record in records if record.class_names}
    for record in records:
        record = replace(record, class_names=names.get(_class_key(record), record.class_names))
        parts = [
            record.settings,
            record.selection,
            record.data_sha256,
            record.facts,
            record.class_names,
        ]
        seeds = folded.setdefault(json.dumps(parts, sort_keys=True), {})
        if (older := seeds.get(record.seed)) is not None:
            reason = f"seed {record.seed} was run again: {record.path}"
            left_out.append(LeftOut(older.path, "done", reason))
        seeds[record.seed] = record
    return [
        Row(runs, _values(runs))
        for seeds in folded.values()
        if (runs := tuple(seeds[seed] for seed in sorted(seeds)))
    ]


def _class_key(record: Record) -> tuple[str, int]:
    return record.data_sha256, record.num_classes


def _values(records: tuple[Record, ...]) -> dict[str, Any]:
    """Return what a condition or ``--sort`` may name."""
    first = records[0]
    row = Row(records, {})
    return {
        **first.settings,
        "n": len(records),
        **first.facts,
        **{name: row.metric(name)["mean"] for name in METRICS},
        "selection": first.selection,
        "test_reads": max(record.test_reads for record in records),
        "data_sha256": first.data_sha256,
    }


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
        wanted = base.classes if base in candidates and base else sizes.most_common(1)[0][0]
        rows = [row for row in candidates if row.classes == wanted]
        for row in candidates:
            if row.classes != wanted:
                reason = f"other classes than the table's: {_class_text(row.classes)}"
                others += [LeftOut(record.path, "done", reason) for record in row.records]
        for row in rows:
            number += 1
            row.number = number
        _mark(rows, base if base in rows else None)
        tables.append(Table(title, rows, _differing(rows)))
    return tables, others


def _class_text(names: Sequence[str]) -> str:
    shown = ", ".join(setting_text(name) for name in names[:4])
    return f"{shown}, ... ({len(names)})" if len(names) > 4 else shown


def _mark(rows: Sequence[Row], base: Row | None) -> None:
    """Say of each row in what it is unlike the baseline, or unlike most."""

    def text(row: Row, column: str) -> str:
        return setting_text(row.values.get(column))

    def wanted(column: str) -> str:
        if base is not None:
            return text(base, column)
        return Counter(text(row, column) for row in rows).most_common(1)[0][0]

    reference = {column: wanted(column) for column in (*_SHARED, "data_sha256")}
    like = [base] if base is not None else rows
    versions = Counter(record.code_version for row in like for record in row.records)
    [(version, _)] = versions.most_common(1)
    for row in rows:
        row.not_comparable = [
            f"{column} {text(row, column)}, not {reference[column]}"
            for column in _SHARED
            if text(row, column) != reference[column]
        ]
        if text(row, "data_sha256") != reference["data_sha256"]:
            row.not_comparable.append(f"other data: SHA-256 {text(row, 'data_sha256')[:12]}")
        if others := {record.code_version for record in row.records} - {version}:
            names = " and ".join(sorted(map(_version_text, others)))
            number = sum(record.code_version != version for record in row.records)
            row.not_comparable.append(
                f"code version {names}, not {_version_text(version)} "
                f"({number} of {len(row.records)} runs)"
            )
        resumed = [record for record in row.records if record.resumed_with]
        if resumed:
            texts = dict.fromkeys("; ".join(record.resumed_with) for record in resumed)
            row.not_comparable.append(
                f"resumed with other {' and '.join(map(setting_text, texts))} "
                f"({len(resumed)} of {len(row.records)} runs)"
            )
        if row.values["selection"] == "test":
            row.not_comparable.append("epoch selected on test")


def _version_text(version: str | None) -> str:
    return "unknown" if version is None else setting_text(version)


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
        if any(len(values) > 1 for values in seen.values()):
            found.append(key)
    return found


def _find_baseline(text: str, tables: Sequence[Table], rows: Sequence[Row]) -> Row:
    shown = [row for table in tables for row in table.rows]
    if text.isdecimal():
        for row in shown:
            if row.number == int(text):
                return row
        raise UsageError(f"--baseline {text}: there are {len(shown)} rows")
    path = expand_path(text)
    for row in rows:
        if any(record.path == path for record in row.records):
            return row
    models = [str(row.values["model"]) for row in shown]
    if models.count(text) == 1:
        return shown[models.index(text)]
    if text in models:
        numbers = ", ".join(str(row.number) for row in shown if row.values["model"] == text)
        raise UsageError(f"--baseline {text}: several rows have this model; give one of {numbers}")
    raise UsageError(
        f"--baseline {text}: expected the number of a row, a run in the table, or a model"
        f"{expected_names(text, sorted(set(models)))}"
    )


def _add_differences(tables: Sequence[Table], base: Row) -> None:
    for row in (row for table in tables for row in table.rows):
        if row is not base and row.classes == base.classes:
            row.differences = {name: paired_difference(row, base, name) for name in PAIRED}


def paired_difference(row: Row, base: Row, metric: str) -> dict[str, float | None]:
    """Compare two rows over the seeds that both have.

    Returns:
        ``mean`` and sample ``std`` of the differences, ``n`` of them, and the two-sided ``p`` of
        Student's paired t-test; None where there are too few, or where all are the same.
    """
    ours, theirs = (
        {record.seed: record.metrics[metric] for record in side.records} for side in (row, base)
    )
    pairs = [
        (mine, other)
        for seed, mine in sorted(ours.items())
        if mine is not None and (other := theirs.get(seed)) is not None
    ]
    differences = [mine - other for mine, other in pairs]
    spread = stdev(differences) if len(differences) > 1 else None
    p = None
    if spread is not None and spread > 1e-12 * max(1.0, abs(fmean(differences))):
        from scipy import stats

        p = float(stats.ttest_rel(*zip(*pairs, strict=True)).pvalue)
    return {
        "mean": fmean(differences) if differences else None,
        "std": spread,
        "n": len(differences),
        "p": p,
    }


def to_dict(comparison: Comparison) -> dict[str, Any]:
    """Return plain values: ``rows``, ``left_out`` and the number of the ``baseline`` row."""
    settings = {name: None for table in comparison.tables for name in table.settings}
    rows = []
    for table in comparison.tables:
        for row in table.rows:
            shown = [name for name in settings if name != "data"]
            rows.append(
                {
                    "row": row.number,
                    **({"group": table.title} if table.title else {}),
                    "model": row.values["model"],
                    "data": row.values["data"],
                    **{name: row.values.get(name) for name in shown},
                    "n": len(row.records),
                    "seeds": [record.seed for record in row.records],
                    **{name: row.values[name] for name in FACTS},
                    **{name: row.metric(name) for name in METRICS},
                    "selection": row.values["selection"],
                    "test_reads": row.values["test_reads"],
                    "not_comparable": row.not_comparable,
                    **({"difference": row.differences} if comparison.baseline else {}),
                    "runs": [str(record.path) for record in row.records],
                }
            )
    return {
        "rows": rows,
        "left_out": [
            {"run": str(run.path), "status": run.status, "reason": setting_text(run.reason)}
            for run in comparison.left_out
        ],
        "baseline": comparison.baseline.number if comparison.baseline else None,
    }
