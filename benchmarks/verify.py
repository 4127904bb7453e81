"""How long ``verify`` takes for a package of runs with predictions of 10,000 images.

    python benchmarks/verify.py [--runs 20] [--images 10000] [--format text|markdown|csv|json]

Writes runs of ten networks with made-up predictions to a temporary directory, packs them, and
verifies the package in a process of its own, by the command as a person types it.
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

import cnnbench
from cnnbench.config.command import single_config
from cnnbench.config.compose import Composer
from cnnbench.config.run_config import RunConfig, to_tree
from cnnbench.models.build import measure_network
from cnnbench.rendering.text import FORMATS, render_table
from cnnbench.runs.provenance import code_version, run_key

_MODELS = (
    *("alexnet", "basic_cnn", "googlenet", "lenet", "mlp"),
    *("mobilenet_v1", "nin_cifar", "resnet18", "vgg11", "vgg16"),
)
_CLASSES = 10
_COLUMNS = ("what", "measured", "target", "met")
_SECONDS = 60


def write_run(run: Path, config: RunConfig, seed: int, num_images: int) -> None:
    """Write a finished run that agrees with itself."""
    draw = np.random.default_rng(seed)
    targets = np.arange(num_images, dtype=np.uint8) % _CLASSES
    logits = draw.normal(size=(num_images, _CLASSES))
    logits[np.arange(num_images), targets] += 3
    shifted = (logits - logits.max(axis=1, keepdims=True)).astype(np.float16)
    predictions = shifted.argmax(axis=1).astype(np.uint8)
    run.mkdir(parents=True)
    np.savez(
        run / "predictions.npz",
        log_probabilities=shifted,
        predictions=predictions,
        targets=targets,
        images_sha256=np.zeros(32, np.uint8),
    )
    exact = shifted.astype(np.float64)
    losses = np.log(np.exp(exact).sum(axis=1)) - exact[np.arange(num_images), targets]
    sizes = {"in_channels": 1, "num_classes": _CLASSES, "image_size": config.data.image_size}
    network = measure_network(config.model.name, config.model.args, **sizes)
    key = run_key(config, data_fingerprint="data", code_version=code_version())
    accuracy = int((predictions == targets).sum()) / num_images
    record = {
        "format": 1,
        "status": "done",
        "config": to_tree(config),
        "seed": seed,
        "data": {"sha256": "data", "num_classes": _CLASSES, "num_test": num_images},
        "model": network.to_dict(),
        "results": {
            "test/accuracy": accuracy,
            "test/loss": float(losses.mean()),
            "best_epoch": 1,
            "train_seconds": 20.0,
            "selection": "last",
        },
        "provenance": {
            "processes": [{"started": "2026-01-01T00:00:00+00:00", "effective": {}}],
            "code_version": code_version(),
            "run_key": key,
            "data_fingerprint": "data",
        },
    }
    (run / "run.json").write_text(json.dumps(record))
    line = {"epoch": 1, "global_step": 1, "train/loss": 1.0}
    (run / "metrics.jsonl").write_text(f"{json.dumps(line)}\n")


def main() -> None:
    """Write runs, pack them, verify the package, and print what that took."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--format", choices=FORMATS, default="text")
    args = parser.parse_args()
    composer = Composer()
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        for number in range(args.runs):
            model, seed = _MODELS[number % len(_MODELS)], number // len(_MODELS)
            settings = [f"model={model}", "data=fashion_mnist", f"seed={seed}"]
            config = single_config(composer, composer.parse(settings))
            write_run(root / "runs" / f"run-{number:04d}", config, seed, args.images)
        package = root / "paper.zip"
        cnnbench.pack(root / "runs", package)
        size = package.stat().st_size
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "cnnbench", "verify", str(package), "--format", "json"],
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.perf_counter() - started
    differs = json.loads(done.stdout)["differs"]
    assert not differs, differs[:3]
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    what = f"verify, {args.runs:,} runs, {args.images:,} images"
    rows = [
        (f"{what}: seconds", f"{seconds:.1f}", f"under {_SECONDS}", seconds < _SECONDS),
        (f"{what}: seconds of computing", f"{usage.ru_utime + usage.ru_stime:.1f}", "", ""),
        (f"{what}: MB of memory", f"{usage.ru_maxrss / 1e3:.0f}", "", ""),
        ("size of the package, MB", f"{size / 1e6:.1f}", "", ""),
    ]
    table = [dict(zip(_COLUMNS, row, strict=True)) for row in rows]
    print(render_table(table, _COLUMNS, args.format), end="")


if __name__ == "__main__":
    main()
