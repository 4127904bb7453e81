"""Checked configs measured one after another, each job of a sweep in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from cnnbench.analysis.bench import measure
from cnnbench.config.run_config import RunConfig, read_config, to_tree
from cnnbench.device.device import resolve_device
from cnnbench.errors import CnnbenchError, UsageError, real_argument
from cnnbench.notices import notice
from cnnbench.tracking import format_seconds
from cnnbench.training import launch
from cnnbench.training.setup import Plan


def check(configs: Sequence[RunConfig], seconds: float) -> list[Plan]:
    """Find what can be known to be wrong before anything is measured.

    Args:
        configs: composed.
        seconds: for each measurement.

    Returns:
        What each run needs.

    Raises:
        UsageError: a config does not fit this machine, or resumes a run; or seconds are not > 0.
    """
    expected = "a number above 0"
    if not 0 < real_argument("--seconds ", seconds, expected) < float("inf"):
        raise UsageError(f"--seconds {seconds:g}: expected {expected}")
    for config in configs:
        if config.resume is not None:
            raise UsageError("resume: bench measures a config; give its settings")
    return [launch.check(config) for config in configs]


def measure_one(config: RunConfig, seconds: float) -> dict[str, Any]:
    """Check a config and measure it in this process; `cnnbench.bench` says what comes back."""
    [plan] = check([config], seconds)
    try:
        return measure(plan, seconds)
    except Exception as error:
        plain = launch.plain_error(error, config)
        if plain is None or plain is error:
            raise
        raise plain from error


def measure_jobs(jobs: Sequence[tuple[str, RunConfig]], seconds: float) -> list[dict[str, Any]]:
    """Measure the jobs of a sweep; one that fails leaves its sentence and not its numbers.

    Args:
        jobs: name and config of each.
        seconds: for each measurement.

    Returns:
        For each job ``job``, its name, and what ``measure_one`` returned, or ``error``; those
        whose device this machine lacks come first, with ``has_no_device``.

    Raises:
        UsageError: as ``check``.
    """
    missing = {name: text for name, config in jobs if (text := _missing_device(config))}
    there = [(name, config) for name, config in jobs if name not in missing]
    check([config for _, config in there or jobs], seconds)
    rows: list[dict[str, Any]] = []
    for name, text in missing.items():
        notice(f"{name}: not measured: {text}")
        rows.append({"job": name, "error": text, "has_no_device": True})
    since = time.monotonic()
    for number, (name, config) in enumerate(there, start=1):
        shown = f"[{number}/{len(there)}] {name}"
        each = (time.monotonic() - since) / max(1, number - 1)
        left = each * (len(there) - number + 1)
        notice(f"{shown}, about {format_seconds(left)} left" if number > 1 else shown)
        try:
            row = _measure_apart(config, seconds)
        except CnnbenchError as error:
            notice(f"{shown}: failed: {error}")
            row = {"error": str(error)}
        rows.append({"job": name, **row})
    return rows


def _missing_device(config: RunConfig) -> str:
    """Return why a config's device cannot be measured here, or nothing."""
    try:
        resolve_device(config.device.name)
    except UsageError as error:
        return str(error)
    return ""


def fastest_device(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Return a sentence with the setting to copy, where jobs differ in their device.

    Args:
        rows: as ``measure_jobs`` returned them.
    """
    rate = "train_images_per_second"
    by_device: dict[str, Mapping[str, Any]] = {}
    for row in sorted((row for row in rows if rate in row), key=lambda row: -row[rate]):
        setting = next((w for w in row["job"].split() if w.startswith("device=")), None)
        if setting is not None:
            by_device.setdefault(setting, row)
    if len(by_device) < 2:
        return None
    (first, best), (second, other) = list(by_device.items())[:2]
    ratio = best[rate] / other[rate]
    if best[f"{rate}_min"] <= other[f"{rate}_max"]:
        return f"{first} and {second} are equally fast within their spread ({ratio:.2f} times)"
    return f"fastest: {best['job']}, {ratio:.2f} times {second}; to train with it: {first}"


def _measure_apart(config: RunConfig, seconds: float) -> dict[str, Any]:
    """Measure in a fresh process, whose threads and memory no other job has touched."""
    code = "from cnnbench.analysis.bench_jobs import answer; answer()"
    question = json.dumps({"config": to_tree(config), "seconds": seconds})
    done = subprocess.run(
        [sys.executable, "-c", code], input=question, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise CnnbenchError(f"its process ended with code {done.returncode}")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if "error" in measured:
        raise CnnbenchError(measured["error"])
    return measured


def answer() -> None:
    """Measure the job that standard input names, and write the result as one line of JSON."""
    question = json.load(sys.stdin)
    try:
        measured = measure_one(read_config(question["config"]), question["seconds"])
    except CnnbenchError as error:
        measured = {"error": str(error)}
    print(json.dumps(measured), flush=True)
