"""Seconds from Enter to the first line and to the first step, beside those of ``import torch``.

    python benchmarks/start.py [key=value ...]

Each is the median of several processes. User and system seconds tell more than the clock where
other work runs beside.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time

_REPEATS = 5
_SETTINGS = ("model=lenet", "data=digits", "num_epochs=1")
# Prints the process's CPU seconds once the first step is made, and ends it.
_TO_FIRST_STEP = """
import os, resource, sys
from cnnbench.training import trainer
def log_step(*args, **kwargs):
    used = resource.getrusage(resource.RUSAGE_SELF)
    print("CPU", used.ru_utime + used.ru_stime, flush=True)
    os._exit(0)
trainer.log_step = log_step
from cnnbench.__main__ import main
sys.exit(main())
"""
_IMPORT = """
import resource, torch
used = resource.getrusage(resource.RUSAGE_SELF)
print("CPU", used.ru_utime + used.ru_stime)
"""


def _measure(command: list[str]) -> tuple[float, float]:
    """Return the seconds to a process's end, and those of the CPU as it prints them."""
    started = time.perf_counter()
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    [cpu] = [line.split()[1] for line in output.splitlines() if line.startswith("CPU ")]
    return time.perf_counter() - started, float(cpu)


def _first_output(command: list[str]) -> tuple[float, float]:
    """Return the seconds until a process shows anything in a terminal, and end it."""
    reader, terminal = os.openpty()
    started = time.perf_counter()
    with subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal) as process:
        os.close(terminal)
        os.read(reader, 1)
        seconds = time.perf_counter() - started
        process.kill()
    os.close(reader)
    return seconds, float("nan")


def main() -> None:
    """Print the table."""
    settings = sys.argv[1:] or list(_SETTINGS)
    with tempfile.TemporaryDirectory() as root:
        train = ["train", *settings, f"output_root={root}"]
        commands = {
            "first line": (_first_output, [sys.executable, "-m", "cnnbench", *train]),
            "import torch": (_measure, [sys.executable, "-c", _IMPORT]),
            "first step": (_measure, [sys.executable, "-c", _TO_FIRST_STEP, *train]),
        }
        # In turn, so that what else the machine does meets them alike.
        rounds = [[measure(line) for measure, line in commands.values()] for _ in range(_REPEATS)]
    for name, measured in zip(commands, zip(*rounds, strict=True), strict=True):
        seconds, cpu = (statistics.median(column) for column in zip(*measured, strict=True))
        print(f"{name:<12} {seconds:.2f} s" + (f", {cpu:.2f} s of CPU" if cpu == cpu else ""))


if __name__ == "__main__":
    main()
