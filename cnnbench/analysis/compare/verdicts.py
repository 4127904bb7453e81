"""What the referee says of a table's rows: which runs it may use, and what it could not.

Rows tested on other images, and rows chosen on the test images beside rows that were not, are
never judged with the others; predictions that do not give a run's recorded accuracy are not used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from cnnbench.analysis.compare.records import Record
from cnnbench.analysis.compare.rows import Row
from cnnbench.analysis.statistics.families import MIN_FLIPPED, MIN_SEEDS, RowScores
from cnnbench.analysis.statistics.verdicts import Verdict, default_margin, judge, mean_interval
from cnnbench.errors import CheckpointError
from cnnbench.rendering.text import counted, setting_text
from cnnbench.runs import columns
from cnnbench.runs.predictions import Answers, read_answers

# Where the number of test images is not known.
_MARGIN = 0.002
# Of run directories that a note names.
_NAMED = 3
# What stands for the images of runs that were not all tested on the same.
_SEVERAL = ("several",)
# Of folds that are looked for.
_LARGEST_COUNT = 1000


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
    for row in kept:
        row.is_ranked = _value(row) is not None
    if numbers := [row for row in kept if row.is_number]:
        notes.append(
            f"Not tested: {numbers_text(numbers)}: what is predicted is a number, and verdicts are "
            "of accuracies alone."
        )
    kept = [row for row in kept if not row.is_number]
    scores = [_scores(row, answers, notes) for row in kept]
    ratios = [row.fold_ratio for row in scores if row.fold_ratio is not None]
    # Of rows that train on more or less of the same folds, the larger variance holds for both.
    scores = [replace(s, fold_ratio=s.fold_ratio and max(ratios)) for s in scores]
    num_images, resolution = _test_size(kept, scores)
    if margin is None:
        margin = default_margin(num_images) if num_images else _MARGIN
    elif num_images and margin < 1 / num_images:
        notes.append(
            f"The margin {margin:g} is less than one of the {num_images:,} test images "
            f"({1 / num_images:.2g}): nothing is equivalent within it but what is equal."
        )
    index = kept.index(base) if base is not None and base in kept else None
    verdicts = judge(scores, index, margin, resolution=resolution)
    by_row = {id(row): verdict for row, verdict in zip(kept, verdicts, strict=True)}
    for row in rows:
        ratio = fold_ratio(row)
        interval = mean_interval(list(values_of(row, row.accuracy).values()), resolution, ratio)
        if interval is not None:
            interval = columns.COLUMNS[row.accuracy].within(interval)
        row.verdict = _plain(by_row.get(id(row)), interval)
        if row.failed:
            more = ", ..." if len(row.failed) > _NAMED else ""
            notes.append(
                f"Row {row.number}: {counted(len(row.failed), 'more run')} failed "
                f"({', '.join(row.failed[:_NAMED])}{more}), so that its numbers are of those "
                "that did not."
            )
    notes += [*_fold_notes(kept, verdicts), *_seed_notes(kept, verdicts)]
    return Judged(margin, notes)


def _test_size(rows: Sequence[Row], scores: Sequence[RowScores]) -> tuple[int | None, float]:
    """Return how many images the accuracies are of, and the smallest step of one of them."""
    sizes = [len(flags) for score in scores for flags in score.correct.values()]
    sizes += [size for row in rows for record in row.records if (size := record.num_test)]
    if not sizes:
        return None, 0.0
    # Folds together test each image once.
    by_fold = {r.fold: r.num_test or 0 for r in rows[0].records if r.fold is not None}
    return sum(by_fold.values()) or sizes[0], 1 / sizes[0]


def _value(row: Row) -> float | None:
    return row.metric(row.score)["mean"]


def scores_of(row: Row) -> RowScores:
    """Return what the runs of a row measured, with the images where all runs have them."""
    return _scores(row, _read_answers([row], []), [])


def _read_answers(rows: Sequence[Row], notes: list[str]) -> dict[Path, Answers]:
    return {
        record.path: found
        for row in rows
        for record in row.records
        if (found := read_used_answers(record, notes)) is not None
    }


def read_used_answers(record: Record, notes: list[str]) -> Answers | None:
    """Return the predictions of a run, where they are those of its recorded accuracy.

    Args:
        record: of the run.
        notes: where is said why predictions that are there are not used.
    """
    path, accuracy = record.path, record.accuracy
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
        is_drawn = row.folds or limit != "null"
        seed = setting_text(values.get("data.split_seed")) if is_drawn else ""
        return values["data_sha256"], limit, seed

    def folds(row: Row) -> Hashable:
        return row.score, setting_text(row.values.get("data.num_folds")) if row.folds else ""

    def images(row: Row) -> Hashable:
        used = [answers[r.path] for r in row.records if r.path in answers]
        # A file that was tampered with may name images that it has not as many of.
        found = {(of_run.images_sha256, len(of_run.targets)) for of_run in used}
        # Those of a row without predictions, and folds, are known by its settings alone.
        if row.folds:
            return None
        return found.pop() if len(found) == 1 else _SEVERAL if found else None

    def selection(row: Row) -> Hashable:
        return row.is_chosen_on_measured

    kept = list(rows)
    for key, reason in (
        (settings, "other test images"),
        (folds, "results of folds on one side alone, or of other folds"),
        (images, "other test images"),
        (selection, "epochs chosen on the test images on one side alone"),
    ):
        keys = [key(row) for row in kept]
        counts = Counter(found for found in keys if found not in (None, _SEVERAL))
        named = key(base) if base is not None and base in kept else None
        common = counts.most_common(1)[0][0] if counts else None
        wanted = common if named in (None, _SEVERAL) else named
        odd = [row for row, found in zip(kept, keys, strict=True) if found not in (wanted, None)]
        if odd:
            notes.append(f"Not judged: {numbers_text(odd)}: {reason}.")
        kept = [row for row in kept if row not in odd]
    return kept


def values_of(row: Row, metric: str) -> dict[int, float]:
    """Return a metric by seed; of folds by fold, each the mean over its seeds."""
    found: dict[int, list[float]] = {}
    for record in row.records:
        if (value := record.metrics[metric]) is not None:
            key = record.seed if record.fold is None else record.fold
            found.setdefault(key, []).append(value)
    return {key: fmean(values) for key, values in found.items()}


def fold_ratio(row: Row) -> float | None:
    """Return the images that a row of folds is measured on over those it trains on; else None.

    Where they were not recorded, those of equal folds without a validation part.
    """
    if not row.folds:
        return None
    pairs = [(r.num_test, r.num_train) for r in row.records if r.num_test and r.num_train]
    if len(pairs) == len(row.records):
        return sum(tested for tested, _ in pairs) / sum(trained for _, trained in pairs)
    count = row.values.get("data.num_folds")
    return 1 / max(1, count - 1) if isinstance(count, int) else 1.0


def _scores(row: Row, answers: Mapping[Path, Answers], notes: list[str]) -> RowScores:
    values = values_of(row, row.accuracy)
    if row.folds:
        # Their images are never compared: each fold has others.
        return RowScores(values, {}, fold_ratio(row))
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


def _fold_notes(rows: Sequence[Row], verdicts: Sequence[Verdict]) -> list[str]:
    """Say of rows of folds what is missing, and what their test is."""
    notes = []
    for row in rows:
        count = row.values.get("data.num_folds")
        if not row.folds:
            continue
        expected = range(count if isinstance(count, int) and count <= _LARGEST_COUNT else 0)
        if missing := [str(number) for number in expected if number not in row.folds]:
            notes.append(
                f"Row {row.number}: {len(row.folds)} of {count} folds; missing: "
                f"{', '.join(missing[:_NAMED])}{', ...' if len(missing) > _NAMED else ''}."
            )
        seeds = {fold: {r.seed for r in row.records if r.fold == fold} for fold in row.folds}
        if len(set(map(frozenset, seeds.values()))) > 1:
            notes.append(
                f"Row {row.number}: its folds have other seeds, or another number of them; each "
                "fold counts once, as the mean over its seeds."
            )
    pairs = list(zip(rows, verdicts, strict=True))
    if tested := [row for row, verdict in pairs if verdict.verdict_basis == "folds"]:
        notes.append(
            f"Of {numbers_text(tested)}: the corrected t-test over folds. Training sets of folds "
            "overlap, and the correction for it is no exact one."
        )
    if nothing := [r for r, v in pairs if r.folds and v.verdict == "undecided" and not v.method]:
        notes.append(
            f"Nothing can be tested of {numbers_text(nothing)}: below {MIN_SEEDS} folds, or other "
            "folds than those of the row compared with."
        )
    return notes


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
        row
        for row, verdict in pairs
        if verdict.verdict == "undecided" and not verdict.method and not row.folds
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
    """Return the row with the largest mean score of those that are ranked; None without any."""
    ranked = [(mean, row) for row in rows if row.is_ranked and (mean := _value(row)) is not None]
    return max(ranked, key=lambda pair: pair[0], default=(0.0, None))[1]


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
