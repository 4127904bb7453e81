from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from cnnbench.device.device import (
    DEVICES,
    configure,
    effective_settings,
    resolve_channels_last,
    resolve_device,
)
from cnnbench.device.machine import available_cores
from cnnbench.errors import UsageError

CONF = Path(__file__).parents[2] / "conf" / "device"
CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))


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
        assert values == {"name": name, **expected, "compile": False, "winograd": "auto"}


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


def test_an_unknown_name_comes_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'cuda'"):
        resolve_device("cudaa")


def test_channels_last_rule() -> None:
    assert resolve_channels_last("auto", CPU)
    assert resolve_channels_last("auto", CUDA)
    assert not resolve_channels_last("auto", MPS)
    assert resolve_channels_last(True, MPS)
    assert not resolve_channels_last(False, CPU)


@pytest.mark.usefixtures("threads_restored")
def test_what_is_effective_is_what_was_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_flush_denormal(False)
    assert effective_settings(CPU)["flush_denormal"] is False
    configure(CPU, 1)
    record = effective_settings(CPU)
    assert torch.get_num_threads() == record["num_threads"] == 1
    assert record["device"] == "cpu"
    assert record["device_name"]
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["flush_denormal"] == torch.set_flush_denormal(True)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    configure(CPU, None)
    assert torch.get_num_threads() == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    configure(CPU, None)
    assert torch.get_num_threads() == available_cores()


@pytest.mark.skipif(
    "AVX" not in torch.backends.cpu.get_cpu_capability(), reason="no vectors to take away"
)
def test_a_cpu_without_some_instructions_is_what_the_environment_says() -> None:
    code = """
import json, torch
from cnnbench.device.device import effective_settings
from cnnbench.device.kernel_check import Conditions
from cnnbench.device.precision import resolve_precision
from cnnbench.layers.cpu.winograd import suits_winograd
cpu = torch.device("cpu")
signature = Conditions(1, True, False).signature()
print(json.dumps([effective_settings(cpu), signature,
    resolve_precision("auto", cpu, macs=10**9).name, suits_winograd()]))
"""
    limits = {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    }
    command = [sys.executable, "-c", code]
    run = subprocess.run(
        command, env=os.environ | limits, capture_output=True, text=True, check=True
    )
    effective, signature, precision, suits = json.loads(run.stdout)
    assert effective["cpu_capability"] == "AVX2"
    assert effective["native_bf16"] is False
    # What was found with all instructions does not count.
    assert signature.items() >= limits.items()
    assert (precision, suits) == ("fp32", True)


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
