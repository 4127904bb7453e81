"""How fast a config trains, evaluates and makes its batches here, and what that is of the peak.

It times what a run runs: the steps of ``steps.training_steps``, with the same data, network and
optimizer, logged to a directory that is gone afterwards.
"""

from __future__ import annotations

import functools
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from cnnbench.config.run_config import RunConfig
from cnnbench.device.device import (
    Precision,
    autocast,
    configure,
    device_name,
    has_native_bf16,
    resolve_device,
    resolve_precision,
    synchronize,
)
from cnnbench.engine import Step, TrainState, evaluate
from cnnbench.engine.loop import ComputeLoss, training_loss
from cnnbench.metrics import Sums
from cnnbench.models.build import Network
from cnnbench.notices import notice
from cnnbench.optim import Schedule
from cnnbench.seeds import derive_seed
from cnnbench.tracking import JsonLines, TensorBoard, Trackers
from cnnbench.training import data as build
from cnnbench.training import network as networks
from cnnbench.training import setup as steps
from cnnbench.training.data import RunData

PARTS = ("data", "forward", "backward", "optimizer", "logging")
_WINDOWS = 5
_WARMUP_STEPS = 3
PEAK_SIDES = (1024, 2048, 4096)
_FLOP_IMAGES = 2
_ENDLESS = 1_000_000  # epochs: more than any measurement takes


@dataclass
class Subject:
    """What is measured: a run in all but its directory.

    Attributes:
        config: checked.
        data: on the device.
        network: what it is.
        state: at the start of training; measuring changes it.
        schedule: of the learning rate.
        device: where it computes.
        precision: of the forward pass.
        compute_loss: a compiled one, or None for the plain one.
    """

    config: RunConfig
    data: RunData
    network: Network
    state: TrainState
    schedule: Schedule
    device: torch.device
    precision: Precision
    compute_loss: ComputeLoss | None = None

    def steps(self) -> Iterator[Step]:
        """Return the run's training steps from where the state stands."""
        return steps.training_steps(
            replace(self.config, num_epochs=_ENDLESS),
            self.data,
            self.state,
            self.schedule,
            self.device,
            self.precision,
            self.compute_loss,
        )

    def batch_size_of(self, step: Step) -> int:
        """Return how many images a step saw."""
        return self.data.last_batch_size if step.ends_epoch else self.data.batch_size


@dataclass(frozen=True)
class Rate:
    """Images per second over several windows of time."""

    median: float
    smallest: float
    largest: float


def measure(config: RunConfig, seconds: float) -> dict[str, Any]:
    """Measure a config.

    Args:
        config: checked.
        seconds: for each of training, its parts, evaluation, data and peak; > 0.

    Returns:
        Plain values; see ``cnnbench.bench``.

    Raises:
        DataError: the data is missing or damaged.
        UsageError: the config does not fit this machine.
    """
    subject = prepare(config)
    model, data = subject.state.model, subject.data
    device, precision = subject.device, subject.precision
    compile_seconds = None
    if config.device.compile:
        compiled = steps.compile_loss(model, data, device, precision)
        subject.compute_loss, compile_seconds = compiled
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    train = train_rate(subject, seconds)
    parts = part_seconds(subject, seconds)
    memory = peak_memory_bytes(device)
    evaluated, prepared = eval_rate(subject, seconds), data_rate(subject, seconds)
    flops = flops_per_image(subject)
    peak = peak_flops_per_second(device, precision, seconds)
    return {
        "model": config.model.name,
        "data": config.data.name,
        "image_size": config.data.image_size,
        "batch_size": data.batch_size,
        "device": device_name(device),
        "precision": precision.name,
        "num_threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "compile_seconds": compile_seconds,
        **_named("train", train),
        **_named("eval", evaluated),
        **_named("data", prepared),
        "step_seconds": sum(parts.values()),
        **{f"{part}_seconds": parts[part] for part in PARTS},
        "peak_memory_bytes": memory,
        "flops_per_image": flops,
        "flops_per_second": flops * train.median,
        "peak_flops_per_second": peak,
        "peak_fraction": flops * train.median / peak,
    }


