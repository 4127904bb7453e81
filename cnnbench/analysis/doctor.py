"""What a bug report needs: versions, the machine as torch sees it, data, disk, and kernels."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from cnnbench.data.manage import where
from cnnbench.data.readers.sources import cache_root
from cnnbench.data.table import DATASETS
from cnnbench.device.device import configure, resolve_device
from cnnbench.device.kernel_check import Conditions
from cnnbench.device.machine import describe_machine
from cnnbench.device.precision import BF16, FP32, Precision, has_native_bf16
from cnnbench.errors import CnnbenchError, KernelError, UsageError
from cnnbench.geometry.kernels import kernels
from cnnbench.layers.cpu import use_cpu_kernels
from cnnbench.models import MODELS
from cnnbench.models.build import build_meta
from cnnbench.rendering.text import format_megabytes
from cnnbench.training.kernels import describe, kernel_text, verdicts_of
from cnnbench.version import __version__

Row = dict[str, str]
# Instructions that decide which kernels torch takes, as Linux names them.
_FEATURES = ("avx", "avx2", "fma", "avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16")
_VARIABLES = re.compile(
    "(OMP|MKL|ONEDNN|DNNL|ATEN|TORCH|PYTORCH|CUDA|CNNBENCH|XDG_CACHE|XDG_DATA|MPLCONFIG).*"
)
# Sides of images, of which a network gets the first that it takes.
_SIDES = (32, 64, 96, 224, 299)


def examine(output_root: Path) -> Iterator[Row]:
    """Yield what there is on this machine, a row for each: ``what`` and ``found``.

    Args:
        output_root: where runs would be written.
    """
    machine = describe_machine()
    torch_build = f"torch {machine['torch']}, torchvision {machine['torchvision']}"
    yield _row("versions", f"cnnbench {__version__}, Python {machine['python']}, {torch_build}")
    yield _row("system", f"{machine['platform']}, {platform.machine()}")
    memory = machine["memory_bytes"]
    size = "" if memory is None else f", {format_megabytes(memory)} of memory"
    yield _row("processor", f"{machine['cpu']}, {machine['cores']} cores{size}")
    capability = torch.backends.cpu.get_cpu_capability()
    yield _row("instructions", f"torch uses {capability}; {_features()}")
    is_native = has_native_bf16(torch.device("cpu"))
    yield _row("bfloat16", "native on the processor" if is_native else "emulated, slow: use fp32")
    yield _row("threads", str(torch.get_num_threads()))
    yield _row("devices", ", ".join(_devices(machine["gpus"])))
    kept = {name: v for name, v in sorted(os.environ.items()) if _VARIABLES.fullmatch(name)}
    yield _row("variables", ", ".join(f"{n}={v}" for n, v in kept.items()) or "none that matter")
    for name in DATASETS:
        yield _row(f"data={name}", _data(name))
    yield _row("runs", _directory(output_root))
    caches = cache_root()
    yield _row("cache", "no home directory is known" if caches is None else _directory(caches))
    yield _row("fonts", _fonts())
    yield from _extras()


def _row(what: str, found: str) -> Row:
    return {"what": what, "found": found}


def _features() -> str:
    try:
        flags = set(Path("/proc/cpuinfo").read_text(errors="replace").split())
    except OSError:
        return "the system does not list those of the processor"
    there = [name for name in _FEATURES if name in flags]
    return f"the processor has {' '.join(there) or 'none of ' + ' '.join(_FEATURES)}"


def _devices(gpus: list[str]) -> Iterator[str]:
    yield "cpu"
    yield from (f"cuda ({name})" for name in gpus)
    if torch.backends.mps.is_available():
        yield "mps"
    yield f"auto takes {resolve_device('auto')}"


def _data(name: str) -> str:
    try:
        rows = where(name, None)
    except CnnbenchError:
        return "needs data.root"
    there = [row["path"] for row in rows if row["state"] == "all files there"]
    if there:
        return str(there[0])
    states = {row["state"] for row in rows} - {"not asked", "absent"}
    return "; ".join(sorted(states)) or f"absent; 'cnnbench data prepare {name}' fetches it"


def _directory(path: Path) -> str:
    """Return where it is, whether it can be written, and how much room is left."""
    nearest = next(parent for parent in (path.absolute(), *path.absolute().parents) if _is(parent))
    access = "can be written" if os.access(nearest, os.W_OK | os.X_OK) else "cannot be written"
    try:
        free = f", {format_megabytes(shutil.disk_usage(nearest).free)} free"
    except OSError:
        free = ""
    return f"{path.absolute()}: {access}{free}"


def _is(path: Path) -> bool:
    try:
        return path.exists() or path.parent == path
    except OSError:
        return False


def _fonts() -> str:
    from matplotlib import font_manager

    try:
        return font_manager.findfont("DejaVu Sans", fallback_to_default=False)
    except ValueError:
        return "DejaVu Sans is missing, with which plots are written"


def _extras() -> Iterator[Row]:
    """Yield what each extra lacks."""
    try:
        needed = importlib.metadata.requires("cnnbench") or []
    except importlib.metadata.PackageNotFoundError:
        yield _row("extras", "unknown, for cnnbench itself is not installed")
        return
    lacking: dict[str, list[str]] = defaultdict(list)
    for need in needed:
        found = re.match(r"([\w.-]+).*extra == ['\"]([\w-]+)['\"]", need)
        if found:
            lacking[found[2]] += [] if _is_installed(found[1]) else [found[1]]
    for extra, names in lacking.items():
        cure = f"lacks {', '.join(names)}: pip install 'cnnbench[{extra}]'"
        yield _row(f"extra {extra}", cure if names else "installed")


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def examine_kernels() -> Iterator[Row]:
    """Check the kernels of all networks with images of 32 pixels, or the fewest they take.

    Yields:
        A row for each number format, and one for each kernel that is wrong.

    Raises:
        KernelError: one is wrong in every way.
    """
    configure(torch.device("cpu"), None)
    formats = (FP32, BF16) if has_native_bf16(torch.device("cpu")) else (FP32,)
    hopeless = 0
    for precision in formats:
        calls = [call for name in sorted(MODELS) for call in _calls(name, precision)]
        conditions = Conditions(torch.get_num_threads(), True, precision is BF16)
        verdicts = verdicts_of(calls, conditions)
        wrong = {text: v for text, v in verdicts.items() if v.wrong is not None}
        right = len(verdicts) - len(wrong)
        what = f"kernels {precision.name}"
        yield _row(what, f"{right} of {len(verdicts)} right")
        for call in calls:
            verdict = wrong.pop(kernel_text(call), None)
            if verdict is not None:
                hopeless += verdict.way == "none"
                yield _row(what, f"{describe(call)}: {verdict.wrong}; other way: {verdict.way}")
    if hopeless:
        raise KernelError(
            f"{hopeless} kernels are wrong in every way that there is; report this output to "
            "github.com/pytorch/pytorch/issues"
        )


def _calls(name: str, precision: Precision) -> Iterator[dict[str, Any]]:
    for side in _SIDES:
        try:
            module = build_meta(name, {}, in_channels=3, num_classes=10, image_size=side)
        except UsageError:
            continue
        use_cpu_kernels(module, precision, channels_last=True)
        yield from (call for _, call in kernels(module, (3, side, side)))
        return
