"""How long ``compare`` takes for many runs with predictions, and how much memory.

    python benchmarks/many_runs.py [--runs 1000] [--images 10000] [--format text|markdown|csv|json]

Writes runs of made-up accuracies to a temporary directory, ten networks with 100 seeds each by
default, and compares them in a process of its own, by the command as a person types it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from cnnbench.config.command import single_config
from cnnbench.config.compose import Composer
from cnnbench.config.run_config import to_tree
from cnnbench.rendering.text import FORMATS, render_table

_MODELS = 10
_CLASSES = 10
_COLUMNS = ("what", "measured", "target", "met")
_SECONDS, _BYTES = 10, 10**9


def write_runs(root: Path, num_runs: int, num_images: int) -> None:
    """Write finished runs whose networks differ in nothing but the learning rate and the seed."""
    composer = Composer()
    config = to_tree(single_config(composer, composer.parse(["model=lenet", "data=fashion_mnist"])))
    targets = np.arange(num_images, dtype=np.uint8) % _CLASSES
    draw = np.random.default_rng(0)
    digest = np.zeros(32, np.uint8)
    for number in range(num_runs):
        model, seed = number % _MODELS, number // _MODELS
        wrong = draw.random(num_images) < 0.1 + 0.002 * model + 0.004 * draw.normal()
        predictions = (targets + wrong).astype(np.uint8) % _CLASSES
        shifted = np.full((num_images, _CLASSES), -5, np.float16)
        shifted[np.arange(num_images), predictions] = 0
        run = root / f"run-{number:05d}"
        run.mkdir(parents=True)
        np.savez(
            run / "predictions.npz",
            log_probabilities=shifted,
            predictions=predictions,
            targets=targets,
            images_sha256=digest,
        )
        config["optimizer"]["lr"], config["seed"] = 0.001 * (model + 1), seed
        accuracy = int((predictions == targets).sum()) / num_images
        record = _record(config, seed, accuracy, num_images)
        (run / "run.json").write_text(json.dumps(record))
        lines = [
            {"epoch": epoch, "train/loss": 1 / epoch, "val/accuracy": accuracy - 0.1 / epoch}
            for epoch in range(1, 11)
        ]
        (run / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def _record(config: object, seed: int, accuracy: float, num_images: int) -> dict[str, object]:
    return {
        "format": 1,
        "status": "done",
        "config": config,
        "seed": seed,
        "data": {"sha256": "data", "num_classes": _CLASSES, "num_test": num_images},
        "model": {"name": "lenet", "num_params": 61706, "macs": 281640, "receptive_field": 16},
        "results": {
            "test/accuracy": accuracy,
            "test/loss": 1 - accuracy,
            "val/accuracy": accuracy,
            "best_epoch": 10,
            "train_seconds": 20.0,
            "selection": "val/accuracy",
            "test_reads": 1,
        },
        "provenance": {
            "processes": [{"started": "2026-01-01T00:00:00+00:00", "effective": {}}],
        },
    }


def measure(root: Path, num_runs: int) -> tuple[float, float, int, bool]:
    """Return seconds, those of computing, the largest memory in bytes, and if torch was loaded."""
    code = (
        "import sys\n"
        "from cnnbench.cli.main import run\n"
        f"code = run(['compare', {str(root)!r}, '--format', 'json'])\n"
        "print('torch' in sys.modules, file=sys.stderr)\n"
        "sys.exit(code)\n"
    )
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - started
    rows = json.loads(done.stdout)["rows"]
    assert sum(row["n"] for row in rows) == num_runs
    assert all(row["verdict"] is not None and row["images_p"] is not None for row in rows[1:])
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    computing = usage.ru_utime + usage.ru_stime
    return seconds, computing, usage.ru_maxrss * 1024, done.stderr.split()[-1] == "True"


def main() -> None:
    """Write runs, compare them, and print what that took."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--format", choices=FORMATS, default="text")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        write_runs(Path(directory), args.runs, args.images)
        seconds, computing, size, has_torch = measure(Path(directory), args.runs)
    what = f"compare, {args.runs:,} runs, {args.images:,} images"
    rows = [
        (f"{what}: seconds", f"{seconds:.1f}", f"at most {_SECONDS}", seconds <= _SECONDS),
        (f"{what}: seconds of computing", f"{computing:.1f}", "", ""),
        (f"{what}: MB", f"{size / 1e6:.0f}", f"at most {_BYTES / 1e6:.0f}", size <= _BYTES),
        (f"{what}: loads torch", str(has_torch), "False", not has_torch),
    ]
    table = [dict(zip(_COLUMNS, row, strict=True)) for row in rows]
    print(render_table(table, _COLUMNS, args.format), end="")


if __name__ == "__main__":
    main()
