"""The long check of a sweep of very many jobs: its memory, its table, and going on with it.

    python benchmarks/thousand_jobs.py [--jobs 1000] [--format text|markdown|csv|json]

Runs one sweep of tiny jobs by the real command, two learning rates with half of the seeds each, and
looks at the memory of the command and of the process that forks its jobs from the first tenth of
the jobs to the last one. Then it runs the same command again, which has nothing left to do. The
table that the sweep ends with is checked against the accuracies that the jobs' logs tell. It takes
about fifteen minutes on 2 cores, and ends with 1 where a figure falls short.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from cnnbench.rendering.text import FORMATS, render_table

_SETTINGS = (
    "model=softmax",
    "optimizer=sgd",
    "optimizer.lr=0.001,0.1",
    "data=synthetic",
    "data.num_train=80",
    "data.num_test=200",
    "data.num_classes=3",
    "data.native_size=8",
    "data.batch_size=16",
    "num_epochs=2",
    "device=cpu",
    "checkpoint.keep_last=1",
    "sweep.name=s",
)
_COLUMNS = ("what", "measured", "target", "met")
_GROWTH, _SECONDS = 1.1, 10.0
_LOOK_SECONDS = 1.0


def memory(pid: int) -> int:
    """Return the resident bytes of a process and of the process that forks its jobs."""
    total = 0
    with suppress(OSError):  # it may end meanwhile
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for process in (str(pid), *children):
            status = Path(f"/proc/{process}/status").read_text()
            total += sum(map(int, re.findall(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE))) * 1024
    return total


def sweep(root: Path, num_jobs: int) -> tuple[float, list[tuple[int, int]]]:
    """Run the sweep; return its seconds, and how many jobs were begun at how many bytes."""
    words = [*_SETTINGS, f"seed=range(0,{num_jobs // 2})", f"output_root={root}"]
    command = [sys.executable, "-m", "cnnbench", "train", "-m", *words]
    jobs, seen, started = root / "sweeps" / "s" / "jobs", [], time.perf_counter()
    with (root / "out.txt").open("wb") as out, subprocess.Popen(command, stdout=out) as process:
        while process.poll() is None:
            seen.append((len(list(jobs.glob("*"))), memory(process.pid)))
            time.sleep(_LOOK_SECONDS)
    if process.returncode:
        sys.exit(f"the sweep ended with {process.returncode}")
    return time.perf_counter() - started, seen


def growth(seen: list[tuple[int, int]], num_jobs: int) -> tuple[float, int]:
    """Return the last memory while jobs ran by that after a tenth of them, and the largest."""
    running = [size for begun, size in seen if num_jobs / 10 <= begun < num_jobs]
    return running[-1] / running[0], max(size for _, size in seen)


def is_true(root: Path, num_jobs: int) -> bool:
    """Tell whether the table has all jobs, with the means of what their logs tell."""
    told: dict[str, list[float]] = {}
    for log in (root / "sweeps" / "s" / "jobs").glob("*/log.txt"):
        [(right, of)] = re.findall(
            r"^test accuracy \S+ \[(\d+)/(\d+)\]", log.read_text(), re.MULTILINE
        )
        rate = re.findall(r"optimizer\.lr=([\d.]+)", log.parent.name)[0]
        told.setdefault(rate, []).append(int(right) / int(of))
    command = [sys.executable, "-m", "cnnbench", "compare", str(root), "--format", "json"]
    compared = subprocess.run(command, capture_output=True, check=True).stdout
    rows = json.loads(compared)["rows"]
    found = sorted((row["n"], round(row["test/accuracy"]["mean"], 9)) for row in rows)
    expected = sorted((len(each), round(statistics.fmean(each), 9)) for each in told.values())
    command = [sys.executable, "-m", "cnnbench", "runs", "watch", str(root), "--format", "json"]
    watched = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    is_all_done = [job["status"] for job in watched] == ["done"] * num_jobs
    return found == expected and sum(n for n, _ in found) == num_jobs and is_all_done


def main() -> None:
    """Run, run again, and print what that took."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--jobs", type=int, default=1000, help="an even number; 1000 by default")
    parser.add_argument("--format", choices=FORMATS, default="text")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        seconds, seen = sweep(root, args.jobs)
        grown, largest = growth(seen, args.jobs)
        true = is_true(root, args.jobs)
        again, _ = sweep(root, args.jobs)
        true = true and is_true(root, args.jobs)
    what = f"{args.jobs:,} jobs"
    rows = [
        (f"{what}: seconds", f"{seconds:.0f}", "", ""),
        (f"{what}: seconds per job", f"{seconds / args.jobs:.2f}", "", ""),
        ("memory, last job / first tenth", f"{grown:.2f}", f"<= {_GROWTH}", grown <= _GROWTH),
        ("memory, largest, with the results: MB", f"{largest / 1e6:.0f}", "", ""),
        ("the table is that of the logs", str(true), "True", true),
        ("the same command again: seconds", f"{again:.1f}", f"< {_SECONDS:g}", again < _SECONDS),
    ]
    table = [dict(zip(_COLUMNS, row, strict=True)) for row in rows]
    print(render_table(table, _COLUMNS, args.format), end="")
    sys.exit(any(row[3] is False for row in rows))


if __name__ == "__main__":
    main()
