"""What a run will take of disk and memory, reckoned before it takes it."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from torch import nn

from cnnbench.device.device import memory_bytes
from cnnbench.errors import ResourceError

# Activations, their gradients, and what the kernels need beside them.
_ACTIVATION_COPIES = 3
_WHOLE = 3  # two checkpoints keep their state while the next is written


def model_bytes(model: nn.Module) -> int:
    """Return the bytes of a network's parameters and buffers."""
    return sum(tensor.nbytes for tensor in model.state_dict().values())


def state_bytes(model: nn.Module, optimizer: torch.optim.Optimizer, *, has_average: bool) -> int:
    """Return the bytes that going on needs beside the evaluated weights."""
    options = optimizer.defaults
    copies = int(
        2 * ("betas" in options)
        + ("alpha" in options)
        + bool(options.get("centered"))
        + (options.get("momentum", 0) > 0)
    )
    learned = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    return copies * learned + has_average * model_bytes(model)


def disk_bytes(weights_bytes: int, going_on_bytes: int, num_epochs: int, keep: int | None) -> int:
    """Return the most that a run's checkpoints take.

    Args:
        weights_bytes: of one epoch's weights.
        going_on_bytes: as ``state_bytes`` gave them.
        num_epochs: epochs of the run.
        keep: how many epochs are kept beside the best; ``None`` keeps all.
    """
    kept = num_epochs if keep is None else min(num_epochs, max(keep, 2) + 1)
    return (kept + 1) * weights_bytes + _WHOLE * going_on_bytes


def training_bytes(
    model: nn.Module, going_on_bytes: int, activation_bytes: int, batch_size: int
) -> int:
    """Return about what training takes of the device's memory, the copy that is saved included."""
    weights = model_bytes(model)
    learned = 2 * weights + going_on_bytes + max(weights, going_on_bytes)
    return learned + _ACTIVATION_COPIES * activation_bytes * batch_size


def least_bytes(num_params: int, activation_bytes: int, batch_size: int) -> int:
    """Return what training takes of memory in any case: less than this cannot do.

    Args:
        num_params: of the network; each has a gradient.
        activation_bytes: of one image in float32; half of them where they are kept in 16 bits.
        batch_size: images in a step.
    """
    return 2 * 4 * num_params + activation_bytes * batch_size // 2


def check_memory(device: torch.device, least: int) -> None:
    """Refuse what the device's memory cannot hold, before the system ends the process for it.

    Raises:
        ResourceError: it has less than ``least`` bytes.
    """
    there = _memory_of(device)
    if there is not None and least > there:
        raise ResourceError(
            f"training takes at least {_megabytes(least)} of memory and the device has "
            f"{_megabytes(there)}; lower data.image_size or data.batch_size, or take a smaller "
            "network"
        )


def _memory_of(device: torch.device) -> int | None:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else memory_bytes()


def shortages(path: Path, device: torch.device, *, disk: int, memory: int) -> list[str]:
    """Return a sentence for each of disk and memory that will hardly do."""
    found = []
    free = shutil.disk_usage(path).free
    if disk > free:
        found.append(
            f"{path}: checkpoints may take {_megabytes(disk)} and {_megabytes(free)} are free; "
            "lower checkpoint.keep_last or choose another output_root"
        )
    there = _memory_of(device)
    if there is not None and memory > there:
        found.append(
            f"training may take {_megabytes(memory)} of memory and the device has "
            f"{_megabytes(there)}; lower data.batch_size or data.image_size"
        )
    return found


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"
