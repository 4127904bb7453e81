"""What finished runs are compared by: each fact and each metric, declared once.

A new one is one line of ``COLUMNS``. Text, Markdown, CSV, LaTeX, JSON and the page of ``compare``
show it, and ``--where``, ``--sort`` and ``--group`` take its name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

# No training gives a larger number, and sums of squares of these stay finite.
_LARGEST = 1e100


@dataclass(frozen=True)
class Source:
    """What a run left behind, as columns read it.

    Attributes:
        results: of ``run.json``, by name, unchecked.
        network: the facts of the network in ``run.json``, by name, unchecked.
        curves: by name, the finite values by epoch.
    """

    results: Mapping[str, Any]
    network: Mapping[str, Any]
    curves: Mapping[str, Mapping[int, float]]


@dataclass(frozen=True)
class Column:
    """A fact or metric of runs, or a setting that needs more than its name.

    Attributes:
        name: its key in JSON, its head in tables, and what ``--where`` and ``--sort`` call it.
            A metric of a split is ``<split>/<metric>``.
        kind: a metric is a number that each run has, shown as mean and sample standard deviation;
            a fact is a whole number that all runs of a row share; a setting comes from the config.
        read: takes it from what a run left behind; by default it is the result (of a fact: the
            fact of the network) of this name.
        digits: of a metric, after the point.
        better: which end is the better one; None where neither is.
        least: the smallest value that there can be, at which intervals of its mean are cut; None
            where they are left as they are.
        most: the largest one, likewise.
        axis: its name on an axis; with one, test accuracy is drawn against it.
        in_table: whether tables show it; JSON has it anyway.
        in_runs: whether the page lists it for each single run.
        in_hparams: whether TensorBoard's HParams page has it.
        is_paired: whether its differences from a baseline are shown.
        is_shared: whether rows that differ in it are not comparable.
        is_asked: whether it is there on request alone, and then shown in any case.
        is_time: whether it counts only for runs that had the machine alone.

    Example:
        ``Column("test/top5_accuracy", digits=4, better="higher")``
    """

    name: str
    kind: Literal["metric", "fact", "setting"] = "metric"
    read: Callable[[Source], Any] | None = None
    digits: int = 0
    better: Literal["higher", "lower"] | None = None
    least: float | None = None
    most: float | None = None
    axis: str = ""
    in_table: bool = True
    in_runs: bool = False
    in_hparams: bool = False
    is_paired: bool = False
    is_shared: bool = False
    is_time: bool = False
    is_asked: bool = False

    @property
    def is_score(self) -> bool:
        """Whether it was measured on a split: how well a network does, not what it costs."""
        return self.name.startswith(("train/", "val/", "test/"))

    def within(self, ends: tuple[float, float]) -> tuple[float, float]:
        """Return an interval of its mean without what no mean can be."""
        least = -math.inf if self.least is None else self.least
        most = math.inf if self.most is None else self.most
        low, high = (min(max(end, least), most) for end in ends)
        return low, high

    def value(self, source: Source) -> float | None:
        """Return a run's value; None where the run has no such finite number."""
        is_fact = self.kind == "fact"
        try:
            if self.read is not None:
                found = self.read(source)
            else:
                found = (source.network if is_fact else source.results).get(self.name)
        except (LookupError, TypeError, ValueError, ArithmeticError):
            return None
        return whole_number(found) if is_fact else finite_number(found)


def _epoch_mean(curve: str) -> Callable[[Source], float]:
    """Return what reads the mean of a curve over the epochs."""
    return lambda source: fmean(source.curves[curve].values())


# Which end is better, and the largest value there can be; none is below 0.
_PREDICTED: Mapping[str, tuple[Literal["higher", "lower"], float | None]] = {
    "accuracy_unseen": ("higher", 1.0),
    "ece": ("lower", 1.0),
    "brier": ("lower", 2.0),
    "nll": ("lower", None),
}


def _compute_seconds(source: Source) -> float:
    """Return the mean of what is left of an epoch's seconds without waiting for batches."""
    epochs, waits = source.curves["perf/epoch_seconds"], source.curves["perf/data_seconds"]
    return fmean(epochs[epoch] - wait for epoch, wait in waits.items())


