"""Runs as a table needs them, read from ``run.json`` and ``metrics.jsonl`` alone."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from cnnbench.config.run_config import expand_path
from cnnbench.config.settings import row_settings
from cnnbench.errors import CheckpointError, UsageError
from cnnbench.runs.directory import RunDir, find_runs

FACTS = ("num_params", "macs", "receptive_field")
METRICS = (
    "epoch_seconds",
    "images_per_second",
    "train_seconds",
    "best_epoch",
    "val/accuracy",
    "val/loss",
    "test/accuracy",
    "test/loss",
)
_MALFORMED = (
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)
_NEEDED = ("test/accuracy", "best_epoch", "train_seconds")
# No training gives a larger number, and sums of squares of these stay finite.
_LARGEST = 1e100


@dataclass(frozen=True)
class Record:
    """One finished run.

    Attributes:
        path: of its directory.
        started: when its first process did, as text that sorts.
        seed: of initialisation, order and augmentation.
        settings: by dotted key all that decides its result but the seed, and what computed.
        facts: of the network, by ``FACTS``.
        metrics: by ``METRICS``; None where it was not measured.
        selection: what its epoch was selected on.
        test_reads: how often the test set was read.
        data_sha256: of its data.
        num_classes: logits of its network.
        class_names: what they stand for; None where it was not recorded.
        curves: by name, the values by epoch.
        code_version: of the package that trained it; None where it was not recorded.
        network: as ``run.json`` has it, unchecked.
        test_confusion: test images by [target][prediction]; None where it was not recorded.
        provenance: what it came from, as text by what it is.
    """

    path: Path
    started: str
    seed: int
    settings: Mapping[str, Any]
    facts: Mapping[str, int | None]
    metrics: Mapping[str, float | None]
    selection: str
    test_reads: int
    data_sha256: str
    num_classes: int
    class_names: tuple[str, ...] | None
    curves: Mapping[str, Mapping[int, float]]
    code_version: str | None
    network: Mapping[str, Any]
    test_confusion: tuple[tuple[int, ...], ...] | None
    provenance: Mapping[str, str]


@dataclass(frozen=True)
class LeftOut:
    """A run that is in no row.

    Attributes:
        path: of its directory.
        status: running, dead, failed, interrupted, foreign, or done.
        reason: in a few words.
    """

    path: Path
    status: str
    reason: str


def read_runs(paths: Sequence[str | Path]) -> tuple[list[Record], list[LeftOut]]:
    """Return the runs at and below paths, in the order of their paths, each once.

    Raises:
        UsageError: a path holds no run.
    """
    records: list[Record] = []
    left_out: list[LeftOut] = []
    found = {run.path: run for path in paths for run in _runs_at(path)}
    for _, run in sorted(found.items()):
        try:
            came = read_run(run)
        except CheckpointError as error:
            came = LeftOut(run.path, "foreign", str(error).partition(": ")[2])
        except _MALFORMED as error:
            came = LeftOut(run.path, "foreign", f"its run.json is not one of ours ({error!r})")
        if isinstance(came, Record):
            records.append(came)
        else:
            left_out.append(came)
    return records, left_out


def _runs_at(path: str | Path) -> Iterator[RunDir]:
    root = expand_path(str(path))
    first = None
    for first in find_runs(root):
        yield first
    if first is None:
        what = "holds no run" if root.is_dir() else "there is no such directory"
        raise UsageError(f"{path}: {what}; see 'cnnbench runs list'")


def read_run(run: RunDir) -> Record | LeftOut:
    """Return what a table needs of one run, or why it is in no table.

    Raises:
        CheckpointError: ``run.json`` is damaged or foreign.
        LookupError: it lacks something; or another of ``_MALFORMED``, for a wrong type.
    """
    info = run.info
    status = info["status"]
    if status == "running" and not run.is_held():
        return LeftOut(run.path, "dead", "says running, but no process holds it")
    if status != "done":
        reason = str(info.get("reason", "")).partition("\n")[0]
        return LeftOut(run.path, status, reason or f"is {status}")
    results, model, data = info["results"], info["model"], info["data"]
    missing = [name for name in _NEEDED if _number(results.get(name)) is None]
    if missing:
        return LeftOut(run.path, "foreign", f"its results lack {', '.join(missing)}")
    curves = _curves(run.metrics)
    measured: dict[str, float | None] = {
        name: _number(results.get(name)) for name in METRICS if name in results
    }
    for name in ("epoch_seconds", "images_per_second"):
        values = curves.get(f"perf/{name}", {}).values()
        measured[name] = fmean(values) if values else None
    process = info["provenance"]["processes"][-1]
    names = data.get("class_names")
    version = info["provenance"].get("code_version")
    return Record(
        path=run.path,
        started=str(info["provenance"]["processes"][0].get("started", "")),
        seed=int(info["seed"]),
        settings=_settings(info, process["in_force"]),
        facts={name: _count(model.get(name)) for name in FACTS},
        metrics={name: measured.get(name) for name in METRICS},
        selection=str(results.get("selection", info["config"]["selection"])),
        test_reads=int(results.get("test_reads", 1)),
        data_sha256=str(data["sha256"]),
        num_classes=int(data["num_classes"]),
        class_names=tuple(map(str, names)) if isinstance(names, list) else None,
        curves=curves,
        code_version=None if version is None else str(version),
        network=model,
        test_confusion=_confusion(info.get("test_confusion"), int(data["num_classes"])),
        provenance=_provenance(info, process),
    )


def _confusion(value: Any, num_classes: int) -> tuple[tuple[int, ...], ...] | None:
    """Return a square of counts; None for all else."""
    if not isinstance(value, list) or len(value) != num_classes:
        return None
    rows = [tuple(map(_count, row)) if isinstance(row, list) else () for row in value]
    found = tuple(tuple(n for n in row if n is not None) for row in rows)
    return found if all(len(row) == num_classes for row in found) else None


def _provenance(info: Mapping[str, Any], process: Mapping[str, Any]) -> dict[str, str]:
    """Return what a run says of its making; nothing in it is trusted to be there."""
    machine, command = process.get("machine"), info.get("command")
    machine = machine if isinstance(machine, Mapping) else {}
    parts: dict[str, list[Any]] = {
        "started": [process.get("started")],
        "command": [shlex.join(map(str, command))] if isinstance(command, list) else [],
        "machine": [
            process["in_force"].get("device_name"),
            f"{machine['cores']} cores" if "cores" in machine else None,
            machine.get("platform"),
        ],
        "versions": [
            f"{name} {machine[name]}" for name in ("python", "torch", "cuda") if machine.get(name)
        ],
        "data": [info["data"].get("source")],
        "images": [
            f"{info['data'][key]} {key.removeprefix('num_')}"
            for key in ("num_train", "num_val", "num_test")
            if key in info["data"]
        ],
    }
    texts = {name: ", ".join(str(p) for p in found if p) for name, found in parts.items()}
    return {name: text for name, text in texts.items() if text}


def _settings(info: Mapping[str, Any], in_force: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings under the keys that a person types: ``model``, not ``model.name``."""
    files = info["provenance"].get("model_files", {})
    settings = row_settings(info["config"], effective=in_force, files=files)
    # A record has it of its own, as the results say it.
    del settings["selection"]
    for group in ("model", "data"):
        if not isinstance(settings[group], str):
            raise TypeError(f"config.{group}.name is no name")
    return settings


def _curves(file: Path) -> dict[str, dict[int, float]]:
    """Return the values of each metric of whole epochs, by epoch; a torn last line is nothing."""
    curves: dict[str, dict[int, float]] = {}
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return curves
    for line in lines:
        # Steps are most of the lines, and are not needed: they are not parsed.
        if '"train/loss"' not in line:
            continue
        try:
            record = json.loads(line)
            epoch = int(record["epoch"])
            numbers = {name: _number(value) for name, value in record.items()}
        except _MALFORMED:
            continue
        for name, number in numbers.items():
            if number is not None:
                curves.setdefault(name, {})[epoch] = number
    return curves


def _number(value: Any) -> float | None:
    """Return a finite number, or None for all else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if math.isfinite(value) and abs(value) < _LARGEST else None


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < 2**63 else None
