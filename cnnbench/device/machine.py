"""The machine as a run records it: its processor, cores, memory, GPUs and versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import warnings
from pathlib import Path
from typing import Any

import torch


def describe_machine() -> dict[str, Any]:
    """Return the machine and the versions in use, as plain values for the record of a run."""
    return {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": importlib.metadata.version("torchvision"),
        "cuda": torch.version.cuda,
        "cpu": cpu_name(),
        "cores": available_cores(),
        "memory_bytes": memory_bytes(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        if has_cuda()
        else [],
    }


def cpu_name() -> str:
    """Return the processor's name, such as ``Intel(R) Xeon(R)``."""
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


def has_cuda() -> bool:
    """Return whether torch can compute on a CUDA GPU here."""
    with warnings.catch_warnings():
        # A missing or old driver warns here; who asks for `cuda` by name gets an error instead.
        warnings.simplefilter("ignore")
        return torch.cuda.is_available()


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
