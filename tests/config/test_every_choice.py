"""Every choice of every group trains; a new one is tested here without a line of code."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from network_cases import cases
from tiny import info, records, same, series, train, weights

import cnnbench
from cnnbench.config.compose import Composer

# Networks that train with fewer channels; the others train as they are.
NARROW = {
    "densenet121": "model.growth_rate=4",
    "googlenet": "model.width_multiplier=1/4",
    "mobilenet_v1": "model.width_multiplier=1/4",
    "mobilenet_v2": "model.width_multiplier=1/4",
    **dict.fromkeys(
        ("alexnet", "alexnet_small", "vgg11", "vgg13", "vgg16", "vgg19"),
        "model.width_multiplier=1/8",
    ),
}


def own_network(folder: Path) -> str:
    """Write what ``model=custom`` asks for."""
    file = folder / "mynet.py"
    file.write_text(
        "from torch import nn\n"
        "class MyNet(nn.Sequential):\n"
        "    def __init__(self, in_channels, num_classes):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(28 * 28 * in_channels, num_classes))\n"
    )
    return f"{file}:MyNet"


def choices(group: str) -> list[str]:
    return list(Composer().groups.choices(group))


@pytest.mark.parametrize("name", cases(choices("model"), "training"))
def test_every_network_trains(name: str, tmp_path: Path) -> None:
    # Of the size and shape that its YAML gives for 28-pixel images.
    run = train(
        tmp_path,
        f"model={name}",
        *([NARROW[name]] if name in NARROW else []),
        *([f"model.path={own_network(tmp_path)}"] if name == "custom" else []),
        "num_epochs=1",
        "data.native_size=28",
        "data.num_train=12",
        "data.num_test=4",
        "data.num_classes=2",
        "data.val_fraction=0.34",
        "data.batch_size=4",
        "optimizer=sgd",
        "optimizer.momentum=0",
    )
    content = info(run)
    assert content["status"] == "done"
    assert content["model"]["name"] == name
    losses = series(run, "train/step_loss")
    assert len(losses) == 2
    assert all(math.isfinite(loss) and loss > 0 for loss in losses)


@pytest.mark.parametrize("name", choices("optimizer"))
def test_every_optimizer_learns(name: str, tmp_path: Path) -> None:
    run = train(tmp_path, f"optimizer={name}", "num_epochs=6", "scheduler=constant")
    losses = series(run, "train/loss")
    assert losses[-1] < 0.95 * losses[0]


def test_every_optimizer_is_another_one(tmp_path: Path) -> None:
    found = [
        weights(train(tmp_path, f"optimizer={name}", "optimizer.lr=0.01", "num_epochs=1"))
        for name in choices("optimizer")
    ]
    assert not any(same(a, b) for i, a in enumerate(found) for b in found[:i])


@pytest.mark.parametrize("name", choices("scheduler"))
def test_every_schedule_moves_the_learning_rate_as_it_says(name: str, tmp_path: Path) -> None:
    run = train(tmp_path, f"scheduler={name}", "num_epochs=4", "optimizer.lr=0.01")
    rates = [record["optim/lr"] for record in records(run) if "optim/lr" in record]
    assert len(rates) == 20
    assert max(rates) == pytest.approx(0.01, rel=0.02)
    shape = {
        "constant": min(rates) == max(rates),
        "step": rates[9] == 0.01 and rates[10] < rates[9] and rates[15] < rates[14],
        "cosine": rates[0] < rates[1] and rates[-1] < 1e-3,
        "linear": rates[0] < rates[1] and rates[-1] < 1e-3,
        "onecycle": rates[0] < rates[5] > rates[10] > rates[-1],
    }
    assert shape[name]


@pytest.mark.parametrize("name", choices("augment"))
def test_every_augmentation_trains_and_acts(name: str, tmp_path: Path) -> None:
    run = train(tmp_path, f"augment={name}", "num_epochs=1")
    assert len(series(run, "train/step_loss")) == 5
    is_plain = same(weights(run), weights(train(tmp_path, "num_epochs=1")))
    assert is_plain == (name == "none")


def test_digits_train(tmp_path: Path) -> None:
    run = cnnbench.train(["data.limit=32", "num_epochs=1", f"output_root={tmp_path}"])
    assert info(run)["config"]["data"]["name"] == "digits"
    assert info(run)["data"]["num_train"] == 32


@pytest.mark.parametrize("name", choices("debug"))
def test_every_debug_preset_runs(name: str, tmp_path: Path) -> None:
    run = cnnbench.train([f"debug={name}", "device.num_threads=1", f"output_root={tmp_path}"])
    assert info(run)["status"] == "done"
    assert info(run)["config"]["num_epochs"] == 1
