"""What a run trains with: the ``Plan`` of a checked config, and the ``Setup`` ready to train."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from cnnbench.config.run_config import RunConfig
from cnnbench.data import Facts
from cnnbench.data.splits import Splits, eval_batch_size
from cnnbench.device.kernel_check import Conditions
from cnnbench.device.precision import Precision, autocast, emulation_factor, grad_scaler
from cnnbench.engine import Step, TrainState, evaluate, fit
from cnnbench.engine.compile import compile_loss
from cnnbench.engine.loop import ComputeLoss, loss_of
from cnnbench.engine.world import World
from cnnbench.layers.cpu import use_cpu_kernels
from cnnbench.losses import LOSSES, Loss
from cnnbench.metrics import Sums
from cnnbench.models.build import Network, is_foreign
from cnnbench.optim import Schedule, build_optimizer, build_schedule
from cnnbench.optim.average import MovingAverage
from cnnbench.runs.record import RunRecord
from cnnbench.seeds import derive_seed
from cnnbench.training.clock import DataClock
from cnnbench.training.kernels import right_kernels
from cnnbench.training.network import build_model, whiten_first
from cnnbench.training.teacher import describe_teacher, distilled, load_teacher
from cnnbench.training.work import Work, early_macs


@dataclass(frozen=True)
class Plan:
    """What the check of a config found, before anything is read or written.

    Attributes:
        config: checked.
        device: that computes.
        facts: what is known of the data.
        network: what is trained, measured.
        precision: the effective number format, never ``auto``.
        channels_last: whether images and weights are laid out channels last.
        suits_winograd: whether the kind of CPU gains by Winograd's algorithm.
        schedule: of the learning rate.
        world: the processes that train together.
        work: what it computes.
    """

    config: RunConfig
    device: torch.device
    facts: Facts
    network: Network
    precision: Precision
    channels_last: bool
    suits_winograd: bool
    schedule: Schedule
    work: Work
    world: World = field(default_factory=World)

    @property
    def loss(self) -> Loss:
        """What the network is trained towards."""
        return LOSSES[self.config.loss.name]

    @property
    def winograd(self) -> bool:
        """Whether 3x3 convolutions in float32 go by Winograd's algorithm where a rule says so."""
        device = self.config.device
        is_fp32 = self.device.type == "cpu" and self.precision.name == "fp32"
        may = device.winograd == "auto" and not device.compile
        return may and is_fp32 and self.channels_last and self.suits_winograd

    def autocast(self) -> AbstractContextManager[object]:
        """Return a context in which the forward pass computes in the plan's precision."""
        return autocast(self.device, self.precision)


def as_before(plan: Plan, record: RunRecord) -> Plan:
    """Return the plan of a run that goes on with the kernels of its last process.

    Args:
        plan: as made here and now.
        record: before this process is noted in it.
    """
    used = record.provenance.processes[-1].effective.get("winograd")
    return plan if used is None else replace(plan, suits_winograd=bool(used))


def precision_warning(plan: Plan) -> str | None:
    """Return what a user who asked for the plan's number format should know, or None.

    To be called where the process is set up to compute: it measures what an emulated one costs.
    """
    warning = plan.precision.warning
    if warning is None or plan.device.type != "cpu":
        return warning
    return f"{warning}: a convolution takes {emulation_factor():.1f} times as long"


def schedule_of(config: RunConfig) -> Schedule:
    """Return the learning-rate schedule of a config.

    Raises:
        UsageError: an argument has a value that makes no sense.
    """
    scheduler = config.scheduler
    return build_schedule(
        scheduler.name, warmup_fraction=scheduler.warmup_fraction, args=scheduler.args
    )


def work_of(config: RunConfig, facts: Facts, network: Network) -> Work:
    """Return the work of a config's run.

    Raises:
        UsageError: the network cannot train on the early sizes, or the teacher cannot teach it.
    """
    teacher = describe_teacher(config, facts)
    return Work(
        network.macs,
        config.data.progressive_sizes,
        early_macs(config, network),
        config.data.progressive_fraction,
        teacher_macs=teacher.macs if teacher else 0,
        teacher_tflop=teacher.train_tflop if teacher else 0.0,
    )


