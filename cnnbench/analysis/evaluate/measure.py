"""What a trained run does on one split of its data: exact metrics."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnnbench.analysis.data_check import seen_before
from cnnbench.data.images import Images
from cnnbench.data.splits import Splits, eval_batch_size
from cnnbench.device.device import configure, resolve_device
from cnnbench.engine import evaluate
from cnnbench.engine.loop import Batches
from cnnbench.errors import DiskError, UsageError
from cnnbench.files import expand_path
from cnnbench.geometry.trace import analyze
from cnnbench.metrics import (
    Calibration,
    ConfusionMatrix,
    Sums,
    calibration,
    per_class,
    top_k_correct,
)
from cnnbench.notices import notice, warn
from cnnbench.runs.code import with_named_data
from cnnbench.runs.directory import RunDir
from cnnbench.runs.network import LoadedNetwork, load_run
from cnnbench.runs.predictions import FILE_NAME, Outputs
from cnnbench.runs.provenance import check_same_data
from cnnbench.training.data import check_recorded_root, read_splits

# (uint8 images (n, C, H, W), their indices in the split) -> images of the same shape
Change = Callable[[Tensor, range], Tensor]
# Another evaluation that counts its reading takes far less.
_MAX_WAIT_SECONDS = 2.0


@dataclass(frozen=True)
class OpenSplit:
    """A run's network and one split of its data, on their device, ready to be measured.

    The arithmetic is float32, whatever the run trained in.

    Attributes:
        run: an existing run.
        name: train, val or test.
        network: with the selected epoch's weights.
        data: the run's; images have the data set's size.
        device: where network and batches are.
        batch_size: images at once.
        num_left_out: how many duplicates were left out; None where none were looked for.
    """

    run: RunDir
    name: str
    network: LoadedNetwork
    data: Splits
    device: torch.device
    batch_size: int
    num_left_out: int | None = None

    @property
    def num_images(self) -> int:
        """Images in the split."""
        return len(self.data.parts[self.name])

    def outputs(self, change: Change | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield outputs, as ``Loss.outputs`` has them, and targets of each batch, in order.

        Args:
            change: what is done to the images first.
        """
        batches = self.data.batches(self.name, self.batch_size)
        pairs = evaluate(
            self.network.module,
            batches if change is None else self._changed(batches, change),
            self.data.prepare,
            autocast=contextlib.nullcontext,
        )
        return ((self.network.loss.outputs(given), targets) for given, targets in pairs)

    def _changed(self, batches: Batches, change: Change) -> Iterator[tuple[Tensor, Tensor]]:
        first = 0
        for images, targets in batches:
            indices = range(first, first + len(targets))
            yield change(images.to(self.device), indices), targets
            first = indices.stop

    def images(self, indices: Sequence[int]) -> Images:
        """Return the images of some indices in the split, uint8 (len(indices), C, H, W)."""
        images, _targets = self.data.parts[self.name][torch.tensor(indices, dtype=torch.int64)]
        return images.cpu().numpy()


