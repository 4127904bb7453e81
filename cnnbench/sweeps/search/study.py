"""The engine's memory of a search: Optuna by ask and tell. The only file that imports Optuna.

Akiba et al., "Optuna: A Next-generation Hyperparameter Optimization Framework" (KDD 2019). The
memory is a journal, a file of lines that one process alone writes; a process that is killed leaves
at most a part of its last line.
"""

from __future__ import annotations

import importlib.util
import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cnnbench.config.command import text_of
from cnnbench.config.sweeper import SweeperConfig
from cnnbench.errors import CheckpointError, UsageError
from cnnbench.files import writing
from cnnbench.seeds import derive_seed
from cnnbench.sweeps.search.space import Dimension

if TYPE_CHECKING:
    import optuna

Outcome = Literal["complete", "pruned", "failed"]
# By the name of Optuna's state.
_OUTCOMES: dict[str, Outcome] = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
# An older lock in the journal is that of a killed process; Optuna takes no less.
_GRACE_SECONDS = 3
_STUDY = "search"


def check_engine() -> None:
    """Refuse a search where its engine is not installed.

    Raises:
        UsageError: so it is.
    """
    if importlib.util.find_spec("optuna") is None:
        raise UsageError(
            "hydra/sweeper=optuna: needs optuna, which is not installed; "
            "pip install 'cnnbench[optuna]'"
        )


@dataclass(frozen=True)
class Asked:
    """A trial that has no outcome yet.

    Attributes:
        number: from 0.
        values: to train with, by key.
    """

    number: int
    values: Mapping[str, Any]


class Study:
    """Trials and what they gave.

    Args:
        file: the journal, made where it is missing. No other process may write to it.
        dimensions: what is drawn.
        config: how it is drawn.
        is_maximized: whether larger values are better.

    Raises:
        CheckpointError: the journal is damaged.
        DiskError: it cannot be written.
    """

    def __init__(
        self, file: Path, dimensions: Sequence[Dimension], config: SweeperConfig, is_maximized: bool
    ) -> None:
        import optuna
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._dimensions, self._config = dimensions, config
        cut_torn_line(file)
        try:
            with _quietly():
                lock = JournalFileOpenLock(str(file), grace_period=_GRACE_SECONDS)
                storage = optuna.storages.JournalStorage(JournalFileBackend(str(file), lock))
                self._study = optuna.create_study(
                    storage=storage,
                    study_name=_STUDY,
                    load_if_exists=True,
                    direction="maximize" if is_maximized else "minimize",
                    pruner=_pruner(config.pruner),
                    sampler=optuna.samplers.RandomSampler(seed=0),
                )
        except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
            raise CheckpointError(
                f"{file}: damaged, or not a journal of Optuna's: {error}; take another sweep.name, "
                "or remove the search"
            ) from None
        self._open: dict[int, optuna.Trial] = {}

    @property
    def trials(self) -> list[optuna.trial.FrozenTrial]:
        """All trials in their order, copies that change no more."""
        return self._study.get_trials(deepcopy=False)

    def finished(self) -> Iterator[tuple[int, dict[str, Any], Outcome, float | None]]:
        """Yield number, values, outcome and value of each trial that was told."""
        for trial in self.trials:
            outcome = _OUTCOMES.get(trial.state.name)
            if outcome is not None and all(d.key in trial.params for d in self._dimensions):
                values = {d.key: d.value(trial.params[d.key]) for d in self._dimensions}
                yield trial.number, values, outcome, trial.value if outcome == "complete" else None

    def unfinished(self) -> list[Asked]:
        """Return the trials that an earlier process asked for and told nothing of."""
        return [
            self._asked(trial.number, trial._trial_id)
            for trial in self.trials
            if trial.state.name not in _OUTCOMES
        ]

    def ask(self) -> Asked:
        """Return a new trial, drawn by what is known of the others and its number alone."""
        number = len(self.trials)
        self._seed_sampler(number, "")
        with _quietly():
            trial = self._study.ask()
        return self._asked(trial.number, trial._trial_id, trial)

    def report(self, number: int, step: int, value: float) -> bool:
        """Take a value of a trial that is not finished, and tell whether to give it up.

        Args:
            number: of the trial.
            step: an epoch, or the index of a seed; a value that is there already stays.
            value: of the objective.
        """
        trial = self._open[number]
        if not math.isfinite(value):
            return False
        with _quietly():
            if step not in self.trials[number].intermediate_values:
                trial.report(value, step)
            return bool(trial.should_prune())

    def tell(self, number: int, outcome: Outcome, value: float | None) -> None:
        """Finish a trial; one that is finished stays as it is."""
        from optuna.trial import TrialState

        state = next(name for name, word in _OUTCOMES.items() if word == outcome)
        with _quietly():
            told = value if outcome == "complete" else None
            self._study.tell(number, told, state=TrialState[state], skip_if_finished=True)
        self._open.pop(number, None)

    def importances(self) -> dict[str, float]:
        """Return each key's share of what moves the objective (fANOVA), largest first.

        Returns:
            Shares that sum to 1; nothing where there are too few trials, or all gave the same.
        """
        import optuna

        try:
            with _quietly():
                found = optuna.importance.get_param_importances(
                    self._study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0)
                )
        except (ValueError, RuntimeError):
            return {}
        return {key: float(share) for key, share in found.items() if math.isfinite(share)}

    def _asked(self, number: int, trial_id: int, trial: Any = None) -> Asked:
        """Return a trial with a value of every dimension, drawn where a killed process did not."""
        import optuna

        drawn = {}
        if trial is None:
            self._seed_sampler(number, "")
            with _quietly():
                trial = optuna.trial.Trial(self._study, trial_id)
        for dimension in self._dimensions:
            self._seed_sampler(number, dimension.key)
            with _quietly():
                drawn[dimension.key] = dimension.value(_draw(trial, dimension))
        self._open[number] = trial
        return Asked(number, drawn)

    def _seed_sampler(self, number: int, key: str) -> None:
        """Draw by trial and key alone, so that a killed process changes no draw after it."""
        import optuna

        seed = derive_seed(self._config.seed, "search", number, key) % 2**32
        kinds = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
        with _quietly():
            self._study.sampler = kinds[self._config.sampler](seed=seed)


def _draw(trial: optuna.Trial, dimension: Dimension) -> Any:
    interval, key = dimension.interval, dimension.key
    if interval is None:
        return trial.suggest_categorical(key, [text_of(value) for value in dimension.values])
    if interval.is_int:
        return trial.suggest_int(key, int(interval.low), int(interval.high), log=interval.is_log)
    return trial.suggest_float(key, interval.low, interval.high, log=interval.is_log)


def _pruner(name: str) -> optuna.pruners.BasePruner:
    import optuna

    if name == "wilcoxon":
        return optuna.pruners.WilcoxonPruner(p_threshold=0.1)
    return optuna.pruners.MedianPruner() if name == "median" else optuna.pruners.NopPruner()


def _quietly() -> warnings.catch_warnings[None]:
    """Keep Optuna's warnings, such as that a part of it is new, from the user."""
    return warnings.catch_warnings(action="ignore")


def cut_torn_line(file: Path) -> None:
    """Take off a journal's last line where it was not written to its end.

    The next writer would continue that line, and no reader could read on from there.

    Raises:
        DiskError: it cannot be written.
    """
    if not file.exists():
        return
    with writing(file), file.open("r+b") as journal:
        content = journal.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            journal.truncate(whole)
            journal.flush()
            os.fsync(journal.fileno())
