from __future__ import annotations

import warnings

import pytest
import torch

from cnnbench.device import precision as precision_module
from cnnbench.device.precision import (
    PRECISIONS,
    REDUCED_PRECISION_MIN_MACS,
    autocast,
    grad_scaler,
    resolve_precision,
)
from cnnbench.errors import UsageError

CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))
LARGE, SMALL = REDUCED_PRECISION_MIN_MACS, REDUCED_PRECISION_MIN_MACS - 1


@pytest.fixture
def native_bf16(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision_module, "has_native_bf16", lambda _: request.param)


def test_an_unknown_name_comes_with_the_nearest() -> None:
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
    assert precision_module.has_native_bf16(CPU)
    monkeypatch.setenv(name, value)
    assert not precision_module.has_native_bf16(CPU)


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


def test_what_emulation_costs_is_measured_without_random_numbers() -> None:
    before = torch.get_rng_state()
    assert precision_module.emulation_factor() > 0.01
    assert torch.get_rng_state().equal(before)
