"""How torch's threads should wait for one another, on an idle machine and on a busy one.

    python benchmarks/waiting.py [--format text|markdown|csv|json] [--quick]

Images a second of the real command, LeNet on the digits at batch 64 with two threads, as the median
of its epochs and of three runs in turn; then the same beside one process that computes. On two
cores it takes about three minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cnnbench.rendering.text import FORMATS, render_table

# How long GNU's threads spin before they sleep.
ENVIRONMENTS = (
    "none",
    *("GOMP_SPINCOUNT=30000", "GOMP_SPINCOUNT=10000", "GOMP_SPINCOUNT=1000"),
    "OMP_WAIT_POLICY=passive",
)
COLUMNS = ("environment", "idle", "busy")


def images_per_second(environment: str, num_epochs: int) -> float:
    """Train with the real command, and return the median of its epochs after the first."""
    settings = ["model=lenet", "data=digits", "data.batch_size=64", f"num_epochs={num_epochs}"]
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    if environment != "none":
        variables |= [environment.split("=")]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "cnnbench", "train", *settings, "device.num_threads=2"]
        command += ["checkpoint.keep_last=1", f"output_root={folder}"]
        subprocess.run(command, env=variables, stdout=subprocess.DEVNULL, check=True)
        [file] = Path(folder).rglob("metrics.jsonl")
        lines = [json.loads(line) for line in file.read_text().splitlines()]
    speeds = [line["perf/images_per_second"] for line in lines if "perf/images_per_second" in line]
    return statistics.median(speeds[1:])


@contextlib.contextmanager
def competitor() -> Iterator[None]:
    """Keep one core busy meanwhile."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()


def rows(*, is_quick: bool) -> list[dict[str, Any]]:
    """Measure, and return a row for each environment."""
    num_epochs, repeats = (3, 1) if is_quick else (5, 3)
    found: dict[tuple[str, bool], list[float]] = {}
    for is_busy in (False, True):
        with competitor() if is_busy else contextlib.nullcontext():
            for _, name in itertools.product(range(repeats), ENVIRONMENTS):
                speed = images_per_second(name, num_epochs)
                found.setdefault((name, is_busy), []).append(speed)
    return [
        {
            "environment": name,
            "idle": round(statistics.median(found[name, False])),
            "busy": round(statistics.median(found[name, True])),
        }
        for name in ENVIRONMENTS
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--format", choices=FORMATS, default="text")
    parser.add_argument("--quick", action="store_true", help="one run each: to see that it works")
    args = parser.parse_args()
    print(render_table(rows(is_quick=args.quick), COLUMNS, args.format), end="")


if __name__ == "__main__":
    main()
