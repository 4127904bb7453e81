"""``cnnbench bench``: what it reports, that it is what training does, and that nothing stays."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
import time
from pathlib import Path

import pytest
import torch
from tiny import tiny
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import cnnbench
from cnnbench.analysis import bench as measuring
from cnnbench.analysis.bench import PARTS, flops_per_image, part_seconds, train_rate
from cnnbench.analysis.bench_jobs import fastest_device
from cnnbench.cli.main import run as cli
from cnnbench.config.command import single_config
from cnnbench.config.compose import Composer
from cnnbench.device.precision import BF16
from cnnbench.engine import loop
from cnnbench.training.launch import check, read
from cnnbench.training.setup import Setup, set_up

SECONDS = 0.2
KEYS = {
    "epoch_data_seconds",
    "epoch_compute_seconds",
    "model",
    "data",
    "image_size",
    "batch_size",
    "device",
    "precision",
    "num_threads",
    "torch",
    "compile_seconds",
    *(
        f"{what}_images_per_second{end}"
        for what in ("train", "eval", "data")
        for end in ("", "_min", "_max")
    ),
    "step_seconds",
    *(f"{part}_seconds" for part in PARTS),
    "peak_memory_bytes",
    "flops_per_image",
    "flops_per_second",
    "peak_flops_per_second",
    "peak_fraction",
}


@pytest.fixture(autouse=True)
def small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "PEAK_SIDES", (64, 128))


def ready(root: Path, *more: str) -> Setup:
    composer = Composer()
    plan = check(single_config(composer, composer.parse(tiny(root, *more))))
    return set_up(plan, read(plan))


def test_python_gives_what_the_docstring_promises(tmp_path: Path) -> None:
    found = cnnbench.bench(tiny(tmp_path), seconds=SECONDS)
    assert found.keys() == KEYS
    for what in ("train", "eval", "data"):
        name = f"{what}_images_per_second"
        assert 0 < found[f"{name}_min"] <= found[name] <= found[f"{name}_max"]
    assert found["step_seconds"] == pytest.approx(sum(found[f"{p}_seconds"] for p in PARTS))
    assert all(found[f"{part}_seconds"] > 0 for part in PARTS)
    assert found["data_images_per_second"] > found["train_images_per_second"]
    assert found["peak_fraction"] == pytest.approx(
        found["flops_per_image"] * found["train_images_per_second"] / found["peak_flops_per_second"]
    )
    assert found["peak_memory_bytes"] > 50e6
    assert list(tmp_path.iterdir()) == []


def test_the_work_is_three_times_the_forward_pass_without_the_images_gradient(
    tmp_path: Path,
) -> None:
    """A plain chain of layers: forward, both gradients, but no gradient of the images."""
    found = ready(tmp_path, "model=mlp", "model.hidden=[20,10]")
    sizes = [16 * 16, 20, 10, 3]
    macs = [a * b for a, b in itertools.pairwise(sizes)]
    assert flops_per_image(found) == 2 * (3 * sum(macs) - macs[0])


@pytest.mark.parametrize("name", ["mobilenet_v2", "lenet"])
def test_grouped_convolutions_count_as_they_multiply(name: str, tmp_path: Path) -> None:
    """Forward and both gradients are three times the MACs of `summary`, less the first layer's."""
    settings = [f"model={name}", "data.native_size=32", "data.batch_size=2"]
    found = cnnbench.summary(tiny(tmp_path, *settings))
    layers = [layer["macs"] for layer in found["layers"] if layer["macs"]]
    assert sum(layers) == found["macs"]
    counted = flops_per_image(ready(tmp_path, *settings))
    assert counted == 2 * (3 * found["macs"] - layers[0])


ATTENTION = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.attend = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.fc = nn.Linear(256, 3)

    def forward(self, x):
        return self.fc(self.attend(x[:, 0]).flatten(1))
"""


@pytest.mark.parametrize("name", ["custom", "resnet18", "vgg11"])
def test_the_work_is_what_torchs_counter_counts(name: str, tmp_path: Path) -> None:
    """It is right where no convolution has groups."""
    (tmp_path / "net.py").write_text(ATTENTION)
    more = [f"model.path={tmp_path / 'net.py'}:Net"] if name == "custom" else []
    found = ready(tmp_path, f"model={name}", "data.batch_size=2", *more)
    counted = flops_per_image(found)
    images, targets = found.data.prepare(*found.data.first_images(2))
    with FlopCounterMode(display=False) as counter:
        found.compute_loss(found.state.model, images, targets)[0].backward()
    assert counted == counter.get_total_flops() / 2


def test_it_times_the_loss_the_run_computes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forward pass and an update that sleep are seen, each where it belongs."""
    slow = ready(tmp_path)
    forward, update = nn.Module.forward, loop.update
    model_forward = slow.state.model.forward

    def sleepy_forward(images: torch.Tensor) -> torch.Tensor:
        time.sleep(0.05)
        return model_forward(images)

    def sleepy_step(optimizer: torch.optim.Optimizer) -> None:
        time.sleep(0.1)
        update(optimizer)

    assert forward is nn.Module.forward
    monkeypatch.setattr(slow.state.model, "forward", sleepy_forward)
    monkeypatch.setattr(loop, "update", sleepy_step)
    parts = part_seconds(slow, SECONDS)
    assert 0.05 <= parts["forward"] < 0.09
    assert 0.1 <= parts["optimizer"] < 0.16
    assert parts["data"] + parts["backward"] + parts["logging"] < 0.05
    rate = train_rate(slow, SECONDS)
    assert rate.largest <= 16 / 0.15


