"""Seconds of the kernel check before a first step, beyond what its process takes to import torch.

    python benchmarks/kernel_check.py [--format text|markdown|csv|json] [NAME:SIDE ...]

Each network is checked with an empty cache, then again, as training on this CPU in float32 does it:
channels last, all threads. The check's own process imports torch, whose seconds are measured as
often and taken off. Medians of 3; an idle machine takes about two minutes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from cnnbench.device.machine import cpu_name
from cnnbench.rendering.text import FORMATS, render_table

COLUMNS = ("network", "side", "cold", "target", "cached", "cached target", "unit")
NETWORKS = (
    *("resnet18:32", "googlenet:32", "densenet121:32", "mobilenet_v2:32"),
    *("vgg11:224", "resnet152:224"),
)
_REPEATS = 3
# Prints the seconds of the check, in what training does until it is ready for a first step.
_CHECK = """
import sys, time
from cnnbench.config.compose import Composer
from cnnbench.training import setup
from cnnbench.training.launch import check, read
right_kernels = setup.right_kernels
def timed(*args):
    started = time.perf_counter()
    found = right_kernels(*args)
    print("SECONDS", time.perf_counter() - started)
    return found
setup.right_kernels = timed
data = {"data": "synthetic", "data.in_channels": 3, "data.native_size": 32, "data.num_train": 64}
size = {"data.image_size": int(sys.argv[2]), "data.batch_size": 2}
device = {"device": "cpu", "device.precision": "fp32"}
plan = check(Composer().compose({"model": sys.argv[1], **data, **size, **device}))
setup.set_up(plan, read(plan))
"""


def seconds(command: list[str], **variables: str) -> tuple[float, float]:
    """Return the seconds of a process, and those that it prints; 0 where it prints none."""
    started = time.perf_counter()
    environment = {**os.environ, **variables}
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, env=environment
    ).stdout
    whole = time.perf_counter() - started
    return whole, sum(float(line.split()[1]) for line in done.splitlines() if "SECONDS" in line)


def row(name: str, side: int) -> dict[str, Any]:
    """Measure one network."""
    cold, cached = [], []
    for _ in range(_REPEATS):
        imported, _ = seconds([sys.executable, "-c", "import torch"])
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-c", _CHECK, name, str(side)]
            cold.append(seconds(command, XDG_CACHE_HOME=folder)[1] - imported)
            cached.append(seconds(command, XDG_CACHE_HOME=folder)[1])
    is_large = side > 32
    return {
        "network": name,
        "side": side,
        "cold": round(statistics.median(cold), 2),
        "target": f"<= {10 if is_large else 3}",
        "cached": round(statistics.median(cached), 3),
        "cached target": "" if is_large else "<= .05",
        "unit": "s",
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--format", choices=FORMATS, default="text")
    parser.add_argument("networks", nargs="*", metavar="NAME:SIDE", help="in place of the usual")
    args = parser.parse_args()
    pairs = [text.split(":") for text in args.networks or NETWORKS]
    rows = [row(name, int(side)) for name, side in pairs]
    print(f"{cpu_name()}\n{render_table(rows, COLUMNS, args.format)}", end="")


if __name__ == "__main__":
    main()
