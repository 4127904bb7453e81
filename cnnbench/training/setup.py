"""From a config and its data to training steps: what ``train``, ``bench`` and benchmarks run."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import nn

from cnnbench.config.run_config import RunConfig
from cnnbench.device.device import (
    Precision,
    autocast,
    grad_scaler,
    resolve_channels_last,
    synchronize,
)
from cnnbench.engine import Step, TrainState, fit
from cnnbench.engine.loop import ComputeLoss, training_loss
from cnnbench.errors import UsageError, reason_of
from cnnbench.layers.cpu.products import use_products
from cnnbench.layers.pooling import use_halving
from cnnbench.models.build import Network
from cnnbench.optim import Schedule
from cnnbench.seeds import derive_seed
from cnnbench.training.data import RunData, build_state

_PROBE_MACS = 20e9


def place(
    config: RunConfig, model: nn.Module, data: RunData, device: torch.device, precision: Precision
) -> tuple[TrainState, Schedule]:
    """Bring network and data to the device, in the config's memory layout.

    Args:
        config: checked.
        model: with the weights that training starts from.
        data: as ``build.build_data`` made it.
        device: that was resolved from the config.
        precision: likewise.

    Returns:
        The state at the start of training, and the schedule.
    """
    channels_last = resolve_channels_last(config.device.channels_last, device)
    model = model.to(device)
    on_plain_cpu = device.type == "cpu" and not config.device.compile
    if on_plain_cpu:
        use_halving(model)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
        if on_plain_cpu and precision.name == "bf16":
            use_products(model)
    data.to(device, channels_last=channels_last)
    return build_state(config, model, device, grad_scaler(device, precision))


def training_steps(
    config: RunConfig,
    data: RunData,
    state: TrainState,
    schedule: Schedule,
    device: torch.device,
    precision: Precision,
    compute_loss: ComputeLoss | None = None,
) -> Iterator[Step]:
    """Return the steps of a run from where its state stands; see ``engine.fit``.

    Args:
        config: checked.
        data: as ``place`` left it.
        state: as ``place`` returned it.
        schedule: likewise.
        device: as ``place`` had it.
        precision: likewise.
        compute_loss: in place of ``training_loss``, such as a compiled one.
    """
    return fit(
        state,
        data.train_batches,
        data.prepare_train,
        schedule,
        num_epochs=config.num_epochs,
        steps_per_epoch=data.steps_per_epoch,
        seed=config.seed,
        device=device,
        autocast=functools.partial(autocast, device, precision),
        compute_loss=compute_loss,
    )


def compile_loss(
    model: nn.Module, data: RunData, device: torch.device, precision: Precision
) -> tuple[ComputeLoss, float]:
    """Compile forward and backward pass for the batches that an epoch has.

    Evaluation stays as it is, so that its batches of other sizes need no compilation. The model's
    parameters, buffers and state dict are those of the plain module.

    Args:
        model: on the device; left as it was.
        data: likewise.
        device: cpu, cuda or mps.
        precision: of the forward pass.

    Returns:
        What ``training_steps`` takes, and the seconds that compiling took.

    Raises:
        UsageError: torch cannot compile this network here.
    """
    # Else the earlier networks of a sweep would fill torch's cache, and it would stop compiling.
    torch.compiler.reset()
    compiled: ComputeLoss = torch.compile(training_loss, dynamic=False)
    generator = torch.Generator(device).manual_seed(derive_seed(0, "augment", 0))
    started = time.perf_counter()
    with undisturbed(model):
        for size in data.batch_sizes():
            images, targets = data.prepare_train(*data.first_images(size), generator)
            try:
                with autocast(device, precision):
                    loss, _logits = compiled(model, images, targets)
                loss.backward()
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                raise UsageError(
                    f"device.compile=true: torch cannot compile this network here: "
                    f"{type(error).__name__}: {reason_of(error)}; use device.compile=false"
                ) from error
    synchronize(device)
    return compiled, time.perf_counter() - started


def expected_epoch_seconds(
    model: nn.Module,
    data: RunData,
    network: Network,
    make_autocast: Callable[[], AbstractContextManager[object]],
) -> float:
    """Time a forward and backward pass on a few images and scale it to an epoch.

    The network's weights and running statistics stay as they were; its gradients are dropped.
    """
    count = int(max(2, min(data.batch_size, _PROBE_MACS // max(1, network.macs))))
    count = min(count, data.num_train)
    raw_images, raw_targets = data.first_images(count)
    seconds = []
    with undisturbed(model):
        for _ in range(3):  # the first two also prepare kernels
            started = time.perf_counter()
            images, targets = data.prepare(raw_images, raw_targets)
            with make_autocast():
                loss, _logits = training_loss(model, images, targets)
            loss.backward()
            loss.item()
            seconds.append(time.perf_counter() - started)
    return min(seconds) / count * data.num_train


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Put a network into training mode; its buffers stay as they were, its gradients go."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.train()
    try:
        yield
    finally:
        model.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
