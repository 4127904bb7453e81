"""How fast a config trains, evaluates and makes its batches here, and what that is of the peak.

It times what a run runs: the steps of a ``Setup``, logged as ``train`` logs them, to a directory
that is gone afterwards.
"""

from __future__ import annotations

import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console as RichConsole
from torch import Tensor, nn
from torch.utils.flop_counter import flop_registry

from cnnbench.device.device import device_name, synchronize
from cnnbench.device.precision import Precision, has_native_bf16
from cnnbench.engine import Step
from cnnbench.engine.loop import ComputeLoss
from cnnbench.geometry.observe import Watch, undisturbed
from cnnbench.notices import guarded, warn
from cnnbench.runs.directory import RunDir
from cnnbench.tracking import Console
from cnnbench.training.display import log_step, open_trackers
from cnnbench.training.launch import read
from cnnbench.training.setup import Plan, Setup, precision_warning, set_up

PARTS = ("data", "forward", "backward", "optimizer", "logging")
# Of a step, what computes once the batch is there.
COMPUTE_PARTS = PARTS[1:]
_NUM_MEASUREMENTS = 5
_WINDOWS = 5
_WARMUP_STEPS = 3
PEAK_SIDES = (1024, 2048, 4096)
_FLOP_IMAGES = 2
_ENDLESS = 1_000_000  # epochs: more than any measurement takes


@dataclass(frozen=True)
class Rate:
    """Images per second over several windows of time."""

    median: float
    smallest: float
    largest: float


def measure(plan: Plan, seconds: float) -> dict[str, Any]:
    """Measure a config.

    Args:
        plan: as ``launch.check`` made it.
        seconds: for each of training, its parts, evaluation, data and peak; > 0.

    Returns:
        Plain values; see ``cnnbench.bench``.

    Raises:
        DataError: the data is missing or damaged.
        UsageError: the config does not fit this machine.
    """
    config, device = plan.config, plan.device
    # Of a run that begins with smaller images, the time that it takes at its full size.
    plan = replace(plan, work=replace(plan.work, sizes=(), early_macs=()))
    data = read(plan)
    if warning := precision_warning(plan):
        warn(warning)
    setup = set_up(plan, data)
    compile_seconds = setup.compile() if config.device.compile else None
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    screen = Console(RichConsole(file=guarded(sys.stderr)))
    screen.start_count("bench", _NUM_MEASUREMENTS)
    try:
        screen.count(0, "training")
        train = train_rate(setup, seconds)
        screen.count(1, "parts of a step")
        parts = part_seconds(setup, seconds)
        memory = peak_memory_bytes(device)
        screen.count(1, "evaluation")
        evaluated = eval_rate(setup, seconds)
        screen.count(1, "data")
        prepared = data_rate(setup, seconds)
        flops = flops_per_image(setup)
        screen.count(1, "peak")
        peak = peak_flops_per_second(device, plan.precision, seconds)
    finally:
        screen.stop_bar()
    compute_seconds = sum(parts[part] for part in COMPUTE_PARTS)
    return {
        "model": config.model.name,
        "data": config.data.name,
        "image_size": config.data.image_size,
        "batch_size": config.data.batch_size,
        "device": device_name(device),
        "precision": plan.precision.name,
        "num_threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "compile_seconds": compile_seconds,
        **_named("train", train),
        **_named("eval", evaluated),
        **_named("data", prepared),
        "epoch_data_seconds": parts["data"] * data.steps_per_epoch,
        "epoch_compute_seconds": compute_seconds * data.steps_per_epoch,
        "step_seconds": sum(parts.values()),
        **{f"{part}_seconds": parts[part] for part in PARTS},
        "peak_memory_bytes": memory,
        "flops_per_image": flops,
        "flops_per_second": flops * train.median,
        "peak_flops_per_second": peak,
        "peak_fraction": flops * train.median / peak,
    }


def _named(what: str, rate: Rate) -> dict[str, float]:
    name = f"{what}_images_per_second"
    return {name: rate.median, f"{name}_min": rate.smallest, f"{name}_max": rate.largest}


def _rate(counts: Iterator[int], device: torch.device, seconds: float) -> Rate:
    """Return how many images per second an endless iterator counts."""
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


@contextmanager
def open_log(setup: Setup, every: int) -> Iterator[Callable[[Step], None]]:
    """Yield what ``train`` does with a step, into a directory that is gone afterwards.

    Args:
        setup: whose steps are logged.
        every: steps from one whose numbers are written to the next.
    """
    with tempfile.TemporaryDirectory() as directory, Path(os.devnull).open("w") as nowhere:
        screen = Console(RichConsole(file=nowhere))
        trackers, _ = open_trackers(
            RunDir(Path(directory)), setup.plan, 0, is_epoch_open=False, warn=warn
        )
        try:
            yield lambda step: log_step(step, setup.state, screen, trackers, every=every)
        finally:
            trackers.close()


