"""What a search found: the best settings as a command, the table, importances, and the page."""

from __future__ import annotations

import shlex
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnbench.analysis.compare.records import read_curves
from cnnbench.analysis.compare.search_part import Axis, Line, SearchPart
from cnnbench.config.command import text_of
from cnnbench.errors import CheckpointError
from cnnbench.rendering.text import counted
from cnnbench.runs.columns import COLUMNS, finite_number
from cnnbench.runs.directory import RunDir
from cnnbench.sweeps.launchers import Launcher
from cnnbench.sweeps.results import show_results
from cnnbench.sweeps.search.record import SearchRecord
from cnnbench.sweeps.search.space import Dimension, Space
from cnnbench.tracking.console import format_seconds

# The command of the best settings repeats them, so that a test can judge them.
_SEEDS = "seed=range(0,5)"


@dataclass(frozen=True)
class Trial:
    """One trial of a search.

    Attributes:
        number: from 0.
        values: that it was trained with, by key.
        outcome: complete, pruned or failed; None where it is not finished.
        value: of the objective; None where it was not measured to its end.
        runs: names of its run directories.
    """

    number: int
    values: Mapping[str, Any]
    outcome: str | None
    value: float | None
    runs: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Its value, as shown."""
        return "" if self.value is None else f"{self.value:.4f}"


def best_of(trials: Sequence[Trial], objective: str) -> Trial | None:
    """Return the best finished trial, of equal ones the first; None without any."""
    sign = 1 if COLUMNS[objective].better == "higher" else -1
    known = [(sign * t.value, -t.number, t) for t in _complete(trials) if t.value is not None]
    return max(known, key=lambda entry: entry[:2])[2] if known else None


def _complete(trials: Sequence[Trial]) -> list[Trial]:
    return [trial for trial in trials if trial.outcome == "complete" and trial.value is not None]


def seconds_of(run: RunDir) -> float:
    """Return how long a run trained, as far as it came."""
    try:
        known = finite_number(run.record.results.get("train_seconds")) if run.has_record else None
    except CheckpointError:
        known = None
    if known is not None:
        return known
    return sum(read_curves(run.metrics).get("perf/epoch_seconds", {}).values())


def best_command(space: Space, record: SearchRecord, config_dir: Path | None) -> str:
    """Return the command that trains the best settings on several seeds, and tests them.

    Args:
        space: with what all trials share.
        record: of the search; it has a best trial.
        config_dir: the user's own groups, as the search had them.
    """
    assert record.best is not None
    words = ["cnnbench", "train", "-m", *space.typed, *record.best["settings"], _SEEDS]
    words += [f"tuning.trials={record.trials}"]
    words += [f"tuning.seconds={record.seconds:.4g}"] if record.seconds else []
    words += ["--config-dir", str(config_dir)] if config_dir is not None else []
    return shlex.join(words)


def show_result(
    root: Path,
    space: Space,
    record: SearchRecord,
    trials: Sequence[Trial],
    importances: Mapping[str, float],
    config_dir: Path | None,
    launcher: Launcher,
) -> None:
    """Print what was found, and leave it as a page in the search's directory.

    Args:
        root: of the search.
        space: that was searched.
        record: of the search.
        trials: all of them.
        importances: of the keys.
        config_dir: the user's own groups.
        launcher: as ``show_results`` takes it.
    """
    sentences = _sentences(record, trials, importances, len(space.seeds))
    command = best_command(space, record, config_dir) if record.best else ""
    axes, lines = _picture(space.dimensions, record.objective, trials)
    runs = [root / name for name in dict.fromkeys(name for t in trials for name in t.runs)]
    show_results(
        root,
        [run for run in runs if RunDir(run).has_record],
        SearchPart(sentences, command, importances, axes, lines),
        launcher=launcher,
    )
    print("\n".join(sentences))
    if command:
        print(f"to train it on five seeds and read the test images:\n{command}", flush=True)


def _sentences(
    record: SearchRecord,
    trials: Sequence[Trial],
    importances: Mapping[str, float],
    num_seeds: int,
) -> list[str]:
    words = {"complete": "finished", "pruned": "pruned", "failed": "failed", None: "unfinished"}
    counts = Counter(trial.outcome for trial in trials)
    parts = [f"{counts[outcome]} {word}" for outcome, word in words.items() if counts[outcome]]
    sentences = [
        f"{counted(len(trials), 'trial')}: {', '.join(parts)}; "
        f"{format_seconds(record.seconds)} of training"
    ]
    if record.best:
        best = " ".join(record.best["settings"])
        value = f"{record.best['value']:.4f}"
        value += f" (mean of {num_seeds} seeds)" if num_seeds > 1 else ""
        sentences.insert(
            0, f"best {record.objective} {value}, trial {record.best['trial']}: {best}"
        )
    if importances:
        listed = ", ".join(f"{key} {share:.2f}" for key, share in importances.items())
        sentences.append(f"importance for {record.objective} (fANOVA): {listed}")
    return sentences


def _picture(
    dimensions: Sequence[Dimension], objective: str, trials: Sequence[Trial]
) -> tuple[list[Axis], list[Line]]:
    known = [trial.value for trial in _complete(trials) if trial.value is not None]
    axes = [_axis(dimension) for dimension in dimensions]
    if known:
        axes.append(Axis(objective, low=min(known), high=max(known)))
    best, is_falling = best_of(trials, objective), COLUMNS[objective].better == "lower"
    ranked = sorted(-value if is_falling else value for value in known)
    lines = []
    for trial in trials:
        drawn = [
            trial.values[d.key] if d.interval else text_of(trial.values[d.key]) for d in dimensions
        ]
        text = ", ".join(f"{key}={text_of(value)}" for key, value in trial.values.items())
        name = f"trial {trial.number}: {text}"
        if trial.outcome == "complete" and trial.value is not None:
            worse = bisect_left(ranked, -trial.value if is_falling else trial.value)
            equal = bisect_right(ranked, ranked[worse]) - worse
            share = (worse + equal - 1) / max(1, len(ranked) - 1)
            name = f"{name}: {trial.text}"
            lines.append(Line(name, (*drawn, trial.value), share, trial is best))
        else:
            lines.append(Line(f"{name}: {trial.outcome or 'unfinished'}", tuple(drawn), None))
    return axes, lines


def _axis(dimension: Dimension) -> Axis:
    interval = dimension.interval
    if interval is None:
        return Axis(dimension.key, texts=tuple(map(text_of, dimension.values)))
    return Axis(dimension.key, low=interval.low, high=interval.high, is_log=interval.is_log)
