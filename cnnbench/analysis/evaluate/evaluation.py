"""What a trained run does on images: exact metrics of a split, classes of pictures."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cnnbench.data import decode_image
from cnnbench.data.images import Images
from cnnbench.data.splits import Splits, eval_batch_size
from cnnbench.device.device import configure, resolve_device
from cnnbench.engine import evaluate
from cnnbench.engine.loop import Batches
from cnnbench.errors import DataError, UsageError
from cnnbench.geometry.trace import analyze
from cnnbench.metrics import (
    Calibration,
    ConfusionMatrix,
    Sums,
    calibration,
    per_class,
    top_k_correct,
)
from cnnbench.runs.checkpoint import Checkpoints
from cnnbench.runs.directory import RunDir
from cnnbench.runs.network import LoadedNetwork, load_network
from cnnbench.training.data import read_splits

# (uint8 pictures (n, C, H, W), their places in the split) -> pictures of the same shape
Change = Callable[[Tensor, range], Tensor]
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


@dataclass(frozen=True)
class OpenSplit:
    """A run's network and one split of its data, on their device, ready to be measured.

    The arithmetic is float32, whatever the run trained in.

    Attributes:
        run: an existing run.
        name: train, val or test.
        network: with the selected epoch's weights.
        data: the run's; pictures have the data set's own size.
        device: where network and batches are.
        batch_size: images at once.
    """

    run: RunDir
    name: str
    network: LoadedNetwork
    data: Splits
    device: torch.device
    batch_size: int

    @property
    def num_images(self) -> int:
        """Images in the split."""
        return len(self.data.parts[self.name])

    def outputs(self, change: Change | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield logits (n, num_classes) and targets (n,) of each batch, in the split's order.

        Args:
            change: what is done to the pictures first.
        """
        batches = self.data.batches(self.name, self.batch_size)
        return evaluate(
            self.network.module,
            batches if change is None else self._changed(batches, change),
            self.data.prepare,
            autocast=contextlib.nullcontext,
        )

    def _changed(self, batches: Batches, change: Change) -> Iterator[tuple[Tensor, Tensor]]:
        first = 0
        for images, targets in batches:
            places = range(first, first + len(targets))
            yield change(images.to(self.device), places), targets
            first = places.stop

    def pictures(self, places: Sequence[int]) -> Images:
        """Return the pictures at some places of the split, uint8 (len(places), C, H, W)."""
        images, _targets = self.data.parts[self.name][torch.tensor(places, dtype=torch.int64)]
        return images.cpu().numpy()


@dataclass(frozen=True)
class Measured:
    """What a run makes of a split.

    Attributes:
        result: what ``cnnbench evaluate --format json`` prints.
        targets: of the images in the split's order, (N,).
        predictions: likewise.
        probabilities: of the predictions, in [0, 1].
        calibration: of those.
    """

    result: dict[str, Any]
    targets: NDArray[np.int64]
    predictions: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    calibration: Calibration

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each prediction is right."""
        return np.equal(self.targets, self.predictions)

    @property
    def class_names(self) -> list[str]:
        """The name of each class."""
        return [row["class"] for row in self.result["per_class"]]


def open_split(
    run: RunDir, split: str, device_name: str = "auto", model_path: str | None = None
) -> OpenSplit:
    """Load a run's network, and the data it was trained on.

    Args:
        run: an existing run.
        split: train, val or test.
        device_name: auto, cpu, cuda or mps.
        model_path: as ``load_run`` takes it.

    Raises:
        UsageError: the split is empty.
        CheckpointError: the run is damaged or foreign.
        DataError: its data is missing or damaged, or not the data it was trained on.
    """
    network = load_run(run, model_path)
    config, info = run.config, run.info
    device = resolve_device(device_name)
    configure(device, config.device.num_threads)
    data = read_splits(config, report, device=device, resize_once=False)
    recorded = info.get("data", {}).get("sha256")
    if recorded is not None and recorded != data.sha256:
        raise DataError(
            f"{config.data.name}: {data.source} is not the data this run was trained on "
            f"(SHA-256 {data.sha256[:12]}, recorded {str(recorded)[:12]})"
        )
    if not len(data.parts[split]):
        raise UsageError(f"--split {split}: this run has no {split} images (data.val_fraction=0)")
    shape = (network.in_channels, config.data.image_size, config.data.image_size)
    batch_size = eval_batch_size(analyze(network.module, shape).activation_bytes)
    network.module.to(device)
    return OpenSplit(run, split, network, data, device, batch_size)


def measure(opened: OpenSplit) -> Measured:
    """Run the network over the split; for ``test``, that adds to the run's ``test_reads``."""
    class_names, device = opened.network.class_names, opened.device
    sums, confusion = Sums(device), ConfusionMatrix(len(class_names), device)
    in_top5 = torch.zeros((), dtype=torch.int64, device=device)
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    for logits, targets in opened.outputs():
        sums.add(nn.functional.cross_entropy(logits, targets, reduction="sum"), logits, targets)
        confusion.add(logits, targets)
        in_top5 += top_k_correct(logits, targets, 5)
        predicted = logits.argmax(dim=1, keepdim=True)
        # The prediction's own: of equal logits, max and argmax may mean different ones.
        of_it = logits.softmax(dim=1).gather(1, predicted)
        seen.append((targets.cpu(), predicted[:, 0].cpu(), of_it[:, 0].cpu()))
    if opened.name == "test":
        _count_test_read(opened.run)
    columns = (torch.cat(column).numpy() for column in zip(*seen, strict=True))
    true, predictions, probabilities = columns
    calibrated = calibration(probabilities.astype(np.float64), true == predictions)
    scores, counts = sums.read(), confusion.read()
    result = {
        "run": str(opened.run.path),
        "model": opened.run.config.model.name,
        "split": opened.name,
        "accuracy": scores.accuracy,
        "loss": scores.loss,
        "top5_accuracy": in_top5.item() / scores.count,
        "ece": calibrated.ece,
        "num_images": scores.count,
        "num_correct": scores.correct,
        "per_class": [
            {"class": name, **row} for name, row in zip(class_names, per_class(counts), strict=True)
        ],
        "confusion_matrix": counts.tolist(),
    }
    return Measured(result, true, predictions, probabilities, calibrated)


def report(message: str) -> None:
    """Tell the person at the keyboard, beside what the command prints."""
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
    for values, places in zip(*probabilities.topk(min(top, probabilities.shape[1])), strict=True):
        best = [
            {"class": network.class_names[place], "probability": value}
            for value, place in zip(values.tolist(), places.tolist(), strict=True)
        ]
        ranked.append({**best[0], "top": best})
    return ranked