@dataclass(frozen=True)
class Measured:
    """What a run predicts on a split.

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
    run: RunDir,
    split: str,
    device_name: str = "auto",
    model_path: str | None = None,
    *,
    without_duplicates: bool = False,
    data_root: str | Path | None = None,
    data_path: str | None = None,
) -> OpenSplit:
    """Load a run's network, and the data it was trained on.

    Args:
        run: an existing run.
        split: train, val or test.
        device_name: auto, cpu, cuda or mps.
        model_path: as ``load_run`` takes it.
        without_duplicates: leave out the images that are also, up to small damage, among those
            that training or choosing has seen.
        data_root: where the data is now, in place of the recorded ``data.root``.
        data_path: ``FILE:NAME`` of data of the user's own, whose code no run may name itself.

    Raises:
        UsageError: the split is empty.
        CheckpointError: the run is damaged or foreign.
        DataError: its data is missing or damaged, or not the data it was trained on.
    """
    network = load_run(run, model_path)
    config, record = with_named_data(run, data_path), run.record
    if data_root is not None:
        config = replace(config, data=replace(config.data, root=str(expand_path(data_root))))
    check_recorded_root(config, "--data-root PATH")
    device = resolve_device(device_name)
    configure(device, config.device.num_threads)
    data = read_splits(config, notice, device=device, resize_once=False)
    check_same_data(record, sha256=data.sha256, source=data.source)
    if not len(data.parts[split]):
        raise UsageError(f"--split {split}: this run has no {split} images (data.val_fraction=0)")
    num_left_out = None
    if without_duplicates:
        network.check_images()
        seen = seen_before(data, split)
        kept = np.setdiff1d(np.arange(len(data.parts[split])), seen)
        if not len(kept):
            raise UsageError(f"--without-duplicates: leaves no {split} image")
        data.keep(split, kept)
        num_left_out = len(seen)
    shape = (network.in_channels, config.data.image_size, config.data.image_size)
    batch_size = eval_batch_size(analyze(network.module, shape).activation_bytes)
    network.module.to(device)
    return OpenSplit(run, split, network, data, device, batch_size, num_left_out)


def measure_numbers(opened: OpenSplit) -> dict[str, Any]:
    """Return the scores of a network that predicts a number; as ``measure``, without classes."""
    loss = opened.network.loss
    sums = loss.sums(opened.device, opened.data.target_std)
    for outputs, targets in opened.outputs():
        sums.add(loss.total(outputs, targets), outputs, targets)
    if opened.name == "test":
        _count_test_read(opened.run)
    scores = sums.read()
    return {
        "run": str(opened.run.path),
        "model": opened.run.config.model.name,
        "split": opened.name,
        "loss": scores.loss,
        **scores.metrics,
        "num_images": scores.count,
    }


def measure(opened: OpenSplit) -> Measured:
    """Run the network over the split; for ``test``, that adds to the run's ``test_reads``."""
    class_names, device = opened.network.class_names, opened.device
    sums, confusion = Sums(device), ConfusionMatrix(len(class_names), device)
    in_top5 = torch.zeros((), dtype=torch.int64, device=device)
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    kept = Outputs()
    for logits, targets in opened.outputs():
        sums.add(opened.network.loss.total(logits, targets), logits, targets)
        confusion.add(logits, targets)
        kept.add(logits, targets)
        in_top5 += top_k_correct(logits, targets, 5)
        predicted = logits.argmax(dim=1, keepdim=True)
        # Of that very class: of equal logits, max and argmax may mean different ones.
        confidence = logits.softmax(dim=1).gather(1, predicted)
        seen.append((targets.cpu(), predicted[:, 0].cpu(), confidence[:, 0].cpu()))
    columns = (torch.cat(column).numpy() for column in zip(*seen, strict=True))
    true, predictions, probabilities = columns
    calibrated = calibration(probabilities.astype(np.float64), true == predictions)
    scores, counts = sums.read(), confusion.read()
    if opened.name == "test":
        _count_test_read(opened.run)
        _keep_predictions(opened, kept, scores.accuracy)
    result = {
        "run": str(opened.run.path),
        "model": opened.run.config.model.name,
        "split": opened.name,
        "accuracy": scores.accuracy,
        "loss": scores.loss,
        # Of five classes or fewer, every image has its class among the first five.
        **({"top5_accuracy": in_top5.item() / scores.count} if len(class_names) > 5 else {}),
        "ece": calibrated.ece,
        "num_images": scores.count,
        **({} if opened.num_left_out is None else {"num_duplicates": opened.num_left_out}),
        "num_correct": scores.correct,
        "per_class": [
            {"class": name, **row} for name, row in zip(class_names, per_class(counts), strict=True)
        ],
        "confusion_matrix": counts.tolist(),
    }
    return Measured(result, true, predictions, probabilities, calibrated)


def _count_test_read(run: RunDir) -> None:
    """Record one more reading of the test set; a run that is being written keeps its own count."""
    try:
        with run.lock(_MAX_WAIT_SECONDS):
            record = run.record
            results = {**record.results, "test_reads": record.test_reads + 1}
            replace(record, results=results).write(run.record_file)
    except UsageError:
        return
    except DiskError as error:
        warn(f"this reading of the test set is not counted: {error}")


def _keep_predictions(opened: OpenSplit, outputs: Outputs, accuracy: float) -> None:
    """Give a finished run of an older version its predictions, where it can be written.

    Those that give another accuracy than the recorded one, since the run trained in another
    precision say, are not the run's.
    """
    run = opened.run
    if opened.num_left_out is not None or (run.path / FILE_NAME).exists():
        return
    with contextlib.suppress(UsageError, DiskError), run.lock(_MAX_WAIT_SECONDS):
        record = run.record
        if record.status == "done" and record.results.get("test/accuracy") == accuracy:
            outputs.write(run.path, opened.data.test_sha256)
