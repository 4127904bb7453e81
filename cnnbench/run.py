"""Entry points of training: a checked config in, a trained run directory out."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cnnbench import build, networks
from cnnbench.build import RunData
from cnnbench.config import RunConfig, expand_path
from cnnbench.device import resolve_device, resolve_precision
from cnnbench.errors import CnnbenchError, Interrupted, ResourceError, UsageError
from cnnbench.rundir import RunDir
from cnnbench.signals import StopRequest
from cnnbench.training import Training, warn


def check(config: RunConfig) -> None:
    """Find what the config alone cannot show, before anything is read or written.

    Raises:
        UsageError: no such device, images too small for the network, arguments that do not fit.
    """
    device = resolve_device(config.device.name)
    build.check_names(config)
    network = networks.describe_network(config)
    resolve_precision(config.device.precision, device, macs=network.macs)


def start(config: RunConfig, command: Sequence[str]) -> RunDir:
    """Train in a new run directory.

    Args:
        config: checked.
        command: the command line, for the record.

    Raises:
        CnnbenchError: as ``train_run``.
    """
    check(config)
    data = build.build_data(config, warn)
    run = RunDir.create_new(config, expand_path(config.output_root))
    train_run(config, run, command, data)
    return run


def start_or_go_on(config: RunConfig, run: RunDir, command: Sequence[str]) -> None:
    """Train in a given directory, from its newest checkpoint where there is one.

    Raises:
        CnnbenchError: as ``train_run``.
    """
    check(config)
    data = build.build_data(config, warn)
    if not run.path.exists():
        run = RunDir.create(run.path)
    train_run(config, run, command, data)


def train_run(config: RunConfig, run: RunDir, command: Sequence[str], data: RunData) -> None:
    """Train until the last epoch, then read the test set once and write the results.

    Args:
        config: checked.
        run: an existing directory; training goes on from its newest checkpoint.
        command: the command line, for the record.
        data: as ``build.build_data`` made it.

    Raises:
        Interrupted: a signal came, or ``max_seconds`` are over; the state is saved.
        NonFiniteError: the loss or a gradient is not finite; the checkpoint before stands.
        ResourceError: memory ran out, or a loader worker died.
        DiskError: a file cannot be written; the checkpoint before stands.
        CheckpointError: checkpoints were there and none is whole.
    """
    with run.lock(), StopRequest(config.max_seconds) as stop:
        training = Training(config, run, command, data, stop)
        training.write_info("running")
        try:
            training.train()
        except Interrupted as error:
            training.write_info("interrupted", str(error))
            raise
        except BaseException as error:
            plain = _plain_error(error, config)
            training.write_info("failed", str(plain or f"{type(error).__name__}: {error}"))
            if plain is not None and plain is not error:
                raise plain from error
            raise
        finally:
            training.close()


def _plain_error(error: BaseException, config: RunConfig) -> CnnbenchError | None:
    """Put torch's words for exhausted memory and dead workers into a sentence."""
    if isinstance(error, CnnbenchError):
        return error
    text = str(error)
    sizes = f"data.batch_size={config.data.batch_size} data.image_size={config.data.image_size}"
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in text:
        return ResourceError(f"out of memory with {sizes}; lower one of them")
    if isinstance(error, RuntimeError) and "DataLoader worker" in text:
        return ResourceError(
            f"a loader worker died with {sizes} data.num_workers={config.data.num_workers}; "
            "lower one of them"
        )
    if "Expected more than 1 value per channel" in text:
        return UsageError(f"batch norm cannot learn from one value with {sizes}; raise one of them")
    return None
