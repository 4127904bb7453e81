"""The kernel check, on kernels known to be wrong somewhere and on fakes that are wrong here."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kernel_answers import answering
from tiny import info, tiny
from torch import nn

import cnnbench
from cnnbench.cli.main import run as cli
from cnnbench.device import kernel_check
from cnnbench.device.kernel_check import Conditions, Verdict, check_kernels
from cnnbench.device.kernel_trial import try_kernel
from cnnbench.errors import ResourceError
from cnnbench.geometry.kernels import kernels
from cnnbench.layers.cpu.ways import take_ways
from cnnbench.training.kernels import SWITCH, slow_kernels, verdicts_of

FP32 = Conditions(num_threads=1, channels_last=True, bf16=False)
BF16 = Conditions(num_threads=1, channels_last=True, bf16=True)
# A program whose convolutions are wrong as `BROKEN` says: the check must see each of them.
PROGRAM = """
import os, signal, sys, time
sys.path.append({folder!r})
import kernel_trial
import torch

plain, count = kernel_trial._passes, [0]

def passes(op, args, way, grad=None):
    output, gradients, given = plain(op, args, way, grad)
    tensors = [output, *gradients]
    is_last = args[0].dim() == 4 and args[0].is_contiguous(memory_format=torch.channels_last)
    is_exact = args[0].dtype == torch.float64
    if op == "convolution" and not is_exact:
        {broken}
    return output, gradients, given

kernel_trial._passes = passes
kernel_trial.serve()
"""


def conv(
    in_channels: int, out_channels: int, side: int, kernel: int, stride: int, groups: int = 1
) -> dict[str, Any]:
    module = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups)
    [(_, found)] = kernels(module, (in_channels, side, side))
    return found


def broken(root: Path, how: str) -> Path:
    program = root / "program.py"
    folder = str(Path(kernel_check.__file__).parent)
    program.write_text(PROGRAM.format(folder=folder, broken=how))
    return program


# As reported; where this machine has the fault, the check has to find it, and another way.
KNOWN = {
    "oneDNN#6035": (conv(4, 8, 32, 1, 2), FP32),
    "oneDNN#6035, three channels": (conv(3, 16, 32, 1, 2), FP32),
    "pytorch#169688": (conv(8, 8, 9, 3, 3), BF16),
    "pytorch#163347": (conv(1, 1, 2, 2, 1), BF16),
    "pytorch#183815": (conv(16, 16, 16, 3, 1, 16), BF16),
}


def test_every_known_case_ends_in_a_right_way_and_never_hangs() -> None:
    for conditions in (FP32, BF16):
        cases = [kernel for kernel, needed in KNOWN.values() if needed == conditions]
        started = time.monotonic()
        found = list(check_kernels(cases, conditions, trial_seconds=8))
        assert time.monotonic() - started < 100
        assert all(verdict.way != "none" for verdict in found), found


# How each fake is wrong, chosen by its number of output channels, and what must be found.
FAKES = (
    ("gradients[1][-1, -1, -1, -1] += 0.1 * gradients[1].norm()", "contiguous", "weight gradient"),
    ("gradients[1].mul_(1.001)", "contiguous", "weight gradient"),
    ("gradients[0][0, 0, 0, 0] = float('nan')", "contiguous", "input gradient"),
    ("output.mul_(2)", "contiguous", "output"),
    ("os.kill(os.getpid(), signal.SIGSEGV)", "contiguous", "crashes"),
    ("time.sleep(60)", "contiguous", "hangs"),
)


def test_each_broken_kernel_is_found_and_goes_another_way(tmp_path: Path) -> None:
    how = "number = len(args[1])\n" + "".join(
        f"        if number == {number} and (way == 'plain' and is_last): {line}\n"
        for number, (line, _, _) in enumerate(FAKES, 1)
    )
    how += "        if number == 7: output.mul_(2)\n"
    cases = [conv(4, number, 8, 3, 1) for number in range(1, 9)]
    program = broken(tmp_path, how)
    found = list(check_kernels(cases, FP32, program=program, trial_seconds=8))
    for verdict, (_, way, wrong) in zip(found, FAKES, strict=False):
        assert verdict.way == way
        assert verdict.wrong is not None
        assert verdict.wrong.startswith(wrong)
    assert (found[6].way, found[6].wrong) == ("none", "output")
    assert (found[7].way, found[7].wrong) == ("plain", None)


@pytest.mark.parametrize("part", [0, 1, 2, 3])
def test_large_planes_are_seen_at_positions(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of output and gradients, wrong throughout, is seen at 64 positions."""
    from cnnbench.device import kernel_trial

    plain = kernel_trial._passes

    def passes(*args: Any) -> Any:
        output, gradients, grad = plain(*args)
        [output, *gradients][part].add_(1.0)
        return output, gradients, grad

    for kernel in (conv(4, 8, 40, 3, 1), conv(4, 8, 41, 5, 2, 2), conv(8, 8, 40, 3, 2, 8)):
        assert try_kernel(kernel, "plain", True, False)["wrong"] is None
    monkeypatch.setattr(kernel_trial, "_passes", passes)
    names = ["output", "input gradient", "weight gradient", "bias gradient"]
    assert try_kernel(conv(4, 8, 40, 3, 1), "plain", True, False)["wrong"] == names[part]


def test_what_is_merely_slow_is_told() -> None:
    """Ten times its neighbours' time for a product, whatever their sizes."""
    cases = [conv(16, 16, side, kernel, 1) for side in (8, 16) for kernel in (3, 5)]
    seconds = [side * side * kernel * kernel * 1e-5 for side in (8, 16) for kernel in (3, 5)]
    assert slow_kernels(verdicts(cases, seconds)) == []
    seconds[1] *= 26
    [(slow, times)] = slow_kernels(verdicts(cases, seconds))
    assert slow == cases[1]
    assert times == pytest.approx(26)


