"""What computes: the device, its precision, its threads, and a record of the machine."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from cnnbench.errors import UsageError, did_you_mean

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")

# From how many multiply-accumulates per image on `precision=auto` leaves fp32. Milliseconds per
# training step, batch 64, 28- and 32-pixel images, channels_last, 2 threads of a Xeon with AMX,
# fp32 against bf16: mlp (.57 M) 4.1, 4.6; LeNet (.42 M) 9.2, 9.3; six 3x3 convolutions of 8 to 64
# channels with batch norm (1.8 M) 23.4, 23.0; of 16 to 128 channels (7.3 M) 39.6, 32.3;
# inception_cnn (6.0 M) 46, 32; vgg11 of 1/16 width at 96 pixels (5.8 M) 75, 58; cifar_quick
# (12.4 M) 53, 32; a ResNet of 16 to 128 (3.5 M) 30.0, 28.7, at batch 256 79, 62. Below, the casts
# eat the gain, and fp32 is the more exact.
REDUCED_PRECISION_MIN_MACS = 3_000_000


# Values of ONEDNN_MAX_CPU_ISA below the first with bfloat16 instructions.
_ISAS_WITHOUT_BF16 = (
    "SSE41",
    "AVX",
    "AVX2",
    "AVX2_VNNI",
    "AVX2_VNNI_2",
    "AVX512_CORE",
    "AVX512_CORE_VNNI",
)


@dataclass(frozen=True)
class Precision:
    """The number format of convolutions and matrix products; weights stay float32.

    Attributes:
        name: fp32, bf16 or fp16.
        dtype: the format as torch has it.
        warning: what a user who asked for it should know, or None.
    """

    name: Literal["fp32", "bf16", "fp16"]
    dtype: torch.dtype
    warning: str | None = None


FP32 = Precision("fp32", torch.float32)
BF16 = Precision("bf16", torch.bfloat16)
FP16 = Precision("fp16", torch.float16)


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
        name = "cuda" if _has_cuda() else "mps" if torch.backends.mps.is_available() else "cpu"
    elif name == "cuda" and not _has_cuda():
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


def _has_cuda() -> bool:
    with warnings.catch_warnings():
        # A missing or old driver warns here; for `auto` that is no news, and for `cuda` the
        # message below says it.
        warnings.simplefilter("ignore")
        return torch.cuda.is_available()


def resolve_precision(precision: str, device: torch.device, *, macs: int) -> Precision:
    """Return the number format to compute in.

    ``auto`` is a rule and never a stopwatch, so that a config gives the same numbers whenever it
    runs on the same kind of machine: networks under ``REDUCED_PRECISION_MIN_MACS`` and all on MPS
    compute in fp32, others in bf16 where the device has it natively, in fp16 on CUDA GPUs that
    have tensor cores but no bf16, else in fp32.

    Args:
        precision: auto, fp32, bf16 or fp16.
        device: cpu, cuda or mps.
        macs: multiply-accumulates of the network for one image; >= 0.

    Raises:
        UsageError: the device cannot compute in the format asked for, or there is none such.
    """
    if precision not in PRECISIONS:
        raise UsageError(
            f"unknown device.precision '{precision}'{did_you_mean(precision, PRECISIONS)}; "
            f"known: {', '.join(PRECISIONS)}"
        )
    if precision == "auto":
        if macs < REDUCED_PRECISION_MIN_MACS or device.type == "mps":
            return FP32
        if has_native_bf16(device):
            return BF16
        tensor_cores = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (7, 0)
        return FP16 if tensor_cores else FP32
    if precision == "fp16" and device.type == "cpu":
        raise UsageError(
            "device.precision=fp16 is slower than fp32 on a CPU and loses small gradients; "
            "use bf16 or fp32"
        )
    if precision == "bf16" and not has_native_bf16(device):
        if device.type == "cuda":
            raise UsageError(
                f"device.precision=bf16: {torch.cuda.get_device_name(device)} has no bfloat16; "
                "use fp16 or fp32"
            )
        return Precision(
            "bf16",
            torch.bfloat16,
            f"device.precision=bf16: this {device.type} has no bfloat16 instructions, which makes "
            "it slower than fp32",
        )
    return {"fp32": FP32, "bf16": BF16, "fp16": FP16}[precision]


def has_native_bf16(device: torch.device) -> bool:
    """Return whether the device has bfloat16 instructions that torch may use.

    On a CPU, ``ATEN_CPU_CAPABILITY`` and ``ONEDNN_MAX_CPU_ISA`` can forbid them.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        if _instructions_are_capped():
            return False
        # torch has no public name for these two that its older versions know.
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def _instructions_are_capped() -> bool:
    """Return whether the environment keeps torch or oneDNN from bfloat16 instructions."""
    vectors = os.environ.get("ATEN_CPU_CAPABILITY", "").lower()
    kernels = os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA", "")).upper()
    return vectors in ("default", "avx2") or kernels in _ISAS_WITHOUT_BF16


