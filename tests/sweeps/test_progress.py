"""The time that a sweep has left."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tiny import TINY, command

from cnnbench.sweeps.progress import JobState, SweepView, seconds_left


def test_the_time_left_counts_starts_and_ends_of_jobs() -> None:
    done = JobState("a", "a", status="done", fraction=1.0, seconds=10.0, other_seconds=5.0)
    running = JobState("b", "b", status="running", fraction=0.5, seconds=5.0)
    waiting = [JobState(name, name) for name in "cd"]
    assert seconds_left([done, running, *waiting], slots=1) == 5 + 15 + 15
    assert seconds_left([done, running, *waiting], slots=2) == 17.5
    assert seconds_left([done, waiting[0]], slots=2) == 15
    assert seconds_left(waiting, slots=1) is None


def test_what_a_job_took_beside_training_is_read_from_its_files(tmp_path: Path) -> None:
    done = command("train", "-m", *TINY, "seed=0,1", "sweep.name=s", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    root = tmp_path / "outputs" / "sweeps" / "s"
    for job in SweepView(root).refresh():
        directory = root / "jobs" / job.run
        started = (directory / "job.json").stat().st_mtime
        lasted = (directory / "lease-1.json").stat().st_mtime - started
        results = json.loads((root / job.run / "run.json").read_text())["results"]
        assert lasted > results["train_seconds"]
        assert job.other_seconds == pytest.approx(lasted - results["train_seconds"])
        (directory / "lease-1.json").rename(directory / "lease-2.json")  # of two processes
        os.utime(directory / "lease-2.json")
    assert {job.other_seconds for job in SweepView(root).refresh()} == {None}
