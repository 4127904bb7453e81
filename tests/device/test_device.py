from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from cnnbench.device import device as device_module
from cnnbench.device.device import (
    DEVICES,
    PRECISIONS,
    REDUCED_PRECISION_MIN_MACS,
    autocast,
    available_cores,
    configure,
    describe_machine,
    grad_scaler,
    resolve_channels_last,
    resolve_device,
    resolve_precision,
)
from cnnbench.errors import UsageError

CONF = Path(__file__).parents[2] / "conf" / "device"
CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))
LARGE, SMALL = REDUCED_PRECISION_MIN_MACS, REDUCED_PRECISION_MIN_MACS - 1


@pytest.fixture
def native_bf16(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module, "has_native_bf16", lambda _: request.param)


@pytest.fixture
def threads_restored() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
    torch.set_flush_denormal(False)


def test_yaml_has_one_file_per_device_with_the_same_keys() -> None:
    files = {path.stem: yaml.safe_load(path.read_text()) for path in CONF.glob("*.yaml")}
    assert set(files) == set(DEVICES)
    for name, values in files.items():
        expected = {"precision": "auto", "num_threads": None, "channels_last": "auto"}
        assert values == {"name": name, **expected, "compile": False}


def test_auto_takes_what_there_is() -> None:
    has = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    expected = next((name for name in ("cuda", "mps") if has[name]), "cpu")
    assert resolve_device("auto").type == expected
    assert resolve_device("cpu") == CPU


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_missing_device_is_one_plain_sentence(name: str) -> None:
    has = torch.cuda.is_available() if name == "cuda" else torch.backends.mps.is_available()
    if has:
        assert resolve_device(name).type == name
        return
    with pytest.raises(UsageError) as raised:
        resolve_device(name)
    assert raised.value.exit_code == 2
    message = str(raised.value)
    assert message.startswith(f"this machine has no {name.upper()} device (torch ")
    assert message.endswith("; use device=cpu")


def test_unknown_names_come_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'cuda'"):
        resolve_device("cudaa")
    with pytest.raises(UsageError, match="did you mean 'bf16'"):
        resolve_precision("bf61", CPU, macs=LARGE)


@pytest.mark.parametrize("native_bf16", [True], indirect=True)
@pytest.mark.parametrize("device", [CPU, CUDA])
@pytest.mark.usefixtures("native_bf16")
def test_auto_precision_is_bf16_for_large_networks(device: torch.device) -> None:
    assert resolve_precision("auto", device, macs=LARGE).name == "bf16"
    assert resolve_precision("auto", device, macs=SMALL).name == "fp32"


@pytest.mark.parametrize("native_bf16", [False], indirect=True)
@pytest.mark.usefixtures("native_bf16")
def test_auto_precision_without_native_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_precision("auto", CPU, macs=LARGE).name == "fp32"
    assert resolve_precision("auto", MPS, macs=LARGE).name == "fp32"
    for capability, name in (((6, 1), "fp32"), ((7, 5), "fp16")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, c=capability: c)
        assert resolve_precision("auto", CUDA, macs=LARGE).name == name


def test_rule_keeps_small_networks_in_fp32() -> None:
    for macs in (416_520, 574_080, 467_200):  # lenet, mlp, basic_cnn
        assert resolve_precision("auto", CPU, macs=macs).name == "fp32"


@pytest.mark.parametrize("native_bf16", [False], indirect=True)
@pytest.mark.usefixtures("native_bf16")
def test_explicit_bf16_without_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    precision = resolve_precision("bf16", CPU, macs=SMALL)
    assert precision.dtype is torch.bfloat16
    assert "slower than fp32" in str(precision.warning)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "GTX 1080")
    with pytest.raises(UsageError, match="GTX 1080 has no bfloat16; use fp16 or fp32"):
        resolve_precision("bf16", CUDA, macs=LARGE)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ATEN_CPU_CAPABILITY", "avx2"),
        ("ONEDNN_MAX_CPU_ISA", "AVX2"),
        ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_VNNI"),
        ("DNNL_MAX_CPU_ISA", "AVX2"),
    ],
)
def test_bfloat16_that_the_environment_forbids_is_not_native(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    for other in ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(other, raising=False)
    assert device_module.has_native_bf16(CPU)
    monkeypatch.setenv(name, value)
    assert not device_module.has_native_bf16(CPU)


def test_fp16_is_refused_on_the_cpu_only() -> None:
    with pytest.raises(UsageError, match=r"use bf16 or fp32"):
        resolve_precision("fp16", CPU, macs=LARGE)
    assert resolve_precision("fp16", CUDA, macs=LARGE).dtype is torch.float16
    assert "fp16" in PRECISIONS


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_autocast_computes_in_the_precision_and_keeps_weights(name: str) -> None:
    layer = torch.nn.Conv2d(2, 3, 3)
    precision = resolve_precision(name, CPU, macs=SMALL)
    with autocast(CPU, precision):
        output = layer(torch.randn(1, 2, 5, 5))
    assert output.dtype is precision.dtype
    assert layer.weight.dtype is torch.float32
    assert grad_scaler(CPU, precision) is None


def test_only_fp16_scales_its_loss() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there may be no such device here
        scaler = grad_scaler(CUDA, resolve_precision("fp16", CUDA, macs=LARGE))
    assert isinstance(scaler, torch.amp.GradScaler)


def test_channels_last_rule() -> None:
    assert resolve_channels_last("auto", CPU)
    assert resolve_channels_last("auto", CUDA)
    assert not resolve_channels_last("auto", MPS)
    assert resolve_channels_last(True, MPS)
    assert not resolve_channels_last(False, CPU)


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


@pytest.mark.usefixtures("threads_restored")
def test_configure_says_what_is_in_force(monkeypatch: pytest.MonkeyPatch) -> None:
    record = configure(CPU, 1)
    assert torch.get_num_threads() == record["num_threads"] == 1
    assert record["device"] == "cpu"
    assert record["device_name"]
    json.dumps(record, allow_nan=False)
    if record["flush_denormal"]:
        assert (torch.tensor([1e-40]) * 1.0).item() == 0
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert configure(CPU, None)["num_threads"] == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert configure(CPU, None)["num_threads"] == available_cores()


def test_machine_record_is_plain_and_loads_no_torchvision() -> None:
    record = describe_machine()
    assert record["torch"] == torch.__version__
    assert record["cores"] >= 1
    assert record["cpu"]
    assert len(record["gpus"]) == torch.cuda.device_count()
    assert json.loads(json.dumps(record)) == record
    code = (
        "import sys; from cnnbench.device.device import describe_machine; describe_machine(); "
        "sys.exit('torchvision' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no mallopt")
def test_large_tensors_reuse_the_memory_that_others_freed() -> None:
    code = """
import resource, torch
from cnnbench.device.device import configure
configure(torch.device("cpu"), 1)
tensor = torch.ones(12_000_000)
faults = [resource.getrusage(resource.RUSAGE_SELF).ru_minflt]
for _ in range(20):
    torch.relu(tensor)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[20] - faults[10])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # The system would clear each of 48 MB's 11,700 pages again, ten times.
    assert int(run.stdout) < 11_700
