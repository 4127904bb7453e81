from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cnnbench.device.machine import available_cores, describe_machine


def fake_machine(root: Path, siblings: dict[int, str], cgroup: str, files: dict[str, str]) -> Path:
    for cpu, text in siblings.items():
        topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(text)
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


NO_HYPERTHREADS = {cpu: f"{cpu}\n" for cpu in range(8)}
HYPERTHREADS = {cpu: f"{cpu % 4},{cpu % 4 + 4}\n" for cpu in range(8)}


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="Linux counts cores so")
@pytest.mark.parametrize(
    ("siblings", "cgroup", "files", "expected"),
    [
        (NO_HYPERTHREADS, "0::/\n", {}, 8),
        (HYPERTHREADS, "0::/\n", {"cpu.max": "max 100000\n"}, 4),
        (NO_HYPERTHREADS, "0::/\n", {"cpu.max": "250000 100000\n"}, 2),
        (NO_HYPERTHREADS, "0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        (NO_HYPERTHREADS, "0::/a/b\n", {"a/cpu.max": "300000 100000\n", "a/b/cpu.max": "max 1"}, 3),
        (
            NO_HYPERTHREADS,
            "4:cpu,cpuacct:/job\n3:memory:/job\n",
            {"cpu/job/cpu.cfs_quota_us": "500000\n", "cpu/job/cpu.cfs_period_us": "100000\n"},
            5,
        ),
        (
            NO_HYPERTHREADS,
            "4:cpu,cpuacct:/host/path\n",
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            8,
        ),
    ],
)
def test_available_cores_respect_hyperthreads_and_quotas(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    siblings: dict[int, str],
    cgroup: str,
    files: dict[str, str],
    expected: int,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert available_cores(fake_machine(tmp_path, siblings, cgroup, files)) == expected


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="Linux counts cores so")
def test_available_cores_respect_affinity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 4, 5})
    assert available_cores(fake_machine(tmp_path, HYPERTHREADS, "0::/\n", {})) == 2
    assert available_cores(tmp_path / "bare") == 3


def test_machine_record_is_plain_and_loads_no_torchvision() -> None:
    record = describe_machine()
    assert record["torch"] == torch.__version__
    assert record["cores"] >= 1
    assert record["cpu"]
    assert len(record["gpus"]) == torch.cuda.device_count()
    assert json.loads(json.dumps(record)) == record
    code = (
        "import sys; from cnnbench.device.machine import describe_machine; describe_machine(); "
        "sys.exit('torchvision' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
