"""What a run costs as it grows: memory over epochs, time over images, epochs and pixels, its start.

    python benchmarks/scaling.py [--format text|markdown|csv|json] [--quick]

Each figure is of the real command in a process of its own. On 2 cores it takes about 5 minutes,
`--quick` one; run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnbench.rendering.text import FORMATS, render_table

COLUMNS = ("what", "measured", "target", "unit", "how")
_PLAIN = ("selection=last", "data.val_fraction=0", "checkpoint.keep_last=1")


@dataclass(frozen=True)
class Run:
    """What was seen of a finished run.

    Attributes:
        info: its ``run.json``.
        epochs: the lines of ``metrics.jsonl`` that end an epoch.
        resident: bytes of the process when each epoch's line was first seen.
        first_step_seconds: from the start of the process to the first logged step.
    """

    info: dict[str, Any]
    epochs: list[dict[str, Any]]
    resident: list[int]
    first_step_seconds: float | None


def train(*settings: str) -> Run:
    """Run ``cnnbench train`` and watch its process and its numbers."""
    with tempfile.TemporaryDirectory() as root:
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "cnnbench", "train", *settings, f"output_root={root}"],
            stdout=subprocess.DEVNULL,
        )
        resident: list[int] = []
        first_step = None
        while process.poll() is None:
            lines = _lines(Path(root))
            if lines and first_step is None:
                first_step = time.perf_counter() - started
            ended = sum("train/loss" in line for line in lines)
            resident += [_resident_bytes(process.pid)] * (ended - len(resident))
            time.sleep(0.02)
        if process.returncode:
            raise SystemExit(f"cnnbench train {' '.join(settings)}: exit {process.returncode}")
        [info] = Path(root).rglob("run.json")
        epochs = [line for line in _lines(Path(root)) if "train/loss" in line]
        return Run(json.loads(info.read_text()), epochs, resident, first_step)


def _lines(root: Path) -> list[dict[str, Any]]:
    for file in root.rglob("metrics.jsonl"):
        *whole, _torn = file.read_text().split("\n")
        return [json.loads(line) for line in whole]
    return []


def _resident_bytes(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = [line for line in status.splitlines() if line.startswith("VmRSS")]
    return int(found[0].split()[1]) * 1024 if found else 0


def slope(values: Sequence[float]) -> float:
    """Return by how much the values grow from one to the next, by least squares."""
    return statistics.linear_regression(range(len(values)), values).slope


def row(what: str, measured: float, target: str, unit: str, how: str) -> dict[str, Any]:
    """Return a row of the table."""
    return {"what": what, "measured": measured, "target": target, "unit": unit, "how": how}


def over_epochs(count: int) -> list[dict[str, Any]]:
    """Return growth of memory and of an epoch's time over a run of LeNet on digits."""
    run = train("model=lenet", "data=digits", f"num_epochs={count}", "checkpoint.keep_last=1")
    skip = count // 5
    resident = [value / 1e6 for value in run.resident[skip:] if value]
    seconds = [line["perf/epoch_seconds"] for line in run.epochs]
    first, last = statistics.median(seconds[skip : 2 * skip]), statistics.median(seconds[-skip:])
    how = f"lenet, digits, {count} epochs without the first {skip}"
    return [
        row("memory", slope(resident), "< 1", "MB per epoch", how),
        row("epoch time, end / start", last / first, "about 1", "ratio of medians", how),
    ]


def grown(small: Sequence[str], large: Sequence[str], repeats: int) -> float:
    """Return the ratio of the medians of training seconds of two runs, taken in turn."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for settings, taken in zip((small, large), times, strict=True):
            run = train(*settings, *_PLAIN)
            taken.append(float(run.info["results"]["train_seconds"]))
    return statistics.median(times[1]) / statistics.median(times[0])


def over_size(repeats: int, images: int) -> list[dict[str, Any]]:
    """Return how training time grows with images, epochs and pixels."""
    base = ("model=lenet", "data=fashion_mnist", "data.batch_size=64")
    few, many = (f"data.limit={count}" for count in (images, 8 * images))
    by_images = grown((*base, few, "num_epochs=1"), (*base, many, "num_epochs=1"), repeats)
    by_epochs = grown((*base, few, "num_epochs=1"), (*base, few, "num_epochs=8"), repeats)
    network = ("model=small_resnet", "data=fashion_mnist", "num_epochs=1", few)
    by_area = grown((*network, "data.image_size=28"), (*network, "data.image_size=56"), repeats)
    return [
        row("8 times the images", by_images / 8, "0.9..1.1", "of 8 times", "lenet, batch 64"),
        row("8 times the epochs", by_epochs / 8, "0.9..1.1", "of 8 times", "lenet, batch 64"),
        row("4 times the area", by_area / 4, "<= 1.1", "of 4 times", "small_resnet, 28 to 56 px"),
    ]


def start(repeats: int) -> list[dict[str, Any]]:
    """Return seconds from the start of the process to the first step, and to the end of help."""
    first, helps = [], []
    for _ in range(repeats):
        run = train("model=lenet", "data=digits", "num_epochs=1", "log_every_steps=1")
        assert run.first_step_seconds is not None
        first.append(run.first_step_seconds)
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "cnnbench", "--help"], check=True, stdout=subprocess.DEVNULL
        )
        helps.append(time.perf_counter() - started)
    return [
        row("start to first step", statistics.median(first), "<= 4", "s", "lenet, digits"),
        row("--help", statistics.median(helps), "<= 0.4", "s", "the whole command"),
    ]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--format", choices=FORMATS, default="text")
    parser.add_argument("--quick", action="store_true", help="once each, and smaller")
    args = parser.parse_args()
    repeats, images, epochs = (1, 1024, 20) if args.quick else (3, 4096, 100)
    rows = [*start(repeats), *over_epochs(epochs), *over_size(repeats, images)]
    print(render_table(rows, COLUMNS, args.format), end="")


if __name__ == "__main__":
    main()
