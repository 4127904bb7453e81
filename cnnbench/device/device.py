"""The device that computes: found by name, and set up for the whole process."""

from __future__ import annotations

import ctypes
import os
from typing import Any, Literal

import torch

from cnnbench.device.machine import available_cores, cpu_name, has_cuda
from cnnbench.device.precision import has_native_bf16
from cnnbench.errors import UsageError, did_you_mean

DEVICES = ("auto", "cpu", "cuda", "mps")


def resolve_device(name: str) -> torch.device:
    """Return the device of a name; ``auto`` takes CUDA, else MPS, else the CPU.

    Raises:
        UsageError: the machine has no such device, or the name is unknown.
    """
    if name not in DEVICES:
        raise UsageError(
            f"unknown device '{name}'{did_you_mean(name, DEVICES)}; known: {', '.join(DEVICES)}"
        )
    if name == "auto":
        name = "cuda" if has_cuda() else "mps" if torch.backends.mps.is_available() else "cpu"
    elif name == "cuda" and not has_cuda():
        built = torch.version.cuda or torch.version.hip
        seen = f"sees {torch.cuda.device_count()} of them" if built else "is built without CUDA"
        raise UsageError(
            f"this machine has no CUDA device (torch {torch.__version__} {seen}); use device=cpu"
        )
    elif name == "mps" and not torch.backends.mps.is_available():
        seen = "sees none" if torch.backends.mps.is_built() else "is built without MPS"
        raise UsageError(
            f"this machine has no MPS device (torch {torch.__version__} {seen}); use device=cpu"
        )
    return torch.device(name)


def resolve_channels_last(setting: bool | Literal["auto"], device: torch.device) -> bool:
    """Return whether images and 4-D weights lie in memory with the channels last.

    ``auto`` says yes but on MPS. Milliseconds per fp32 training step, batch 64, 2 CPU threads,
    channels first against last: LeNet 12.0, 9.2; basic_cnn 26, 16; cifar_quick 70, 53;
    inception_cnn 209, 46; mlp 4.1, 4.1.
    """
    return device.type != "mps" if setting == "auto" else setting


def configure(device: torch.device, num_threads: int | None) -> None:
    """Set what torch computes with, for the whole process.

    To be called before the first operation: the worker threads take over the treatment of
    denormal numbers from the thread that starts them.

    Args:
        device: cpu, cuda or mps.
        num_threads: CPU threads, >= 1; None takes ``OMP_NUM_THREADS`` or else one per core.
    """
    if num_threads is None:
        wanted = os.environ.get("OMP_NUM_THREADS", "")
        num_threads = int(wanted) if wanted.isdecimal() and int(wanted) else available_cores()
    torch.set_num_threads(num_threads)
    if device.type == "cpu":
        _keep_freed_memory()
    torch.set_flush_denormal(True)
    if device.type == "cuda":
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        torch.backends.cudnn.conv.fp32_precision = "tf32"  # type: ignore[attr-defined]


def effective_settings(device: torch.device) -> dict[str, Any]:
    """Return what torch computes with now, as plain values for the record of a run."""
    return {
        "device": device.type,
        "device_name": device_name(device),
        "num_threads": torch.get_num_threads(),
        # torch sets this and has no way to ask for it.
        "flush_denormal": (torch.tensor([1e-40]) * 1.0).item() == 0.0,
        "native_bf16": has_native_bf16(device),
        "tf32": device.type == "cuda",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def _keep_freed_memory() -> None:
    """Keep what large tensors free, where the C library is glibc.

    It hands blocks over 32 MiB back to the system at once, which has to clear each page of the
    next one: a ReLU over such a tensor takes three times as long.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    trim_threshold, mmap_max = -1, -4
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()


def device_name(device: torch.device) -> str:
    """Return the marketing name of a device, such as ``NVIDIA H100`` or ``Intel(R) Xeon(R)``."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return "Apple GPU" if device.type == "mps" else cpu_name()
