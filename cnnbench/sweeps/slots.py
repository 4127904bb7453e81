"""How many jobs run at once, and what each gets of the machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal

import torch

from cnnbench.config.launcher import LauncherConfig
from cnnbench.device.machine import available_cores, memory_bytes
from cnnbench.errors import UsageError
from cnnbench.rendering.text import format_megabytes
from cnnbench.sweeps.check import Slots
from cnnbench.sweeps.launchers import Capacity, Launcher
from cnnbench.training.estimates import device_memory, least_bytes
from cnnbench.training.setup import Plan

# A step of a network up to here is too small to be divided well among threads: jobs of one thread
# each do more, see benchmarks/launchers.py.
SMALL_MACS = 50_000_000
LARGE_THREADS = 8
# So many jobs are submitted at once to a cluster that has a queue, where nobody says otherwise.
QUEUED_JOBS = 100
# What a process takes beside its network and its batch, where the code is shared.
_PROCESS_BYTES = 300_000_000
_VISIBLE = "CUDA_VISIBLE_DEVICES"


def slots_of(plans: Sequence[Plan], config: LauncherConfig, launcher: Launcher) -> Slots:
    """Choose how many jobs run at once, on this machine or on a launcher's cluster.

    Raises:
        UsageError: as ``choose_slots`` and ``choose_cluster_slots``.
    """
    if launcher.capacity is None:
        return choose_slots(plans, config.slots)
    return choose_cluster_slots(plans, config.slots, launcher.capacity, config.gpus)


def choose_slots(plans: Sequence[Plan], wanted: int | Literal["auto"]) -> Slots:
    """Choose how many jobs run at once.

    ``auto`` on a CPU gives a job one thread where no network has more than ``SMALL_MACS`` for an
    image, else ``LARGE_THREADS``, or what ``device.num_threads`` says, and takes as many jobs as
    there are cores for them; on GPUs one job each; and never more than the memory holds. Where
    ``budget.seconds`` counts on a CPU, one job has the machine at a time. The rule
    reads all jobs of the sweep, also those that are done, so that a resumed job has its threads.

    Args:
        plans: of all jobs.
        wanted: ``hydra.launcher.slots``.

    Raises:
        UsageError: the memory cannot hold so many jobs, or they would share seconds that count.
    """
    cores, gpus = available_cores(), _gpus(plans)
    if not gpus and any(plan.config.budget.seconds is not None for plan in plans):
        if wanted not in ("auto", 1):
            raise UsageError(
                f"hydra.launcher.slots={wanted}: jobs that share the cores do not have the same "
                "seconds, which budget.seconds gives each; expected slots=1, or budget.tflop"
            )
        return Slots(1)
    number = wanted if wanted != "auto" else len(gpus) or max(1, cores // _threads(plans, cores))
    if wanted == "auto":
        while number > 1 and _shortage(plans, number, gpus):
            number -= 1
    elif number > 1 and (shortage := _shortage(plans, number, gpus)):
        raise UsageError(
            f"hydra.launcher.slots={number}: {shortage}; lower it, or data.batch_size, or take "
            "slots=auto"
        )
    if number == 1:
        return Slots(1)
    share, asked = max(1, cores // number), os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked):
        share = min(share, int(asked))
    return Slots(number, share, gpus)


def choose_cluster_slots(
    plans: Sequence[Plan],
    wanted: int | Literal["auto"],
    capacity: Capacity,
    num_gpus: int | None = None,
) -> Slots:
    """Choose the same for a cluster: what each job asks for, and how many are submitted at once.

    ``auto`` takes as many as have their cores and GPUs at once, or where the cluster has a queue of
    its own ``QUEUED_JOBS``. The threads of a job are those of ``choose_slots``.

    Args:
        plans: of all jobs.
        wanted: ``hydra.launcher.slots``.
        capacity: of the cluster.
        num_gpus: of each job; None for one where a job computes on CUDA.

    Raises:
        UsageError: as ``choose_slots``, or no machine is large enough for a job.
    """
    if num_gpus is None:
        num_gpus = int(any(plan.device.type == "cuda" for plan in plans))
    if not num_gpus and any(plan.config.budget.seconds is not None for plan in plans):
        raise UsageError(
            "budget.seconds: jobs that share machines of a cluster do not have the same seconds; "
            "expected hydra/launcher=local, or budget.tflop"
        )
    most = capacity.cores_of_one or LARGE_THREADS
    threads = _threads(plans, most)
    if capacity.cores_of_one and threads > most:
        raise UsageError(f"device.num_threads={threads}: no machine has more than {most} cores")
    if num_gpus and capacity.gpus is not None and capacity.gpus < num_gpus:
        raise UsageError(
            f"hydra.launcher.gpus={num_gpus}: the cluster has {capacity.gpus} GPUs; give it some, "
            "or train on CPUs: device=cpu"
        )
    number = wanted if wanted != "auto" else _fitting(capacity, threads, num_gpus)
    need = [least_bytes(plan) + _PROCESS_BYTES for plan in plans]
    if capacity.job_bytes is not None and not num_gpus and max(need) > capacity.job_bytes:
        raise UsageError(
            f"hydra.launcher.memory_gb={capacity.job_bytes / 1e9:g}: the largest job takes at "
            f"least {format_megabytes(max(need))}; raise it, or lower data.batch_size"
        )
    while not num_gpus and number > 1 and capacity.memory_bytes is not None:
        total = sum(sorted(need, reverse=True)[:number])
        if total <= capacity.memory_bytes:
            break
        if wanted != "auto":
            raise UsageError(
                f"hydra.launcher.slots={number}: so many jobs take at least "
                f"{format_megabytes(total)} of memory and the cluster has "
                f"{format_megabytes(capacity.memory_bytes)}; lower it, or data.batch_size"
            )
        number -= 1
    return Slots(number, threads, num_gpus=num_gpus)


def _fitting(capacity: Capacity, threads: int, num_gpus: int) -> int:
    """Return how many jobs a cluster runs at once."""
    if capacity.cores is None:
        return QUEUED_JOBS
    number = capacity.cores // threads
    if num_gpus and capacity.gpus is not None:
        number = min(number, capacity.gpus // num_gpus)
    return max(1, number)


def _threads(plans: Sequence[Plan], cores: int) -> int:
    """Return the threads of the job that takes most of them."""
    return max(
        plan.config.device.num_threads
        or (1 if plan.network.macs <= SMALL_MACS else min(LARGE_THREADS, cores))
        for plan in plans
    )


def _gpus(plans: Sequence[Plan]) -> tuple[str, ...]:
    """Return the GPUs as ``CUDA_VISIBLE_DEVICES`` names them, where a job computes on one."""
    if not any(plan.device.type == "cuda" for plan in plans):
        return ()
    visible = [name for name in os.environ.get(_VISIBLE, "").split(",") if name]
    return tuple(visible or map(str, range(torch.cuda.device_count())))


def _shortage(plans: Sequence[Plan], number: int, gpus: Sequence[str]) -> str:
    """Say what the largest jobs of that number take at least, where the memory has less."""
    # A small sweep fills no more slots than it has jobs.
    largest = sorted(map(least_bytes, plans), reverse=True)[:number]
    need, available = sum(largest) + len(largest) * _PROCESS_BYTES, memory_bytes()
    if gpus:
        free = device_memory(torch.device("cuda"))
        available = None if free is None else free * len(gpus)
    if available is None or need <= available:
        return ""
    return (
        f"so many jobs take at least {format_megabytes(need)} of memory and the device has "
        f"{format_megabytes(available)}"
    )


def training_macs(plans: Sequence[Plan]) -> list[float]:
    """Return about how many multiply-accumulates each job's training takes."""
    return [
        3.0 * plan.network.macs * plan.config.num_epochs * max(1, sum(plan.facts.train_counts))
        for plan in plans
    ]
