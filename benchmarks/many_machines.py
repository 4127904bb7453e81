"""On paper: how long many runs take on many workers, and what limits them.

    python benchmarks/many_machines.py [--workers 100] [--format text|markdown|csv|json]

Simulates one sweep on a cluster. What one job costs its command (taking it, writing its files,
reading how it ended) and what `compare` takes for a run are measured here, on this machine and its
disk; a job's seconds are those of `docs/scaling.md`, with a spread. What a network's file system
and a scheduler add is no measurement but an assumption, and named in the row.
"""

from __future__ import annotations

import argparse
import heapq
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from many_runs import measure, write_runs

from cnnbench.config.command import single_config
from cnnbench.config.compose import Composer
from cnnbench.rendering.text import FORMATS, render_table
from cnnbench.sweeps.job import write_job
from cnnbench.sweeps.lease import claim, read_lease, release

COLUMNS = (
    "runs",
    "job",
    "assumed",
    "hours",
    "ideal_hours",
    "workers_busy",
    "limit",
    "compare_seconds",
)
# Training seconds of a job: LeNet, 12 epochs of digits, as measured; and one of ten minutes.
_JOB_SECONDS = {"LeNet on digits": 1.33, "10 minutes": 600.0}
_SPREAD = 0.2
# Files that are made, replaced, listed or read for one job, by its command.
_FILE_STEPS = 14
# Assumed: seconds of one such step on a network's file system; jobs a scheduler starts a second.
_ASSUMED = {
    "local disk": (0.0, None),
    "2 ms a file step": (0.002, None),
    "2 ms, 1 start a second": (0.002, 1.0),
}


def command_seconds(repeats: int = 200) -> float:
    """Measure what one job costs the command of its sweep, its file steps on this disk included."""
    composer = Composer()
    config = single_config(composer, composer.parse(["model=lenet", "data=digits"]))
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(repeats):
            directory = Path(folder) / str(number)
            started = time.perf_counter()
            directory.mkdir()
            read_lease(directory)
            claim(directory, 1)
            write_job(directory, config, ["cnnbench"], 60.0)
            lease = read_lease(directory)
            assert lease is not None
            release(directory, lease, 0, "")
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def simulate(
    runs: int, workers: int, job: float, of_command: float, starts: float | None
) -> tuple[float, float]:
    """Return the seconds until the last job ended, and the part of them that workers were busy.

    Args:
        runs: jobs of the sweep.
        workers: that run one each.
        job: mean seconds of a job.
        of_command: seconds that the command spends on each job, one after another.
        starts: jobs that the scheduler starts a second; None for any number.
    """
    draw = random.Random(0)
    free, command, scheduler, work = [0.0] * workers, 0.0, 0.0, 0.0
    for _ in range(runs):
        ready = heapq.heappop(free)
        command = max(command, ready) + of_command
        begins = command
        if starts is not None:
            begins = scheduler = max(scheduler + 1 / starts, command)
        seconds = max(0.1 * job, draw.gauss(job, _SPREAD * job))
        work += seconds
        heapq.heappush(free, begins + seconds)
    end = max(free)
    return end, work / (end * workers)


def compare_seconds(runs: int) -> float:
    """Measure ``compare`` for so many runs of 1,000 test images."""
    with tempfile.TemporaryDirectory() as folder:
        write_runs(Path(folder), runs, 1000)
        return measure(Path(folder), runs)[0]


def rows(workers: int) -> list[dict[str, Any]]:
    """Measure, simulate, and return a row for each case."""
    own = command_seconds()
    small, large = compare_seconds(100), compare_seconds(1000)
    each = (large - small) / 900
    found = []
    for runs in (1_000, 100_000):
        for name, job in _JOB_SECONDS.items():
            for assumed, (step, starts) in _ASSUMED.items():
                of_command = own + _FILE_STEPS * step
                seconds, busy = simulate(runs, workers, job, of_command, starts)
                rates = {
                    "workers": workers / job,
                    "command, its files": 1 / of_command,
                    "scheduler": starts or float("inf"),
                }
                found.append(
                    {
                        "runs": f"{runs:,}",
                        "job": f"{name} ({job:g} s)",
                        "assumed": assumed,
                        "hours": round(seconds / 3600, 3),
                        "ideal_hours": round(runs * job / workers / 3600, 3),
                        "workers_busy": f"{busy:.0%}",
                        "limit": min(rates, key=lambda name: rates[name]),
                        "compare_seconds": round(small + each * (runs - 100), 1),
                    }
                )
    print(
        f"measured: {own * 1e3:.2f} ms of the command for a job; compare {each * 1e3:.2f} ms a run"
    )
    return found


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--workers", type=int, default=100)
    parser.add_argument("--format", choices=FORMATS, default="text")
    args = parser.parse_args()
    print(render_table(rows(args.workers), COLUMNS, args.format), end="")


if __name__ == "__main__":
    main()
