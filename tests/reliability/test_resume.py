"""A run that was stopped or killed goes on as if nothing had happened, bit for bit."""

from __future__ import annotations

import dataclasses
import functools
import json
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import (
    command,
    differences,
    info,
    records,
    series,
    signal_at,
    started,
    stop_when,
    tiny,
    train,
)

import cnnbench
from cnnbench.engine import Progress, TrainState
from cnnbench.errors import CheckpointError, DataError, Interrupted
from cnnbench.metrics import Scores, Sums
from cnnbench.runs.checkpoint import Checkpoints
from cnnbench.training.trainer import Training

# A network with dropout, augmentation, and an epoch of 5 steps.
DROPOUT = (
    "model=vgg11",
    "model.width_multiplier=1/32",
    "data.image_size=32",
    "augment=crop_flip",
    "augment.erase_probability=0.5",
)
OPTIMIZERS = {
    "sgd": ("optimizer=sgd", "scheduler=onecycle"),
    "adamw": ("optimizer=adamw",),
    "ema": ("optimizer=sgd_nesterov", "optimizer.ema_decay=0.9", "scheduler=linear"),
    "rmsprop": ("optimizer=rmsprop", "optimizer.momentum=0.9", "scheduler=step"),
    "bf16": ("optimizer=adamw", "optimizer.ema_decay=0.9", "device.precision=bf16"),
}
STEPS_PER_EPOCH = 5  # 72 of the 80 images train, in batches of 16


def at_step(step: int) -> Callable[[Training], bool]:
    return lambda training: training.state.global_step == step


def in_evaluation(training: Training) -> bool:
    return training.state.epoch == 1 and training.progress.ended_epoch == 0


def in_test(training: Training) -> bool:
    return training.state.epoch == 2 and training.progress.ended_epoch == 2


PLACES = {
    "mid-epoch": at_step(3),
    "before the last step": at_step(STEPS_PER_EPOCH - 1),
    "end of an epoch": lambda training: training.progress.ended_epoch == 1,
    "in evaluation": in_evaluation,
    "in the test": in_test,
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("uninterrupted")

    @functools.cache
    def run(optimizer: str) -> Path:
        return train(root, *DROPOUT, *OPTIMIZERS[optimizer])

    return run


def interrupted(root: Path, *settings: str) -> Path:
    with pytest.raises(Interrupted) as caught:
        train(root, *settings)
    assert caught.value.run_path is not None
    return caught.value.run_path


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_run_stopped_within_an_epoch_goes_on_exactly(
    optimizer: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    uninterrupted: Callable[[str], Path],
) -> None:
    with monkeypatch.context() as patch:
        stop_when(patch, at_step(3))
        run = interrupted(tmp_path, *DROPOUT, *OPTIMIZERS[optimizer])
    assert info(run)["status"] == "interrupted"
    _disturb()
    assert cnnbench.train([f"resume={run}"]) == run
    assert differences(uninterrupted(optimizer), run) == []


def _disturb() -> None:
    """Leave every generator elsewhere, as a new process would."""
    torch.manual_seed(12345)
    np.random.seed(12345)
    random.seed(12345)


@pytest.mark.parametrize("place", PLACES)
def test_a_run_stopped_anywhere_goes_on_exactly(
    place: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    uninterrupted: Callable[[str], Path],
) -> None:
    with monkeypatch.context() as patch:
        stop_when(patch, PLACES[place])
        run = interrupted(tmp_path, *DROPOUT, *OPTIMIZERS["ema"])
        if place.startswith("in "):
            # Going on, it stops at the same place again.
            with pytest.raises(Interrupted):
                cnnbench.train([f"resume={run}"])
    cnnbench.train([f"resume={run}"])
    assert differences(uninterrupted("ema"), run) == []
    assert info(run)["results"]["test_reads"] == 1
    num_processes = 3 if place.startswith("in ") else 2
    assert len(info(run)["provenance"]["processes"]) == num_processes


def test_a_run_stopped_after_every_step_goes_on_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: Callable[[str], Path]
) -> None:
    run: Path | None = None
    stops = 0
    with monkeypatch.context() as patch:
        seen: set[tuple[int, int]] = set()

        def at_a_new_place(training: Training) -> bool:
            place = (training.state.global_step, training.progress.ended_epoch)
            return place not in seen and (seen.add(place) is None)

        stop_when(patch, at_a_new_place)
        settings = [*DROPOUT, *OPTIMIZERS["adamw"]]
        while True:
            try:
                cnnbench.train([f"resume={run}"] if run else tiny(tmp_path, *settings))
                break
            except Interrupted as error:
                run = error.run_path
                stops += 1
    assert stops == 2 * STEPS_PER_EPOCH + 1
    assert run is not None
    assert differences(uninterrupted("adamw"), run) == []


