"""What running the jobs of a sweep beside each other saves, and what a launcher costs.

    python benchmarks/launchers.py [--format text|markdown|csv|json] [--quick] [--jobs 8]

Each figure is of the real command, on an idle machine: the jobs of one sweep with `slots=auto`,
then one after another with all threads (`slots=1`). A job's seconds are those of its process, from
its lease to its end; training seconds are those that `run.json` has. On 2 cores it takes about five
minutes, `--quick` one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnbench.device.machine import available_cores
from cnnbench.rendering.text import FORMATS, render_table

COLUMNS = ("what", "measured", "target", "unit", "how")


@dataclass(frozen=True)
class Sweep:
    """What was seen of a finished sweep.

    Attributes:
        wall_seconds: of the command.
        first_seconds: from its start to its first job's.
        job_seconds: of the processes of all jobs together.
        train_seconds: as the runs recorded them, together.
        span_seconds: from the first job's start to the last one's end.
    """

    wall_seconds: float
    first_seconds: float
    job_seconds: float
    train_seconds: float
    span_seconds: float


def sweep(slots: str, num_jobs: int, *settings: str) -> Sweep:
    """Run a sweep over seeds with the real command."""
    with tempfile.TemporaryDirectory() as folder:
        words = [*settings, f"seed=range(0,{num_jobs})", "sweep.name=s", f"output_root={folder}"]
        command = [sys.executable, "-m", "cnnbench", "train", "-m", *words]
        command.append(f"hydra.launcher.slots={slots}")
        since, started = time.time(), time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        wall = time.perf_counter() - started
        root = Path(folder) / "sweeps" / "s"
        # All files are of this machine, so its clock is one.
        starts = [file.stat().st_mtime for file in root.glob("jobs/*/job.json")]
        ends = [file.stat().st_mtime for file in root.glob("jobs/*/lease-*.json")]
        assert len(starts) == len(ends) == num_jobs
        runs = [json.loads(file.read_text()) for file in root.glob("*/run.json")]
        return Sweep(
            wall,
            min(starts) - since,
            sum(ends) - sum(starts),
            sum(run["results"]["train_seconds"] for run in runs),
            max(ends) - min(starts),
        )


def rows(num_jobs: int, *, is_quick: bool) -> list[dict[str, Any]]:
    """Measure, and return a row for each figure."""
    cores = available_cores()
    epochs = 2 if is_quick else 12
    lenet = ("model=lenet", "data=digits", "data.batch_size=64", f"num_epochs={epochs}")
    beside, after = (sweep(slots, num_jobs, *lenet) for slots in ("auto", "1"))
    overhead = (beside.wall_seconds * cores - beside.job_seconds) / num_jobs
    between = (beside.span_seconds * cores - beside.job_seconds) / num_jobs
    how = f"{num_jobs} LeNet jobs, batch 64, {epochs} epochs of digits, {cores} cores"

    def row(what: str, measured: float, target: str, unit: str) -> dict[str, Any]:
        return {
            "what": what,
            "measured": round(measured, 3),
            "target": target,
            "unit": unit,
            "how": how,
        }

    return [
        row("training one after another", after.train_seconds, "", "s"),
        row("training beside each other", beside.train_seconds / cores, "", "s"),
        row(
            "training time, auto / sequential",
            beside.train_seconds / cores / after.train_seconds,
            "<= .65",
            "",
        ),
        row("whole command, auto / sequential", beside.wall_seconds / after.wall_seconds, "", ""),
        row("launcher, (wall x slots - job seconds) / jobs", overhead, "<= .3", "s per job"),
        row("the same from the first job's start", between, "", "s per job"),
        row("start of the command to its first job", beside.first_seconds, "", "s"),
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--format", choices=FORMATS, default="text")
    parser.add_argument("--quick", action="store_true", help="short jobs: to see that it works")
    parser.add_argument("--jobs", type=int, default=8, help="of the sweep; 8 by default")
    args = parser.parse_args()
    print(render_table(rows(args.jobs, is_quick=args.quick), COLUMNS, args.format), end="")


if __name__ == "__main__":
    main()
