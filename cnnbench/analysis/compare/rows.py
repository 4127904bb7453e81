"""Rows of a comparison: seeds and folds as one, what is not comparable, paired differences."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev
from typing import Any

from cnnbench.analysis.compare.records import LeftOut, Record, repetition_text
from cnnbench.rendering.text import counted, setting_text
from cnnbench.runs import columns


@dataclass
class Row:
    """The runs that differ in nothing but their seed and their fold of the data.

    Attributes:
        records: by fold and seed.
        values: by name what ``--where``, ``--sort`` and ``--group`` use; a metric's is its mean.
        number: from 1, as shown.
        not_comparable: why its accuracies are not to be set beside the others'.
        differences: against the baseline, by metric, as ``paired_difference`` gives them.
        verdict: what a test says of the row, by name: plain values, the word itself as
            ``verdict``; empty where none was made.
        intervals: by metric, ``interval`` and ``interval_basis``, of those that have any.
        is_order_changed: whether another row passes it where images seen before are left out.
        failed: seeds and folds that failed, in words, of which it has no other run.
        is_ranked: whether its score stands beside the others': of the same images, and chosen in
            the same way.
    """

    records: tuple[Record, ...]
    values: Mapping[str, Any]
    number: int = 0
    not_comparable: list[str] = field(default_factory=list)
    differences: dict[str, dict[str, float | None]] = field(default_factory=dict)
    verdict: Mapping[str, Any] = field(default_factory=dict)
    intervals: dict[str, dict[str, Any]] = field(default_factory=dict)
    is_order_changed: bool = False
    failed: tuple[str, ...] = ()
    is_ranked: bool = False
    _measured: dict[str, dict[str, float | None]] = field(default_factory=dict, repr=False)

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of its networks."""
        first = self.records[0]
        return first.class_names or (f"{first.num_classes} classes of {self.values['data']}",)

    @property
    def score(self) -> str:
        """The metric that rows are ranked by: their loss's own."""
        return self.records[0].score

    @property
    def is_number(self) -> bool:
        """Whether its networks predict a number, which has no accuracy."""
        return self.records[0].is_number

    @property
    def accuracy(self) -> str:
        """The metric that is its accuracy: of the test images, or of folds that validate."""
        return f"{self.records[0].measured}/accuracy"

    @property
    def folds(self) -> tuple[int, ...]:
        """Its folds of the data; empty without any."""
        return tuple(dict.fromkeys(r.fold for r in self.records if r.fold is not None))

    @property
    def devices(self) -> tuple[str, ...]:
        """The kinds of device that its runs were trained on."""
        return tuple(dict.fromkeys(record.computed_on for record in self.records))

    @property
    def is_chosen_on_measured(self) -> bool:
        """Whether its epoch was selected on the images that its accuracy is of."""
        selection = str(self.values["selection"])
        return selection.partition("/")[0] == self.records[0].measured

    def metric(self, name: str) -> dict[str, float | None]:
        """Return ``mean`` and sample ``std`` over its runs; None where there are too few."""
        if name not in self._measured:
            values = self.metric_values(name)
            self._measured[name] = {
                "mean": fmean(values) if values else None,
                "std": stdev(values) if len(values) > 1 else None,
            }
        return self._measured[name]

    def metric_values(self, name: str) -> list[float]:
        """Return what its runs measured, in the order of their folds and seeds.

        Seconds are those of the runs that had the machine alone, where there is one.
        """
        records = self.records
        if columns.COLUMNS[name].is_time and not self.is_marked(name):
            records = tuple(record for record in self.records if record.is_alone)
        values = [record.metrics[name] for record in records]
        return [value for value in values if value is not None]

    def leave_out(self, name: str) -> None:
        """Leave nothing of a metric that only some of its runs have."""
        self._measured[name] = {"mean": None, "std": None}
        self.values = {**self.values, name: None}

    def is_marked(self, name: str) -> bool:
        """Tell whether a column is of time, and other jobs ran beside each of its runs."""
        return columns.COLUMNS[name].is_time and not any(r.is_alone for r in self.records)


def fold_seeds(records: Iterable[Record], left_out: list[LeftOut]) -> list[Row]:
    """Make a row of runs that differ in seed and fold; of two equal ones the newer one counts.

    Args:
        records: of finished runs, in any order.
        left_out: of the others; runs that were run again are added.
    """
    folded: dict[str, dict[tuple[int, int], Record]] = {}
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
            record.measured,
        ]
        runs = folded.setdefault(json.dumps(parts, sort_keys=True), {})
        if (older := runs.get(record.repetition)) is not None:
            reason = f"{record.repetition_text} was run again: {record.path}"
            left_out.append(LeftOut(older.path, "done", reason))
        runs[record.repetition] = record
    rows = [_row(tuple(runs[key] for key in sorted(runs))) for runs in folded.values()]
    for row in rows:
        row.failed = _failed(row, left_out)
    return rows


