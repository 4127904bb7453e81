"""Columns that follow from the predictions of runs: calibration, and accuracy on unseen images.

They are made on request, and are metrics like others: ``--where`` and ``--sort`` take them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cnnbench.analysis.compare.records import Record
from cnnbench.analysis.compare.rows import Row
from cnnbench.analysis.compare.verdicts import (
    fold_ratio,
    numbers_text,
    read_used_answers,
    values_of,
)
from cnnbench.analysis.statistics.calibration import (
    CALIBRATION,
    calibration_estimates,
    calibration_values,
)
from cnnbench.analysis.statistics.families import MIN_SEEDS
from cnnbench.analysis.statistics.rounding import differences
from cnnbench.analysis.statistics.verdicts import mean_interval
from cnnbench.errors import CheckpointError, UsageError
from cnnbench.files import expand_path, read_regular
from cnnbench.runs import columns
from cnnbench.runs.predictions import Answers, read_log_probabilities

UNSEEN = "accuracy_unseen"
_MAX_LIST_BYTES = 256 << 20
# Which images of a split, by the hash of all of them, training or choosing has seen.
Seen: TypeAlias = Mapping[str, NDArray[np.int64]]


def read_seen(paths: Sequence[str | Path]) -> dict[str, NDArray[np.int64]]:
    """Return the images that training or choosing has seen, from what ``data check`` wrote.

    Args:
        paths: files that ``cnnbench data check NAME --format json`` wrote.

    Returns:
        Ascending indices, by the hash of the images that they are indices of.

    Raises:
        UsageError: a file cannot be read, or is no such list.
    """
    found: dict[str, NDArray[np.int64]] = {}
    for text in paths:
        path = expand_path(text)
        try:
            tree = json.loads(read_regular(path, _MAX_LIST_BYTES).decode())
            for split, digest in tree["images_sha256"].items():
                indices = tree["seen_before"][split]
                if not (
                    isinstance(digest, str)
                    and isinstance(indices, list)
                    and all(type(index) is int and 0 <= index < 2**63 for index in indices)
                ):
                    raise ValueError("its indices are no whole numbers")
                found[digest] = np.unique(np.array(indices, dtype=np.int64))
        except OSError as error:
            raise UsageError(
                f"--without-duplicates {text}: cannot be read: {error.strerror or error}"
            ) from None
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError):
            raise UsageError(
                f"--without-duplicates {text}: no list of duplicates; expected what "
                "'cnnbench data check NAME --format json' writes"
            ) from None
    return found


def with_predicted(
    records: Sequence[Record], *, calibration: bool = False, seen: Seen | None = None
) -> list[Record]:
    """Return runs with what their predictions say among their metrics.

    Args:
        records: whose predictions are not used where they do not give the recorded accuracy.
        calibration: whether to add ``CALIBRATION``.
        seen: as ``read_seen`` gives it, to add ``UNSEEN``; None not to.
    """
    if not calibration and seen is None:
        return list(records)
    return [_with_predicted(record, calibration, seen) for record in records]


def _with_predicted(record: Record, calibration: bool, seen: Seen | None) -> Record:
    answers = read_used_answers(record, [])
    if answers is None:
        return record
    found: dict[str, float | None] = {}
    num_left_out = 0
    if calibration and (shifted := _log_probabilities(record, answers)) is not None:
        found |= calibration_values(shifted, answers.targets.astype(np.int64))
    if seen is not None and (indices := seen.get(answers.images_sha256)) is not None:
        correct = answers.correct
        kept = np.delete(correct, indices[indices < len(correct)])
        found[UNSEEN] = float(kept.mean()) if len(kept) else None
        num_left_out = len(correct) - len(kept)
    named = {f"{record.measured}/{name}": value for name, value in found.items()}
    return replace(record, metrics={**record.metrics, **named}, num_left_out=num_left_out)


def _log_probabilities(record: Record, answers: Answers) -> NDArray[np.float16] | None:
    """Return them where they belong to the classes that the file names."""
    try:
        shifted = read_log_probabilities(record.path)
    except CheckpointError:
        return None
    if shifted is None or len(shifted) != len(answers.targets):
        return None
    return shifted if answers.targets.max() < shifted.shape[1] else None


def add_intervals(rows: Sequence[Row]) -> list[str]:
    """Give the calibration of rows its 95 % intervals, and say what they are over.

    Over seeds or folds where there are three or more; else over test images, for these trained
    networks: of two runs the mean of both intervals, which is rather too wide than too narrow.
    """
    by_basis: dict[str, list[Row]] = {}
    missing = []
    for row in rows:
        names = {name: f"{row.records[0].measured}/{name}" for name in CALIBRATION}
        if any(record.metrics.get(names["nll"]) is None for record in row.records):
            missing.append(row)
            _take_out(row, names.values())
            continue
        basis, intervals = _intervals(row, names)
        row.intervals |= {
            names[name]: {
                "interval": list(columns.COLUMNS[names[name]].within(ends)),
                "interval_basis": basis,
            }
            for name, ends in intervals.items()
        }
        by_basis.setdefault(basis, []).append(row)
    texts = {
        "seeds": "over seeds",
        "folds": "over folds",
        "images": "over test images, for these trained networks,",
    }
    parts = [f"{text} of {numbers_text(by_basis[b])}" for b, text in texts.items() if b in by_basis]
    notes = []
    if parts:
        notes.append(f"Intervals of ece, brier and nll at 95 %: {'; '.join(parts)}.")
    if missing:
        notes.append(f"No calibration of {numbers_text(missing)}: {_NOT_ALL}.")
    return notes


_NOT_ALL = "not all runs have predictions that can be used"


def _take_out(row: Row, names: Any) -> None:
    """Leave nothing of metrics that only some runs of a row have: no mean is over a part."""
    for name in names:
        row.leave_out(name)


def _intervals(row: Row, names: Mapping[str, str]) -> tuple[str, dict[str, tuple[float, float]]]:
    ratio = fold_ratio(row)
    values = {name: values_of(row, full) for name, full in names.items()}
    if len(values["nll"]) >= MIN_SEEDS or row.folds:
        ends = {
            name: mean_interval(list(of_name.values()), 0.0, ratio)
            for name, of_name in values.items()
        }
        found = {name: pair for name, pair in ends.items() if pair is not None}
        return "folds" if row.folds else "seeds", found
    estimates = []
    for record in row.records:
        answers, shifted = read_used_answers(record, []), read_log_probabilities(record.path)
        if answers is not None and shifted is not None:
            estimates.append(calibration_estimates(shifted, answers.targets.astype(np.int64)))
    return "images", {
        name: (
            fmean(of_run[name].low for of_run in estimates),
            fmean(of_run[name].high for of_run in estimates),
        )
        for name in names
    }


def mark_order(rows: Sequence[Row]) -> list[str]:
    """Mark the rows that another row passes where the images seen before are left out.

    Returns:
        What the foot of the table says of it.
    """
    known, missing = [], []
    for row in rows:
        name = f"{row.records[0].measured}/{UNSEEN}"
        if any(record.metrics.get(name) is None for record in row.records):
            missing.append(row)
            _take_out(row, [name])
        else:
            known.append((row, row.values[row.accuracy], row.values[name]))
    moved = []
    values = np.array([found for _, *found in known], dtype=np.float64).reshape(-1, 1, 2)
    gaps = differences(values, values.transpose(1, 0, 2), 1.0)
    for number, (row, *_) in enumerate(known):
        row.is_order_changed = bool((gaps[number].prod(axis=1) < 0).any())
        if row.is_order_changed:
            moved.append(row)
    notes = []
    if known:
        counts = sorted({record.num_left_out for row, *_ in known for record in row.records})
        text = "in the same order" if not moved else f"† in another order: {numbers_text(moved)}"
        what = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        notes.append(
            f"{UNSEEN}: without the {what} images that training or choosing has seen, equal or "
            f"nearly; {text}."
        )
    if missing:
        notes.append(
            f"No {UNSEEN} of {numbers_text(missing)}: {_NOT_ALL}, or no list is of their test "
            "images; 'cnnbench data check NAME --format json', with the settings of data that the "
            "runs have, writes one."
        )
    return notes
