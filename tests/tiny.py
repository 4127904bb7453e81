"""Runs of a second or less, and how to compare two of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

import cnnbench
from cnnbench.runs.checkpoint import Checkpoints
from cnnbench.training import trainer as runs

TINY = (
    "model=basic_cnn",
    "data=synthetic",
    "data.num_train=80",
    "data.num_test=30",
    "data.num_classes=3",
    "data.native_size=16",
    "data.batch_size=16",
    "num_epochs=2",
    "log_every_steps=1",
    "device=cpu",
    "device.num_threads=1",
    "device.precision=fp32",
)


def tiny(root: Path, *more: str) -> list[str]:
    """Return the settings of a tiny run; later ones win."""
    return [*TINY, f"output_root={root}", *more]


def train(root: Path, *more: str) -> Path:
    """Train a tiny run through the public door."""
    return cnnbench.train(tiny(root, *more))


def info(run: Path) -> dict[str, Any]:
    return json.loads((run / "run.json").read_text())


def records(run: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl without timings."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [
        {key: value for key, value in json.loads(line).items() if not key.startswith("perf/")}
        for line in lines
    ]


def series(run: Path, name: str) -> list[float]:
    return [record[name] for record in records(run) if name in record]


def weights(run: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return Checkpoints(run / "checkpoints").load(name)["model"]


def same(left: Any, right: Any) -> bool:
    """Compare nested values bit for bit."""
    if isinstance(left, torch.Tensor):
        return (
            isinstance(right, torch.Tensor)
            and left.dtype == right.dtype
            and left.shape == right.shape
            and torch.equal(_bytes(left), _bytes(right))
        )
    if isinstance(left, Mapping):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().flatten().view(torch.uint8)


def differences(left: Path, right: Path) -> list[str]:
    """Name what differs between two runs that should have gone the same way."""
    found = []
    ours, theirs = (Checkpoints(run / "checkpoints") for run in (left, right))
    for mark in ("best", "last"):
        if ours.manifest()[mark] != theirs.manifest()[mark]:
            found.append(mark)
        elif not same(ours.load(mark)["model"], theirs.load(mark)["model"]):
            found.append(f"weights of {mark}")
    states = [checkpoints.load("last", "state") for checkpoints in (ours, theirs)]
    for key in states[0]["train_state"] | states[1]["train_state"]:
        if not same(states[0]["train_state"].get(key), states[1]["train_state"].get(key)):
            found.append(key)
    kept = ("ended_epoch", "best_epoch", "best_value", "test_reads")
    if any(states[0]["progress"][key] != states[1]["progress"][key] for key in kept):
        found.append("progress")
    if records(left) != records(right):
        found.append("metrics.jsonl")
    results = [
        {k: v for k, v in info(run)["results"].items() if k != "train_seconds"}
        for run in (left, right)
    ]
    if results[0] != results[1]:
        found.append("results")
    return found


def command(*args: str, cwd: Path, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Run the real command."""
    return subprocess.run(
        [sys.executable, "-m", "cnnbench", *args],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def started(*args: str, cwd: Path, preamble: str = "") -> subprocess.Popen[str]:
    """Start the real command, after some Python of the test's own."""
    code = f"{preamble}\nimport sys\nfrom cnnbench.__main__ import main\nsys.exit(main())"
    return subprocess.Popen(
        [sys.executable, "-c", code, *args],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def signal_at(point: str, count: int, signum: int = signal.SIGKILL) -> str:
    """Return Python that makes a process signal itself at the n-th call of a function.

    Args:
        point: ``module:Class.function`` or ``module:function``.
        count: which call, from 1.
        signum: the signal.
    """
    module, _, path = point.partition(":")
    owner, _, name = path.rpartition(".")
    return f"""
import importlib, os
module = importlib.import_module({module!r})
owner = getattr(module, {owner!r}) if {owner!r} else module
original, calls = getattr(owner, {name!r}), 0
def counted(*args, **kwargs):
    global calls
    calls += 1
    if calls == {count}:
        os.kill(os.getpid(), {int(signum)})
    return original(*args, **kwargs)
setattr(owner, {name!r}, counted)
"""


def stop_when(monkeypatch: Any, wanted: Callable[[runs.Training], bool]) -> None:
    """Make the next runs in this process stop as soon as the training is at some place."""
    current: list[runs.Training] = []
    original = runs.Training.train

    def train_and_tell(self: runs.Training) -> None:
        current[:] = [self]
        original(self)

    monkeypatch.setattr(runs.Training, "train", train_and_tell)
    monkeypatch.setattr(
        "cnnbench.training.stop.StopRequest.reason",
        lambda self: "stopped by a test" if wanted(current[0]) else None,
    )


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, **more}