# In the order of tables, which show only what some row has.
COLUMNS: dict[str, Column] = {
    column.name: column
    for column in (
        Column("num_params", "fact", better="lower", axis="parameters", in_hparams=True),
        Column("macs", "fact", better="lower", axis="multiply-accumulates for one image"),
        Column("receptive_field", "fact"),
        Column("linear_share", read=lambda source: source.network["linear_share"], digits=3),
        Column(
            "epoch_seconds",
            read=_epoch_mean("perf/epoch_seconds"),
            digits=2,
            better="lower",
            is_paired=True,
            is_time=True,
        ),
        Column("data_seconds", read=_epoch_mean("perf/data_seconds"), digits=2, is_time=True),
        Column("compute_seconds", read=_compute_seconds, digits=2, is_time=True),
        Column(
            "images_per_second",
            read=_epoch_mean("perf/images_per_second"),
            better="higher",
            is_time=True,
        ),
        Column("best_epoch", digits=1, in_runs=True),
        Column(
            "train_seconds",
            digits=1,
            better="lower",
            axis="seconds of training",
            is_time=True,
            in_table=False,
            in_runs=True,
            in_hparams=True,
        ),
        Column(
            "train_tflop",
            digits=3,
            better="lower",
            axis="TFLOP of training",
            in_runs=True,
        ),
        Column(
            "val/accuracy",
            digits=4,
            better="higher",
            least=0.0,
            most=1.0,
            in_runs=True,
            in_hparams=True,
            is_paired=True,
        ),
        Column("val/r2", digits=4, better="higher", in_runs=True, is_paired=True),
        Column("val/mae", digits=4, better="lower", in_runs=True),
        Column("val/loss", digits=4, better="lower", in_table=False),
        Column(
            "test/accuracy",
            digits=4,
            better="higher",
            least=0.0,
            most=1.0,
            in_runs=True,
            in_hparams=True,
            is_paired=True,
        ),
        Column(
            "test/r2",
            digits=4,
            better="higher",
            in_runs=True,
            in_hparams=True,
            is_paired=True,
        ),
        Column("test/mae", digits=4, better="lower", in_runs=True, in_hparams=True),
        Column("test/loss", digits=4, better="lower", in_table=False, in_runs=True),
        # What predictions say, where it is asked for; see analysis/compare/predicted.py.
        *(
            Column(f"{split}/{name}", digits=4, better=better, least=0.0, most=most, is_asked=True)
            for split in ("val", "test")
            for name, (better, most) in _PREDICTED.items()
        ),
        Column("tuning_trials"),
        Column("tuning_seconds", digits=1),
        *(
            Column(name, "setting", is_shared=True)
            for name in (
                "data.split_seed",
                "data.val_fraction",
                "data.limit",
                "num_epochs",
                "device.precision",
            )
        ),
    )
}


def facts() -> list[Column]:
    """Return the facts, in the order of tables."""
    return [column for column in COLUMNS.values() if column.kind == "fact"]


def metrics() -> list[Column]:
    """Return the metrics, in the order of tables."""
    return [column for column in COLUMNS.values() if column.kind == "metric"]


def costs() -> list[Column]:
    """Return what test accuracy is drawn against."""
    return [column for column in COLUMNS.values() if column.axis]


def shared() -> list[Column]:
    """Return what rows must have in common to be comparable."""
    return [column for column in COLUMNS.values() if column.is_shared]


def scores_first(columns: Iterable[Column]) -> list[Column]:
    """Return columns in their order, but what was measured on a split before what it cost."""
    return sorted(columns, key=lambda column: not column.is_score)


def score_text(name: str) -> str:
    """Return a score's name where people read it: ``test accuracy``, ``val R2``."""
    return name.replace("/", " ").replace(" r2", " R2")


def finite_number(value: Any) -> float | None:
    """Return a finite number, or None for all else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if math.isfinite(value) and abs(value) < _LARGEST else None


def whole_number(value: Any) -> int | None:
    """Return a count in the range of 64 bits, or None for all else."""
    return value if type(value) is int and 0 <= value < 2**63 else None
