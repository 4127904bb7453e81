"""What a run would take, from one batch of it: nothing of a run directory is written."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from cnnbench.analysis.results import Result, Rows
from cnnbench.analysis.summary_text import summary_text
from cnnbench.config.run_config import RunConfig
from cnnbench.device.device import effective_settings
from cnnbench.engine.finite import check_step
from cnnbench.errors import UsageError
from cnnbench.files import expand_path
from cnnbench.geometry.summary import summarize
from cnnbench.models.build import build_meta
from cnnbench.notices import notice, warn
from cnnbench.rendering.text import format_megabytes
from cnnbench.tracking import format_seconds
from cnnbench.training import display, estimates, first_batch, launch
from cnnbench.training.network import network_sizes
from cnnbench.training.setup import Plan, precision_warning, set_up

# What changes neither the work of a run nor what it takes.
_SAME: dict[str, Any] = {
    "seed": 0,
    "output_root": "",
    "sweep": None,
    "resume": None,
    "max_seconds": None,
}


def dry_run(config: RunConfig) -> Result:
    """Train one batch of a run, and estimate the rest; ``cnnbench.dry_run`` says what comes back.

    Raises:
        CnnbenchError: as the run would.
    """
    _no_resume(config)
    [plan] = launch.check_all([config])
    try:
        found = _measure(plan)
    except Exception as error:
        plain = launch.plain_error(error, config)
        if plain is None or plain is error:
            raise
        raise plain from error
    lines = (
        f"{found.pop('introduction')}\n\n{_table(plan)}\n"
        f"the first batch: {found['batch_size']} examples, loss {found['loss']:.3f}\n"
        f"expected: about {format_seconds(found['epoch_seconds'])} per epoch, "
        f"{format_seconds(found['total_seconds'])} for the run without its evaluations, "
        f"{format_megabytes(found['memory_bytes'])} of memory, up to "
        f"{format_megabytes(found['disk_bytes'])} on disk\n"
        "nothing was written; without --dry-run it trains"
    )
    return Result(found, rows=[found], text=lines)


def dry_sweep(jobs: Sequence[tuple[str, RunConfig]]) -> Rows:
    """Do the same with the jobs of a sweep; those that differ in their seed alone are one batch.

    Args:
        jobs: name and config of each.
    """
    for _, config in jobs:
        _no_resume(config)
    plans = launch.check_all([config for _, config in jobs])
    measured: dict[str, dict[str, Any]] = {}
    rows = []
    warn_once = functools.cache(warn)
    for n, ((name, config), plan) in enumerate(zip(jobs, plans, strict=True), 1):
        key = repr(dataclasses.replace(config, **_SAME))
        if key not in measured:
            notice(f"[{n}/{len(jobs)}] {name}")
            measured[key] = _measure(plan, warn_once)
            measured[key].pop("introduction")
        rows.append({"job": name, **measured[key]})
    return Rows(rows)


def _no_resume(config: RunConfig) -> None:
    if config.resume is not None:
        raise UsageError("--dry-run: looks at a run that has not begun; leave resume= out")


def _table(plan: Plan) -> str:
    config, size = plan.config, plan.config.data.image_size
    module = build_meta(config.model.name, config.model.args, **network_sizes(config, plan.facts))
    found = summarize(module, (plan.facts.in_channels, size, size), depth=1)
    return summary_text(f"{config.model.name} on {config.data.name}", found, "text")


def _measure(plan: Plan, tell: Callable[[str], None] = warn) -> dict[str, Any]:
    config = plan.config
    data = launch.read(plan)
    for message in filter(None, (*data.warnings, precision_warning(plan))):
        tell(message)
    setup = set_up(plan, data)
    root = expand_path(config.output_root)
    there = next(parent for parent in (root, *root.parents) if parent.exists())
    disk, memory = estimates.expected_bytes(setup)
    for message in (
        *first_batch.findings(setup),
        *estimates.shortages(Path(there), plan.device, disk=disk, memory=memory),
    ):
        tell(message)
    effective = {**effective_settings(plan.device), "precision": plan.precision.name}
    introduction = display.introduction(setup, effective)
    epoch_seconds = estimates.expected_epoch_seconds(setup)
    step = next(iter(setup.steps(1)))
    loss = step.loss.item()
    check_step(setup.state, loss, step.grad_norm.item())
    num_epochs = setup.num_steps / data.steps_per_epoch
    budget = config.budget.seconds
    return {
        "introduction": introduction,
        "model": config.model.name,
        "data": config.data.name,
        "image_size": config.data.image_size,
        "batch_size": step.num_images,
        "device": effective["device_name"],
        "precision": plan.precision.name,
        "num_threads": torch.get_num_threads(),
        "num_params": plan.network.num_params,
        "macs": plan.network.macs,
        "num_train": data.num_train,
        "num_epochs": num_epochs,
        "loss": loss,
        "epoch_seconds": epoch_seconds,
        "total_seconds": budget if budget is not None else epoch_seconds * num_epochs,
        "memory_bytes": memory,
        "disk_bytes": disk,
    }