def test_images_are_counted_and_not_batches(tmp_path: Path) -> None:
    """72 training images: four batches of 16 and one of 8."""
    found = ready(tmp_path)
    sizes = []
    for step in found.steps():
        sizes.append(step.num_images)
        if step.ends_epoch:
            break
    assert sizes == [16, 16, 16, 16, 8]
    assert found.state.sums.read().count == sum(sizes)


def test_hooks_are_gone_and_the_steps_were_made(tmp_path: Path) -> None:
    found = ready(tmp_path)
    before = found.state.global_step
    part_seconds(found, SECONDS)
    assert found.state.global_step > before
    for parameter in found.state.model.parameters():
        assert not parameter._post_accumulate_grad_hooks


def test_every_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for output_format in ("text", "markdown", "csv", "json"):
        argv = ["bench", *tiny(tmp_path), "--seconds", "0.1", "--format", output_format]
        assert cli(argv) == 0
        out, err = capsys.readouterr()
        assert err == ""
        if output_format == "json":
            assert json.loads(out).keys() == KEYS
        elif output_format == "csv":
            [row] = csv.DictReader(io.StringIO(out))
            assert row.keys() == KEYS
            assert float(row["train_images_per_second"]) > 0
        else:
            assert re.search(r"basic_cnn 16px, batch 16, fp32, 1 thread\b", out)
            for part in PARTS:
                assert part in out
    assert list(tmp_path.iterdir()) == []


def test_a_format_that_the_cpu_emulates_is_not_multiplied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []
    product = torch.mm

    def watched(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        seen.append(left.dtype)
        return product(left, right)

    monkeypatch.setattr(torch, "mm", watched)
    monkeypatch.setattr(measuring, "has_native_bf16", lambda device: False)
    assert measuring.peak_flops_per_second(torch.device("cpu"), BF16, 0.01) > 0
    assert set(seen) == {torch.float32}


def test_jobs_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["bench", "-m", *tiny(tmp_path), "data.batch_size=8,16", "--format", "json"]
    assert cli([*argv, "--seconds", "0.1"]) == 0
    out, err = capsys.readouterr()
    rows = json.loads(out)
    assert [row["job"] for row in rows] == ["data.batch_size=8", "data.batch_size=16"]
    assert [row["batch_size"] for row in rows] == [8, 16]
    assert all(row["train_images_per_second"] > 0 for row in rows)
    assert "[2/2] data.batch_size=16" in err
    assert list(tmp_path.iterdir()) == []


def test_an_epochs_seconds_are_those_of_its_steps(tmp_path: Path) -> None:
    found = cnnbench.bench(tiny(tmp_path), seconds=SECONDS)
    # 72 training images in batches of 16.
    assert found["epoch_data_seconds"] == pytest.approx(5 * found["data_seconds"])
    whole = found["epoch_data_seconds"] + found["epoch_compute_seconds"]
    assert whole == pytest.approx(5 * found["step_seconds"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_a_device_that_is_not_there_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["bench", "-m", *tiny(tmp_path), "--seconds", "0.1"]
    assert cli([*argv, "device=cpu,cuda"]) == 0
    out, err = capsys.readouterr()
    assert "device=cpu:" in out
    assert "device=cuda" not in out
    assert "device=cuda: not measured: this machine has no CUDA device" in err
    assert cli([*argv, "device=cuda"]) == 2


def test_the_faster_device_and_the_setting_to_copy() -> None:
    def row(job: str, median: float, spread: float) -> dict[str, object]:
        rate = "train_images_per_second"
        return {
            "job": job,
            rate: median,
            f"{rate}_min": median - spread,
            f"{rate}_max": median + spread,
        }

    cpu, mps = row("device=cpu", 100.0, 5.0), row("device=mps", 250.0, 5.0)
    assert fastest_device([cpu, mps]) == (
        "fastest: device=mps, 2.50 times device=cpu; to train with it: device=mps"
    )
    batches = [row("device=cpu data.batch_size=64", 120.0, 1.0), cpu, mps]
    assert "2.08 times device=cpu" in str(fastest_device(batches))
    assert "equally fast" in str(fastest_device([cpu, row("device=mps", 104.0, 5.0)]))
    assert fastest_device([cpu, {"job": "device=cuda", "error": "none"}]) is None
    assert fastest_device([row("seed=0", 1.0, 0.1), row("seed=1", 2.0, 0.1)]) is None


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["--seconds", "0"], 2, "expected a number above 0"),
        (["--seconds", "nan"], 2, "expected a number above 0"),
        (["data=mnist", "data.root=/nowhere"], 66, "/nowhere"),
        (["device=cuda"], 2, "no CUDA device"),
        (["model=lenett"], 2, "lenet"),
        (["resume=/run"], 2, "resume"),
        (["seed=1,2"], 2, "-m"),
    ],
)
def test_bad_input(
    argv: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if argv == ["device=cuda"] and torch.cuda.is_available():
        pytest.skip("no CUDA device must be here")
    assert cli(["bench", *argv]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert "Traceback" not in err


def test_the_config_can_be_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["bench", "--cfg", "model=vgg11"]) == 0
    assert "name: vgg11" in capsys.readouterr().out
