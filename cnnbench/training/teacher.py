"""A trained run as the teacher of another one (Hinton et al., 2015, arXiv:1503.02531)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnnbench.config.run_config import RunConfig
from cnnbench.data import Facts
from cnnbench.data.splits import Splits
from cnnbench.engine.loop import ComputeLoss
from cnnbench.errors import UsageError
from cnnbench.losses import LOSSES
from cnnbench.runs.directory import open_run
from cnnbench.runs.network import CodeNeededError, LoadedNetwork, load_run

# (network input of the student, normalised) -> logits of the teacher, (N, num_classes)
Teach = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Teacher:
    """What is known of a teacher before its weights are read.

    Attributes:
        macs: multiply-accumulates of its forward pass of one image.
        train_tflop: of its training, and of its own teacher's.
    """

    macs: int
    train_tflop: float


def describe_teacher(config: RunConfig, facts: Facts) -> Teacher | None:
    """Return what the record of a config's teacher says; None where there is no teacher.

    Raises:
        UsageError: it is no finished run, of other classes or channels, it alone took the whole
            budget, or the loss is of numbers.
    """
    if config.loss.teacher is None:
        return None
    label = f"loss.teacher={config.loss.teacher}"
    run = open_run(config.loss.teacher)
    record = run.record
    if record.status != "done":
        raise UsageError(f"{label}: this run is {record.status}; expected a finished one")
    if LOSSES[config.loss.name].is_number or record.config.get("loss", {}).get("name") == "mse":
        raise UsageError(f"{label}: a teacher tells classes apart; expected loss=cross_entropy")
    names = record.data.class_names or ()
    if names != tuple(facts.class_names):
        raise UsageError(
            f"{label}: was trained on other classes ({_listed(names)}) than those of "
            f"data={config.data.name} ({_listed(facts.class_names)})"
        )
    channels, macs = record.model.get("in_channels"), record.model.get("macs")
    if channels != facts.in_channels:
        raise UsageError(
            f"{label}: takes images of {channels} channels, and those of data={config.data.name} "
            f"have {facts.in_channels}"
        )
    tflop = record.results.get("train_tflop")
    if not isinstance(macs, int) or not isinstance(tflop, (int, float)):
        raise UsageError(
            f"{label}: does not say how much work its training was, as runs of this version do; "
            "train the teacher anew"
        )
    budget = config.budget.tflop
    if budget is not None and tflop >= budget:
        raise UsageError(
            f"budget.tflop={budget:g}: the training of {label} counts, and took {tflop:.4g}; set "
            "a larger budget"
        )
    return Teacher(macs, float(tflop))


def _listed(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:3])
    return f"{len(names)}: {shown}, ..." if len(names) > 3 else shown


def distilled(
    compute_loss: ComputeLoss, teach: Teach, *, weight: float, temperature: float
) -> ComputeLoss:
    """Return a loss that also draws the outputs towards a teacher's.

    It is ``(1 - weight) * loss + weight * T^2 * KL(teacher || student)``, both softened by the
    temperature T. The teacher sees the very images that the student sees, augmented and mixed
    (Beyer et al., 2022, arXiv:2106.05237).

    Args:
        compute_loss: of the targets.
        teach: gives the teacher's logits.
        weight: of the teacher, in (0, 1].
        temperature: by which logits are divided, > 0.
    """

    def compute(model: nn.Module, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        loss, outputs = compute_loss(model, images, targets)
        taught = (teach(images) / temperature).log_softmax(dim=1)
        learned = (outputs.float() / temperature).log_softmax(dim=1)
        distance = F.kl_div(learned, taught, reduction="batchmean", log_target=True)
        return (1 - weight) * loss + weight * temperature**2 * distance, outputs

    return compute


def load_teacher(
    config: RunConfig, data: Splits, prepare: Callable[[nn.Module, int], None]
) -> Teach:
    """Return what gives the logits of a config's teacher for the student's input.

    Args:
        config: whose ``loss.teacher`` is a run.
        data: that the student is trained on.
        prepare: brings the teacher, which takes images of so many pixels, to where it computes.

    Raises:
        CheckpointError: the run is damaged or foreign.
        UsageError: its network is code of someone's own, and not the student's.
    """
    assert config.loss.teacher is not None
    run = open_run(config.loss.teacher)
    try:
        loaded = load_run(run, config.model.args.get("path"))
    except CodeNeededError as error:
        raise UsageError(
            f"loss.teacher={config.loss.teacher}: its network is code of someone's own, which no "
            "run may name; expected a network of ours, or the file of model.path"
        ) from error
    module = loaded.module.requires_grad_(False)
    size = int(run.record.model["image_size"])
    prepare(module, size)
    scale, shift = _renormalize(data, loaded)
    is_normalized_alike = bool((scale == 1).all() and (shift == 0).all())

    def teach(images: Tensor) -> Tensor:
        with torch.no_grad():
            if images.shape[2] != size:
                images = F.interpolate(images, size, mode="bilinear", antialias=True)
            if not is_normalized_alike:
                images = images * scale.to(images) + shift.to(images)
            return loaded.outputs(images)

    return teach


def _renormalize(data: Splits, teacher: LoadedNetwork) -> tuple[Tensor, Tensor]:
    """Return by what a student's input is scaled and shifted to be the teacher's, (1, C, 1, 1)."""
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (data.mean, data.std))
    theirs = teacher.transform
    their_mean, their_std = (torch.tensor(v).view(1, -1, 1, 1) for v in (theirs.mean, theirs.std))
    std = torch.where(std > 0, std, 1.0)  # as images without any contrast are left
    return std / their_std, (mean - their_mean) / their_std