def optimizer_of(config: RunConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer of a config.

    Args:
        config: checked.
        model: on its device and in its memory layout.

    Raises:
        UsageError: an argument has a value that makes no sense, or nothing is trainable.
    """
    optimizer = config.optimizer
    return build_optimizer(
        optimizer.name,
        model,
        lr=optimizer.lr,
        weight_decay=optimizer.weight_decay,
        decay_norms_and_biases=optimizer.decay_norms_and_biases,
        args=optimizer.args,
        bias_lr_factor=optimizer.bias_lr_factor,
    )


@dataclass
class Setup:
    """All that training needs, on its device: what ``train``, ``bench`` and benchmarks run.

    Attributes:
        plan: that it was made by.
        data: splits, prepared on the plan's device.
        state: what training changes; at its start.
        num_steps: updates of the whole run.
        compute_loss: what training makes smaller, compiled or plain.
        kernel_ways: other ways in which layers compute, as torch's kernels for them are wrong on
            this machine, by path; mostly empty.
        data_clock: counts the seconds that ``steps`` waits for batches.

    Example:
        >>> setup = set_up(plan, read(plan))
        >>> for step in setup.steps():
        ...     print(step.epoch, step.loss.item())
    """

    plan: Plan
    data: Splits
    state: TrainState
    num_steps: int
    compute_loss: ComputeLoss
    kernel_ways: Mapping[str, str] = field(default_factory=dict)
    data_clock: DataClock = field(default_factory=DataClock)

    @property
    def num_epochs(self) -> int:
        """Epochs of the whole run, the last of which may be cut short."""
        return math.ceil(self.num_steps / self.data.steps_per_epoch)

    def tflop(self, num_steps: int) -> float:
        """Return the work of so many updates from the start; see ``Work.tflop``."""
        return self.plan.work.tflop(self.data, num_steps, self.num_steps)

    def steps(self, num_steps: int | None = None) -> Iterator[Step]:
        """Yield training steps from where the state stands; see ``engine.fit``.

        Args:
            num_steps: in all; by default those of the run. Another number stretches the schedule
                to it.
        """
        config, work = self.plan.config, self.plan.work
        world, shard = self.plan.world, self.data.shard
        of_steps = self.num_steps if num_steps is None else num_steps
        is_own = is_foreign(self.plan.network.name)
        class_weights = _class_weights(self.plan, self.data)

        def prepare(
            images: Tensor, targets: Tensor, generator: torch.Generator | None
        ) -> tuple[Tensor, Tensor]:
            size = work.size_at(self.state.global_step, of_steps)
            return self.data.prepare_train(images, targets, generator, size)

        steps = fit(
            self.state,
            self.data_clock.iterating(self.data.train_batches),
            self.data_clock.calling(prepare),
            self.plan.schedule,
            num_steps=of_steps,
            steps_per_epoch=self.data.steps_per_epoch,
            seed=config.seed,
            device=self.plan.device,
            autocast=self.plan.autocast,
            compute_loss=world.in_parts(
                self.compute_loss,
                self.state.model,
                shard,
                class_weights=class_weights,
                has_unused=is_own,
            ),
            class_weights=class_weights,
            clip_norm=config.optimizer.clip_norm,
            accumulate_steps=config.optimizer.accumulate_steps,
            draws_in_python=is_own,
        )
        if world.size == 1:
            return steps
        return (dataclasses.replace(step, num_images=shard.total) for step in steps)

    def sums(self) -> Sums:
        """Return empty sums over examples, on the plan's device."""
        return self.plan.loss.sums(self.plan.device, self.data.target_std)

    def evaluate(self, split: str, sums: Sums) -> Iterator[tuple[Tensor, Tensor]]:
        """Add the scores of each batch of a split to ``sums``, and yield its outputs.

        Args:
            split: train, val or test.
            sums: on the plan's device.

        Yields:
            Outputs, as ``Loss.outputs`` has them, in float32 and targets (n,), in the split's
            order; all of them in each of several processes.
        """
        world, shard = self.plan.world, self.data.shard
        world.share_buffers(self.state.evaluated_model)
        batches = self.data.batches(split, eval_batch_size(self.plan.network.activation_bytes))
        loss = self.plan.loss
        for given, targets in evaluate(
            self.state.evaluated_model, batches, self.data.prepare, autocast=self.plan.autocast
        ):
            outputs = world.gather(loss.outputs(given), shard)
            targets = world.gather(targets, shard)
            sums.add(loss.total(outputs, targets), outputs, targets)
            yield outputs, targets

    def example(self) -> Tensor:
        """Return network input of two training images, on the device."""
        return self.data.prepare(*self.data.first_images(2))[0]

    def compile(self) -> float:
        """Compile what ``steps`` computes, and return the seconds that it took.

        Raises:
            UsageError: torch cannot compile this network here.
        """
        data, device = self.data, self.plan.device
        generator = torch.Generator(device).manual_seed(derive_seed(0, "augment", 0))
        batches = (
            data.prepare_train(*data.first_images(count), generator, size)
            for size in (None, *self.plan.work.sizes)
            for count in data.batch_sizes()
        )
        self.compute_loss, seconds = compile_loss(
            self.compute_loss, self.state.model, batches, device, self.plan.autocast
        )
        return seconds


def set_up(
    plan: Plan,
    data: Splits,
    model: nn.Module | None = None,
    kernel_ways: Mapping[str, str] | None = None,
) -> Setup:
    """Bring a network to the plan's device, check its kernels, and make its optimizer.

    Args:
        plan: of the config.
        data: as ``launch.read`` read it for this plan.
        model: with the weights that training begins with; by default those that the seed draws.
        kernel_ways: those of the setup from which the run is resumed.

    Raises:
        KernelError: an operation of the network is wrong on this machine in every way.
    """
    config, device = plan.config, plan.device
    if model is None:
        model = build_model(config, plan.network)
        whiten_first(model, config, data)
    kernel_ways = _place(plan, model, (config.data.image_size, *plan.work.sizes), kernel_ways)
    optimizer = optimizer_of(config, model)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    decay = config.optimizer.ema_decay
    average = MovingAverage(model, decay) if decay is not None else None
    state = TrainState(
        model=model,
        optimizer=optimizer,
        sums=plan.loss.sums(device, data.target_std),
        average=average,
        scaler=grad_scaler(device, plan.precision),
    )
    steps, compute_loss = planned_steps(plan, data), _compute_loss(plan, data)
    return Setup(plan, data, state, steps, compute_loss, kernel_ways)


def _place(
    plan: Plan,
    model: nn.Module,
    image_sizes: Sequence[int],
    recorded: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Bring a network to the plan's device, in place; return as ``Setup.kernel_ways`` has them."""
    config, device = plan.config, plan.device
    model.to(device)
    ways: dict[str, str] = {}
    if device.type == "cpu":
        use_cpu_kernels(
            model,
            plan.precision,
            channels_last=plan.channels_last,
            is_compiled=config.device.compile,
            winograd=plan.winograd,
        )
        for size in image_sizes:
            ways |= _right_kernels(plan, model, size, recorded)
            recorded = None
    if plan.channels_last:
        model.to(memory_format=torch.channels_last)
    return ways


def _compute_loss(plan: Plan, data: Splits) -> ComputeLoss:
    """Return what training makes smaller; evaluation has neither weights nor smoothing."""
    loss = plan.config.loss
    smoothing = float(loss.args.get("label_smoothing", 0.0))
    of_targets = loss_of(plan.loss, weights=_class_weights(plan, data), label_smoothing=smoothing)
    if loss.teacher is None:
        return of_targets

    def place(teacher: nn.Module, image_size: int) -> None:
        _place(plan, teacher, (image_size,))

    return distilled(
        of_targets,
        load_teacher(plan.config, data, place),
        weight=loss.teacher_weight,
        temperature=loss.teacher_temperature,
    )


def _class_weights(plan: Plan, data: Splits) -> Tensor | None:
    if plan.config.loss.args.get("class_weights", "none") != "balanced":
        return None
    counts = data.class_counts("train").to(plan.device, torch.float32)
    # A class without a training image is never a target, and takes no part in the mean.
    return counts.sum() / (len(counts) * counts.clamp(min=1))


def planned_steps(plan: Plan, data: Splits) -> int:
    """Return the updates of a run: as many as a budget of TFLOP pays for, else whole epochs.

    A budget of seconds is known only when a step has been timed; see ``affordable_steps``.
    """
    tflop = plan.config.budget.tflop
    if tflop is None:
        return plan.config.num_epochs * data.steps_per_epoch
    return plan.work.affordable_steps(data, tflop)


def _right_kernels(
    plan: Plan, model: nn.Module, image_size: int, recorded: Mapping[str, str] | None
) -> dict[str, str]:
    shape = (plan.network.in_channels, image_size, image_size)
    is_bf16 = plan.precision.name == "bf16"
    conditions = Conditions(torch.get_num_threads(), plan.channels_last, is_bf16)
    return right_kernels(model, shape, conditions, recorded)
