"""The referee: which rows of a table are better, worse, equivalent or undecided, and on what basis.

Two sources of chance are kept apart. *Seeds*: another training; what a claim about a recipe rests
on. *Images*: another test set; what a claim about these trained networks rests on. Definitions,
assumptions and references are in docs/statistics.md, with how often each is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from cnnbench.analysis.statistics.families import (
    FOLDS,
    IMAGES,
    LEVEL,
    MIN_FLIPPED,
    MIN_SEEDS,
    NONE,
    Family,
    Found,
    RowScores,
    judge_seeds,
    mean_of,
    pair_rows,
)
from cnnbench.analysis.statistics.image_tests import ImageDifference, image_difference
from cnnbench.analysis.statistics.sign_flips import Floats, sign_flip_test
from cnnbench.analysis.statistics.t_tests import (
    MAX_SEEDS,
    holm,
    paired_error,
    seeds_needed,
    t_interval,
)
from cnnbench.errors import UsageError

MORE_THAN_MAX = f"more than {MAX_SEEDS}"

Word: TypeAlias = Literal["best", "baseline", "better", "worse", "equivalent", "undecided"]
Basis: TypeAlias = Literal["seeds", "seeds-normal", "folds", "images"]
Interval: TypeAlias = tuple[float, float]

_METHODS = (
    "sign flips of paired seeds",
    "paired t-test over seeds",
    "Welch's t-test over seeds",
    "corrected t-test over folds",
    "paired bootstrap of images",
    "",
)
_BASES: tuple[Basis | None, ...] = (
    "seeds",
    "seeds-normal",
    "seeds-normal",
    "folds",
    "images",
    None,
)


@dataclass(frozen=True)
class Verdict:
    """What can be said of a row beside the one that it is compared with.

    Attributes:
        verdict: ``best`` or ``baseline`` for the row compared with.
        verdict_basis: None where nothing can be tested, as of the row compared with.
        method: the test in words; empty without one.
        num_seeds: seeds that the claim rests on: of the row with fewer.
        difference: this row's mean less the other's, in the values' unit.
        interval: the differences that the test does not reject at 5 %, for this row by itself.
        simultaneous: likewise for all rows at once; leaves out zero just where the verdict is
            ``better`` or ``worse``.
        p: two-sided, adjusted for the number of comparisons.
        equivalence_p: of equivalence within the margin over seeds, adjusted; None without.
        within_margin: whether the difference is shown to be smaller than the margin; can hold for
            ``better`` and ``worse`` too.
        seeds_needed: of an undecided row, how many in all give 80 % power to decide, or ``more than
            50``; None below three seeds.
        images: the difference over images, not adjusted; None where it is not known.
    """

    verdict: Word
    verdict_basis: Basis | None = None
    method: str = ""
    num_seeds: int = 0
    difference: float | None = None
    interval: Interval | None = None
    simultaneous: Interval | None = None
    p: float | None = None
    equivalence_p: float | None = None
    within_margin: bool = False
    seeds_needed: int | str | None = None
    images: ImageDifference | None = None

    @property
    def more_seeds(self) -> int | str | None:
        """How many seeds to add, where that is known."""
        needed = self.seeds_needed
        return needed - self.num_seeds if isinstance(needed, int) else needed


def default_margin(num_images: int) -> float:
    """Return the margin of equivalence for an accuracy: the larger of .002 and two test images."""
    return max(0.002, 2 / num_images)


def mean_interval(
    values: Sequence[float], resolution: float = 0.0, fold_ratio: float | None = None
) -> Interval | None:
    """Return what the mean over more seeds may be, at 95 %; None below three seeds or folds.

    By sign flips around each candidate from six seeds on, which takes the values to be spread
    evenly to both sides; by Student's t below, and of folds with the corrected variance.

    Args:
        values: one for each seed, or for each fold.
        resolution: as of ``judge``.
        fold_ratio: as of ``RowScores``.
    """
    if len(values) < MIN_SEEDS:
        return None
    array = np.asarray(values, dtype=np.float64)[None]
    if fold_ratio is not None:
        factor = 1 / len(values) + fold_ratio
        error = paired_error(array, resolution, factor)
        low, high = t_interval(array.mean(1), *error, LEVEL)[0]
    elif len(values) >= MIN_FLIPPED:
        low, high = sign_flip_test(array, 1, LEVEL).intervals[0]
    else:
        low, high = t_interval(array.mean(1), *paired_error(array, resolution), LEVEL)[0]
    return float(low), float(high)


def judge(
    rows: Sequence[RowScores],
    baseline: int | None = None,
    margin: float = 0.0,
    *,
    higher_is_better: bool = True,
    resolution: float | None = None,
) -> list[Verdict]:
    """Compare every row with the baseline, or with the best row.

    Args:
        rows: of one table: results on the same test images, or folds of the same data.
        baseline: index of the row that the user named; the row with the best mean unless given.
            Since that one is chosen from these numbers, all pairs of rows then count.
        margin: differences below it do not matter; 0 for no claim of equivalence.
        higher_is_better: as of an accuracy; False as of a loss.
        resolution: smallest step of a value, 1 / images for an accuracy. Unless given, that of the
            images in ``correct``; 0 without.

    Returns:
        A verdict for each row, in the order of the rows.

    Raises:
        UsageError: the baseline is no row, the margin is negative, a value is not finite, or rows
            were tested on different numbers of images.

    Example:
        >>> a = RowScores({seed: 0.90 + seed / 1000 for seed in range(6)})
        >>> b = RowScores({seed: 0.92 + seed / 990 for seed in range(6)})
        >>> [verdict.verdict for verdict in judge([a, b])]
        ['worse', 'best']
    """
    num_images = _check(rows, baseline, margin)
    if not higher_is_better and num_images:
        raise UsageError("images were handed in with a loss; expected them with accuracies alone")
    if resolution is None:
        resolution = 1 / num_images if num_images else 0.0
    measured = [index for index, row in enumerate(rows) if row.values]
    sign = 1 if higher_is_better else -1
    verdicts = [Verdict("undecided") for _ in rows]
    base = baseline
    if base is None and measured:
        base = max(measured, key=lambda i: (sign * mean_of(rows[i]), len(rows[i].values)))
    if base is None:
        return verdicts
    verdicts[base] = Verdict("best" if baseline is None else "baseline")
    others = [index for index in measured if index != base]
    if base not in measured or not others:
        return verdicts
    family = pair_rows(rows, base, others, named=baseline is not None)
    images = _images(rows, base, others)
    found = judge_seeds(rows, family, margin, resolution, named=baseline is not None)
    _over_images(found, family, images)
    for position, index in enumerate(others):
        verdicts[index] = _verdict(position, family, found, images, margin, sign)
    return verdicts


def _check(rows: Sequence[RowScores], baseline: int | None, margin: float) -> int:
    """Refuse what cannot be judged, and return the number of test images, 0 if it is not known.

    Raises:
        UsageError: as ``judge``.
    """
    if baseline is not None and not 0 <= baseline < len(rows):
        raise UsageError(f"baseline {baseline}: expected a row from 0 to {len(rows) - 1}")
    if not margin >= 0:
        raise UsageError(f"margin {margin}: expected 0 or more")
    if not all(np.isfinite(list(row.values.values())).all() for row in rows):
        raise UsageError("a result to compare is infinite or not a number; expected finite ones")
    sizes = {len(correct) for row in rows for correct in row.correct.values()}
    if len(sizes) > 1 or 0 in sizes:
        raise UsageError(
            f"rows to compare were tested on {sorted(sizes)} images; expected the same images"
        )
    return sizes.pop() if sizes else 0


def _images(
    rows: Sequence[RowScores], base: int, others: Sequence[int]
) -> list[ImageDifference | None]:
    """Compare the images of each row, where they are known, with those of the row ``base``."""
    if not rows[base].correct:
        return [None for _ in others]
    ours = np.mean(list(rows[base].correct.values()), axis=0)
    found: list[ImageDifference | None] = []
    for row in (rows[index] for index in others):
        single = len(row.correct) == len(rows[base].correct) == 1
        mean = np.mean(list(row.correct.values()), axis=0) if row.correct else None
        found.append(None if mean is None else image_difference(mean, ours, single=single))
    return found


def _over_images(found: Found, family: Family, images: Sequence[ImageDifference | None]) -> None:
    """Add what the images say of pairs with too few seeds."""
    count = int((family.kinds == IMAGES).sum())
    tested = {
        position: image
        for position, image in enumerate(images)
        if image is not None and family.kinds[position] == IMAGES
    }
    if not tested:
        return
    adjusted, at = holm(np.array([image.p for image in tested.values()]), LEVEL, count)
    for (position, image), p, level in zip(tested.items(), adjusted, at, strict=True):
        found.difference[position], found.p[position] = image.difference, p
        found.interval[position] = image.interval(LEVEL)
        found.simultaneous[position] = image.interval(float(level))


def _verdict(
    position: int,
    family: Family,
    found: Found,
    images: Sequence[ImageDifference | None],
    margin: float,
    sign: int,
) -> Verdict:
    """Put the findings of one shown pair into words."""
    kind = int(family.kinds[position])
    num_seeds = int(family.counts[family.pairs[position]].min())
    difference = float(found.difference[position])
    if kind == NONE:
        return Verdict(
            "undecided", num_seeds=num_seeds, difference=difference, images=images[position]
        )
    p = float(found.p[position])
    rejected = p <= LEVEL
    over_seeds = kind != IMAGES and margin > 0
    equivalence = float(found.equivalence_p[position]) if over_seeds else None
    within = equivalence is not None and equivalence <= LEVEL
    needed: int | str | None = None
    word: Word = "equivalent" if within else "undecided"
    if rejected:
        word = "better" if difference * sign > 0 else "worse"
    elif not within and kind not in (IMAGES, FOLDS):
        needed = seeds_needed(
            difference,
            float(found.spread[position]),
            num_seeds,
            margin=margin,
            difference_level=LEVEL / len(family.pairs),
            margin_level=LEVEL / family.shown,
        )
        needed = MORE_THAN_MAX if needed is None else needed
    image = images[position]
    single = kind == IMAGES and image is not None and image.counts is not None
    return Verdict(
        word,
        _BASES[kind],
        "McNemar's exact test" if single else _METHODS[kind],
        num_seeds,
        difference,
        _agreeing(found.interval[position], None, difference),
        _agreeing(found.simultaneous[position], rejected, difference),
        p,
        equivalence,
        within,
        needed,
        image,
    )


def _agreeing(ends: Floats, rejected: bool | None, difference: float) -> Interval:
    """Return an interval in which rounding decides nothing: its ends agree with the verdict."""
    low, high = (0.0 if abs(end) < 1e-14 else float(end) for end in ends)
    if rejected is False:
        return min(low, 0.0), max(high, 0.0)
    if rejected and difference > 0:
        return max(low, float(np.nextafter(0.0, 1.0))), high
    if rejected:
        return low, min(high, float(np.nextafter(0.0, -1.0)))
    return low, high
