"""From a config to a plan and on to what is ready to train, without a run directory."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from tiny import info, series, tiny, train

import cnnbench
from cnnbench.config.command import single_config
from cnnbench.config.compose import Composer
from cnnbench.config.run_config import RunConfig
from cnnbench.errors import CnnbenchError, DataError, Interrupted
from cnnbench.layers.cpu.pools import HalvingMaxPool2d
from cnnbench.layers.cpu.products import ProductConv2d
from cnnbench.metrics import Sums
from cnnbench.training import launch, network, setup
from cnnbench.training.launch import check, read
from cnnbench.training.setup import Setup, set_up


def config_of(root: Path, *more: str) -> RunConfig:
    composer = Composer()
    return single_config(composer, composer.parse(tiny(root, *more)))


def ready(root: Path, *more: str) -> Setup:
    plan = check(config_of(root, *more))
    return set_up(plan, read(plan))


def test_a_plan_says_what_is_effective(tmp_path: Path) -> None:
    plan = check(config_of(tmp_path, "device.precision=auto", "optimizer=adamw"))
    assert (plan.device.type, plan.precision.name, plan.channels_last) == ("cpu", "fp32", True)
    assert (plan.network.name, plan.network.num_classes) == ("basic_cnn", 3)
    assert plan.network.macs > 0
    assert 0 <= plan.schedule(1.0) <= plan.schedule(0.5) <= 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "settings",
    [
        ("model=vgg11", "data.image_size=4"),
        ("optimizer=sgd_nesterov", "optimizer.momentum=0"),
        ("scheduler=step", "scheduler.milestones=[0.9,0.1]"),
        ("augment.mixup_alpha=1", "augment.cutmix_alpha=1"),
        ("device.precision=fp16",),
        ("model=mlp", "model.hidden=[100000000]"),
    ],
    ids=lambda settings: settings[-1],
)
def test_what_cannot_be_is_refused_before_an_image_is_read(
    settings: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "read_splits", lambda *args, **keywords: pytest.fail("was read"))
    monkeypatch.setattr("cnnbench.training.estimates.memory_bytes", lambda: 8 << 30)
    with pytest.raises(CnnbenchError):
        launch.start(config_of(tmp_path, *settings), ["a", "test"])
    assert list(tmp_path.iterdir()) == []


def test_its_steps_are_those_of_a_run(tmp_path: Path) -> None:
    settings = ("augment=crop", "optimizer=adamw", "optimizer.ema_decay=0.9")
    steps = list(ready(tmp_path, *settings).steps())
    run = train(tmp_path, *settings)
    assert [step.loss.item() for step in steps] == series(run, "train/step_loss")
    assert [step.lr for step in steps] == series(run, "optim/lr")
    assert [step.num_images for step in steps[:5]] == [16, 16, 16, 16, 8]


def test_its_evaluation_is_that_of_a_run(tmp_path: Path) -> None:
    setup = ready(tmp_path, "num_epochs=1")
    for _ in setup.steps():
        pass
    sums = Sums()
    outputs = list(setup.evaluate("val", sums))
    run = train(tmp_path, "num_epochs=1")
    assert sums.read().loss == series(run, "val/loss")[0]
    logits, targets = (torch.cat(parts) for parts in zip(*outputs, strict=True))
    right = (logits.argmax(1) == targets).double().mean().item()
    assert right == sums.read().accuracy == series(run, "val/accuracy")[0]


@pytest.mark.parametrize(
    ("settings", "pool", "products"),
    [
        ((), True, False),
        (("device.precision=bf16",), True, True),
        (("device.precision=bf16", "device.channels_last=false"), True, False),
    ],
)
def test_which_kernels_a_network_gets_on_the_cpu(
    settings: tuple[str, ...], pool: bool, products: bool, tmp_path: Path
) -> None:
    setup = ready(tmp_path, "model=lenet", "data.native_size=28", *settings)
    kinds = {type(part) for part in setup.state.model.modules()}
    assert (HalvingMaxPool2d in kinds) is pool
    assert (ProductConv2d in kinds) is products


def test_everything_is_worked_out_once_for_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cnnbench.training import trainer

    calls: Counter[str] = Counter()
    for module, name in (
        (launch, "resolve_device"),
        (launch, "resolve_precision"),
        (launch, "describe_data"),
        (launch, "describe_network"),
        (launch, "check_memory"),
        (launch, "configure"),
        (launch, "read_splits"),
        (trainer, "build_model"),
    ):

        def counted(*args: object, original: object = getattr(module, name), name: str = name, **k):
            calls[name] += 1
            return original(*args, **k)

        monkeypatch.setattr(module, name, counted)
    train(tmp_path)
    assert len(calls) == 8
    assert set(calls.values()) == {1}


def test_data_that_is_not_as_described_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a class is added to a folder between the check and the reading."""
    found, read_then = config_of(tmp_path), launch.read_splits
    plan = check(config_of(tmp_path, "data.num_classes=4"))
    monkeypatch.setattr(launch, "read_splits", lambda _, *args, **k: read_then(found, *args, **k))
    with pytest.raises(DataError, match="has 3 classes and 1 channels, expected 4 and 1"):
        read(plan)


WHITE = ("model.whiten=true", "num_epochs=1")


def test_whitening_sees_images_from_all_over_the_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(network, "whiten", lambda model, images: seen.append(images))
    monkeypatch.setattr(network, "_WHITEN_IMAGES", 5)
    plan = check(config_of(tmp_path, *WHITE))
    data = read(plan)
    setup.set_up(plan, data)
    rows = [0, 17, 35, 53, 71]  # of 72
    expected = data.prepare(*data.parts["train"][torch.tensor(rows)])[0]
    assert torch.equal(seen[0], expected)


def test_a_resumed_run_is_not_whitened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Interrupted):
        train(tmp_path, *WHITE, "max_seconds=1e-9")
    [run] = (file.parent for file in tmp_path.rglob("run.json"))
    monkeypatch.setattr(network, "whiten", lambda *args: pytest.fail("whitened again"))
    cnnbench.train([f"resume={run}", "max_seconds=null"])
    assert info(run)["status"] == "done"
