"""What a run shows of itself beside its numbers, on the screen and in TensorBoard."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from cnnbench.config.run_config import to_tree
from cnnbench.config.settings import leaves
from cnnbench.engine import Step, TrainState
from cnnbench.engine.finite import check_step
from cnnbench.losses import LOSSES, Loss
from cnnbench.metrics import ConfusionMatrix, CurveCounts
from cnnbench.notices import warn
from cnnbench.rendering.text import counted, setting_text
from cnnbench.runs.columns import COLUMNS
from cnnbench.runs.directory import RunDir
from cnnbench.seeds import derive_seed
from cnnbench.tracking import (
    Console,
    JsonLines,
    TensorBoard,
    Trackers,
    confusion_image,
    format_seconds,
)
from cnnbench.training import estimates, first_batch
from cnnbench.training.setup import Plan, Setup

_GRID_IMAGES = 32


def result_tags(loss: Loss) -> list[str]:
    """Return the columns of the HParams page, each a scalar of TensorBoard alone.

    Args:
        loss: of the run, whose own scores it has; results stand before costs.
    """
    scores = {metric for other in LOSSES.values() for metric in other.metrics}
    foreign = scores - set(loss.metrics)
    return [
        f"results/{column.name}"
        for column in reversed(COLUMNS.values())
        if column.in_hparams and column.name.rpartition("/")[2] not in foreign
    ]


def open_trackers(
    run: RunDir, plan: Plan, step: int, *, is_epoch_open: bool, warn: Callable[[str], None]
) -> tuple[Trackers, TensorBoard | None]:
    """Open a run's files of numbers, without what will be measured again, where they are written.

    Args:
        run: an existing directory that nobody else writes to.
        plan: of its config.
        step: global step from which it is resumed; 0 for a new one.
        is_epoch_open: whether that step's epoch was trained to its end, but not yet evaluated.
        warn: takes a message for the user.

    Raises:
        DiskError: ``metrics.jsonl`` cannot be written.
    """

    def is_written_again(names: Collection[str]) -> bool:
        if is_epoch_open:
            return "train/loss" in names
        # What is written at the very end; an epoch that is selected by test has such numbers too.
        return "train/loss" not in names and any(n.startswith(("test/", "results/")) for n in names)

    if not run.writes:
        return Trackers(), None
    metrics = JsonLines(run.metrics)
    metrics.truncate_after(step, is_written_again)
    tensorboard = TensorBoard(
        run.path, resumed_after=step, is_written_again=is_written_again, warn=warn
    )
    tensorboard.session_start(settings_shown(plan, run.swept_keys()), result_tags(plan.loss), step)
    return Trackers(metrics, tensorboard), tensorboard


def log_step(
    step: Step, state: TrainState, screen: Console, trackers: Trackers, *, every: int
) -> None:
    """Count a step on the screen, and log its numbers where it is due or ends an epoch.

    Only then are they fetched from the device.

    Args:
        step: as ``fit`` yielded it.
        state: as the step left it.
        screen: has a bar in a terminal.
        trackers: get the numbers of every so many steps.
        every: steps from one that is logged to the next.

    Raises:
        NonFiniteError: a number of the step is not finite, and no loss scaling explains it.
    """
    is_due = state.global_step % every == 0
    if not is_due and not step.ends_epoch:
        screen.step(step.num_images)
        return
    loss, grad_norm = step.loss.item(), step.grad_norm.item()
    check_step(state, loss, grad_norm)
    screen.step(step.num_images, loss=loss)
    if is_due:
        values = {"train/step_loss": loss, "optim/lr": step.lr, "optim/grad_norm": grad_norm}
        trackers.scalars({"epoch": step.epoch, **values}, state.global_step)


def introduction(setup: Setup, effective: Mapping[str, Any]) -> str:
    """Return lines that say what is trained on what, and computed by what."""
    data, network, config = setup.data, setup.plan.network, setup.plan.config
    args, size = config.model.args, config.data.image_size
    shape = (
        f"{data.in_channels} columns" if data.columns else f"{data.in_channels} x {size} x {size}"
    )
    what = "rows" if data.columns else "images"
    world_size = setup.plan.world.size
    processes = f" in each of {world_size} processes" if world_size > 1 else ""
    stem = f", stem {args['stem']}" if "stem" in args else ""
    return (
        f"{config.model.name} on {config.data.name}: {shape}{stem}, "
        f"{network.num_params:,} parameters, {network.macs:,} MACs\n"
        f"train {data.num_train}, val {data.num_val}, test {data.num_test} {what}\n"
        + "".join(f"{note}\n" for note in (*data.notes, *network.notes))
        + f"{effective['device_name']}, {effective['precision']}, "
        f"{counted(effective['num_threads'], 'thread')}{processes}; seed {config.seed}"
    )


def introduce(
    setup: Setup, effective: Mapping[str, Any], run: RunDir, screen: Console, trackers: Trackers
) -> None:
    """Say what is about to happen, warn of what may not fit, and show the first images."""
    disk, memory = estimates.expected_bytes(setup)
    shortages = estimates.shortages(run.path, setup.plan.device, disk=disk, memory=memory)
    for message in (*first_batch.findings(setup), *shortages):
        warn(message)
    seconds = estimates.expected_epoch_seconds(setup)
    screen.print(
        f"{introduction(setup, effective)}\nexpected: about {format_seconds(seconds)} per epoch, "
        f"up to {disk / 1e6:,.1f} MB on disk\nrun: {run.path}"
    )
    show_beginning(trackers, setup)


def show_beginning(trackers: Trackers, setup: Setup) -> None:
    """Show the first training images, and the same ones augmented."""
    if setup.data.columns:  # rows of numbers cannot be shown
        return
    seed = derive_seed(setup.plan.config.seed, "augment", 0)
    plain, augmented = setup.data.sample_grids(_GRID_IMAGES, seed)
    trackers.images("train/images", plain, 0)
    trackers.images("train/augmented", augmented, 0)


def settings_shown(plan: Plan, swept_keys: Collection[str] = ()) -> dict[str, Any]:
    """Return what the HParams page shows of a run: the same keys for every network and data set.

    Args:
        plan: of the run.
        swept_keys: in which it differs from the other jobs of its sweep; these are shown too.
    """
    config = plan.config
    values = dict(leaves(to_tree(config)))
    swept = {
        key: values[key] if isinstance(values[key], (int, float)) else setting_text(values[key])
        for key in swept_keys
        if key in values
    }
    return swept | {
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
        "device": plan.device.type,
        "precision": plan.precision.name,
    }


def histograms(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a network, and the gradients of the newest step, by tag."""
    weights = {f"weights/{name}": p for name, p in model.named_parameters()}
    gradients = {
        f"gradients/{name}": p.grad for name, p in model.named_parameters() if p.grad is not None
    }
    return {**weights, **gradients}


def show_test(
    tensorboard: TensorBoard,
    confusion: ConfusionMatrix,
    curves: CurveCounts,
    class_names: Sequence[str],
    step: int,
) -> None:
    """Draw the confusion matrix of the test set and each class's precision-recall curve."""
    tensorboard.images("test/confusion", confusion_image(confusion.read()), step)
    tensorboard.pr_curves("test/pr", class_names, curves.read(), step)


def show_results(
    tensorboard: TensorBoard, results: dict[str, Any], num_params: int, step: int
) -> None:
    """Write the columns of the HParams page, those of them that the run has."""
    values = {**results, "num_params": num_params}
    columns = [name for name, column in COLUMNS.items() if column.in_hparams and name in values]
    tensorboard.scalars({f"results/{name}": values[name] for name in columns}, step)
