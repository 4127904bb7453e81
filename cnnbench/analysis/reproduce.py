"""Whether a new run of a recorded recipe gives what was recorded."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cnnbench.analysis.recorded import (
    RecordedResult,
    RecordedRun,
    changed_keys,
    deciding,
    read_recorded,
    weights_sha256,
)
from cnnbench.config.command import CODE_KEYS
from cnnbench.config.compose import Composer
from cnnbench.config.run_config import GROUPS, RunConfig, read_config, role_of, to_tree
from cnnbench.config.settings import Setting, leaves
from cnnbench.errors import CheckpointError, DataError, UsageError
from cnnbench.runs.columns import COLUMNS, finite_number
from cnnbench.runs.directory import RunDir, open_run

LEVEL = 0.95
# Two trainings of one seed agree to this much where nothing is random.
_ROUNDING = 1e-12


def prediction_interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float]:
    """Return where one new value falls with a probability, the values being normal.

    It is mean +- t s sqrt(1 + 1/n), with Student's t of n - 1 degrees of freedom.

    Args:
        values: at least two.
        level: of the interval, in (0, 1).

    Example:
        >>> [round(end, 3) for end in prediction_interval([0.92, 0.93, 0.94])]
        [0.88, 0.98]
    """
    from scipy.special import stdtrit

    count, mean = len(values), statistics.fmean(values)
    t = float(stdtrit(count - 1, (1 + level) / 2))
    half = t * statistics.stdev(values) * math.sqrt(1 + 1 / count)
    return mean - half, mean + half


def recipe(recorded: RecordedResult, settings: Sequence[Setting]) -> RunConfig:
    """Return the config of a new run of a recorded recipe.

    A budget of seconds becomes the work that it paid for when it was recorded: on another day the
    same seconds are other steps.

    Args:
        recorded: as ``read_recorded`` returned it.
        settings: ``seed``, and keys that do not decide the result; by default the first seed that
            was not recorded.

    Raises:
        UsageError: a setting would make it another recipe.
        DataError: the recorded config is none of this version.
    """
    values = dict(leaves(dict(recorded.config)))
    if code := next((key for key in CODE_KEYS if values.get(key) is not None), None):
        raise UsageError(f"{recorded.name}: names code to run, {code}={values[code]}")
    chosen = {setting.key: setting.values[0] for setting in settings}
    for setting in settings:
        key = setting.key
        name = key if key not in GROUPS else f"{key}.name"
        is_free = role_of(name).may_change or key in ("seed", "output_root")
        if setting.is_sweep or not is_free:
            raise UsageError(
                f"{key}: would be another recipe than the recorded one; expected seed=N, device.*, "
                "data.root=DIR, or what is logged and kept"
            )
    seeds = {run.seed: run for run in recorded.runs}
    seed = chosen.get("seed", next(n for n in range(len(seeds) + 1) if n not in seeds))
    if values.get("budget.seconds") is not None:
        work = seeds[seed].tflop if seed in seeds else statistics.median(_work(recorded))
        values |= {"budget.seconds": None, "budget.tflop": work}
    groups = {key: values.get(f"{key}.name") for key in GROUPS if f"{key}.name" in values}
    groups |= {key: value for key, value in chosen.items() if key in GROUPS}
    composer = Composer()
    try:
        tree = to_tree(composer.compose({k: v for k, v in groups.items() if v is not None}))
        for key, value in {**values, **chosen, "seed": seed}.items():
            if key not in GROUPS:
                _assign(tree, key, value)
        return read_config(tree)
    except UsageError as error:
        if chosen.keys() - {"seed"}:
            raise
        raise DataError(f"{recorded.name}: not a recipe of this version: {error}") from error


def _work(recorded: RecordedResult) -> list[float]:
    return [run.tflop for run in recorded.runs]


def _assign(tree: dict[str, Any], key: str, value: Any) -> None:
    *groups, last = key.split(".")
    for group in groups:
        tree = tree.setdefault(group, {})
    tree[last] = value


def train_again(name: str, settings: Sequence[str], command: Sequence[str]) -> Path:
    """Train a recorded recipe once, and return the run's directory.

    Args:
        name: of a committed result, or a file.
        settings: as ``recipe`` takes them, each ``key=value``.
        command: the command line, for the record.

    Raises:
        CnnbenchError: as ``recipe``, and as training does.
    """
    recorded = read_recorded(name)
    config = recipe(recorded, Composer().parse(settings))
    from cnnbench.training import launch

    return launch.start(config, command).path


def judge_run(name: str, path: str | Path) -> dict[str, Any]:
    """Say whether a finished run gives what was recorded.

    With a recorded seed on the same kind of machine, torch, threads, precision and code, its
    weights must be equal. Else its result must lie in the prediction interval of the recorded
    ones; where the machine is of another kind, or one run alone was recorded, it is only reported.

    Args:
        name: of a committed result, or a file.
        path: of the run.

    Returns:
        ``name``, ``run``, ``metric``, ``seed``, ``value``, ``recorded`` (``mean``, ``std``,
        ``n``), ``interval`` (None of one run), ``verdict`` (inside, outside, equal, different or
        reported), ``reason`` (why it is only reported, else empty) and ``changed``, keys in which
        the preset of that name is another recipe by now.

    Raises:
        UsageError: the run is not finished, or of another recipe.
    """
    recorded, run = read_recorded(name), open_run(path)
    value = _checked_value(recorded, run)
    values = recorded.values
    interval = prediction_interval(values) if len(values) > 1 else None
    other = [k for k, v in deciding(run.record).items() if v != getattr(recorded, k)]
    same = next((one for one in recorded.runs if one.seed == run.record.seed), None)
    if same is not None and not other:
        verdict = "equal" if _is_equal(same, value, run) else "different"
    elif interval is None or "device" in other:
        verdict = "reported"
    else:
        low, high = interval
        verdict = "inside" if low - _ROUNDING <= value <= high + _ROUNDING else "outside"
    reasons = {
        f"recorded on another kind of machine ({recorded.device})": "device" in other,
        "one run alone was recorded": interval is None,
    }
    return {
        "name": recorded.name,
        "run": str(run.path),
        "metric": recorded.metric,
        "seed": run.record.seed,
        "value": value,
        "recorded": {
            "mean": statistics.fmean(values),
            "std": statistics.stdev(values) if len(values) > 1 else None,
            "n": len(values),
            "date": recorded.date,
            "device": recorded.device,
            "torch": recorded.torch,
            "num_threads": recorded.num_threads,
        },
        "interval": None if interval is None else list(_possible(recorded.metric, interval)),
        "verdict": verdict,
        "reason": " and ".join(text for text, holds in reasons.items() if holds)
        if verdict == "reported"
        else "",
        "changed": changed_keys(recorded),
    }


def _is_equal(same: RecordedRun, value: float, run: RunDir) -> bool:
    return same.test == value and same.weights_sha256 == weights_sha256(run.path)


def _possible(metric: str, ends: tuple[float, float]) -> tuple[float, float]:
    """Return an interval without what the metric cannot be."""
    column = COLUMNS.get(metric)
    return ends if column is None else column.within(ends)


def _checked_value(recorded: RecordedResult, run: RunDir) -> float:
    """Return what a run scored, after a look at whether it is of the recorded recipe."""
    record = run.record
    if record.status != "done":
        raise UsageError(f"{run.path}: this run is {record.status}; expected a finished one")
    expected = dict(leaves(to_tree(recipe(recorded, (Setting("seed", (record.seed,)),)))))
    if dict(leaves(dict(recorded.config))).get("budget.seconds") is not None:
        # The first runs had the seconds, later ones have the work that these paid for.
        expected = {key: v for key, v in expected.items() if not key.startswith("budget.")}
    theirs = dict(leaves(to_tree(run.config)))
    wrong = [
        f"{key}={theirs.get(key)}, recorded {value}"
        for key, value in expected.items()
        if role_of(key).row == "value" and theirs.get(key) != value
    ]
    if wrong:
        raise UsageError(
            f"{run.path}: not a run of {recorded.name}: {'; '.join(wrong[:3])}; "
            f"'cnnbench reproduce {recorded.name}' trains one"
        )
    value = finite_number(record.results.get(recorded.metric))
    if value is None:
        raise CheckpointError(f"{run.record_file}: has no {recorded.metric}")
    return value