def test_tensorboard_shows_each_point_once_after_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with monkeypatch.context() as patch:
        stop_when(patch, at_step(3))
        run = interrupted(tmp_path)
    with monkeypatch.context() as patch:
        stop_when(patch, in_test)
        with pytest.raises(Interrupted):
            cnnbench.train([f"resume={run}"])
    cnnbench.train([f"resume={run}"])
    board = EventAccumulator(str(run), size_guidance={"scalars": 0, "images": 0}).Reload()
    for tag in ("train/loss", "val/accuracy", "test/accuracy", "optim/lr", "train/step_loss"):
        points = [(event.step, pytest.approx(event.value)) for event in board.Scalars(tag)]
        assert points == [(r["global_step"], r[tag]) for r in records(run) if tag in r], tag
    assert [event.step for event in board.Images("train/images")] == [0]


@pytest.mark.parametrize(
    "item", ["epoch", "epoch_step", "global_step", "optimizer", "sums", "model", "num_averaged"]
)
def test_every_item_of_the_state_is_needed(
    item: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    uninterrupted: Callable[[str], Path],
) -> None:
    """Without any one of them the comparison above must fail: the negative control."""
    settings = [*DROPOUT, *OPTIMIZERS["ema"]]
    with monkeypatch.context() as patch:
        stop_when(patch, at_step(STEPS_PER_EPOCH + 2))
        run = interrupted(tmp_path, *settings)
    fresh: dict[str, object] = {}
    load = TrainState.load_state_dict

    def load_without(self: TrainState, weights: dict, state: dict) -> None:
        fresh.update(self.state_dict())
        assert fresh.keys() == state.keys()
        load(self, weights, {**state, item: fresh[item]})

    monkeypatch.setattr(TrainState, "load_state_dict", load_without)
    try:
        cnnbench.train([f"resume={run}"])
    except Exception:  # an inconsistent state may also be noticed
        return
    assert differences(uninterrupted("ema"), run) != []


def test_a_state_that_lacks_an_item_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_when(patch, at_step(2))
        run = interrupted(tmp_path, "optimizer.ema_decay=0.9")
    original = Checkpoints.load
    for item in test_every_item_of_the_state_is_needed.pytestmark[0].args[1]:

        def load_without(self: Checkpoints, name: str, part: str = "weights", item=item) -> dict:
            content = original(self, name, part)
            if part == "state":
                del content["train_state"][item]
            return content

        with monkeypatch.context() as patch:
            patch.setattr(Checkpoints, "load", load_without)
            with pytest.raises(CheckpointError, match=item) as caught:
                cnnbench.train([f"resume={run}"])
        assert caught.value.exit_code == 65
    cnnbench.train([f"resume={run}"])


