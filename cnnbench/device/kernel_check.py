"""Which kernels compute right here: each shape against double precision, in its own process."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cnnbench.device.machine import cpu_name
from cnnbench.errors import ResourceError

PROGRAM = Path(__file__).with_name("kernel_trial.py")
# Until a process that starts has imported torch from a slow disk, and until a kernel has answered,
# beside what its products take on a slow machine: who is merely slow does not hang.
_START_SECONDS = 120.0
_TRIAL_SECONDS = 60.0
_SLOWEST_PRODUCTS = 1e7  # per second; emulated bfloat16 makes 1e8 and more
# What a user can set to keep torch from instructions that the processor has.
_VARIABLES = (
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
    "MKL_ENABLE_INSTRUCTIONS",
)


@dataclass(frozen=True)
class Verdict:
    """What was found of one kernel.

    Attributes:
        way: the first that is right: ``plain``, ``slice``, ``contiguous``, ``fp32``; ``none``.
        wrong: what is wrong with the plain one, in a few words; None where nothing is.
        seconds: of its forward and backward pass, the way that is right.
    """

    way: str
    wrong: str | None
    seconds: float


@dataclass(frozen=True)
class Conditions:
    """What decides, beside the shape, which kernel torch takes.

    Attributes:
        num_threads: at least 1.
        channels_last: the layout of images and weights.
        bf16: whether they are bfloat16; otherwise float32.
    """

    num_threads: int
    channels_last: bool
    bf16: bool

    def signature(self) -> dict[str, Any]:
        """Return these, the processor, its instructions and torch, as plain values."""
        return {
            **vars(self),
            "cpu": cpu_name(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "torch": torch.__version__,
            **{name: os.environ.get(name, "") for name in _VARIABLES},
        }


def check_kernels(
    kernels: Sequence[dict[str, Any]],
    conditions: Conditions,
    *,
    program: Path = PROGRAM,
    trial_seconds: float = _TRIAL_SECONDS,
) -> Iterator[Verdict]:
    """Yield a verdict for each kernel.

    Args:
        kernels: as ``geometry.kernels`` has them.
        conditions: under which they run.
        program: that computes them.
        trial_seconds: after which a kernel is said to hang.
    """
    child = _Child(program, conditions, trial_seconds)
    try:
        for kernel in kernels:
            yield _verdict(child, kernel)
    finally:
        child.end()


def products(kernel: Mapping[str, Any]) -> int:
    """Return the multiplications of a convolution's forward pass, about; 0 for others."""
    if kernel["op"] != "convolution":
        return 0
    images, weight, _, stride, *_ = kernel["args"]
    batch, _, *sides = images["shape"]
    return int(batch * math.prod(sides) / math.prod(stride) * math.prod(weight["shape"]))


def _verdict(child: _Child, kernel: dict[str, Any]) -> Verdict:
    first: str | None = None
    for way in _ways(kernel, child.conditions):
        answer = child.ask(kernel, way)
        if answer["wrong"] is None:
            return Verdict(way, first, answer["seconds"])
        first = first or answer["wrong"]
    return Verdict("none", first, 0.0)


def _ways(kernel: dict[str, Any], conditions: Conditions) -> Iterator[str]:
    yield "plain"
    if kernel["op"] == "convolution":
        _, weight, _, stride, padding, _, is_transposed, _, _ = kernel["args"]
        is_point = weight["shape"][2:] == [1, 1] and not any(padding) and not is_transposed
        if is_point and max(stride) > 1:
            yield "slice"
    if conditions.channels_last:
        yield "contiguous"
    if conditions.bf16:
        yield "fp32"


class _Child:
    """The process that computes; a new one where a kernel took the last with it."""

    def __init__(self, program: Path, conditions: Conditions, trial_seconds: float) -> None:
        self.conditions = conditions
        self._program, self._seconds = program, trial_seconds
        self._process: subprocess.Popen[str] | None = None

    def ask(self, kernel: dict[str, Any], way: str) -> dict[str, Any]:
        """Return the answer to one trial, or in what way there was none."""
        if self._process is None:
            self._process = subprocess.Popen(
                # Without the program's directory on the path, whose modules have common names.
                [sys.executable, "-P", str(self._program)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            started = self._answer(str(self.conditions.num_threads), _START_SECONDS)
            if "wrong" in started:
                raise ResourceError(f"the kernel check {started['wrong']} before it has begun")
        trial = {"channels_last": self.conditions.channels_last, "bf16": self.conditions.bf16}
        seconds = self._seconds + 6 * products(kernel) / _SLOWEST_PRODUCTS
        return self._answer(json.dumps({"kernel": kernel, "way": way, **trial}), seconds)

    def _answer(self, line: str, seconds: float) -> dict[str, Any]:
        assert self._process is not None
        process, has_hung = self._process, threading.Event()

        def stop() -> None:
            has_hung.set()
            process.kill()

        timer = threading.Timer(seconds, stop)
        timer.start()
        self._tell(line)
        assert process.stdout is not None
        # oneDNN and others may print of themselves.
        answer = next((line for line in process.stdout if line.startswith("{")), None)
        timer.cancel()
        if answer is not None:
            return dict(json.loads(answer))
        self.end()
        code = process.returncode
        return {"wrong": "hangs" if has_hung.is_set() else f"crashes (exit code {code})"}

    def _tell(self, line: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except OSError:
            pass  # it has died, which reading its answer shows

    def end(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
