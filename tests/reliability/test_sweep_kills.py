"""A sweep under ``kill -9`` at random, of its command and of the processes of its jobs."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from tiny import TINY, differences, info

import cnnbench
from cnnbench.sweeps.lease import read_lease

WORDS = (*TINY, "model=softmax", "optimizer=sgd", "data.native_size=8", "sweep.name=s")
WORDS = (*WORDS, "save_every_steps=2", "checkpoint.keep_last=2")


def run_killing(
    root: Path, words: Sequence[str], kills: int, seconds: float
) -> tuple[dict[str, int], int]:
    """Run a sweep to its end while processes of it are killed.

    Returns:
        How many were killed of each kind, and how often the command was started.
    """
    draw, killed, starts = random.Random(0), {"command": 0, "job": 0}, 0
    argv = [sys.executable, "-m", "cnnbench", "train", "-m", *words, f"output_root={root}"]
    jobs, until = root / "sweeps" / "s" / "jobs", time.monotonic() + seconds
    process = None
    while True:
        assert time.monotonic() < until, (killed, starts)
        if process is None or process.poll() is not None:
            if process is not None and process.returncode == 0:
                return killed, starts
            # 1: a job whose process was killed failed in this command, and the next one resumes it.
            assert process is None or process.returncode in (1, -signal.SIGKILL)
            process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            starts += 1
        time.sleep(draw.uniform(0.02, 0.5))
        if sum(killed.values()) >= kills:
            continue
        owners = {}
        for directory in jobs.glob("*"):
            lease = read_lease(directory)
            is_running = lease is not None and lease.is_held and not lease.is_queued
            if is_running and "pid" in lease.owner and not lease.is_owner_dead():
                owners[directory.name] = lease.owner["pid"]
        kind = draw.choices(("command", "job"), (1, 2))[0]
        if kind == "command" and owners:
            process.kill()
            process.wait()
        elif kind == "job" and owners:
            os.kill(draw.choice(sorted(owners.values())), signal.SIGKILL)
        else:
            continue
        killed[kind] += 1


def check(root: Path, num_jobs: int, expected: Path, num_compared: int) -> None:
    """Compare a sweep that was killed with one that was not."""
    sweep, alone = (found / "sweeps" / "s" for found in (root, expected))
    names = [job["run"] for job in json.loads((alone / "sweep.json").read_text())["jobs"]]
    assert len(names) == num_jobs
    assert sorted(file.parent.name for file in sweep.glob("*/run.json")) == sorted(names)
    for name in names:
        ours, theirs = info(sweep / name), info(alone / name)
        assert ours["status"] == "done"
        measured = ("train_seconds", "images_per_second", "step_ms")
        columns = [
            {k: v for k, v in found["results"].items() if k not in measured}
            for found in (ours, theirs)
        ]
        assert columns[0] == columns[1]
        # Trained to its end once: the log tells the test's accuracy each time.
        log = (sweep / "jobs" / name / "log.txt").read_text()
        assert log.count("test accuracy") == 1
    for name in names[:num_compared]:
        assert differences(sweep / name, alone / name) == []


@pytest.mark.skipif(sys.platform != "linux", reason="kills processes by number")
@pytest.mark.parametrize(
    ("num_jobs", "kills", "epochs"),
    [(3, 3, 20), pytest.param(24, 200, 60, marks=pytest.mark.slow)],
)
def test_kills_at_random_lose_no_job_and_run_none_twice(
    num_jobs: int, kills: int, epochs: int, tmp_path: Path
) -> None:
    words = [*WORDS, f"seed=range(0,{num_jobs})", f"num_epochs={epochs}", "hydra.launcher.slots=2"]
    killed, starts = run_killing(tmp_path / "killed", words, kills, 3000)
    print(f"killed {killed}, {starts} starts")
    assert sum(killed.values()) >= 1
    _, num_failed = cnnbench.train_sweep([*words, f"output_root={tmp_path / 'alone'}"])
    assert num_failed == 0
    check(tmp_path / "killed", num_jobs, tmp_path / "alone", 24)