def verdicts(cases: list[dict[str, Any]], seconds: list[float]) -> dict[str, Verdict]:
    texts = map(json.dumps, cases)
    return {text: Verdict("plain", None, s) for text, s in zip(texts, seconds, strict=True)}


def test_another_way_computes_the_same_and_keeps_the_state() -> None:
    torch.manual_seed(0)
    layers = {
        "0": nn.Conv2d(4, 8, 3, padding=1),
        "1": nn.BatchNorm2d(8),
        "2": nn.MaxPool2d(2),
        "3": nn.Conv2d(8, 8, 1, 2),
    }
    plain, other = nn.Sequential(*layers.values()), nn.Sequential(*layers.values())
    images = torch.randn(2, 4, 8, 8).to(memory_format=torch.channels_last)
    right, keys = plain(images), list(plain.state_dict())
    ways = {"0": "contiguous", "1": "fp32", "2": "contiguous", "3": "slice"}
    assert take_ways(other, ways) == []
    assert list(other.state_dict()) == keys
    torch.testing.assert_close(other(images), right)
    with torch.autocast("cpu", torch.bfloat16):
        assert other[1](images.repeat(1, 2, 1, 1).bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("ways", [{"9": "fp32"}, {"": "contiguous"}, {"0": "slice"}, {"0": "x"}])
def test_ways_that_do_not_fit_are_refused(ways: dict[str, str]) -> None:
    """They may stand in a stranger's run."""
    assert take_ways(nn.Sequential(nn.Conv2d(4, 8, 3)), ways) == list(ways)


def test_a_verdict_is_kept_and_a_broken_cache_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    options = {"program": answering(tmp_path, "plain")}
    first = verdicts_of([conv(4, 8, 8, 3, 1)], FP32, **options)
    [file] = (tmp_path / "cnnbench" / "kernels").iterdir()
    missing = {"program": tmp_path / "missing.py"}  # nothing may be started
    started = time.perf_counter()
    assert verdicts_of([conv(4, 8, 8, 3, 1)], FP32, **missing) == first
    assert time.perf_counter() - started < 0.05
    whole = file.read_text()
    for damaged in (whole.replace('"plain"', '"faster"'), whole[:-9], "[]", '{"kernels": 1}'):
        file.write_text(damaged)
        assert verdicts_of([conv(4, 8, 8, 3, 1)], FP32, **options) == first
        assert '"plain"' in file.read_text()
    with pytest.raises(ResourceError, match="kernel check"):
        verdicts_of([conv(4, 9, 8, 3, 1)], FP32, **missing)


def test_instructions_that_are_forbidden_are_another_cache(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = FP32.signature()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
    assert FP32.signature() != before


@pytest.fixture
def checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Turn the check on, with a program that answers which ways are right."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv(SWITCH, "1")

    def answer(*right: str) -> None:
        options = {"program": answering(tmp_path, *right), "trial_seconds": 15.0}
        monkeypatch.setattr(check_kernels, "__kwdefaults__", options)

    return answer


def test_a_run_records_the_way_and_resumes_with_it(
    tmp_path: Path, checked: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    checked("contiguous")
    settings = tiny(tmp_path / "out", "model=lenet", "optimizer=sgd", "scheduler=constant")
    run = cnnbench.train([*settings, "num_epochs=1"])
    said = capsys.readouterr().err
    assert "convolution of 1 x 16 x 16 to 6 channels, 5x5" in said
    assert "has a wrong output on this machine" in said
    assert "computes with the channels first" in said
    recorded = kernel_ways(run)
    assert set(recorded.values()) == {"contiguous"}
    os.environ[SWITCH] = "0"  # the fixture brings it back
    assert cli(["train", f"resume={run}", "extend_epochs=1"]) == 0
    assert len(info(run)["provenance"]["processes"]) == 2
    assert kernel_ways(run) == recorded


def kernel_ways(run: Path) -> dict[str, str]:
    ways: dict[str, str] = info(run)["provenance"]["processes"][-1]["effective"]["kernels"]
    return ways


def test_a_kernel_that_is_wrong_every_way_ends_with_70(
    tmp_path: Path, checked: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    checked()
    assert cli(["train", *tiny(tmp_path / "out")]) == 70
    said = capsys.readouterr().err
    assert "in every way" in said
    assert torch.__version__ in said
    assert "Traceback" not in said


def test_all_calls_of_a_network_are_found_and_it_stays_as_it_was() -> None:
    """Auxiliary heads too, and calls in a forward of its own, which belong to it."""
    network = cnnbench.create_model("googlenet", in_channels=1, num_classes=3, image_size=32)
    network.train()
    found = kernels(network, (1, 32, 32))
    convolutions = [call for call in found if call[1]["op"] == "convolution"]
    assert len(convolutions) == sum(isinstance(m, nn.Conv2d) for m in network.modules())
    assert all(isinstance(network.get_submodule(name), nn.Conv2d) for name, _ in convolutions)
    assert network.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


@pytest.mark.parametrize("side", [1, 2, 3])
def test_norms_of_small_maps_are_not_said_to_be_wrong(side: int) -> None:
    """The norm of two values in bfloat16 is far from the exact one, with the best of kernels."""
    [(_, kernel)] = kernels(nn.BatchNorm2d(512), (512, side, side))
    assert try_kernel(kernel, "plain", channels_last=True, bf16=True)["wrong"] is None
