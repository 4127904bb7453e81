"""The way into training: check a config, read its data, start a run, resume one."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence

import torch
from torch import nn

from cnnbench.config.run_config import RunConfig
from cnnbench.data.splits import Splits
from cnnbench.device.device import configure, resolve_channels_last, resolve_device
from cnnbench.device.precision import resolve_precision
from cnnbench.engine.compile import check_compiler
from cnnbench.engine.world import World
from cnnbench.errors import (
    CnnbenchError,
    DataError,
    DiskError,
    Interrupted,
    ResourceError,
    UsageError,
    resource_error,
    user_code_error,
)
from cnnbench.files import expand_path
from cnnbench.layers.cpu.winograd import suits_winograd
from cnnbench.models.build import Network
from cnnbench.notices import warn
from cnnbench.runs.directory import RunDir
from cnnbench.training import distributed
from cnnbench.training.data import build_augment, check_recorded_root, describe_data, read_splits
from cnnbench.training.distributed import meeting
from cnnbench.training.estimates import check_memory
from cnnbench.training.network import check_initial_weights, describe_network, has_batch_norm
from cnnbench.training.overlap import check_overlap
from cnnbench.training.setup import Plan, optimizer_of, schedule_of, work_of
from cnnbench.training.stop import StopRequest, ignore_dead_children
from cnnbench.training.trainer import Training

# Dropout draws from torch's one generator, and threads and switches are those of the process: of
# several threads that train, one does and the others wait.
_trains_alone = threading.RLock()


def check(config: RunConfig, world: World | None = None) -> Plan:
    """Find what the config alone cannot show, before an image is read or anything written.

    Args:
        config: checked.
        world: the processes that train together; by default this one.

    Raises:
        UsageError: no such device or compiler, images too small for the network, arguments that do
            not fit.
        DataError: ``data=folder`` is not laid out as it must be.
        ResourceError: the device's memory cannot hold the network and a batch.
    """
    device = resolve_device(config.device.name)
    if config.device.compile:
        check_compiler(device)
    schedule = schedule_of(config)
    optimizer_of(config, nn.Linear(1, 1))
    build_augment(config)
    facts = describe_data(config)
    network = describe_network(config, facts)
    plan = Plan(
        config=config,
        device=device,
        facts=facts,
        network=network,
        precision=resolve_precision(config.device.precision, device, macs=network.macs),
        channels_last=_channels_last(config, device, network),
        suits_winograd=suits_winograd(),
        schedule=schedule,
        world=world if world is not None else World(),
        work=work_of(config, facts, network),
    )
    check_memory(plan)
    distributed.check(plan, lambda: has_batch_norm(config, plan.network))
    return plan


def _channels_last(config: RunConfig, device: torch.device, network: Network) -> bool:
    """Return whether a run lays images and weights out channels last.

    Raises:
        UsageError: the config says so, and the network cannot.
    """
    setting = config.device.channels_last
    if network.takes_channels_last:
        return resolve_channels_last(setting, device)
    if setting is True:
        raise UsageError(
            f"device.channels_last=true: model={network.name} fails on images that lie so; write "
            "x.flatten(1) or x.reshape(...) in place of x.view(...) in its forward, or leave "
            "device.channels_last=auto"
        )
    return False


def check_all(configs: Sequence[RunConfig], world: World | None = None) -> list[Plan]:
    """Check the configs of new runs, and the weights that they begin with.

    Args:
        configs: checked.
        world: as ``check`` takes it.

    Raises:
        CnnbenchError: as ``check`` and ``check_initial_weights``.
    """
    plans = [check(config, world) for config in configs]
    # The jobs of a sweep mostly begin with the same weights, which take long to read.
    beginnings = {
        (repr(plan.config.model), repr(plan.network), plan.facts.class_names): plan
        for plan in plans
    }
    for plan in beginnings.values():
        check_initial_weights(plan.config, plan.network, plan.facts.class_names)
    return plans


def read(plan: Plan) -> Splits:
    """Read the data of a plan, and set the process up to compute on the plan's device.

    Raises:
        DataError: files are missing or damaged.
        UsageError: a loader option cannot act on this data, a part that is needed is empty, or
            what the run starts or learns from has seen the images that it is measured on.
    """
    config, facts = plan.config, plan.facts
    configure(plan.device, config.device.num_threads)
    data = read_splits(
        config,
        warn,
        device=plan.device,
        channels_last=plan.channels_last,
        shard=plan.world.shard,
    )
    if (data.in_channels, data.num_classes) != (facts.in_channels, facts.num_classes):
        raise DataError(
            f"data={config.data.name}: has {data.num_classes} classes and {data.in_channels} "
            f"channels, expected {facts.num_classes} and {facts.in_channels} as described "
            "before it was read"
        )
    _check_splits(config, data)
    if config.resume is None:
        check_overlap(config, data)
    distributed.check_splits(plan, data, lambda: has_batch_norm(config, plan.network))
    return data


def _check_splits(config: RunConfig, data: Splits) -> None:
    """Refuse to train towards an epoch that could never be chosen, or a test without images."""
    limit = f" data.limit={config.data.limit}" if config.data.limit is not None else ""
    number = ", or loss=mse where the target is a number" if data.columns else ""
    if not data.num_test and config.evaluate_test:
        folds = "fewer data.num_folds, " if config.data.fold is not None else ""
        raise UsageError(
            f"data={config.data.name}{limit}: has no test image beside {data.num_train} training "
            f"images, and a run ends with a test; expected {folds}more images of each class, a "
            f"test part, or evaluate_test=false{number}"
        )
    if data.measured == "val" and (not data.num_val or config.selection == "test"):
        why = "holds no image" if not data.num_val else "is what the run is measured on"
        raise UsageError(
            f"data.fold={config.data.fold} selection={config.selection}: the fold {why}, and the "
            "test part is not read; expected fewer data.num_folds, or selection=last"
        )
    if config.selection.startswith("val/") and not data.num_val:
        raise UsageError(
            f"selection={config.selection}: data.val_fraction={config.data.val_fraction:g}{limit} "
            f"leaves no validation image beside {data.num_train} training images; set a larger "
            f"data.val_fraction, or selection=last data.val_fraction=0{number}"
        )
    every, of_epoch = config.save_every_steps, data.steps_per_epoch
    is_short = (
        not config.budget.is_set and every is not None and every > of_epoch * config.num_epochs
    )
    if every is not None and (every % of_epoch == 0 or is_short):
        data.warnings.append(
            f"save_every_steps={every}: saves nothing within an epoch, which has {of_epoch} steps"
        )


def start(config: RunConfig, command: Sequence[str], since: float | None = None) -> RunDir:
    """Train in a new run directory, after any other thread that trains.

    Args:
        config: checked.
        command: the command line, for the record.
        since: when what ``max_seconds`` counts began, by ``time.monotonic``; by default now.

    Raises:
        CnnbenchError: as ``_train``.
    """
    stop = StopRequest(config.max_seconds, since)
    with _trains_alone, meeting(config.device.name) as place:
        [plan] = check_all([config], place.world)
        data = read(plan)
        run = place.run(lambda: RunDir.create_new(config, expand_path(config.output_root)))
        if run.has_record and run.record.status == "done":
            return run  # torchrun started it again after its end
        try:
            _train(plan, data, run, command, stop)
        except DiskError:
            run.remove_unless_begun()
            raise
    return run


def resume(
    config: RunConfig,
    run: RunDir,
    command: Sequence[str],
    since: float | None = None,
    beside: Callable[[], Sequence[str]] = tuple,
    is_pruned: Callable[[], bool] = bool,
) -> None:
    """Train in a given directory, from its newest checkpoint where there is one.

    It waits for any other thread that trains.

    Args:
        config: the recorded config with what may change changed; for a directory that is not there
            yet, the config of its run.
        run: the directory.
        command: the command line, for the record.
        since: when what ``max_seconds`` counts began, by ``time.monotonic``; by default now.
        beside: tells which other jobs of its sweep ran on this machine in the meantime.
        is_pruned: tells whether a search gave it up; it then ends after the epoch, as done.

    Raises:
        CnnbenchError: as ``_train``, or ``extend_epochs`` cannot extend this run.
    """
    stop = StopRequest(config.max_seconds, since)
    config = _resumed_config(config)
    if run.has_checkpoints:
        check_recorded_root(config, "data.root=PATH")
    with _trains_alone, meeting(config.device.name) as place:
        [plan] = (
            [check(config, place.world)]
            if run.has_checkpoints
            else check_all([config], place.world)
        )
        data = read(plan)
        run.writes = plan.world.is_first
        if run.writes and not run.path.exists():
            RunDir.create(run.path)
        _train(plan, data, run, command, stop, beside, is_pruned)


def _resumed_config(config: RunConfig) -> RunConfig:
    """Return the config with which a run is resumed, its new epochs counted in.

    Raises:
        UsageError: ``extend_epochs`` would change the learning rates of the epochs already run.
    """
    more = config.extend_epochs
    if more is None:
        return dataclasses.replace(config, resume=None)
    if config.budget.is_set:
        raise UsageError(
            f"extend_epochs={more}: this run's length is its budget, so a longer run is another "
            "one; train a new run with a larger budget"
        )
    if schedule_of(config).depends_on_length:
        raise UsageError(
            f"extend_epochs={more}: scheduler={config.scheduler.name} spreads over the run's "
            f"{config.num_epochs} epochs, so a longer run is another one; "
            "only scheduler=constant without warm-up can be extended"
        )
    return dataclasses.replace(
        config, num_epochs=config.num_epochs + more, extend_epochs=None, resume=None
    )


def _train(
    plan: Plan,
    data: Splits,
    run: RunDir,
    command: Sequence[str],
    stop: StopRequest,
    beside: Callable[[], Sequence[str]] = tuple,
    is_pruned: Callable[[], bool] = bool,
) -> None:
    """Train until the last epoch, then read the test set once and write the results.

    Args:
        plan: of the config.
        data: as ``read`` read it.
        run: an existing directory; training is resumed from its newest checkpoint.
        command: the command line, for the record.
        stop: entered here, and asked throughout.
        beside: as ``resume`` takes it, and the next.
        is_pruned: likewise.

    Raises:
        Interrupted: a signal was received, or ``max_seconds`` are over; the state is saved.
        NonFiniteError: the loss or a gradient is not finite; the checkpoint before stands.
        ResourceError: memory ran out, or a loader worker died.
        DiskError: a file cannot be written; the checkpoint before stands.
        CheckpointError: checkpoints were there and none is whole.
    """
    world = plan.world
    stop.agree = world.largest
    with run.lock(), stop:
        training = Training(plan, data, run, command, stop)
        training.beside, training.is_pruned = beside, is_pruned
        training.write_record("running")
        try:
            world.largest([0])  # all have read the record
            training.write_record("running")
            training.train()
        except Interrupted as error:
            training.write_record("interrupted", str(error))
            raise
        except BaseException as error:
            ignore_dead_children()
            plain = distributed.lost(error, run) or plain_error(error, plan.config)
            training.write_record("failed", str(plain or f"{type(error).__name__}: {error}"))
            if plain is not None and plain is not error:
                raise plain from error
            raise
        finally:
            training.close()


def plain_error(error: BaseException, config: RunConfig) -> CnnbenchError | None:
    """Put into a sentence what is no fault of ours: no memory, dead workers, the user's code."""
    if isinstance(error, CnnbenchError):
        return error
    text = str(error)
    sizes = f"data.batch_size={config.data.batch_size} data.image_size={config.data.image_size}"
    resource = resource_error(error)
    is_memory = resource is not None and str(resource).startswith("out of memory")
    if is_memory or isinstance(error, torch.OutOfMemoryError):
        return ResourceError(f"out of memory with {sizes}; lower one of them")
    if resource is not None:
        return resource
    # A worker that dies while it hands over a batch shows as an error of the connection to it.
    is_cut_off = isinstance(error, (ConnectionError, EOFError)) and config.data.num_workers > 0
    if is_cut_off or (isinstance(error, RuntimeError) and "DataLoader worker" in text):
        return ResourceError(
            f"a loader worker died with {sizes} data.num_workers={config.data.num_workers}; "
            "lower one of them"
        )
    if "Expected more than 1 value per channel" in text:
        return UsageError(f"batch norm cannot learn from one value with {sizes}; raise one of them")
    if (place := user_code_error(error)) is not None:
        return UsageError(
            f"model={config.model.name}: {place}; expected logits for images with {sizes}"
        )
    return None
