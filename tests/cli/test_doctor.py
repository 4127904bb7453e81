"""What ``cnnbench doctor`` shows, on machines that lack something too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from kernel_answers import answering

from cnnbench.analysis import doctor
from cnnbench.cli.main import run as cli
from cnnbench.data.table import DATASETS
from cnnbench.device.kernel_check import check_kernels


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, str]:
    assert cli(["doctor", "--format", "json", *arguments]) == 0
    return {row["what"]: row["found"] for row in json.loads(capsys.readouterr().out)}


def test_it_shows_what_a_bug_report_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    monkeypatch.setenv("SECRET_TOKEN", "never shown")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none" / "yet"))
    monkeypatch.chdir(tmp_path)
    found = shown(capsys)
    assert torch.__version__ in found["versions"]
    assert "ONEDNN_MAX_CPU_ISA=AVX2" in found["variables"]
    assert not any("never shown" in text for text in found.values())
    assert {f"data={name}" for name in DATASETS} <= found.keys()
    assert found["runs"].startswith(f"{tmp_path / 'outputs'}: can be written")
    assert " MB free" in found["cache"]
    assert found["fonts"].endswith(".ttf")
    assert not (tmp_path / "outputs").exists()


def test_it_shows_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CNNBENCH_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_DIRS", str(tmp_path))
    monkeypatch.setattr(doctor, "_is_installed", lambda name: name != "onnx")
    monkeypatch.setattr("os.access", lambda *_: False)
    found = shown(capsys)
    assert "cnnbench data prepare cifar10" in found["data=cifar10"]
    assert found["extra export"] == "lacks onnx: pip install 'cnnbench[export]'"
    assert "cannot be written" in found["runs"]


def test_kernels_of_all_networks_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(doctor, "MODELS", {"lenet": None, "small_resnet": None})

    def answer(*right: str) -> None:
        options = {"program": answering(tmp_path, *right), "trial_seconds": 15.0}
        monkeypatch.setattr(check_kernels, "__kwdefaults__", options)

    answer("plain")
    assert " right" in shown(capsys, "--kernels")["kernels fp32"]
    answer("contiguous")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    assert shown(capsys, "--kernels")["kernels fp32"].endswith("output; other way: contiguous")
    answer()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "third"))
    assert cli(["doctor", "--kernels"]) == 70
    out, err = capsys.readouterr()
    assert "other way: none" in out
    assert "wrong in every way" in err
