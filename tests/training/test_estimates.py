"""What a run will take, against what it took."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import started, tiny

import cnnbench
from cnnbench.training import estimates


@pytest.mark.parametrize(
    "settings",
    [
        ("optimizer=adamw", "optimizer.ema_decay=0.9"),
        ("optimizer=sgd", "checkpoint.keep_last=1"),
        ("optimizer=rmsprop", "optimizer.centered=true", "optimizer.momentum=0.9"),
    ],
)
def test_disk_use_is_foretold(
    settings: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foretold: list[int] = []
    estimate = estimates.disk_bytes

    def recorded(*args: int) -> int:
        foretold.append(estimate(*args))
        return foretold[-1]

    monkeypatch.setattr(estimates, "disk_bytes", recorded)
    wide = ("model=mlp", "model.hidden=[300]", "num_epochs=4")
    run = cnnbench.train(tiny(tmp_path, *wide, *settings))
    took = sum(file.stat().st_size for file in (run / "checkpoints").iterdir())
    assert 0.5 * foretold[0] < took <= 1.05 * foretold[0]


def test_a_disk_and_a_memory_too_small_are_said_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("cnnbench.training.estimates.shutil.disk_usage", lambda path: few)
    monkeypatch.setattr("cnnbench.training.estimates.memory_bytes", lambda: 300_000)
    cnnbench.train(tiny(tmp_path, "num_epochs=1"))
    out, err = capsys.readouterr()
    assert "MB on disk" in out
    assert "lower checkpoint.keep_last" in err
    assert "lower data.batch_size" in err


def test_nothing_is_said_where_both_will_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cnnbench.train(tiny(tmp_path, "num_epochs=1"))
    assert "may take" not in capsys.readouterr().err


def test_memory_grows_with_the_batch() -> None:
    model = torch.nn.Linear(10, 10)
    small, large = (estimates.training_bytes(model, 0, 1000, size) for size in (1, 11))
    assert large - small == 3 * 1000 * 10


# The peak of a process that has trained before, so that what the first run allocates is there.
MEASURE = """
from cnnbench.training import estimates
from cnnbench.training import trainer as training

def resident(name):
    with open("/proc/self/status") as file:
        [line] = [line for line in file if line.startswith(name)]
    return 1024 * int(line.split()[1])

estimate, train = estimates.training_bytes, training.Training.train

def tell(*args):
    value = estimate(*args)
    print("foretold", value, flush=True)
    return value

def measured(self):
    before = resident("VmRSS")
    train(self)
    print("took", resident("VmHWM") - before, flush=True)

estimates.training_bytes, training.Training.train = tell, measured
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory of a process")
@pytest.mark.parametrize(
    "settings",
    [
        ("model=mlp", "model.hidden=[4000,4000]", "optimizer=adamw"),
        ("model=basic_cnn", "data.native_size=64", "data.batch_size=256", "data.num_train=300"),
    ],
    ids=["weights", "activations"],
)
def test_memory_is_foretold_within_a_factor_of_two(
    settings: tuple[str, ...], tmp_path: Path
) -> None:
    process = started(
        "train", *tiny(tmp_path, "num_epochs=1", *settings), cwd=tmp_path, preamble=MEASURE
    )
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    words = dict(line.split() for line in out.splitlines() if line.startswith(("foretold", "took")))
    foretold, took = int(words["foretold"]), int(words["took"])
    assert foretold > 100e6, "large against what else a process takes"
    assert 0.5 * foretold < took < 2 * foretold
