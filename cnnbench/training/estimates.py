"""What a run will take of disk, memory and time, estimated before it takes it."""

from __future__ import annotations

import copy
import dataclasses
import math
import shutil
import statistics
import time
from pathlib import Path

import torch
from torch import nn

from cnnbench.device.device import synchronize
from cnnbench.device.machine import memory_bytes
from cnnbench.errors import ResourceError
from cnnbench.geometry.observe import undisturbed
from cnnbench.optim.muon import Muon
from cnnbench.rendering.text import format_megabytes
from cnnbench.runs import predictions
from cnnbench.training.setup import Plan, Setup

# Activations, their gradients, and what the kernels need beside them.
_ACTIVATION_COPIES = 3
_PROBE_MACS = 20e9
# Steps that are timed for a budget of seconds, and how long that may take.
_WARM_UP_STEPS, _TIMED_STEPS, _PROBE_SECONDS = 3, 40, 3.0
_MANY_STEPS = 10**9
_CHECKPOINTS_WITH_STATE = 3  # two keep theirs while the next is written


def model_bytes(model: nn.Module) -> int:
    """Return the bytes of a network's parameters and buffers."""
    return sum(tensor.nbytes for tensor in model.state_dict().values())


def state_bytes(model: nn.Module, optimizer: torch.optim.Optimizer, *, has_average: bool) -> int:
    """Return the bytes that resuming needs beside the evaluated weights."""
    options = optimizer.defaults
    copies = int(
        2 * ("betas" in options)
        + ("alpha" in options)
        + bool(options.get("centered"))
        + (options.get("momentum", 0) > 0)
    )
    learned = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    kept = copies * learned
    if isinstance(optimizer, Muon):
        # A matrix has the momentum alone, the others AdamW's two averages.
        kept = 2 * learned - optimizer.matrix_bytes
    return kept + has_average * model_bytes(model)


def disk_bytes(weights_bytes: int, resume_bytes: int, num_epochs: int, keep: int | None) -> int:
    """Return the most that a run's checkpoints take.

    Args:
        weights_bytes: of one epoch's weights.
        resume_bytes: as ``state_bytes`` gave them.
        num_epochs: epochs of the run.
        keep: how many epochs are kept beside the best; ``None`` keeps all.
    """
    kept = num_epochs if keep is None else min(num_epochs, max(keep, 2) + 1)
    return (kept + 1) * weights_bytes + _CHECKPOINTS_WITH_STATE * resume_bytes


def training_bytes(
    model: nn.Module, resume_bytes: int, activation_bytes: int, batch_size: int
) -> int:
    """Return about what training takes of the device's memory, the copy that is saved included."""
    weights = model_bytes(model)
    learned = 2 * weights + resume_bytes + max(weights, resume_bytes)
    return learned + _ACTIVATION_COPIES * activation_bytes * batch_size


def expected_bytes(setup: Setup) -> tuple[int, int]:
    """Return the bytes that a run's directory and its training will about take."""
    state, config = setup.state, setup.plan.config
    to_resume = state_bytes(state.model, state.optimizer, has_average=state.average is not None)
    weights, keep_last = model_bytes(state.model), config.checkpoint.keep_last
    activations = setup.plan.network.activation_bytes
    kept = predictions.expected_bytes(setup.data.num_test, setup.data.num_classes)
    return (
        disk_bytes(weights, to_resume, setup.num_epochs, keep_last) + kept,
        training_bytes(
            state.model, to_resume, activations, _batch_part(setup.plan, config.data.batch_size)
        ),
    )


