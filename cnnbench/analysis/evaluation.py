"""What a trained run does on images: exact metrics of a split, classes of pictures."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cnnbench import build
from cnnbench.checkpoint import Checkpoints
from cnnbench.datasets import decode_image
from cnnbench.device import configure, resolve_device
from cnnbench.engine import evaluate
from cnnbench.errors import DataError, UsageError
from cnnbench.geometry import analyze
from cnnbench.metrics import ConfusionMatrix, Sums, per_class, top_k_correct
from cnnbench.recorded import LoadedNetwork, load_network
from cnnbench.rundir import RunDir

_PREDICT_BATCH = 256
_PICTURE_SUFFIXES = {
    ".png",
    ".jpg",
    ".jpeg",
    ".bmp",
    ".gif",
    ".tif",
    ".tiff",
    ".webp",
    ".ppm",
    ".pgm",
}


def load_run(run: RunDir, model_path: str | None = None) -> LoadedNetwork:
    """Return a run's network with the selected epoch's weights, on the CPU.

    Args:
        run: an existing run; its data set is not needed.
        model_path: ``FILE:CLASS`` of a custom network, whose code no run may name itself.

    Raises:
        UsageError: the network is custom, and ``model_path`` is missing or cannot be used.
        CheckpointError: there is no checkpoint, or it is damaged or foreign.
    """
    checkpoints = Checkpoints(run.checkpoints)
    manifest = checkpoints.manifest()
    name = manifest["best"] or manifest["last"]
    return load_network(checkpoints.load(name), run.checkpoints / f"{name}.pt", model_path)


def evaluate_run(
    run: RunDir, split: str, device_name: str = "auto", model_path: str | None = None
) -> dict[str, Any]:
    """Return exact metrics of a run's selected weights on one split of its data.

    The arithmetic is float32, whatever the run trained in.

    Args:
        run: an existing run.
        split: train, val or test. Reading ``test`` adds to the run's ``test_reads``.
        device_name: auto, cpu, cuda or mps.
        model_path: as ``load_run`` takes it.

    Returns:
        ``split``, ``accuracy`` (a fraction), ``loss``, ``top5_accuracy``, ``num_images``,
        ``per_class`` and ``confusion_matrix`` ([target][prediction]).

    Raises:
        UsageError: the split is empty.
        CheckpointError: the run is damaged or foreign.
        DataError: its data is missing or damaged, or not the data it was trained on.
    """
    network = load_run(run, model_path)
    config, info = run.config, run.info
    device = resolve_device(device_name)
    configure(device, config.device.num_threads)
    data = build.build_data(config, _report)
    recorded = info.get("data", {}).get("sha256")
    if recorded is not None and recorded != data.sha256:
        raise DataError(
            f"{config.data.name}: {data.source} is not the data this run was trained on "
            f"(SHA-256 {data.sha256[:12]}, recorded {str(recorded)[:12]})"
        )
    if not len(data.splits[split]):
        raise UsageError(f"--split {split}: this run has no {split} images (data.val_fraction=0)")
    data.to(device, channels_last=False)
    shape = (network.in_channels, config.data.image_size, config.data.image_size)
    batch_size = build.eval_batch_size(analyze(network.module, shape).activation_bytes)
    sums, confusion = Sums(device), ConfusionMatrix(len(network.class_names), device)
    in_top5 = torch.zeros((), dtype=torch.int64, device=device)
    for logits, targets in evaluate(
        network.module.to(device),
        data.batches(split, batch_size),
        data.prepare,
        autocast=contextlib.nullcontext,
    ):
        sums.add(nn.functional.cross_entropy(logits, targets, reduction="sum"), logits, targets)
        confusion.add(logits, targets)
        in_top5 += top_k_correct(logits, targets, 5)
    if split == "test":
        _count_test_read(run)
    scores, counts = sums.read(), confusion.read()
    return {
        "run": str(run.path),
        "split": split,
        "accuracy": scores.accuracy,
        "loss": scores.loss,
        "top5_accuracy": in_top5.item() / scores.count,
        "num_images": scores.count,
        "num_correct": scores.correct,
        "per_class": [
            {"class": name, **row}
            for name, row in zip(network.class_names, per_class(counts), strict=True)
        ],
        "confusion_matrix": counts.tolist(),
    }


def _report(message: str) -> None:
    print(f"cnnbench: {message}", file=sys.stderr, flush=True)


def _count_test_read(run: RunDir) -> None:
    """Record one more reading of the test set; a run that is being written keeps its own count."""
    if run.is_held():
        return
    info = run.info
    results = info.get("results", {})
    results["test_reads"] = results.get("test_reads", 0) + 1
    run.write_info({**info, "results": results})


def picture_files(paths: Sequence[str | Path]) -> list[Path]:
    """Return the picture files that paths name; a folder gives those in it and below, sorted.

    Raises:
        DataError: a path does not exist, or a folder holds no picture.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found = sorted(
                file for file in path.rglob("*") if file.suffix.lower() in _PICTURE_SUFFIXES
            )
            if not found:
                raise DataError(f"{path}: holds no pictures")
            files.extend(found)
        elif path.is_file():
            files.append(path)
        else:
            raise DataError(f"{path}: there is no such file")
    return files


def predict_files(
    run: RunDir, paths: Sequence[str | Path], top: int = 3, model_path: str | None = None
) -> list[dict[str, Any]]:
    """Return the classes that a run sees in picture files.

    Args:
        run: an existing run; its data set is not needed.
        paths: picture files of any size, colour or grey, or folders of them.
        top: how many of the likeliest classes to return.
        model_path: as ``load_run`` takes it.

    Returns:
        For each file ``file``, ``class``, ``probability``, and ``top``, a list of class and
        probability, likeliest first.

    Raises:
        CheckpointError: the run is damaged or foreign.
        DataError: a file is missing or no picture.
    """
    files = picture_files(paths)
    network = load_run(run, model_path)
    size = network.transform.image_size
    results = []
    for start in range(0, len(files), _PREDICT_BATCH):
        chunk = files[start : start + _PREDICT_BATCH]
        pictures = np.stack([decode_image(file, network.in_channels, size) for file in chunk])
        rows = _ranked(network, torch.from_numpy(pictures), top)
        results += [{"file": str(file), **row} for file, row in zip(chunk, rows, strict=True)]
    return results


def predict_tensors(
    run: RunDir, images: torch.Tensor, top: int = 3, model_path: str | None = None
) -> list[dict[str, Any]]:
    """Return the classes that a run sees in uint8 images (N, C, H, W); as ``predict_files``.

    Raises:
        UsageError: the images are not of that type and shape.
    """
    network = load_run(run, model_path)
    if images.dtype != torch.uint8 or images.shape[1:2] != (network.in_channels,):
        raise UsageError(
            f"images are {images.dtype} {tuple(images.shape)}, "
            f"expected torch.uint8 (N, {network.in_channels}, H, W)"
        )
    return _ranked(network, images, top)


def _ranked(network: LoadedNetwork, images: torch.Tensor, top: int) -> list[dict[str, Any]]:
    """Return the likeliest classes of uint8 images (N, C, H, W)."""
    with torch.inference_mode():
        probabilities = network.module(network.transform(images)).float().softmax(dim=1)
    ranked = []
    for values, places in zip(*probabilities.topk(min(top, probabilities.shape[1])), strict=True):
        best = [
            {"class": network.class_names[place], "probability": value}
            for value, place in zip(values.tolist(), places.tolist(), strict=True)
        ]
        ranked.append({**best[0], "top": best})
    return ranked