def check_compiler(device: torch.device) -> None:
    """Look for what ``torch.compile`` makes code with: Triton on CUDA, else a C++ compiler.

    Raises:
        UsageError: it is missing.
    """
    if device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            raise UsageError(
                "device.compile=true: torch.compile needs Triton on CUDA, which is not installed; "
                "install triton or use device.compile=false"
            )
        return
    named = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(named) is None:
        raise UsageError(
            f"device.compile=true: torch.compile needs a C++ compiler, and there is no '{named}' "
            "here; install one, name it in the environment variable CXX, or use "
            "device.compile=false"
        )


def autocast(
    device: torch.device, precision: Precision
) -> contextlib.AbstractContextManager[object]:
    """Return a context in which the forward pass computes in the given precision."""
    if precision.name == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=precision.dtype)


def grad_scaler(device: torch.device, precision: Precision) -> torch.amp.GradScaler | None:
    """Return the loss scaler that fp16's narrow range needs, or None for other precisions."""
    return torch.amp.GradScaler(device.type) if precision.name == "fp16" else None


def resolve_channels_last(setting: bool | Literal["auto"], device: torch.device) -> bool:
    """Return whether images and 4-D weights lie in memory with the channels last.

    ``auto`` says yes but on MPS. Milliseconds per fp32 training step, batch 64, 2 CPU threads,
    channels first against last: LeNet 12.0, 9.2; basic_cnn 26, 16; cifar_quick 70, 53;
    inception_cnn 209, 46; mlp 4.1, 4.1.
    """
    return device.type != "mps" if setting == "auto" else setting


def available_cores(root: Path = Path("/")) -> int:
    """Return how many cores this process may keep busy; >= 1.

    On Linux these are the physical cores of the CPUs in its affinity mask, at most the CPU time
    its control groups grant; elsewhere what torch takes.

    Args:
        root: where ``proc`` and ``sys`` are.
    """
    if not hasattr(os, "sched_getaffinity"):
        return torch.get_num_threads()
    cpus = os.sched_getaffinity(0)
    cores = {_core_of(root / f"sys/devices/system/cpu/cpu{cpu}/topology") or cpu for cpu in cpus}
    return max(1, int(min(len(cores), _cgroup_cpus(root))))


def _core_of(topology: Path) -> str | None:
    """Return what the hyperthreads of one core have in common."""
    try:
        return (topology / "thread_siblings_list").read_text()
    except OSError:
        return None


def _cgroup_cpus(root: Path) -> float:
    """Return the CPU time per second that the control groups grant; infinity without a limit."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return float("inf")
    limits = [float("inf")]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        # Inside a container the path can be the host's, with the group itself mounted at the top.
        mount = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        group = mount / path.lstrip("/")
        for directory in (group, *group.parents):
            limits += _quota(directory)
            if directory == mount:
                break
    return min(limits)


def _quota(group: Path) -> list[float]:
    try:
        quota, period = (group / "cpu.max").read_text().split()
    except OSError:
        try:
            quota = (group / "cpu.cfs_quota_us").read_text().strip()
            period = (group / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return []
    return [] if quota in ("max", "-1") else [int(quota) / int(period)]


def configure(device: torch.device, num_threads: int | None) -> dict[str, Any]:
    """Set what torch computes with, for the whole process, and say what is in force.

    To be called before the first operation: the worker threads take over the treatment of
    denormal numbers from the thread that starts them.

    Args:
        device: cpu, cuda or mps.
        num_threads: CPU threads, >= 1; None takes ``OMP_NUM_THREADS`` or else one per core.

    Returns:
        Plain values for the record of the run.
    """
    if num_threads is None:
        wanted = os.environ.get("OMP_NUM_THREADS", "")
        num_threads = int(wanted) if wanted.isdecimal() and int(wanted) else available_cores()
    torch.set_num_threads(num_threads)
    if device.type == "cpu":
        _keep_freed_memory()
    flushes = torch.set_flush_denormal(True)
    if device.type == "cuda":
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        torch.backends.cudnn.conv.fp32_precision = "tf32"  # type: ignore[attr-defined]
    return {
        "device": device.type,
        "device_name": device_name(device),
        "num_threads": torch.get_num_threads(),
        "flush_denormal": flushes,
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
    return "Apple GPU" if device.type == "mps" else _cpu_model()


def describe_machine() -> dict[str, Any]:
    """Return the machine and the versions in use, as plain values for the record of a run."""
    return {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": importlib.metadata.version("torchvision"),
        "cuda": torch.version.cuda,
        "cpu": _cpu_model(),
        "cores": available_cores(),
        "memory_bytes": memory_bytes(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        if _has_cuda()
        else [],
    }


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def memory_bytes() -> int | None:
    """Return the machine's memory, or ``None`` where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
