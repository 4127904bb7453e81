"""``torch.compile`` for training steps: whether it can run here, and the compiled loss."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import time
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from cnnbench.device.device import synchronize
from cnnbench.engine.loop import Autocast, ComputeLoss
from cnnbench.errors import UsageError, reason_of
from cnnbench.geometry.observe import undisturbed


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


def compile_loss(
    compute_loss: ComputeLoss,
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    device: torch.device,
    autocast: Autocast,
) -> tuple[ComputeLoss, float]:
    """Compile forward and backward pass for the batches that an epoch has.

    Evaluation stays as it is, so that its batches of other sizes need no compilation. The model's
    parameters, buffers and state dict are those of the plain module.

    Args:
        compute_loss: what is compiled.
        model: on the device; left as it was.
        batches: network input and targets of each size of batch, on the device.
        device: cpu, cuda or mps.
        autocast: makes the context in which the forward pass computes.

    Returns:
        What ``fit`` takes as ``compute_loss``, and the seconds that compiling took.

    Raises:
        UsageError: torch cannot compile this network here.
    """
    # Else the earlier networks of a sweep would fill torch's cache, and it would stop compiling.
    torch.compiler.reset()
    compiled: ComputeLoss = torch.compile(compute_loss, dynamic=False)
    started = time.perf_counter()
    with undisturbed(model):
        model.train()
        for images, targets in batches:
            try:
                with autocast():
                    loss, _logits = compiled(model, images, targets)
                loss.backward()
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                raise UsageError(
                    f"device.compile=true: torch cannot compile this network here: "
                    f"{type(error).__name__}: {reason_of(error)}; use device.compile=false"
                ) from error
    synchronize(device)
    return compiled, time.perf_counter() - started