def _failed(row: Row, left_out: Iterable[LeftOut]) -> tuple[str, ...]:
    recipe = row.records[0].recipe
    failed = {run.repetition for run in left_out if run.status == "failed" and run.recipe == recipe}
    lacking = failed - {record.repetition for record in row.records}
    return tuple(map(repetition_text, sorted(lacking)))


def _class_key(record: Record) -> tuple[str, int]:
    return record.data_sha256, record.num_classes


def _row(records: tuple[Record, ...]) -> Row:
    first = records[0]
    row = Row(records, {})
    row.values = {
        **first.settings,
        "n": len(records),
        **first.facts,
        # A marked time is shown, and neither ranked nor compared.
        **{
            column.name: None if row.is_marked(column.name) else row.metric(column.name)["mean"]
            for column in columns.metrics()
        },
        "selection": first.selection,
        "test_reads": max(record.test_reads for record in records),
        "data_sha256": first.data_sha256,
    }
    return row


def is_one_device(rows: Iterable[Row]) -> bool:
    """Tell whether all runs were trained on one kind of device, so that seconds compare rows."""
    return len({device for row in rows for device in row.devices}) <= 1


def mark(rows: Sequence[Row], base: Row | None) -> None:
    """Say of each row in what it is unlike the baseline, or unlike most."""

    def text(row: Row, column: str) -> str:
        return setting_text(row.values.get(column))

    def expected(column: str) -> str:
        if base is not None:
            return text(base, column)
        return Counter(text(row, column) for row in rows).most_common(1)[0][0]

    shared = [column.name for column in columns.shared()]
    reference = {column: expected(column) for column in (*shared, "data_sha256")}
    like = [base] if base is not None else rows
    versions = Counter(record.code_version for row in like for record in row.records)
    [(version, _)] = versions.most_common(1)
    for row in rows:
        row.not_comparable = [
            f"{column} {text(row, column)}, not {reference[column]}"
            for column in shared
            if text(row, column) != reference[column]
        ]
        if text(row, "data_sha256") != reference["data_sha256"]:
            row.not_comparable.append(f"other data: SHA-256 {text(row, 'data_sha256')[:12]}")
        if others := {record.code_version for record in row.records} - {version}:
            names = " and ".join(sorted(map(_version_text, others)))
            number = sum(record.code_version != version for record in row.records)
            row.not_comparable.append(
                f"code version {names}, not {_version_text(version)} "
                f"({number} of {counted(len(row.records), 'run')})"
            )
        resumed = [record for record in row.records if record.resumed_with]
        if resumed:
            texts = dict.fromkeys("; ".join(record.resumed_with) for record in resumed)
            row.not_comparable.append(
                f"resumed with other {' and '.join(map(setting_text, texts))} "
                f"({len(resumed)} of {counted(len(row.records), 'run')})"
            )
        if row.values["selection"] == "test":
            row.not_comparable.append("epoch selected on test")
        elif row.is_chosen_on_measured:
            row.not_comparable.append("epoch selected on the fold that it is measured on")


def _version_text(version: str | None) -> str:
    return "unknown" if version is None else setting_text(version)


def paired_difference(row: Row, base: Row, metric: str) -> dict[str, float | None]:
    """Compare two rows over the seeds that both have, of folds over folds and seeds.

    Returns:
        ``mean`` and sample ``std`` of the differences, ``n`` of them, and the two-sided ``p`` of
        Student's paired t-test; None where there are too few, where all are the same, and of
        folds, which are not independent.
    """
    is_time = columns.COLUMNS[metric].is_time
    # Seconds of another device say nothing of the row.
    ours, theirs = (
        {
            (r.repetition, r.computed_on if is_time else ""): r.metrics[metric]
            for r in side.records
            if r.is_alone or not is_time
        }
        for side in (row, base)
    )
    pairs = [
        (mine, other)
        for key, mine in sorted(ours.items())
        if mine is not None and (other := theirs.get(key)) is not None
    ]
    differences = [mine - other for mine, other in pairs]
    spread = stdev(differences) if len(differences) > 1 else None
    p = None
    if spread is not None and not row.folds and spread > 1e-12 * max(1.0, abs(fmean(differences))):
        from scipy import stats

        p = float(stats.ttest_rel(*zip(*pairs, strict=True)).pvalue)
    return {
        "mean": fmean(differences) if differences else None,
        "std": spread,
        "n": len(differences),
        "p": p,
    }