def expected_epoch_seconds(setup: Setup) -> float:
    """Time a forward and backward pass on a few images and scale it to an epoch.

    The network stays as it was.
    """
    data, model = setup.data, setup.state.model
    count = int(max(2, min(data.batch_size, _PROBE_MACS // max(1, setup.plan.network.macs))))
    raw_images, raw_targets = data.first_images(count)
    seconds = []
    with undisturbed(model):
        model.train()
        for _ in range(3):  # the first two also prepare kernels
            started = time.perf_counter()
            images, targets = data.prepare(raw_images, raw_targets)
            with setup.plan.autocast():
                loss, _outputs = setup.compute_loss(model, images, targets)
            loss.backward()
            loss.item()
            seconds.append(time.perf_counter() - started)
    return min(seconds) / len(raw_targets) * data.num_train / setup.plan.world.size


def affordable_steps(setup: Setup, seconds: float) -> int:
    """Time training steps of each image size; return how many steps fit into some seconds.

    Args:
        setup: at its start; stays as it is.
        seconds: of training; evaluation and saving come on top.
    """
    work = setup.plan.work
    shares = {size: work.fraction / len(work.sizes) for size in work.sizes}
    shares[setup.plan.config.data.image_size] = 1 - sum(shares.values())
    mean = sum(share * step_seconds(setup, size) for size, share in shares.items() if share)
    return max(1, int(seconds / mean))


def step_seconds(setup: Setup, image_size: int) -> float:
    """Time training steps on images of one size, on a copy of what is trained.

    Args:
        setup: at its start; stays as it is.
        image_size: pixels of a side.
    """
    work = dataclasses.replace(setup.plan.work, sizes=(image_size,), early_macs=(0,), fraction=1.0)
    plan = dataclasses.replace(setup.plan, work=work)
    probe = dataclasses.replace(setup, state=copy.deepcopy(setup.state), plan=plan)
    durations: list[float] = []
    since = begun = time.perf_counter()
    for _ in probe.steps(_MANY_STEPS):
        synchronize(setup.plan.device)
        now = time.perf_counter()
        durations.append(now - since)
        since = now
        has_warmed_up = len(durations) > _WARM_UP_STEPS
        if has_warmed_up and (len(durations) == _TIMED_STEPS or now - begun > _PROBE_SECONDS):
            break
    return statistics.median(durations[_WARM_UP_STEPS:])


def least_bytes(plan: Plan) -> int:
    """Return what training takes of the device's memory in any case.

    A gradient for each parameter, and the layers' outputs for a batch, which take half as much
    where they are kept in 16 bits. No batch is larger than the data, as far as its size is known
    without reading it.
    """
    data, network = plan.config.data, plan.network
    num_train = max(1, round(sum(plan.facts.train_counts) * (1 - data.val_fraction)))
    batch_size = _batch_part(plan, min(data.batch_size, num_train, data.limit or num_train))
    return 2 * 4 * network.num_params + network.activation_bytes * batch_size // 2


def _batch_part(plan: Plan, batch_size: int) -> int:
    """Return the images of a batch that are on one device; a CPU has those of all processes."""
    return batch_size if plan.device.type == "cpu" else math.ceil(batch_size / plan.world.size)


def check_memory(plan: Plan) -> None:
    """Refuse what the device's memory cannot hold, before the system ends the process for it.

    Raises:
        ResourceError: the device has less than ``least_bytes``.
    """
    least, available = least_bytes(plan), device_memory(plan.device)
    if available is not None and least > available:
        raise ResourceError(
            f"training takes at least {format_megabytes(least)} of memory and the device has "
            f"{format_megabytes(available)}; lower data.image_size or data.batch_size, or take a "
            "smaller network"
        )


def device_memory(device: torch.device) -> int | None:
    """Return the bytes that a device has, a GPU those that are free; None where nobody tells."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else memory_bytes()


def shortages(path: Path, device: torch.device, *, disk: int, memory: int) -> list[str]:
    """Return a sentence for each of disk and memory that will hardly do.

    Args:
        path: of the run.
        device: that trains.
        disk: bytes that the run may take.
        memory: bytes that training may take.
    """
    sentences = []
    free = shutil.disk_usage(path).free
    if disk > free:
        sentences.append(
            f"{path}: the run may take {format_megabytes(disk)} and {format_megabytes(free)} "
            "are free; lower checkpoint.keep_last or choose another output_root"
        )
    available = device_memory(device)
    if available is not None and memory > available:
        sentences.append(
            f"training may take {format_megabytes(memory)} of memory and the device has "
            f"{format_megabytes(available)}; lower data.batch_size or data.image_size"
        )
    return sentences
