"""Runs as a table needs them, read from ``run.json`` and ``metrics.jsonl`` alone."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cnnbench.config.settings import row_settings
from cnnbench.errors import CheckpointError, UsageError
from cnnbench.files import read_regular
from cnnbench.losses import LOSSES
from cnnbench.runs import columns
from cnnbench.runs.columns import Source, finite_number, whole_number
from cnnbench.runs.directory import RunDir, find_runs, path_of, tuning_of
from cnnbench.runs.provenance import changes, device_kind
from cnnbench.runs.record import PRUNED, RunRecord

# What a stranger's line of metrics may raise.
_MALFORMED = (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError)
_MAX_METRICS_BYTES = 1 << 30
_NEEDED = ("best_epoch", "train_seconds")
_REFERENCE = ("test_accuracy", "train_accuracy", "num_epochs", "epoch_seconds")


@dataclass(frozen=True)
class Record:
    """One finished run.

    Attributes:
        path: of its directory.
        started: when its first process did, in UTC, as text that sorts.
        seed: of initialisation, order and augmentation.
        fold: of its data, held out from training; None without folds.
        measured: the split that its results are of, test or val.
        settings: by dotted key all that decides its result but the seed, and what computed.
        facts: of the network, by the names of ``columns.facts``; None where it was not recorded.
        metrics: by the names of ``columns.metrics``; None where it was not measured.
        selection: what its epoch was selected on.
        test_reads: how often the test set was read.
        data_sha256: of its data.
        num_test: images that it was measured on; None where it was not recorded.
        num_train: training images, likewise.
        num_classes: logits of its network.
        class_names: what they stand for; None where it was not recorded.
        curves: by name, the values by epoch.
        code_version: of the package that started it; None where it was not recorded.
        resumed_with: what decides bits and changed when it was resumed, as ``changes`` says it.
        is_alone: whether no other job of its sweep ran beside it, so that its seconds count.
        computed_on: the kinds of device that trained it, in words; seconds of others are others.
        network: as ``run.json`` has it, unchecked.
        test_confusion: test images by [target][prediction]; None where it was not recorded.
        provenance: what it came from, as text by what it is.
        reference: a result of others that it stands beside, as ``read_reference`` gives it.
        num_left_out: images that training or choosing has seen, where its accuracy without them
            was asked for.
    """

    path: Path
    started: str
    seed: int
    fold: int | None
    measured: str
    settings: Mapping[str, Any]
    facts: Mapping[str, float | None]
    metrics: Mapping[str, float | None]
    selection: str
    test_reads: int
    data_sha256: str
    num_test: int | None
    num_train: int | None
    num_classes: int
    class_names: tuple[str, ...] | None
    curves: Mapping[str, Mapping[int, float]]
    code_version: str | None
    resumed_with: tuple[str, ...]
    is_alone: bool
    computed_on: str
    network: Mapping[str, Any]
    test_confusion: tuple[tuple[int, ...], ...] | None
    provenance: Mapping[str, str]
    reference: Mapping[str, Any] = field(default_factory=dict)
    num_left_out: int = 0

    @property
    def score(self) -> str:
        """The metric of the images it was measured on that its loss is compared by."""
        return _score(self.settings.get("loss"), self.measured)

    @property
    def is_number(self) -> bool:
        """Whether its network predicts a number; else classes."""
        loss = LOSSES.get(self.settings.get("loss", ""))
        return loss is not None and loss.is_number

    @property
    def accuracy(self) -> float | None:
        """On the images it was measured on; None where numbers are predicted."""
        return self.metrics[f"{self.measured}/accuracy"]

    @property
    def repetition(self) -> tuple[int, int]:
        """What tells it from the other runs of its row: fold (-1 without) and seed."""
        return -1 if self.fold is None else self.fold, self.seed

    @property
    def repetition_text(self) -> str:
        """That in words."""
        return repetition_text(self.repetition)

    @property
    def recipe(self) -> str:
        """Its settings and data as text: what runs have in common that only chance sets apart."""
        return _recipe(self.settings, self.data_sha256)


@dataclass(frozen=True)
class LeftOut:
    """A run that is in no row.

    Attributes:
        path: of its directory.
        status: running, dead, failed, interrupted, foreign, pruned, or done.
        reason: in a few words.
        recipe: of one that failed, as of ``Record``.
        repetition: of one that failed, likewise.
    """

    path: Path
    status: str
    reason: str
    recipe: str = ""
    repetition: tuple[int, int] = (-1, 0)


def repetition_text(repetition: tuple[int, int]) -> str:
    """Return a fold (-1 without) and a seed in words."""
    fold, seed = repetition
    return f"{'' if fold < 0 else f'fold {fold}, '}seed {seed}"


def _recipe(settings: Mapping[str, Any], data_sha256: str) -> str:
    # Who reads the test images later trains as before.
    kept = {key: value for key, value in settings.items() if key != "evaluate_test"}
    return json.dumps([kept, data_sha256], sort_keys=True)


def read_runs(
    paths: Sequence[str | Path], *, pruned: bool = False
) -> tuple[list[Record], list[LeftOut]]:
    """Return the runs at and below paths, in the order of their paths, each once.

    Args:
        paths: of runs, or directories.
        pruned: whether those count that a search gave up.

    Raises:
        UsageError: a path holds no run.
    """
    records: list[Record] = []
    left_out: list[LeftOut] = []
    found: dict[Path, RunDir] = {}
    for run in (run for path in paths for run in _runs_at(path)):
        found.setdefault(run.path.resolve(), run)  # a link to a run is that run
    for run in sorted(found.values(), key=lambda run: run.path):
        try:
            found_run = read_run(run, pruned=pruned)
        except CheckpointError as error:
            found_run = LeftOut(run.path, "foreign", str(error).partition(": ")[2])
        if isinstance(found_run, Record):
            records.append(found_run)
        else:
            left_out.append(found_run)
    return records, left_out


def _runs_at(path: str | Path) -> Iterator[RunDir]:
    root = path_of(path)
    first = None
    for first in find_runs(root):
        yield first
    if first is None:
        what = "holds no run" if root.is_dir() else "there is no such directory"
        raise UsageError(f"{path}: {what}; see 'cnnbench runs list'")


def read_run(run: RunDir, *, pruned: bool = False) -> Record | LeftOut:
    """Return what a table needs of one run, or why it is in no table.

    Args:
        run: its directory.
        pruned: whether it counts where a search gave it up.

    Raises:
        CheckpointError: ``run.json`` is damaged or foreign.
    """
    record = run.record
    status = run.current_status(record)
    if status == "dead":
        return LeftOut(run.path, "dead", "says running, but no process holds it")
    model, data = record.model, record.data
    settings, measured = _settings(record), data.measured or "test"
    fold = whole_number(record.config["data"].get("fold"))
    if status != "done":
        reason = _reason(record.reason or "") or f"is {status}"
        if status != "failed":
            return LeftOut(run.path, status, reason)
        repetition = -1 if fold is None else fold, record.seed
        return LeftOut(run.path, status, reason, _recipe(settings, data.sha256), repetition)
    results = {**record.results, **tuning_of(run.path.parent)}
    if record.reason == PRUNED and not pruned:
        return LeftOut(run.path, PRUNED, "its search gave it up; --pruned shows it")
    # Such a run left the test images to a later reading.
    is_tested = measured != "test" or settings.get("evaluate_test") is not False
    score = _score(settings.get("loss"), measured)
    if finite_number(results.get(score)) is not None:
        # Whoever read them, training was the same, and so is the recipe.
        settings["evaluate_test"] = True
    needed = (*([score] if is_tested else []), *_NEEDED)
    missing = [name for name in needed if finite_number(results.get(name)) is None]
    if missing:
        return LeftOut(run.path, "foreign", f"its results lack {', '.join(missing)}")
    curves = read_curves(run.metrics)
    source = Source(results, model, curves)
    return Record(
        path=run.path,
        started=record.provenance.processes[0].started,
        seed=record.seed,
        fold=fold,
        measured=measured,
        settings=settings,
        facts={column.name: column.value(source) for column in columns.facts()},
        metrics={column.name: column.value(source) for column in columns.metrics()},
        selection=str(results.get("selection", record.config.get("selection"))),
        test_reads=record.test_reads or int(measured == "test" and is_tested),
        data_sha256=data.sha256,
        num_test=data.num_test if measured == "test" else data.num_val,
        num_train=data.num_train,
        num_classes=data.num_classes,
        class_names=data.class_names,
        curves=curves,
        code_version=record.provenance.code_version,
        resumed_with=tuple(changes(record.provenance.processes)),
        is_alone=not any(process.beside for process in record.provenance.processes),
        computed_on=" and ".join(
            dict.fromkeys(str(device_kind(p) or "unknown") for p in record.provenance.processes)
        ),
        network=model,
        test_confusion=record.test_confusion,
        provenance=_provenance(record),
        reference=read_reference(record.config),
    )


def _reason(text: str) -> str:
    """Return the first line of a reason, without a sentence that leads to the next one."""
    line = text.partition("\n")[0]
    before, _, last = line.rpartition(". ")
    return f"{before}." if before and last.endswith(":") else line


def _score(loss: Any, split: str) -> str:
    """Return the metric that a loss is compared by; one of a later version has accuracy."""
    return f"{split}/{LOSSES[loss].metric if loss in LOSSES else 'accuracy'}"


def _provenance(record: RunRecord) -> dict[str, str]:
    """Return what a run says of its making; nothing in it is trusted to be there."""
    process, data = record.provenance.processes[-1], record.data
    machine = process.machine
    counts = {"train": data.num_train, "val": data.num_val, "test": data.num_test}
    parts: dict[str, list[Any]] = {
        "started": [process.started],
        "command": [shlex.join(record.command)] if record.command else [],
        "machine": [
            device_kind(process),
            f"{machine['cores']} cores" if "cores" in machine else None,
            machine.get("platform"),
        ],
        "versions": [
            f"{name} {machine[name]}" for name in ("python", "torch", "cuda") if machine.get(name)
        ],
        "data": [data.source],
        "images": [f"{count} {split}" for split, count in counts.items() if count is not None],
    }
    texts = {name: ", ".join(str(p) for p in found if p) for name, found in parts.items()}
    return {name: text for name, text in texts.items() if text}


def read_reference(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a recorded config says of a result of others; empty where it names none.

    Args:
        config: as ``run.json`` has it, from a file: anything may be in it.

    Returns:
        ``source``, and ``test_accuracy``, ``train_accuracy``, ``num_epochs`` and
        ``epoch_seconds``, None where they were not recorded.
    """
    node = config.get("reference")
    if not isinstance(node, Mapping) or not isinstance(node.get("source"), str):
        return {}
    return {
        "source": node["source"],
        **{name: finite_number(node.get(name)) for name in _REFERENCE},
    }


def _settings(record: RunRecord) -> dict[str, Any]:
    """Return the settings under the keys that a person types: ``model``, not ``model.name``."""
    provenance = record.provenance
    settings = row_settings(
        record.config,
        effective=provenance.processes[-1].effective,
        files=provenance.model_files,
    )
    # A record has it of its own, as the results say it.
    del settings["selection"]
    return settings


def read_curves(file: Path) -> dict[str, dict[int, float]]:
    """Return the values of each metric of whole epochs, by epoch; a torn last line is nothing."""
    curves: dict[str, dict[int, float]] = {}
    try:
        text = read_regular(file, _MAX_METRICS_BYTES).decode(errors="replace")
    except OSError:
        return curves
    for line in text.splitlines():
        # Steps are most of the lines, and are not needed: they are not parsed.
        if '"train/loss"' not in line:
            continue
        try:
            record = json.loads(line)
            epoch = int(record["epoch"])
            numbers = {name: finite_number(value) for name, value in record.items()}
        except _MALFORMED:
            continue
        for name, number in numbers.items():
            if number is not None:
                curves.setdefault(name, {})[epoch] = number
    return curves
