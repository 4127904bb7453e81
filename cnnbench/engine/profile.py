"""A trace of some training steps, for Perfetto or TensorBoard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from cnnbench.engine.loop import Step
from cnnbench.rendering.text import counted

# The first steps prepare kernels and memory; the last of them also starts the profiler.
_WAIT_STEPS, _WARMUP_STEPS = 4, 2


def profiled(
    steps: Iterator[Step],
    path: Path,
    num_steps: int,
    device: torch.device,
    report: Callable[[str], None],
) -> Iterator[Step]:
    """Yield the steps as they are, and write a trace of some after a warm-up.

    Args:
        steps: as ``fit`` yields them; the same numbers come out as without a profile.
        path: the trace's file, ending in ``.json.gz``.
        num_steps: how many are traced; fewer where training ends before.
        device: where they compute.
        report: is told, in one sentence, where the trace is.
    """
    from torch.profiler import ProfilerActivity, profile, schedule

    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    count = 0
    with profile(
        activities=activities,
        schedule=schedule(wait=_WAIT_STEPS, warmup=_WARMUP_STEPS, active=num_steps, repeat=1),
        on_trace_ready=lambda trace: trace.export_chrome_trace(str(path)),
        record_shapes=True,
    ) as profiler:
        for step in steps:
            yield step
            profiler.step()
            count += 1
            if count == _WAIT_STEPS + _WARMUP_STEPS + num_steps:
                break
    first = _WAIT_STEPS + _WARMUP_STEPS
    if count > first:
        report(
            f"traced {counted(count - first, 'step')}: {path}; open it in https://ui.perfetto.dev "
            "or with TensorBoard's profile page"
        )
    else:
        report(f"profile_steps={num_steps}: training ended within the {first} steps of warm-up")
    yield from steps
