"""Whether the kernels of a network compute right on this machine, and what is done where not."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cnnbench.data.readers.sources import cache_root
from cnnbench.device.kernel_check import Conditions, Verdict, check_kernels, products
from cnnbench.device.machine import cpu_name
from cnnbench.errors import DiskError, KernelError
from cnnbench.files import atomic_write, read_regular
from cnnbench.geometry.kernels import kernels
from cnnbench.layers.cpu.ways import take_ways
from cnnbench.notices import warn
from cnnbench.runs.record import Provenance

# 0 leaves the check out, for who starts many short processes.
SWITCH = "CNNBENCH_KERNEL_CHECK"
_MAX_BYTES = 16 << 20
# A kernel is told as slow from this many times its neighbours' median on.
_SLOW = 10
_SLOW_SECONDS = 0.05
_WAYS = ("plain", "slice", "contiguous", "fp32", "none")


def right_kernels(
    model: nn.Module,
    input_shape: Sequence[int],
    conditions: Conditions,
    recorded: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Check the kernels of a network that trains on a CPU, and put others where they are wrong.

    Args:
        model: as it is to be trained; in place.
        input_shape: of one image, (C, H, W).
        conditions: under which it trains.
        recorded: the other ways that the run took before, by layer, which it takes again.

    Returns:
        The other ways taken, by path of the layer; empty where all is right.

    Raises:
        KernelError: a kernel is wrong in every way.
    """
    recorded = dict(recorded or {})
    for name in take_ways(model, recorded):
        del recorded[name]
    if os.environ.get(SWITCH) == "0":
        return recorded
    calls = kernels(model, input_shape)
    verdicts = verdicts_of([kernel for _, kernel in calls], conditions)
    ways: dict[str, str] = {}
    for name, kernel in calls:
        verdict = verdicts[kernel_text(kernel)]
        if verdict.way == "none":
            raise KernelError(_message(kernel, verdict) + _REPORT)
        if verdict.way != "plain" and name not in recorded and ways.get(name) != verdict.way:
            ways[name] = verdict.way
            warn(f"{_message(kernel, verdict)}; {name or 'it'} computes {_SAID[verdict.way]}")
    refused = take_ways(model, ways)
    if refused:
        where = ", ".join(name or "the network" for name in refused)
        cures = {ways[name] for name in refused} & _SETTINGS.keys()
        advice = " ".join(_SETTINGS[cure] for cure in sorted(cures))
        raise KernelError(
            f"{where}: calls a kernel that is wrong on this machine ({cpu_name()}, torch "
            f"{torch.__version__}) in a forward of its own; set {advice or 'another layer there'}"
        )
    for kernel, times in slow_kernels(verdicts):
        warn(f"{describe(kernel)} takes {times:.0f} times as long here as its neighbours")
    return {**recorded, **ways}


def recorded_ways(provenance: Provenance) -> dict[str, str]:
    """Return the other ways that the process before the last took, by path of the layer."""
    ways = [process.effective.get("kernels") for process in provenance.processes[-2:-1]]
    return dict(ways[0]) if ways and isinstance(ways[0], dict) else {}


_SAID = {
    "slice": "from a slice with stride 1",
    "contiguous": "with the channels first",
    "fp32": "in fp32",
}
_SETTINGS = {"contiguous": "device.channels_last=false", "fp32": "device.precision=fp32"}
_REPORT = (
    " in every way that there is; report it with the output of 'cnnbench doctor' to "
    "github.com/pytorch/pytorch/issues"
)


def verdicts_of(
    found: Sequence[dict[str, Any]], conditions: Conditions, **options: Any
) -> dict[str, Verdict]:
    """Return the verdict on each distinct kernel, by its text, from the user's cache or new.

    Args:
        found: kernels as ``geometry.kernels`` has them.
        conditions: under which they run.
        options: of ``check_kernels``.
    """
    signature = conditions.signature()
    digest = hashlib.sha256(json.dumps(signature, sort_keys=True).encode()).hexdigest()
    caches = cache_root()
    cache = None if caches is None else caches / "kernels" / f"{digest[:32]}.json"
    known = {} if cache is None else _read(cache)
    wanted = {kernel_text(kernel): kernel for kernel in found}
    new = [text for text in wanted if text not in known]
    if new:
        checked = check_kernels([wanted[text] for text in new], conditions, **options)
        known |= dict(zip(new, checked, strict=True))
        if cache is not None:
            tree = {text: vars(verdict) for text, verdict in known.items()}
            # Without a cache they are checked again next time.
            with suppress(OSError, DiskError):
                cache.parent.mkdir(parents=True, exist_ok=True)
                atomic_write(cache, json.dumps({**signature, "kernels": tree}).encode())
    return {text: known[text] for text in wanted}


def _read(cache: Path) -> dict[str, Verdict]:
    """Return what was found before; what is no cache of ours counts as nothing."""
    try:
        tree = json.loads(read_regular(cache, _MAX_BYTES))["kernels"]
        known = {text: Verdict(**verdict) for text, verdict in tree.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    is_ours = all(
        v.way in _WAYS and isinstance(v.wrong, str | None) and isinstance(v.seconds, float)
        for v in known.values()
    )
    return known if is_ours else {}


def kernel_text(kernel: dict[str, Any]) -> str:
    """Return what names a kernel in the cache."""
    return json.dumps(kernel, sort_keys=True)


def describe(kernel: Mapping[str, Any]) -> str:
    """Return a kernel's shape as a user reads it.

    Example:
        >>> describe({"op": "avg_pool2d", "args": [{"shape": [4, 16, 8, 8]}, [2, 2]]})
        'avg_pool2d of 16 x 8 x 8, [2, 2]'
    """
    args = kernel["args"]
    maps = " x ".join(map(str, args[0]["shape"][1:]))
    if kernel["op"] != "convolution":
        rest = "".join(f", {arg}" for arg in args[1:] if isinstance(arg, list))
        return f"{kernel['op']} of {maps}{rest}"
    out, _, height, width = args[1]["shape"]
    groups = f", {args[8]} groups" if args[8] > 1 else ""
    return f"convolution of {maps} to {out} channels, {height}x{width}, stride {args[3]}{groups}"


def _message(kernel: Mapping[str, Any], verdict: Verdict) -> str:
    what = verdict.wrong or "wrong"
    is_wrong = what if what.startswith(("hangs", "crashes", "fails")) else f"has a wrong {what}"
    return (
        f"{describe(kernel)} {is_wrong} on this machine ({cpu_name()}, torch {torch.__version__})"
    )


def slow_kernels(verdicts: Mapping[str, Verdict]) -> list[tuple[dict[str, Any], float]]:
    """Return the convolutions that take ten times as long for a product as the median, or more."""
    costs = {
        text: verdict.seconds / multiplied
        for text, verdict in verdicts.items()
        if (multiplied := products(json.loads(text))) and verdict.seconds > 0
    }
    median = sorted(costs.values())[len(costs) // 2] if costs else 0.0
    return [
        (json.loads(text), cost / median)
        for text, cost in costs.items()
        if cost > _SLOW * median and verdicts[text].seconds > _SLOW_SECONDS
    ]