def train_rate(setup: Setup, seconds: float) -> Rate:
    """Return images per second of training, logging included."""
    with open_log(setup, setup.plan.config.log_every_steps) as log:

        def counts() -> Iterator[int]:
            for step in setup.steps(_ENDLESS):
                log(step)
                yield step.num_images

        endless = counts()
        for _ in range(_WARMUP_STEPS):
            next(endless)
        return _rate(endless, setup.plan.device, seconds)


def part_seconds(setup: Setup, seconds: float) -> dict[str, float]:
    """Return the median time of each part of a training step, the device waited for between them.

    The optimizer's part holds all that follows the backward pass: the gradient norm, the check for
    numbers that are not finite, the update, the average of the weights, and the running sums.
    """
    clock = _Clock(setup.plan.device)
    timed = replace(setup, compute_loss=clock.timed(setup.compute_loss))
    parameters = [p for p in setup.state.model.parameters() if p.requires_grad]
    hooks = [p.register_post_accumulate_grad_hook(clock.accumulated) for p in parameters]
    taken: dict[str, list[float]] = {part: [] for part in PARTS}
    with open_log(setup, every=1) as log:
        started = time.perf_counter()
        clock.begin()
        for count, step in enumerate(timed.steps(_ENDLESS)):
            clock.stamp()
            log(step)
            times = [*clock.stamps, clock.now()]
            if count >= _WARMUP_STEPS:
                for part, begin, end in zip(PARTS, times, times[1:], strict=False):
                    taken[part].append(end - begin)
                if time.perf_counter() - started > seconds and count >= 2 * _WARMUP_STEPS:
                    break
            clock.begin()
    for hook in hooks:
        hook.remove()
    medians = {part: statistics.median(values) for part, values in taken.items()}
    # Here every step was logged, in a run every so many.
    return {**medians, "logging": medians["logging"] / setup.plan.config.log_every_steps}


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


def eval_rate(setup: Setup, seconds: float) -> Rate:
    """Return images per second of evaluation, on the training images: the test set stays unread."""

    def counts() -> Iterator[int]:
        while True:
            for _logits, targets in setup.evaluate("train", setup.sums()):
                yield len(targets)

    endless = counts()
    next(endless)
    return _rate(endless, setup.plan.device, seconds)


def data_rate(setup: Setup, seconds: float) -> Rate:
    """Return images per second of training batches that nothing is trained on."""
    data, device = setup.data, setup.plan.device
    generator = torch.Generator(device).manual_seed(0)

    def counts() -> Iterator[int]:
        for epoch in range(1, _ENDLESS):
            for images, targets in data.train_batches(epoch, 0):
                data.prepare_train(images, targets, generator)
                yield len(images)

    endless = counts()
    next(endless)
    return _rate(endless, device, seconds)


def flops_per_image(setup: Setup) -> float:
    """Return the floating-point operations of forward and backward pass, by torch's formulas."""
    images, targets = setup.data.prepare(*setup.data.first_images(_FLOP_IMAGES))
    model, counter = setup.state.model, _FlopCounter()
    with undisturbed(model), counter:
        model.train()
        with setup.plan.autocast():
            loss, _outputs = setup.compute_loss(model, images, targets)
        loss.backward()
    return counter.total / len(images)


class _FlopCounter(Watch):
    """Add up operations as torch's ``FlopCounterMode`` does, which would import the compiler."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        with self:
            parts = func.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
        out = func(*args, **kwargs)
        if formula := _FLOPS.get(func.overloadpacket):
            self.total += formula(*args, **kwargs, out_val=out)
        return out


def _convolution_backward_flops(
    grad: Tensor, images: Tensor, weight: Tensor, *args: Any, **_: Any
) -> int:
    """Return the operations of a convolution's gradients.

    Each gradient that is wanted multiplies as often as the forward pass: each kernel once for each
    output pixel. torch's own formula counts grouped convolutions as if they were not.
    """
    is_transposed, wanted = args[4], args[7]
    pixels = (images if is_transposed else grad).shape[2:]
    return 2 * int(sum(wanted[:2])) * len(grad) * math.prod(pixels) * weight.numel()


_FLOPS = {**flop_registry, torch.ops.aten.convolution_backward: _convolution_backward_flops}


def peak_flops_per_second(device: torch.device, precision: Precision, seconds: float) -> float:
    """Return the largest of the medians for square matrix products of up to three sizes.

    A format that the device only emulates has no peak worth its time: a large product of bfloat16
    in software takes minutes. fp32 is measured in its place, which is what the device can do.

    Args:
        device: where they are computed.
        precision: of the matrices.
        seconds: in all; each size is measured at least three times, and a larger one only where
            that fits in, or in two seconds.
    """
    emulated = precision.name == "bf16" and not has_native_bf16(device)
    dtype = torch.float32 if emulated else precision.dtype
    rates: list[float] = []
    for side in PEAK_SIDES:
        if rates and 4 * 2 * side**3 / rates[-1] > max(seconds, 2.0):
            break
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
