"""One run's numbers, derived anew from its predictions, its config and its log."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cnnbench.analysis.compare.records import read_curves
from cnnbench.errors import CheckpointError, CnnbenchError
from cnnbench.files import read_regular
from cnnbench.losses import LOSSES
from cnnbench.runs.directory import RunDir
from cnnbench.runs.predictions import read_answers, read_log_probabilities
from cnnbench.runs.provenance import code_version, run_key
from cnnbench.runs.record import RunRecord

# Two ways to the same number differ in their last digits, on another machine too.
_RELATIVE, _ABSOLUTE = 1e-6, 1e-9
# Of log-probabilities in float16: half a step, relative to their size, and near zero.
_HALF_STEP, _SMALLEST_STEP = 2.0**-11, 2.0**-24
_FACTS = ("num_params", "macs", "receptive_field", "linear_share")
_MAX_CONFIG_BYTES = 4 << 20


@dataclass
class Checks:
    """What came of a package's numbers.

    Attributes:
        equal: how often each was recomputed and is as recorded, by what it is.
        recorded: how many nothing in the package gives, likewise.
        differs: each that is not as recorded: ``where``, ``what``, ``recorded``, ``recomputed``.
        reasons: why something could not be recomputed, with where that is so.
    """

    equal: Counter[str] = field(default_factory=Counter)
    recorded: Counter[str] = field(default_factory=Counter)
    differs: list[dict[str, Any]] = field(default_factory=list)
    reasons: dict[str, list[str]] = field(default_factory=dict)

    def compare(
        self, where: str, what: str, recorded: Any, recomputed: Any, tolerance: float = 0.0
    ) -> None:
        """Take note of whether a number is the recorded one.

        Args:
            where: in the package.
            what: it is.
            recorded: as the package says it.
            recomputed: as it should be.
            tolerance: by which numbers may differ beside rounding.
        """
        if recorded is recomputed is None:
            return
        if is_same(recorded, recomputed, tolerance):
            self.equal[what] += 1
            return
        self.differs.append(
            {"where": where, "what": what, "recorded": recorded, "recomputed": recomputed}
        )

    def note(self, where: str, reason: str) -> None:
        """Take note of why something of a file or run could not be recomputed."""
        self.reasons.setdefault(reason, []).append(where)

    def notes(self) -> list[str]:
        """Return each reason once, with where it holds."""
        return [
            f"{places[0]}{f' and {len(places) - 1} more' if len(places) > 1 else ''}: {reason}"
            for reason, places in self.reasons.items()
        ]


def is_same(recorded: Any, recomputed: Any, tolerance: float = 0.0) -> bool:
    """Tell whether two plain values are equal, numbers up to rounding."""
    pair = (recorded, recomputed)
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in pair):
        if all(isinstance(value, int) for value in pair):
            return bool(recorded == recomputed)
        try:
            near = math.isclose(recorded, recomputed, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE)
            return near or abs(recorded - recomputed) <= tolerance
        except OverflowError:
            return False
    return type(recorded) is type(recomputed) and bool(recorded == recomputed)


def check_run(path: Path, where: str, checks: Checks) -> None:
    """Derive a run's numbers anew.

    Args:
        path: of the unpacked run.
        where: its name in the package.
        checks: are told of each.
    """
    run = RunDir(path)
    try:
        record = run.record
    except CheckpointError as error:
        checks.note(where, _reason(error, path))
        checks.compare(where, "run.json", "readable", "not readable")
        return
    left = set(record.results) - {"selection", "test_reads"}
    left -= _check_predictions(record, path, where, checks)
    left -= _check_log(record, path, where, checks)
    left -= _check_network(run, record, where, checks)
    _check_config(run, record, where, checks)
    checks.recorded.update(sorted(left))


def _reason(error: Exception, path: Path) -> str:
    return str(error).replace(f"{path}/", "").partition("\n")[0]


def _check_predictions(record: RunRecord, path: Path, where: str, checks: Checks) -> set[str]:
    """Compare what the predictions give; return the names of the results that they gave."""
    try:
        answers, shifted = read_answers(path), read_log_probabilities(path)
    except CheckpointError as error:
        checks.note(where, _reason(error, path))
        checks.compare(where, "predictions.npz", "readable", "not readable")
        return set()
    if answers is None or shifted is None:
        checks.note(where, "has no predictions, so that its test results are recorded only")
        return set()
    targets, predicted = answers.targets.astype(np.int64), answers.predictions.astype(np.int64)
    size = record.data.num_classes
    fits = len(shifted) == len(targets) and shifted.shape[1] == size
    fits = fits and max(targets.max(), predicted.max()) < size
    checks.compare(where, "shape of the predictions", True, bool(fits))
    if not fits:
        return set()
    rows = np.arange(len(targets))
    largest = shifted[rows, predicted] == 0
    checks.compare(where, "predicted classes", len(targets), int(largest.sum()))
    split = record.data.measured or "test"  # a fold of a data set with a test part validates
    size_of = {"test": record.data.num_test, "val": record.data.num_val}[split]
    if size_of is not None:
        checks.compare(where, f"{split} images", size_of, len(targets))
    results, found = record.results, {f"{split}/accuracy"}
    checks.compare(where, f"{split}/accuracy", results.get(f"{split}/accuracy"), answers.accuracy)
    if (name := f"{split}/loss") in results:
        loss, rounding = _loss(shifted, targets)
        checks.compare(where, name, results[name], loss, rounding)
        found.add(name)
    if record.test_confusion is not None:
        counts = np.bincount(targets * size + predicted, minlength=size * size)
        table = [list(row) for row in record.test_confusion]
        checks.compare(where, "test_confusion", table, counts.reshape(size, size).tolist())
    return found


def _loss(shifted: np.ndarray[Any, Any], targets: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Return the mean negative log-likelihood in nats, and how far float16 may move it."""
    logits = shifted.astype(np.float64)
    exponentials = np.exp(logits)
    totals = exponentials.sum(axis=1, keepdims=True)
    of_target = logits[np.arange(len(targets)), targets]
    losses = np.log(totals[:, 0]) - of_target
    steps = np.abs(logits) * _HALF_STEP + _SMALLEST_STEP
    moved = (exponentials / totals * steps).sum(axis=1) + np.abs(of_target) * _HALF_STEP
    # float32 sums of thousands of losses, as training adds them.
    return float(losses.mean()), float(moved.mean()) + 1e-5 * float(losses.mean()) + _SMALLEST_STEP


