"""Run directories as a finished training leaves them, written without training."""

from __future__ import annotations

import copy
import json
import random
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnbench.config.command import single_config
from cnnbench.config.compose import Composer
from cnnbench.config.run_config import to_tree
from cnnbench.config.settings import assign

CLASSES = {"fashion_mnist": tuple("abcdefghij"), "digits": tuple("0123456789")}


@cache
def _tree(model: str) -> dict[str, Any]:
    composer = Composer()
    return to_tree(single_config(composer, composer.parse([f"model={model}"])))


def write_run(
    root: Path,
    *,
    model: str = "lenet",
    data: str = "fashion_mnist",
    seed: int = 0,
    test: float = 0.9,
    val: float = 0.91,
    status: str = "done",
    settings: dict[str, Any] | None = None,
    change: dict[str, Any] | None = None,
    num_params: int = 61706,
    precision: str = "fp32",
    steps: int = 0,
) -> Path:
    """Write one run directory below a root and return it.

    Args:
        root: of the runs.
        model: its name in ``conf/model``.
        data: a key of ``CLASSES``.
        seed: of the run.
        test: its accuracy.
        val: likewise.
        status: as in ``run.json``.
        settings: values by dotted key.
        change: values by top-level key of ``run.json``; a dict is merged.
        num_params: of the network; MACs are ten times as many.
        precision: the effective one.
        steps: lines of single steps in metrics.jsonl.
    """
    config = copy.deepcopy(_tree(model))
    for key, value in {"data.name": data, "seed": seed, **(settings or {})}.items():
        assign(config, key, value)
    num_epochs = config["num_epochs"]
    machine = {"device_name": "a cpu", "precision": precision, "num_threads": 2}
    info: dict[str, Any] = {
        "format": 1,
        "status": status,
        "config": config,
        "seed": seed,
        "data": {
            "sha256": f"{data}-hash",
            "num_classes": 10,
            "class_names": list(CLASSES[data]),
        },
        "model": {
            "name": model,
            "num_params": num_params,
            "macs": 10 * num_params,
            "receptive_field": 16,
        },
        "results": {
            "test/accuracy": test,
            "test/loss": 1 - test,
            "val/accuracy": val,
            "val/loss": 1 - val,
            "best_epoch": num_epochs,
            "train_seconds": 2.0 * num_epochs,
            "selection": config["selection"],
            "test_reads": 1,
        },
        "provenance": {
            "processes": [
                {
                    "started": f"2026-01-01T00:{seed // 60:02d}:{seed % 60:02d}+0000",
                    "effective": machine,
                }
            ],
        },
    }
    for key, value in (change or {}).items():
        info[key] = {**info[key], **value} if isinstance(value, dict) else value
    number = len(list((root / data / model).glob("*"))) if (root / data / model).is_dir() else 0
    run = root / data / model / f"run-{number:04d}"
    (run / "checkpoints").mkdir(parents=True)
    (run / "run.json").write_text(json.dumps(info))
    draw = random.Random(f"{model} {seed} {test}")
    lines = []
    for epoch in range(1, num_epochs + 1):
        lines += [{"epoch": epoch, "global_step": n, "train/step_loss": 1.0} for n in range(steps)]
        left = (1 - epoch / (num_epochs + 1)) ** 2
        lines.append(
            {
                "epoch": epoch,
                "global_step": 10 * epoch,
                "train/loss": 0.2 + 2 * left,
                "train/accuracy": test - 0.5 * left,
                "perf/images_per_second": 1000.0 + seed,
                "perf/epoch_seconds": 2.0 + seed,
                "val/loss": 0.3 + 2 * left,
                "val/accuracy": val - 0.5 * left + 0.01 * draw.random(),
            }
        )
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return run


def write_predictions(run: Path, correct: NDArray[np.bool_], images: str = "ab") -> Path:
    """Give a run predictions, of class 1 where they are right, and return it.

    Args:
        run: its record says the accuracy.
        correct: of each test image.
        images: two digits of the hash of the test images.
    """
    targets = np.ones(len(correct), np.uint8)
    shifted = np.where(correct[:, None] == [False, True], 0, -1).astype(np.float16)
    digest = np.frombuffer(bytes.fromhex(images * 32), np.uint8)
    predictions = correct.astype(np.uint8)
    arrays = {"log_probabilities": shifted, "predictions": predictions, "targets": targets}
    np.savez(run / "predictions.npz", **arrays, images_sha256=digest)
    return run