def prepare(config: RunConfig) -> Subject:
    """Build all that a run trains with, placed on the device.

    Args:
        config: checked.

    Raises:
        DataError: the data is missing or damaged.
        UsageError: the config does not fit this machine.
    """
    device = resolve_device(config.device.name)
    configure(device, config.device.num_threads)
    data = build.build_data(config, notice)
    network = networks.describe_network(config, data)
    precision = resolve_precision(config.device.precision, device, macs=network.macs)
    torch.manual_seed(derive_seed(config.seed, "init"))
    model = networks.build_model(config, data)
    state, schedule = steps.place(config, model, data, device, precision)
    return Subject(config, data, network, state, schedule, device, precision)


def _named(what: str, rate: Rate) -> dict[str, float]:
    name = f"{what}_images_per_second"
    return {name: rate.median, f"{name}_min": rate.smallest, f"{name}_max": rate.largest}


def _rate(counts: Iterator[int], device: torch.device, seconds: float) -> Rate:
    """Return how fast an endless iterator that yields numbers of images goes on."""
    rates = []
    for _ in range(_WINDOWS):
        synchronize(device)
        started, images = time.perf_counter(), 0
        while True:
            images += next(counts)
            if time.perf_counter() - started >= seconds / _WINDOWS:
                break
        synchronize(device)
        rates.append(images / (time.perf_counter() - started))
    return Rate(statistics.median(rates), min(rates), max(rates))


def train_rate(subject: Subject, seconds: float) -> Rate:
    """Return images per second of training, logging included."""
    with tempfile.TemporaryDirectory() as directory:
        log = Log(Path(directory), subject.config.log_every_steps)

        def counts() -> Iterator[int]:
            for step in subject.steps():
                log.step(step, subject.state.global_step)
                yield subject.batch_size_of(step)

        endless = counts()
        for _ in range(_WARMUP_STEPS):
            next(endless)
        rate = _rate(endless, subject.device, seconds)
        log.close()
    return rate


def part_seconds(subject: Subject, seconds: float) -> dict[str, float]:
    """Return the median time of each part of a training step, the device waited for between them.

    The optimizer's part holds all that follows the backward pass: the gradient norm, the check for
    numbers that are not finite, the update, the average of the weights, and the running sums.
    """
    clock = _Clock(subject.device)
    timed = replace(subject, compute_loss=clock.timed(subject.compute_loss or training_loss))
    parameters = [p for p in subject.state.model.parameters() if p.requires_grad]
    hooks = [p.register_post_accumulate_grad_hook(clock.accumulated) for p in parameters]
    taken: dict[str, list[float]] = {part: [] for part in PARTS}
    with tempfile.TemporaryDirectory() as directory:
        log, started = Log(Path(directory), every=1), time.perf_counter()
        clock.begin()
        for count, step in enumerate(timed.steps()):
            clock.stamp()
            log.step(step, subject.state.global_step)
            times = [*clock.stamps, clock.now()]
            if count >= _WARMUP_STEPS:
                for part, begin, end in zip(PARTS, times, times[1:], strict=False):
                    taken[part].append(end - begin)
                if time.perf_counter() - started > seconds and count >= 2 * _WARMUP_STEPS:
                    break
            clock.begin()
        log.close()
    for hook in hooks:
        hook.remove()
    medians = {part: statistics.median(values) for part, values in taken.items()}
    # Here every step was logged, in a run every so many.
    return {**medians, "logging": medians["logging"] / subject.config.log_every_steps}


