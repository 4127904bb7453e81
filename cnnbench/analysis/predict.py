"""The classes that a trained run sees in images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cnnbench.data import decode_image
from cnnbench.data.images import SUFFIXES
from cnnbench.errors import DataError, UsageError
from cnnbench.runs.directory import RunDir
from cnnbench.runs.network import LoadedNetwork, load_run

_BATCH_SIZE = 256


def image_files(paths: Sequence[str | Path]) -> list[Path]:
    """Return the image files that paths name; a folder gives those in it and below, sorted.

    Raises:
        DataError: a path does not exist, or a folder holds no image.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
            if not found:
                raise DataError(f"{path}: holds no images")
            files.extend(found)
        elif path.is_file():
            files.append(path)
        else:
            raise DataError(f"{path}: there is no such file")
    return files


def predict_files(
    run: RunDir, paths: Sequence[str | Path], top: int = 3, model_path: str | None = None
) -> list[dict[str, Any]]:
    """Return the classes that a run sees in image files.

    Args:
        run: an existing run; its data set is not needed.
        paths: image files of any size, colour or grey, or folders of them.
        top: how many of the likeliest classes to return.
        model_path: as ``load_run`` takes it.

    Returns:
        For each file ``file``, ``class``, ``probability``, and ``top``, a list of class and
        probability, likeliest first.

    Raises:
        CheckpointError: the run is damaged or foreign.
        DataError: a file is missing or no image.
    """
    files = image_files(paths)
    network = load_run(run, model_path)
    size = network.transform.image_size
    results = []
    for start in range(0, len(files), _BATCH_SIZE):
        chunk = files[start : start + _BATCH_SIZE]
        images = np.stack([decode_image(file, network.in_channels, size) for file in chunk])
        rows = _ranked(network, torch.from_numpy(images), top)
        results += [{"file": str(file), **row} for file, row in zip(chunk, rows, strict=True)]
    return results


def predict_tensors(
    run: RunDir, images: Tensor, top: int = 3, model_path: str | None = None
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


def _ranked(network: LoadedNetwork, images: Tensor, top: int) -> list[dict[str, Any]]:
    """Return the likeliest classes of uint8 images (N, C, H, W)."""
    with torch.inference_mode():
        probabilities = network.module(network.transform(images)).float().softmax(dim=1)
    ranked = []
    for values, classes in zip(*probabilities.topk(min(top, probabilities.shape[1])), strict=True):
        best = [
            {"class": network.class_names[label], "probability": value}
            for value, label in zip(values.tolist(), classes.tolist(), strict=True)
        ]
        ranked.append({**best[0], "top": best})
    return ranked