def _check_log(record: RunRecord, path: Path, where: str, checks: Checks) -> set[str]:
    """Compare the selected epoch's numbers with the log's; return the names of what it has."""
    curves, results, found = read_curves(path / "metrics.jsonl"), record.results, set()
    epoch = results.get("best_epoch")
    for name, value in results.items():
        logged = curves.get(name, {}).get(epoch) if type(epoch) is int else None
        if name.startswith("val/") and logged is not None:
            checks.compare(where, f"{name} of the log", value, logged)
            found.add(name)
    values = curves.get("val/accuracy", {})
    if results.get("selection") == "val/accuracy" and values:
        best = max(values.values())
        checks.compare(
            where, "best_epoch", epoch, min(at for at, value in values.items() if value == best)
        )
        found.add("best_epoch")
    return found


def _check_network(run: RunDir, record: RunRecord, where: str, checks: Checks) -> set[str]:
    """Measure a network of the registry anew; return the names of the results that it gave."""
    from cnnbench.models.build import is_foreign, measure_network

    facts = record.model
    shown = [name for name in _FACTS if facts.get(name) is not None]
    try:
        config = run.config
        if is_foreign(config.model.name):
            checks.note(where, "a network of someone's own, whose code is not run")
            checks.recorded.update(shown)
            return set()
        sizes = {
            "in_channels": int(facts["in_channels"]),
            "num_classes": LOSSES[config.loss.name].width(record.data.num_classes),
            "image_size": config.data.image_size,
        }
        network = measure_network(config.model.name, config.model.args, **sizes)
    except (
        CnnbenchError,
        RuntimeError,
        ArithmeticError,
        LookupError,
        TypeError,
        ValueError,
        AssertionError,
        MemoryError,
    ) as error:
        checks.note(where, f"its network cannot be measured: {_reason(error, run.path)}")
        checks.recorded.update(shown)
        return set()
    for name in shown:
        checks.compare(where, name, facts[name], getattr(network, name))
    if "train_tflop" not in record.results or record.data.num_train is None:
        return set()
    tflop = _tflop(config, record.data.num_train, network.macs, run.path)
    if tflop is None:
        return set()
    checks.compare(where, "train_tflop", record.results["train_tflop"], tflop)
    return {"train_tflop"}


def _tflop(config: Any, num_train: int, macs: int, path: Path) -> float | None:
    """Return the work of the steps that the log counts, in 10^12 operations, as ``Setup`` does."""
    from cnnbench.data.loader import BatchOrder

    steps = read_curves(path / "metrics.jsonl").get("global_step", {})
    data = config.data
    if not steps or not num_train:
        return None
    order = BatchOrder(num_train, data.batch_size, shuffle=False, drop_last=data.drop_last, seed=0)
    of_epoch = (len(order) - 1) * min(data.batch_size, num_train) + order.last_batch_size
    epochs, rest = divmod(int(max(steps.values())), len(order))
    return 6e-12 * macs * float(epochs * of_epoch + rest * data.batch_size)


def _check_config(run: RunDir, record: RunRecord, where: str, checks: Checks) -> None:
    """Compare the config with its file, and make the run key anew."""
    import yaml

    try:
        text = read_regular(run.config_file, _MAX_CONFIG_BYTES)
        tree = yaml.safe_load(text)
        checks.compare(where, "config.yaml", dict(record.config), tree)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        checks.compare(where, "config.yaml", "readable", "not readable")
    checks.compare(where, "seed", record.seed, record.config.get("seed"))
    provenance = record.provenance
    if provenance.run_key is None:
        return
    version, fingerprint = provenance.code_version, provenance.data_fingerprint
    try:
        if version is None or fingerprint is None:
            raise ValueError("its record does not say what the key was made from")
        key = run_key(
            run.config,
            data_fingerprint=fingerprint,
            code_version=version,
            model_files=provenance.model_files,
        )
    except (CnnbenchError, ValueError) as error:
        checks.note(where, f"run_key is recorded only: {_reason(error, run.path)}")
        checks.recorded["run_key"] += 1
        return
    if key != provenance.run_key and version != code_version():
        # Which keys of a config count is part of the code.
        checks.note(where, f"run_key is recorded only: it was made by code {version}")
        checks.recorded["run_key"] += 1
        return
    checks.compare(where, "run_key", provenance.run_key, key)
