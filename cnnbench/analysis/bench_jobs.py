"""Checked configs measured one after another, each job of a sweep in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from cnnbench.analysis.bench import measure
from cnnbench.config.run_config import RunConfig, read_config, to_tree
from cnnbench.errors import CnnbenchError, UsageError
from cnnbench.notices import notice
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
    if not 0 < seconds < float("inf"):
        raise UsageError(f"--seconds {seconds:g}: expected a number above 0")
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
        For each job ``job``, its name, and what ``measure_one`` returned, or ``error``.

    Raises:
        UsageError: as ``check``.
    """
    check([config for _, config in jobs], seconds)
    rows = []
    for number, (name, config) in enumerate(jobs, start=1):
        shown = f"[{number}/{len(jobs)}] {name}"
        notice(shown)
        try:
            row = _measure_apart(config, seconds)
        except CnnbenchError as error:
            notice(f"{shown}: failed: {error}")
            row = {"error": str(error)}
        rows.append({"job": name, **row})
    return rows


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
