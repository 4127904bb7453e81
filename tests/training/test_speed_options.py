"""torch.compile, the profile, the data on a device, and a start without torch's compiler."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import differences, environment, info, series, tiny, train, weights

from cnnbench.cli.main import run as cli

SMALL = ("model=mlp", "model.hidden=[8]", "num_epochs=2")


@pytest.mark.parametrize("compiler", ["nosuchcompiler", "/nowhere/g++"])
def test_compile_without_a_compiler_writes_nothing(
    compiler: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CXX", compiler)
    for verb in (["train"], ["train", "-m", "seed=0,1"]):
        assert cli([*verb, *tiny(tmp_path, "device.compile=true")]) == 2
        error = capsys.readouterr().err
        assert compiler in error
        assert "device.compile=false" in error
        assert list(tmp_path.iterdir()) == []


def test_a_network_that_torch_cannot_compile_is_one_plain_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no such kernel\nand a long tale")

    monkeypatch.setattr(torch, "compile", lambda function, dynamic: broken)
    assert cli(["train", *tiny(tmp_path, *SMALL, "device.compile=true")]) == 2
    error = capsys.readouterr().err
    assert "cannot compile this network here: RuntimeError: no such kernel; use device" in error


def test_what_is_compiled_is_every_training_step_and_no_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiling in earnest is the slow test; here it is counted who calls what was compiled."""
    sizes: list[int] = []

    def counted(function, dynamic):
        assert dynamic is False

        def compiled(model, images, targets):
            sizes.append(len(images))
            return function(model, images, targets)

        return compiled

    plain = train(tmp_path / "plain", *SMALL)
    monkeypatch.setattr(torch, "compile", counted)
    run = train(tmp_path / "compiled", *SMALL, "device.compile=true", "optimizer.ema_decay=0.5")
    # Once for each size before the first step, then two epochs of five steps.
    assert sizes == [16, 8, *([16] * 4 + [8]) * 2]
    assert series(run, "train/step_loss") == series(plain, "train/step_loss")
    [process] = info(run)["provenance"]["processes"]
    assert process["compile_seconds"] >= 0
    assert weights(run).keys() == weights(plain).keys()


@pytest.mark.slow
def test_compiled_in_earnest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same run within rounding; its checkpoints go on uncompiled, and the other way round."""
    settings = ("model=basic_cnn", "num_epochs=3", "scheduler=constant")
    plain = train(tmp_path / "plain", *settings)
    once = train(tmp_path / "compiled", *settings, "device.compile=true")
    assert "compiling took" in capsys.readouterr().out
    assert series(once, "train/step_loss") == pytest.approx(
        series(plain, "train/step_loss"), rel=1e-3
    )
    assert weights(once).keys() == weights(plain).keys()
    [process] = info(once)["provenance"]["processes"]
    assert process["compile_seconds"] > info(once)["results"]["train_seconds"]
    for run, switch in ((once, "false"), (plain, "true")):
        argv = ["train", f"resume={run}", "extend_epochs=1", f"device.compile={switch}"]
        assert cli(argv) == 0
        assert len(series(run, "train/loss")) == 4
    counters = __import__("torch._dynamo")._dynamo.utils.counters
    # Two sizes of batches, and nothing more: last batches and evaluation compile nothing anew.
    assert counters["stats"]["unique_graphs"] <= 4


def test_a_profile_changes_nothing_and_leaves_a_trace(tmp_path: Path) -> None:
    plain = train(tmp_path / "plain")
    run = train(tmp_path / "profiled", "profile_steps=3")
    assert differences(plain, run) == []
    [trace] = run.glob("*.pt.trace.json.gz")
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    names = [event.get("name", "") for event in events]
    assert sum(name.startswith("ProfilerStep#") for name in names if name) >= 3
    assert "aten::convolution" in names
    assert any("convolution" in name.lower() and "backward" in name.lower() for name in names)
    assert not list(plain.glob("*.json.gz"))


def test_a_profile_of_a_training_too_short_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(tmp_path, "profile_steps=3", "num_epochs=1")
    assert "training ended within the 6 steps of warm-up" in capsys.readouterr().out
    assert not list(run.glob("*.json.gz"))


def test_runs_and_their_timing_do_without_torchs_compiler(tmp_path: Path) -> None:
    """Importing it takes seconds; a first optimizer step or counted operations must not."""
    code = (
        "import sys, cnnbench; cnnbench.train(sys.argv[1:]);"
        "cnnbench.bench(sys.argv[1:], seconds=0.01);"
        "sys.exit(any(name.startswith('torch._dynamo') for name in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *tiny(tmp_path)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_batch_larger_than_the_data_is_said_and_trains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(tmp_path, "data.batch_size=1000", "num_epochs=1")
    assert "more than the 72 training images; each epoch is one step" in capsys.readouterr().err
    assert len(series(run, "train/step_loss")) == 1


@pytest.mark.parametrize(
    ("settings", "memory"),
    [
        (("data.image_size=3000000", "model=softmax"), None),
        (("data.batch_size=64",), 100_000),
        (("model=mlp", "model.hidden=[1000]"), 2_000_000),
    ],
)
def test_what_no_memory_holds_is_refused_before_anything_is_written(
    settings: tuple[str, ...],
    memory: int | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if memory is not None:
        monkeypatch.setattr("cnnbench.training.estimates.memory_bytes", lambda: memory)
    assert cli(["train", *tiny(tmp_path, *settings)]) == 75
    error = capsys.readouterr().err
    assert "at least" in error
    assert "data.image_size" in error
    assert list(tmp_path.iterdir()) == []


def test_what_barely_fits_is_tried_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cnnbench.training.estimates.memory_bytes", lambda: 300_000)
    train(tmp_path, "num_epochs=1")
    assert "training may take" in capsys.readouterr().err
