"""Entry points of training: a checked config in, a trained run directory out."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cnnbench.config.run_config import RunConfig, expand_path
from cnnbench.device.device import check_compiler, resolve_device, resolve_precision
from cnnbench.errors import CnnbenchError, DiskError, Interrupted, ResourceError, UsageError
from cnnbench.notices import warn
from cnnbench.runs.directory import RunDir
from cnnbench.training import data as build
from cnnbench.training import estimates
from cnnbench.training import network as networks
from cnnbench.training.data import RunData
from cnnbench.training.stop import StopRequest, hush_dead_children
from cnnbench.training.trainer import Training


def check(config: RunConfig) -> None:
    """Find what the config alone cannot show, before anything is read or written.

    Raises:
        UsageError: no such device or compiler, images too small for the network, arguments that do
            not fit.
        ResourceError: the device's memory cannot hold the network.
    """
    device = resolve_device(config.device.name)
    if config.device.compile:
        check_compiler(device)
    build.check_names(config)
    network = networks.describe_network(config)
    resolve_precision(config.device.precision, device, macs=network.macs)
    # A batch is no larger than the data, which is not known yet.
    least = estimates.least_bytes(network.num_params, network.activation_bytes, batch_size=1)
    estimates.check_memory(device, least)


def read_data(config: RunConfig) -> RunData:
    """Read the data of a checked config.

    Raises:
        DataError: files are missing or damaged.
        UsageError: a loader option cannot act on this data.
        ResourceError: the device's memory cannot hold a batch.
    """
    data = build.build_data(config, warn)
    network = networks.describe_network(config, data)
    batch_size = min(data.batch_size, data.num_train)
    least = estimates.least_bytes(network.num_params, network.activation_bytes, batch_size)
    estimates.check_memory(resolve_device(config.device.name), least)
    return data


def check_all(configs: Sequence[RunConfig]) -> None:
    """Check the configs of new runs, and the weights that they start from.

    Raises:
        CnnbenchError: as ``check`` and ``networks.check_start``.
    """
    for config in configs:
        check(config)
    # The jobs of a sweep mostly start from the same weights, which take long to read.
    starts = {repr((c.model, c.data.name, c.data.args, c.data.image_size)): c for c in configs}
    for config in starts.values():
        networks.check_start(config)


def start(config: RunConfig, command: Sequence[str], since: float | None = None) -> RunDir:
    """Train in a new run directory.

    Args:
        config: checked.
        command: the command line, for the record.
        since: when what ``max_seconds`` counts began, by ``time.monotonic``; by default now.

    Raises:
        CnnbenchError: as ``train_run``.
    """
    stop = StopRequest(config.max_seconds, since)
    check_all([config])
    data = read_data(config)
    run = RunDir.create_new(config, expand_path(config.output_root))
    try:
        train_run(config, run, command, data, stop)
    except DiskError:
        run.remove_unless_begun()
        raise
    return run


def start_or_go_on(
    config: RunConfig, run: RunDir, command: Sequence[str], since: float | None = None
) -> None:
    """Train in a given directory, from its newest checkpoint where there is one.

    Raises:
        CnnbenchError: as ``train_run``.
    """
    stop = StopRequest(config.max_seconds, since)
    if run.has_checkpoints:
        check(config)
    else:
        check_all([config])
    data = read_data(config)
    if not run.path.exists():
        run = RunDir.create(run.path)
    train_run(config, run, command, data, stop)


def train_run(
    config: RunConfig, run: RunDir, command: Sequence[str], data: RunData, stop: StopRequest
) -> None:
    """Train until the last epoch, then read the test set once and write the results.

    Args:
        config: checked.
        run: an existing directory; training goes on from its newest checkpoint.
        command: the command line, for the record.
        data: as ``build.build_data`` made it.
        stop: entered here, and asked throughout.

    Raises:
        Interrupted: a signal came, or ``max_seconds`` are over; the state is saved.
        NonFiniteError: the loss or a gradient is not finite; the checkpoint before stands.
        ResourceError: memory ran out, or a loader worker died.
        DiskError: a file cannot be written; the checkpoint before stands.
        CheckpointError: checkpoints were there and none is whole.
    """
    with run.lock(), stop:
        training = Training(config, run, command, data, stop)
        training.write_info("running")
        try:
            training.train()
        except Interrupted as error:
            training.write_info("interrupted", str(error))
            raise
        except BaseException as error:
            hush_dead_children()
            plain = plain_error(error, config)
            training.write_info("failed", str(plain or f"{type(error).__name__}: {error}"))
            if plain is not None and plain is not error:
                raise plain from error
            raise
        finally:
            training.close()


def plain_error(error: BaseException, config: RunConfig) -> CnnbenchError | None:
    """Put torch's words for exhausted memory and dead workers into a sentence."""
    if isinstance(error, CnnbenchError):
        return error
    text = str(error)
    sizes = f"data.batch_size={config.data.batch_size} data.image_size={config.data.image_size}"
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in text:
        return ResourceError(f"out of memory with {sizes}; lower one of them")
    # What a worker was handing over when it died ends in an error of the connection to it.
    is_cut_off = isinstance(error, (ConnectionError, EOFError)) and config.data.num_workers > 0
    if is_cut_off or (isinstance(error, RuntimeError) and "DataLoader worker" in text):
        return ResourceError(
            f"a loader worker died with {sizes} data.num_workers={config.data.num_workers}; "
            "lower one of them"
        )
    if "Expected more than 1 value per channel" in text:
        return UsageError(f"batch norm cannot learn from one value with {sizes}; raise one of them")
    return None
