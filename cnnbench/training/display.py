"""What a run shows of itself beside its numbers, on the screen and in TensorBoard."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from torch import Tensor, nn

from cnnbench.config.run_config import RunConfig
from cnnbench.metrics import ConfusionMatrix, CurveCounts
from cnnbench.models.build import Network
from cnnbench.runs.directory import RunDir
from cnnbench.seeds import derive_seed
from cnnbench.tracking import JsonLines, TensorBoard, Trackers, confusion_picture
from cnnbench.training.data import RunData

_GRID_IMAGES = 32
# Columns of the HParams page, each a scalar of TensorBoard alone.
METRICS = (
    "results/test/accuracy",
    "results/val/accuracy",
    "results/train_seconds",
    "results/num_params",
)


def open_trackers(
    run: RunDir, step: int, *, is_epoch_open: bool, warn: Any
) -> tuple[JsonLines, TensorBoard]:
    """Open a run's files of numbers, without what will be measured again.

    Args:
        run: locked.
        step: global step from which it goes on; 0 for a new one.
        is_epoch_open: whether that step's epoch was trained to its end, but not yet evaluated.
        warn: takes a message for the user.

    Raises:
        DiskError: ``metrics.jsonl`` cannot be written.
    """

    def is_redone(names: Collection[str]) -> bool:
        if is_epoch_open:
            return "train/loss" in names
        # What is written at the very end; an epoch that is selected by test has such numbers too.
        return "train/loss" not in names and any(n.startswith(("test/", "results/")) for n in names)

    metrics = JsonLines(run.metrics)
    metrics.truncate_after(step, is_redone)
    return metrics, TensorBoard(run.path, goes_on_after=step, is_redone=is_redone, warn=warn)


def introduction(config: RunConfig, data: RunData, network: Network) -> str:
    """Return two lines that say what is trained on what."""
    args, size = config.model.args, config.data.image_size
    stem = f", stem {args['stem']}" if "stem" in args else ""
    return (
        f"{config.model.name} on {config.data.name}: {data.in_channels} x {size} x {size}{stem}, "
        f"{network.num_params:,} parameters, {network.macs:,} MACs\n"
        + "\n".join(
            [
                f"train {data.num_train}, val {data.num_val}, test {data.num_test} images",
                *data.notes,
            ]
        )
    )


def show_start(trackers: Trackers, model: nn.Module, data: RunData, seed: int) -> None:
    """Show the first training images, the same ones augmented, and the network's graph."""
    plain, augmented = data.sample_grids(_GRID_IMAGES, derive_seed(seed, "augment", 0))
    trackers.images("train/images", plain, 0)
    trackers.images("train/augmented", augmented, 0)
    trackers.graph(model, data.example())


def settings_shown(config: RunConfig, *, device: str, precision: str) -> dict[str, Any]:
    """Return what the HParams page shows of a run: the same keys for every network and data set.

    Args:
        config: checked.
        device: that computes, such as cuda.
        precision: in force.
    """
    return {
        "model": config.model.name,
        "data": config.data.name,
        "augment": config.augment.name,
        "optimizer": config.optimizer.name,
        "scheduler": config.scheduler.name,
        "optimizer.lr": config.optimizer.lr,
        "optimizer.weight_decay": config.optimizer.weight_decay,
        "data.batch_size": config.data.batch_size,
        "data.image_size": config.data.image_size,
        "data.normalize": config.data.normalize,
        "data.val_fraction": config.data.val_fraction,
        "model.init": config.model.init,
        "num_epochs": config.num_epochs,
        "selection": config.selection,
        "seed": config.seed,
        "device": device,
        "precision": precision,
    }


def histograms(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a network, and the gradients of the newest step, by tag."""
    weights = {f"weights/{name}": p for name, p in model.named_parameters()}
    gradients = {
        f"gradients/{name}": p.grad for name, p in model.named_parameters() if p.grad is not None
    }
    return {**weights, **gradients}


def show_test(
    board: TensorBoard,
    confusion: ConfusionMatrix,
    curves: CurveCounts,
    class_names: Sequence[str],
    step: int,
) -> None:
    """Draw the confusion matrix of the test set and each class's precision-recall curve."""
    board.images("test/confusion", confusion_picture(confusion.read()), step)
    board.pr_curves("test/pr", class_names, curves.read(), step)


def show_results(board: TensorBoard, results: dict[str, Any], num_params: int, step: int) -> None:
    """Write the columns of the HParams page, those of them that the run has."""
    values = {**results, "num_params": num_params}
    tags = {tag: tag.removeprefix("results/") for tag in METRICS}
    board.scalars({tag: values[key] for tag, key in tags.items() if key in values}, step)
