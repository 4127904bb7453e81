"""Runs that end by a budget or for want of a better epoch."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from tiny import info, records, same, train

import cnnbench
from cnnbench.config.command import single_config
from cnnbench.config.compose import Composer
from cnnbench.errors import CnnbenchError, Interrupted
from cnnbench.optim import OPTIMIZERS
from cnnbench.training import estimates, launch
from cnnbench.training.setup import set_up

COMPOSER = Composer()
FEW = ("data.num_train=48", "data.val_fraction=0", "selection=last")


def ready(*settings: str):
    plan = launch.check(single_config(COMPOSER, COMPOSER.parse(settings)))
    return set_up(plan, launch.read(plan))


def counted(macs: int, images: int) -> float:
    return 6e-12 * macs * images


def test_a_run_records_its_work(tmp_path: Path) -> None:
    run = train(tmp_path, "num_epochs=2")
    record = info(run)
    expected = counted(record["model"]["macs"], 2 * record["data"]["num_train"])
    assert record["results"]["train_tflop"] == pytest.approx(expected)


@pytest.mark.parametrize(("epochs", "num_steps"), [(0.1, 1), (1.0, 3), (1.5, 4), (2.99, 8)])
def test_a_budget_of_tflop_is_as_many_steps_as_it_pays_for(
    epochs: float, num_steps: int, tmp_path: Path
) -> None:
    plain = train(tmp_path / "plain", *FEW, "num_epochs=1")
    record = info(plain)
    images = record["data"]["num_train"]
    assert images == 48  # in batches of 16
    budget = epochs * counted(record["model"]["macs"], images) * (1 + 1e-9)
    run = train(tmp_path / "budget", *FEW, "num_epochs=5", f"budget.tflop={budget}")
    steps = [line["global_step"] for line in records(run) if "optim/lr" in line]
    assert len(steps) == num_steps
    results = info(run)["results"]
    assert results["train_tflop"] <= budget or num_steps == 1
    assert results["best_epoch"] >= 1


def test_the_schedule_spreads_over_the_budget(tmp_path: Path) -> None:
    plain = train(tmp_path / "plain", "num_epochs=2", "scheduler=linear")
    budget = info(plain)["results"]["train_tflop"] * (1 + 1e-9)
    run = train(tmp_path / "budget", "num_epochs=5", f"budget.tflop={budget}", "scheduler=linear")
    rates, expected = (
        [line["optim/lr"] for line in records(path) if "optim/lr" in line] for path in (run, plain)
    )
    assert rates == expected
    assert info(run)["results"]["test/loss"] == info(plain)["results"]["test/loss"]


def test_seconds_become_steps_once_and_a_resumed_run_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimates, "affordable_steps", lambda setup, seconds: 7)
    whole = train(tmp_path / "whole", "num_epochs=5", "budget.seconds=5")
    with pytest.raises(Interrupted):
        train(tmp_path / "stopped", "num_epochs=5", "budget.seconds=5", "max_seconds=1e-9")
    [stopped] = [file.parent for file in (tmp_path / "stopped").rglob("run.json")]
    monkeypatch.setattr(estimates, "affordable_steps", lambda setup, seconds: 70)
    cnnbench.train([f"resume={stopped}", "max_seconds=null"])
    for run in (whole, stopped):
        assert len([line for line in records(run) if "optim/lr" in line]) == 7
    assert info(whole)["results"]["test/loss"] == info(stopped)["results"]["test/loss"]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_timing_steps_leaves_what_is_trained_as_it_was(optimizer: str) -> None:
    small = ("data=synthetic", "data.num_train=64", "data.batch_size=8")
    setup = ready("model=lenet", f"optimizer={optimizer}", *small)
    before = {name: value.clone() for name, value in setup.state.model.state_dict().items()}
    updated = copy.deepcopy(setup.state.optimizer.state_dict())
    steps = estimates.affordable_steps(setup, 1.0)
    assert steps >= 1
    assert estimates.affordable_steps(setup, 1e-9) == 1
    assert setup.state.global_step == 0
    assert same(setup.state.optimizer.state_dict(), updated)
    after = setup.state.model.state_dict()
    assert all((after[name] == value).all() for name, value in before.items())


def test_patience_ends_a_run_that_gets_no_better(tmp_path: Path) -> None:
    run = train(tmp_path, "num_epochs=9", "patience=2", "optimizer.lr=1e-9")
    losses = [line["epoch"] for line in records(run) if "train/loss" in line]
    assert losses == [1, 2, 3]
    assert info(run)["status"] == "done"
    assert info(run)["results"]["best_epoch"] == 1


def test_patience_waits_for_epochs_that_are_evaluated(tmp_path: Path) -> None:
    more = ("num_epochs=9", "eval_every_epochs=3", "patience=1", "optimizer.lr=1e-9")
    run = train(tmp_path, *more)
    epochs = [line["epoch"] for line in records(run) if "train/loss" in line]
    assert epochs == [1, 2, 3, 4, 5, 6]
    assert info(run)["results"]["best_epoch"] == 3


def test_both_budgets_are_refused() -> None:
    with pytest.raises(CnnbenchError, match="set one of them"):
        ready("budget.tflop=1", "budget.seconds=1")


def test_a_budget_is_not_extended(tmp_path: Path) -> None:
    run = train(tmp_path, "num_epochs=5", "budget.tflop=1e-6", "scheduler=constant")
    with pytest.raises(CnnbenchError, match="larger budget"):
        cnnbench.train([f"resume={run}", "extend_epochs=1"])