def test_every_item_of_the_progress_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same control for what the driver remembers; the first epoch is the best one."""
    monkeypatch.setattr(
        Training,
        "_evaluate",
        lambda self, split, *counted: Scores(1.0, 1 / (1 + self.progress.ended_epoch), 0, 1),
    )
    small = ("model=softmax", "selection=test", "num_epochs=3")
    with monkeypatch.context() as patch:
        stop_when(patch, at_step(STEPS_PER_EPOCH + 2))
        run = interrupted(tmp_path, *small)
    load = Checkpoints.load
    # So long that it shows whether they were taken over.
    spent = {"train_seconds": 1000.0, "epoch_seconds": 500.0, "data_seconds": 400.0}

    def outcome(name: str, change: Callable[[dict], dict]) -> tuple[object, ...]:
        copy = Path(shutil.copytree(run, tmp_path / name))

        def load_changed(self: Checkpoints, name: str, part: str = "weights") -> dict:
            content = load(self, name, part)
            if part == "state":
                content["progress"] = change(content["progress"] | spent)
            return content

        with monkeypatch.context() as patch:
            patch.setattr(Checkpoints, "load", load_changed)
            cnnbench.train([f"resume={copy}"])
        results = info(copy)["results"]
        lines = (copy / "metrics.jsonl").read_text().splitlines()
        told = {
            name: max(json.loads(line).get(f"perf/{name}", 0.0) for line in lines)
            for name in ("epoch_seconds", "data_seconds")
        }
        told["train_seconds"] = results.pop("train_seconds")
        is_long = {name: told[name] > seconds for name, seconds in spent.items()}
        return results, records(copy), is_long

    expected = outcome("all", lambda progress: progress)
    assert all(expected[2].values())
    assert isinstance(expected[0], dict)
    assert expected[0]["best_epoch"] == 1
    # A budget of seconds alone sets the last one; see ``training/test_budget.py``.
    items = dataclasses.asdict(Progress())
    del items["num_steps"]
    for item, value in items.items():
        assert outcome(item, lambda p, i=item, v=value: p | {i: v}) != expected, item
        if item == "data_seconds":
            continue  # older runs have none
        with pytest.raises(CheckpointError, match=item) as caught:
            outcome(f"no {item}", lambda p, i=item: {name: v for name, v in p.items() if name != i})
        assert caught.value.exit_code == 65


def test_seconds_up_to_a_stop_within_an_epoch_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_when(patch, at_step(STEPS_PER_EPOCH + 2))
        run = interrupted(tmp_path, "num_epochs=2")
    progress = Checkpoints(run / "checkpoints").load("last", "state")["progress"]
    assert 0 < progress["epoch_seconds"] < progress["train_seconds"]


class Death(BaseException):
    """What a kill does to a process in the middle of a test."""


@pytest.mark.parametrize("place", ["after an evaluation that was interrupted", "before the end"])
def test_no_number_is_logged_twice(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_when(patch, in_evaluation)
        run = interrupted(tmp_path)

    def die(*args: object, **keywords: object) -> None:
        raise Death

    write = Training.write_record

    def die_at_the_end(self: Training, status: str, reason: str | None = None) -> None:
        if status != "running":
            raise Death
        write(self, status, reason)

    with monkeypatch.context() as patch:
        if place == "before the end":
            patch.setattr(Training, "write_record", die_at_the_end)
        else:
            patch.setattr(Checkpoints, "save", die)
        with pytest.raises(Death):
            cnnbench.train([f"resume={run}"])
    assert len(series(run, "train/loss")) == (2 if place == "before the end" else 1)
    cnnbench.train([f"resume={run}"])
    assert differences(train(tmp_path), run) == []


def test_other_data_than_before_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stop_when(patch, at_step(2))
        run = interrupted(tmp_path)
    content = info(run)
    content["data"]["sha256"] = "0" * 64
    (run / "run.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="is not the data this run was trained on"):
        cnnbench.train([f"resume={run}"])
    assert info(run) == content


def test_data_that_moved_and_other_workers_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "before" / name).mkdir(parents=True)
        for number in range(20):
            pixels = draw.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "before" / name / f"{number:02d}.png")
    settings = [
        setting
        for setting in tiny(tmp_path, "data.image_size=16")
        if not setting.startswith(("data=", "data.num_", "data.native_size"))
    ]
    settings += ["data=folder", f"data.root={tmp_path / 'before'}"]
    expected = cnnbench.train(settings)
    with monkeypatch.context() as patch:
        stop_when(patch, at_step(2))
        with pytest.raises(Interrupted) as caught:
            cnnbench.train(settings)
    run = caught.value.run_path
    assert run is not None
    (tmp_path / "before").rename(tmp_path / "after")
    cnnbench.train([f"resume={run}", f"data.root={tmp_path / 'after'}", "data.num_workers=1"])
    assert differences(expected, run) == []
    assert info(run)["config"]["data"]["root"] == str(tmp_path / "after")


def test_the_negative_control_covers_the_whole_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(tmp_path, "optimizer.ema_decay=0.9", "num_epochs=1")
    state = Checkpoints(run / "checkpoints").load("last", "state")["train_state"]
    marks = test_every_item_of_the_state_is_needed.pytestmark
    assert set(state) == set(marks[0].args[1])


def test_a_new_process_goes_on_exactly(
    tmp_path: Path, uninterrupted: Callable[[str], Path]
) -> None:
    settings = tiny(tmp_path, *DROPOUT, *OPTIMIZERS["adamw"])
    preamble = signal_at("cnnbench.engine.loop:_update", 3, signal.SIGINT)
    process = started("train", *settings, cwd=tmp_path, preamble=preamble)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    run = Path(out.splitlines()[-1])
    assert len(series(run, "train/step_loss")) == 3
    again = command("train", f"resume={run}", cwd=tmp_path, timeout=300)
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[-1] == str(run)
    assert differences(uninterrupted("adamw"), run) == []


def test_a_stop_during_a_second_save_of_the_same_state_cannot_spoil_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    from cnnbench.runs import checkpoint

    original = checkpoint.atomic_write

    def record(path: Path, content: bytes) -> None:
        written.append(path.name)
        original(path, content)

    monkeypatch.setattr(checkpoint, "atomic_write", record)
    stop_when(monkeypatch, at_step(2))
    interrupted(tmp_path, "save_every_steps=2")
    assert written == ["step_00000002.pt", "step_00000002.state.pt", "manifest.json"]


def test_a_clock_stops_a_run_as_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from cnnbench.cli.main import run as cli

    # So little that the first look at the clock is too late, so that each start makes one step.
    assert cli(["train", *tiny(tmp_path, "max_seconds=1e-9")]) == 0
    out, err = capsys.readouterr()
    path = Path(out.splitlines()[-1])
    assert "max_seconds=1e-09 are over" in err
    assert f"cnnbench train resume={path}" in err
    assert info(path)["status"] == "interrupted"
    assert "max_seconds" in info(path)["reason"]
    assert cli(["train", f"resume={path}"]) == 0
    assert info(path)["status"] == "interrupted"
    assert cli(["train", f"resume={path}", "max_seconds=1000"]) == 0
    assert info(path)["status"] == "done"
    assert differences(train(tmp_path), path) == []


def test_steps_saved_within_an_epoch_change_nothing(tmp_path: Path) -> None:
    plain = train(tmp_path, "augment=crop")
    often = train(tmp_path, "augment=crop", "save_every_steps=1", "checkpoint.keep_last=1")
    assert differences(plain, often) == []


def test_a_damaged_newest_checkpoint_costs_an_epoch_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = train(tmp_path, "num_epochs=3")
    with monkeypatch.context() as patch:
        stop_when(patch, lambda training: training.progress.ended_epoch == 2)
        run = interrupted(tmp_path, "num_epochs=3")
    newest = run / "checkpoints" / "epoch_0002.pt"
    newest.write_bytes(newest.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="damaged"):
        cnnbench.load(_marked_best(run, "epoch_0002"))
    cnnbench.train([f"resume={run}"])
    assert "falling back" in capsys.readouterr().err
    assert differences(whole, run) == []


def _marked_best(run: Path, name: str) -> Path:
    file = run / "checkpoints" / "manifest.json"
    before = file.read_text()
    file.write_text(json.dumps({**json.loads(before), "best": name}))
    return run


@pytest.mark.parametrize("is_kept", [True, False], ids=["kept", "dropped"])
def test_the_loss_scale_goes_on(is_kept: bool) -> None:
    """fp16 runs on GPUs alone; its scaler is the one item that no run here can show."""

    def fresh() -> TrainState:
        model = torch.nn.Linear(4, 3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=3)
        return TrainState(model, optimizer, Sums(torch.device("cpu")), scaler=scaler)

    def scales(state: TrainState, steps: int) -> list[float]:
        found = []
        for _ in range(steps):
            assert state.scaler is not None
            state.scaler.scale(state.model(torch.ones(2, 4)).mean()).backward()
            state.scaler.step(state.optimizer)
            state.scaler.update()
            found.append(state.scaler.get_scale())
        return found

    whole, stopped, resumed = fresh(), fresh(), fresh()
    expected = scales(whole, 8)
    before = scales(stopped, 4)
    saved = stopped.state_dict()
    if not is_kept:
        del saved["scaler"]
    resumed.load_state_dict(stopped.model.state_dict(), saved)
    assert ([*before, *scales(resumed, 4)] == expected) is is_kept
