"""A table in words: which network is best, which others may be, what they cost, what would decide.

Each sentence follows from the verdicts of the rows; nothing is tested here.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from cnnbench.analysis.compare.changes import changes
from cnnbench.analysis.compare.rows import Row, is_one_device
from cnnbench.analysis.compare.verdicts import best_row
from cnnbench.rendering.text import setting_text
from cnnbench.runs import columns

_LISTED = 5
# So many numbers of seeds have a sentence each.
_SINGLY = 2
_NAME_CHARACTERS = 60
_BASES = {
    "seeds": "exact sign flips of paired seeds",
    "seeds-normal": "t-tests over seeds",
    "folds": "the corrected t-test over folds",
    "images": "the test images of these trained networks, not other trainings",
}


def conclude(rows: Sequence[Row], settings: Sequence[str], margin: float) -> list[str]:
    """Return what a table says, in sentences of plain text.

    Args:
        rows: with their verdicts.
        settings: the keys in which the rows differ.
        margin: of equivalence.
    """
    names = row_names(rows, settings)
    bases = [row for row in rows if row.verdict.get("verdict") in ("best", "baseline")]
    if not bases:
        return _untested(rows, names)
    [base] = bases
    by_word: dict[str | None, list[Row]] = {}
    for row in rows:
        if row is not base:
            by_word.setdefault(row.verdict.get("verdict"), []).append(row)

    is_named = base.verdict["verdict"] == "baseline"
    of_it = "it" if not is_named else "the baseline"
    head = f"{names[base.number]}, {_score_text(base)}."
    if len(rows) == 1:
        return [head]
    sentences = [f"{'Baseline' if is_named else 'Most accurate'}: {head}"]
    best = best_row(rows)
    if is_named and best is not None and best is not base:
        sentences.append(f"Largest mean: {names[best.number]}, {_score_text(best)}.")
    for word, text in (
        ("better", f"Better than {of_it}: "),
        ("equivalent", f"Equivalent to {of_it} within {margin:.3g}: "),
        ("undecided", f"Not distinguishable from {of_it}: "),
        ("worse", f"Worse than {of_it}: "),
        (None, "Not compared, for the reason below: "),
    ):
        if those := by_word.get(word):
            sentences.append(f"{text}{_listed(those, names)}.")
    told = [*by_word.get("better", []), *by_word.get("worse", [])]
    if small := [row for row in told if row.verdict.get("within_margin")]:
        sentences.append(f"All the same within {margin:.3g} of {of_it}: {_listed(small, names)}.")
    equals = [base, *by_word.get("undecided", []), *by_word.get("equivalent", [])]
    if len(equals) > 1:
        sentences += _cheapest(equals, names)
    sentences += _seeds_that_decide(by_word.get("undecided", []), names)
    found = [row.verdict["verdict_basis"] for row in rows if row.verdict.get("verdict_basis")]
    texts = [text for basis, text in _BASES.items() if basis in found]
    if texts:
        sentences.append(f"This rests on {' and '.join(texts)}.")
    return sentences


def row_names(rows: Sequence[Row], settings: Sequence[str]) -> dict[int, str]:
    """Name each row by its model, and where others have that too by what sets it apart."""
    alike: dict[str, list[Row]] = {}
    for row in rows:
        alike.setdefault(setting_text(row.values["model"]), []).append(row)
    names = {}
    for model, same in alike.items():
        values = {
            key: {row.number: setting_text(row.values.get(key)) for row in same} for key in settings
        }
        values = {key: of for key, of in values.items() if len(set(of.values())) > 1}
        told = changes(same, list(values))
        for row in same:
            parts = told.get(row.number) or " ".join(
                f"{k}={of[row.number]}" for k, of in values.items()
            )
            text = f"{model} {parts}".strip() if len(same) > 1 else model
            names[row.number] = textwrap.shorten(text, _NAME_CHARACTERS, placeholder=" ...")
    counts = Counter(names.values())
    return {n: name if counts[name] == 1 else f"{name} (row {n})" for n, name in names.items()}


def _listed(rows: Sequence[Row], names: dict[int, str]) -> str:
    """Name rows, at most some of them."""
    texts = [names[row.number] for row in rows[:_LISTED]]
    more = [f"{len(rows) - _LISTED} more"] if len(rows) > _LISTED else []
    return ", ".join([*texts, *more])


def _untested(rows: Sequence[Row], names: dict[int, str]) -> list[str]:
    """Name the best of rows that predict a number, of which nothing is tested."""
    best = best_row(rows)
    if best is None:
        return []
    head = f"{names[best.number]}, {_score_text(best)}."
    return [head if len(rows) == 1 else f"Largest {columns.score_text(best.score)}: {head}"]


def _score_text(row: Row) -> str:
    """Return a row's score with its interval, and its seeds or folds."""
    count = len(row.records)
    seeds = f"{count} seed{'' if count == 1 else 's'}"
    if row.folds:
        per_fold = count / len(row.folds)
        seeds = f"{len(row.folds)} folds" + (f", {count} runs" if per_fold > 1 else "")
    interval = row.verdict.get("accuracy_interval")
    ends = f"{interval[0]:.4f} to {interval[1]:.4f}, " if interval else ""
    return f"{row.metric(row.score)['mean']:.4f} ({ends}{seeds})"


def _cheapest(rows: Sequence[Row], names: dict[int, str]) -> list[str]:
    """Say which of rows that are not told apart costs least."""

    def least(column: str, label: str, text: Callable[[Any], str]) -> list[str]:
        known = [row for row in rows if row.values.get(column) is not None]
        if len(known) < 2 or len({row.values[column] for row in known}) < 2:
            return []
        value = min(row.values[column] for row in known)
        found = [row for row in known if row.values[column] == value]
        return [f"{label}: {_listed(found, names)} ({text(value)})."]

    smallest = least("num_params", "Smallest of these", lambda value: f"{value:,} parameters")
    if not is_one_device(rows):
        return smallest
    return smallest + least("epoch_seconds", "Fastest", lambda value: f"{value:.3g} s per epoch")


def _seeds_that_decide(rows: Sequence[Row], names: dict[int, str]) -> list[str]:
    """Say how many seeds more would probably decide."""
    sentences = []
    counts: dict[int, list[str]] = {}
    for row in rows:
        more = row.verdict.get("more_seeds")
        if isinstance(more, int):
            counts.setdefault(more, []).append(names[row.number])
    if len(counts) > _SINGLY:
        number = sum(map(len, counts.values()))
        ends = f"{min(counts)} to {max(counts)}"
        sentences.append(f"{ends} seeds more would decide {number} of these (80 % power).")
        counts = {}
    for count, found in sorted(counts.items()):
        seeds = f"{count} seed{'' if count == 1 else 's'} more"
        sentences.append(f"{seeds} would decide {', '.join(found[:_LISTED])} (80 % power).")
    many = [names[row.number] for row in rows if isinstance(row.verdict.get("more_seeds"), str)]
    if many:
        sentences.append(f"More than 50 seeds would be needed for {', '.join(many[:_LISTED])}.")
    return sentences