class _Clock:
    """Stamps the ends of a step's parts.

    Attributes:
        stamps: of the running step: its start, then the end of each part.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._num_grads = self._num_seen = 0
        self.stamps: list[float] = []

    def now(self) -> float:
        synchronize(self._device)
        return time.perf_counter()

    def begin(self) -> None:
        self._num_grads = max(self._num_grads, self._num_seen)  # as the first step tells
        self._num_seen = 0
        self.stamps = [self.now()]

    def stamp(self) -> None:
        self.stamps.append(self.now())

    def timed(self, compute_loss: ComputeLoss) -> ComputeLoss:
        def computed(model: nn.Module, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
            self.stamp()
            result = compute_loss(model, images, targets)
            self.stamp()
            return result

        return computed

    def accumulated(self, _: Tensor) -> None:
        self._num_seen += 1
        if self._num_seen == self._num_grads:
            self.stamp()


class Log:
    """What ``train`` does with the numbers of every so many steps.

    Args:
        directory: exists; gets the files.
        every: steps between two that are logged.
    """

    def __init__(self, directory: Path, every: int) -> None:
        self._every = every
        self._trackers = Trackers(
            JsonLines(directory / "metrics.jsonl"), TensorBoard(directory, warn=notice)
        )

    def step(self, step: Step, count: int) -> None:
        """Log a step, where its turn has come.

        Args:
            step: as ``fit`` yielded it.
            count: updates so far.
        """
        if count % self._every == 0:
            values = {
                "train/step_loss": step.loss.item(),
                "optim/lr": step.lr,
                "optim/grad_norm": step.grad_norm.item(),
            }
            self._trackers.scalars({"epoch": step.epoch, **values}, count)

    def close(self) -> None:
        """Close the files."""
        self._trackers.close()


def eval_rate(subject: Subject, seconds: float) -> Rate:
    """Return images per second of evaluation, on the training images: the test set stays unread."""
    size = build.eval_batch_size(subject.network.activation_bytes)

    def counts() -> Iterator[int]:
        while True:
            sums = Sums(subject.device)
            batches = evaluate(
                subject.state.evaluated_model,
                subject.data.batches("train", size),
                subject.data.prepare,
                autocast=functools.partial(autocast, subject.device, subject.precision),
            )
            for logits, targets in batches:
                sums.add(F.cross_entropy(logits, targets, reduction="sum"), logits, targets)
                yield len(targets)

    endless = counts()
    next(endless)
    return _rate(endless, subject.device, seconds)


def data_rate(subject: Subject, seconds: float) -> Rate:
    """Return images per second of training batches that nothing is trained on."""
    generator = torch.Generator(subject.device).manual_seed(0)

    def counts() -> Iterator[int]:
        for epoch in range(1, _ENDLESS):
            for images, targets in subject.data.train_batches(epoch, 0):
                subject.data.prepare_train(images, targets, generator)
                yield len(images)

    endless = counts()
    next(endless)
    return _rate(endless, subject.device, seconds)


def flops_per_image(subject: Subject) -> float:
    """Return the floating-point operations of forward and backward pass, by torch's counter."""
    raw = subject.data.first_images(min(_FLOP_IMAGES, subject.data.num_train))
    images, targets = subject.data.prepare(*raw)
    model = subject.state.model
    with steps.undisturbed(model), FlopCounterMode(display=False) as counter:
        with autocast(subject.device, subject.precision):
            loss, _logits = training_loss(model, images, targets)
        loss.backward()
    return float(counter.get_total_flops()) / len(images)


def peak_flops_per_second(device: torch.device, precision: Precision, seconds: float) -> float:
    """Return the largest of the medians for square matrix products of three sizes.

    A format that the device only emulates has no peak worth its time: a large product of bfloat16
    in software takes minutes. fp32 is measured in its place, which is what the device can do.

    Args:
        device: where they are computed.
        precision: of the matrices.
        seconds: in all; each size is measured at least three times.
    """
    emulated = precision.name == "bf16" and not has_native_bf16(device)
    dtype = torch.float32 if emulated else precision.dtype
    rates = []
    for side in PEAK_SIDES:
        left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        torch.mm(left, right)
        times: list[float] = []
        while len(times) < 3 or sum(times) < seconds / len(PEAK_SIDES):
            synchronize(device)
            started = time.perf_counter()
            torch.mm(left, right)
            synchronize(device)
            times.append(time.perf_counter() - started)
        rates.append(2 * side**3 / statistics.median(times))
    return max(rates)


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most that this process has held: of the GPU's memory, or resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource  # Windows has none

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
