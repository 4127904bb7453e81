"""What the referee says of a table's rows: which runs it may use, and what it could not.

Rows tested on other images, and rows chosen on the test images beside rows that were not, are
never judged with the others; predictions that do not give a run's recorded accuracy are not used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnbench.analysis.compare.rows import Row
from cnnbench.analysis.statistics.families import MIN_FLIPPED, MIN_SEEDS, RowScores
from cnnbench.analysis.statistics.verdicts import Verdict, default_margin, judge, mean_interval
from cnnbench.errors import CheckpointError
from cnnbench.rendering.text import setting_text
from cnnbench.runs.predictions import Answers, read_answers

METRIC = "test/accuracy"
# Where the number of test images is not known.
_MARGIN = 0.002
# Of run directories that a note names.
_NAMED = 3


@dataclass(frozen=True)
class Judged:
    """What was found of a table beside the verdicts in its rows.

    Attributes:
        margin: differences below it are held to be equal.
        notes: what was left out of the tests and what limits them, a sentence each.
    """

    margin: float
    notes: list[str]


def judge_rows(rows: Sequence[Row], base: Row | None, margin: float | None) -> Judged:
    """Fill in the verdicts of a table's rows.

    Args:
        rows: of one table.
        base: the row that the user named, if it is among them; else the best one is compared with.
        margin: of equivalence; by default the larger of .002 and two test images.
    """
    notes: list[str] = []
    answers = _read_answers(rows, notes)
    # Of some rows nobody wanted the test images read.
    tested = [row for row in rows if row.values.get("evaluate_test") is not False or _value(row)]
    if unread := len(rows) - len(tested):
        notes.append(
            f"Not judged: {unread} row{'' if unread == 1 else 's'} whose test images are unread "
            "(evaluate_test=false); 'cnnbench evaluate RUN' reads them."
        )
    kept = _same_test(tested, base, answers, notes)
    scores = [_scores(row, answers, notes) for row in kept]
    sizes = [len(flags) for row in scores for flags in row.correct.values()]
    sizes += [size for row in kept for record in row.records if (size := record.num_test)]
    num_images = sizes[0] if sizes else None
    if margin is None:
        margin = default_margin(num_images) if num_images else _MARGIN
    elif num_images and margin < 1 / num_images:
        notes.append(
            f"The margin {margin:g} is less than one of the {num_images:,} test images "
            f"({1 / num_images:.2g}): nothing is equivalent within it but what is equal."
        )
    resolution = 1 / num_images if num_images else 0.0
    index = kept.index(base) if base is not None and base in kept else None
    verdicts = judge(scores, index, margin, resolution=resolution)
    by_row = {id(row): verdict for row, verdict in zip(kept, verdicts, strict=True)}
    for row in rows:
        interval = mean_interval(row.metric_values(METRIC), resolution)
        row.verdict = _plain(by_row.get(id(row)), interval)
    notes += _seed_notes(kept, verdicts)
    return Judged(margin, notes)


def _value(row: Row) -> float | None:
    return row.metric(METRIC)["mean"]


def scores_of(row: Row) -> RowScores:
    """Return what the runs of a row measured, with the images where all runs have them."""
    return _scores(row, _read_answers([row], []), [])


def _read_answers(rows: Sequence[Row], notes: list[str]) -> dict[Path, Answers]:
    return {
        record.path: found
        for row in rows
        for record in row.records
        if (found := _answers(record.path, record.metrics[METRIC], notes)) is not None
    }


def _answers(path: Path, accuracy: float | None, notes: list[str]) -> Answers | None:
    """Return the predictions of a run, where they are those of its recorded accuracy."""
    try:
        answers = read_answers(path)
    except CheckpointError as error:
        notes.append(f"Not used: {setting_text(error)}")
        return None
    if answers is None or accuracy is None:
        return None
    if abs(answers.accuracy - accuracy) > 1e-9:
        notes.append(
            f"The predictions in {setting_text(path)} give an accuracy of {answers.accuracy:.4f} "
            f"and its record says {accuracy:.4f}; they are not used."
        )
        return None
    return answers


def _same_test(
    rows: Sequence[Row], base: Row | None, answers: Mapping[Path, Answers], notes: list[str]
) -> list[Row]:
    """Return the rows whose accuracies are of the same test images, chosen in the same way."""

    def settings(row: Row) -> Hashable:
        values = row.values
        limit = setting_text(values.get("data.limit"))
        seed = "" if limit == "null" else setting_text(values.get("data.split_seed"))
        return values["data_sha256"], limit, seed

    def images(row: Row) -> Hashable:
        found = {answers[r.path].images_sha256 for r in row.records if r.path in answers}
        # Those of a row without predictions are known by its settings alone.
        return found.pop() if len(found) == 1 else ("several",) if found else None

    def selection(row: Row) -> Hashable:
        return bool(row.values["selection"] == "test")

    kept = list(rows)
    for key, reason in (
        (settings, "other test images"),
        (images, "other test images"),
        (selection, "epochs chosen on the test images on one side alone"),
    ):
        keys = [key(row) for row in kept]
        counts = Counter(found for found in keys if found is not None)
        if not counts:
            continue
        named = key(base) if base is not None and base in kept else None
        wanted = counts.most_common(1)[0][0] if named is None else named
        odd = [
            row
            for row, found in zip(kept, keys, strict=True)
            if found not in (wanted, None) or found == ("several",)
        ]
        if odd:
            notes.append(f"Not judged: {numbers_text(odd)}: {reason}.")
        kept = [row for row in kept if row not in odd]
    return kept


def _scores(row: Row, answers: Mapping[Path, Answers], notes: list[str]) -> RowScores:
    values = {
        record.seed: accuracy
        for record in row.records
        if (accuracy := record.metrics[METRIC]) is not None
    }
    correct = {r.seed: answers[r.path].correct for r in row.records if r.path in answers}
    if len(correct) < len(row.records):
        without = [record for record in row.records if record.seed not in correct]
        if correct:
            named = ", ".join(setting_text(record.path) for record in without[:_NAMED])
            notes.append(
                f"Row {row.number}: {len(without)} of {len(row.records)} runs have no predictions "
                f"that can be used ({named}), so that its images are not compared; "
                "'cnnbench evaluate RUN' writes them."
            )
        correct = {}
    return RowScores(values, correct)


def _seed_notes(rows: Sequence[Row], verdicts: Sequence[Verdict]) -> list[str]:
    """Say what few seeds do to the verdicts."""
    pairs = list(zip(rows, verdicts, strict=True))
    notes = []
    if on_images := [row for row, verdict in pairs if verdict.verdict_basis == "images"]:
        notes.append(
            f"Too few seeds to speak of recipes: what is said of {numbers_text(on_images)} rests "
            "on the test images alone and holds for these trained networks. Another training may "
            f"differ; give {MIN_SEEDS} seeds, better {MIN_FLIPPED}."
        )
    nothing = [
        row for row, verdict in pairs if verdict.verdict == "undecided" and not verdict.method
    ]
    if nothing:
        notes.append(
            f"Nothing can be tested of {numbers_text(nothing)}: below {MIN_SEEDS} seeds, and no "
            "predictions on both sides. 'cnnbench evaluate RUN' writes those of an older run."
        )
    if normal := [row for row, v in pairs if v.verdict_basis == "seeds-normal"]:
        notes.append(
            f"Of {numbers_text(normal)}: a t-test, which takes runs to be normally spread; "
            f"with {MIN_FLIPPED} equal seeds on both sides nothing of the kind is assumed."
        )
    return notes


def best_row(rows: Sequence[Row]) -> Row | None:
    """Return the row with the largest mean of those that were judged; None without any."""
    judged = [row for row in rows if row.verdict.get("verdict") is not None]
    return max(judged, key=lambda row: row.metric(METRIC)["mean"] or 0.0, default=None)


def numbers_text(rows: Sequence[Row]) -> str:
    """Name rows by their numbers: ``row 3``, ``rows 1, 2 and 5``."""
    numbers = [str(row.number) for row in rows]
    if len(numbers) == 1:
        return f"row {numbers[0]}"
    return f"rows {', '.join(numbers[:-1])} and {numbers[-1]}"


def _plain(verdict: Verdict | None, interval: tuple[float, float] | None) -> dict[str, Any]:
    """Return plain values by name, the same names for every row."""
    images = verdict.images if verdict is not None else None
    found = verdict if verdict is not None else Verdict("undecided")
    return {
        "verdict": None if verdict is None else verdict.verdict,
        "verdict_basis": found.verdict_basis,
        "verdict_method": found.method or None,
        "verdict_difference": found.difference,
        "interval": _ends(found.interval),
        "simultaneous_interval": _ends(found.simultaneous),
        "p": found.p,
        "equivalence_p": found.equivalence_p,
        "within_margin": found.within_margin,
        "seeds_needed": found.seeds_needed,
        "more_seeds": found.more_seeds,
        "images_p": None if images is None else images.p,
        "images_interval": None if images is None else _ends(images.interval(0.05)),
        "accuracy_interval": _ends(interval),
    }


def _ends(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else [float(interval[0]), float(interval[1])]
