"""The number format of a run: which there are, which one a device computes in."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from dataclasses import dataclass
from typing import Literal

import torch

from cnnbench.errors import UsageError, did_you_mean

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
            "it slower than fp32; use device.precision=fp32",
        )
    return {"fp32": FP32, "bf16": BF16, "fp16": FP16}[precision]


@functools.cache
def emulation_factor() -> float:
    """Return how many times as long as in fp32 a bfloat16 convolution takes on this CPU.

    One convolution of 64 channels of 16x16 pixels, forward and backward, the better of two after
    one that prepares kernels: some tenths of a second.
    """
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        # No random numbers: those of the run stay as they were.
        images, weight = torch.ones(4, 64, 16, 16), torch.ones(64, 64, 3, 3)
        images = images.to(dtype).contiguous(memory_format=torch.channels_last)
        weight = weight.to(dtype).requires_grad_()
        times = []
        for _ in range(3):
            started = time.perf_counter()
            torch.nn.functional.conv2d(images, weight, padding=1).sum().backward()
            times.append(time.perf_counter() - started)
        seconds[dtype] = min(times[1:])
    return seconds[torch.bfloat16] / seconds[torch.float32]


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
