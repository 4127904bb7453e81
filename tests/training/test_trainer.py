"""A run from settings to its directory: what is written, what is selected, what changes nothing."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path

import pytest
import rich.console
import torch
from tiny import differences, info, records, same, series, tiny, train, weights

import cnnbench
from cnnbench.cli.main import run as cli
from cnnbench.data.splits import Splits
from cnnbench.errors import NonFiniteError, ResourceError, UsageError
from cnnbench.losses import CROSS_ENTROPY
from cnnbench.training import trainer
from cnnbench.training.display import result_tags
from cnnbench.training.trainer import Training

RESULTS = {
    "test/accuracy": float,
    "test/loss": float,
    "val/accuracy": float,
    "val/loss": float,
    "best_epoch": int,
    "train_seconds": float,
    "train_tflop": float,
    "selection": str,
    "test_reads": int,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs of five steps that several tests read; none may change it."""
    return train(tmp_path_factory.mktemp("run"), "augment=crop", "log_every_steps=2")


def test_a_run_directory_holds_what_it_should(run: Path) -> None:
    names = sorted(path.name for path in run.iterdir() if not path.name.startswith("events"))
    expected = [".lock", "checkpoints", "config.yaml", "metrics.jsonl"]
    expected += ["predictions.npz", "run.json"]
    assert names == expected
    assert len(list(run.glob("events.out.tfevents.*"))) == 1
    epochs = [f"epoch_000{n}{end}" for n in (1, 2) for end in (".pt", ".state.pt")]
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == [*epochs, "manifest.json"]
    assert run.parts[-3:-1] == ("synthetic", "basic_cnn")


def test_run_json_has_the_words_that_scripts_rely_on(run: Path) -> None:
    content = info(run)
    assert content["status"] == "done"
    assert {key: type(value) for key, value in content["results"].items()} == RESULTS
    assert content["results"]["selection"] == "val/accuracy"
    assert content["results"]["test_reads"] == 1
    assert content["config"]["data"]["batch_size"] == 16
    assert content["config"]["num_epochs"] == 2
    assert content["seed"] == 0
    assert content["model"]["name"] == "basic_cnn"
    assert len(content["data"]["sha256"]) == 64
    assert [content["data"][f"num_{part}"] for part in ("train", "val", "test")] == [72, 8, 30]
    [process] = content["provenance"]["processes"]
    assert process["effective"]["num_threads"] == 1
    assert process["effective"]["precision"] == "fp32"
    assert process["effective"]["channels_last"] is True
    assert content["provenance"]["code_version"].startswith(cnnbench.__version__)


def test_metrics_have_their_words_and_places(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "train/step_loss" in line]
    step_words = {"epoch", "global_step", "train/step_loss", "optim/lr", "optim/grad_norm"}
    assert all(line.keys() == step_words for line in steps)
    places = [(line["epoch"], line["global_step"]) for line in steps]
    assert places == [(1, 2), (1, 4), (2, 6), (2, 8), (2, 10)]
    epochs = [line for line in lines if "train/loss" in line]
    assert [(line["epoch"], line["global_step"]) for line in epochs] == [(1, 5), (2, 10)]
    words = {"train/loss", "train/accuracy", "perf/images_per_second", "val/loss", "val/accuracy"}
    assert all(words <= line.keys() for line in epochs)
    assert all(line["perf/images_per_second"] > 0 for line in epochs)
    results = info(run)["results"]
    [test] = [line for line in lines if "test/loss" in line]
    assert test["test/accuracy"] == results["test/accuracy"]
    best = epochs[results["best_epoch"] - 1]
    assert best["val/accuracy"] == max(line["val/accuracy"] for line in epochs)
    assert results["val/loss"] == best["val/loss"]


def test_tensorboard_shows_the_same_numbers_the_images_and_the_graph(run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    board = EventAccumulator(str(run), size_guidance={"scalars": 0, "images": 0}).Reload()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    tags = {key for line in lines for key in line} - {"epoch", "global_step"}
    assert set(board.Tags()["scalars"]) == tags | set(result_tags(CROSS_ENTROPY))
    for tag in tags:
        points = [(event.step, event.value) for event in board.Scalars(tag)]
        wanted = [(line["global_step"], line[tag]) for line in lines if tag in line]
        assert points == [(step, pytest.approx(value, rel=1e-6)) for step, value in wanted]
    assert board.Tags()["graph"]
    assert len(board.Graph().node) > 5
    # Traced once the first epoch is over: nobody waits for it to see training begin.
    [file] = run.glob("events.out.tfevents.*")
    steps = [event.step for event in EventFileLoader(str(file)).Load() if event.graph_def]
    assert steps == [5]
    plain, augmented = (board.Images(f"train/{name}")[0] for name in ("images", "augmented"))
    assert (plain.width, plain.height) == (augmented.width, augmented.height)
    assert plain.width > 16
    assert plain.encoded_image_string != augmented.encoded_image_string


def test_the_recorded_config_repeats_the_run(run: Path, tmp_path: Path) -> None:
    again = cnnbench.train([f"output_root={tmp_path}"], config=run / "config.yaml")
    assert again != run
    assert differences(run, again) == []


def test_logged_numbers_are_those_of_a_recomputation(tmp_path: Path) -> None:
    from cnnbench.runs import network as recorded
    from cnnbench.runs.checkpoint import Checkpoints
    from cnnbench.runs.directory import RunDir
    from cnnbench.training.data import read_splits

    run = train(tmp_path, "num_epochs=1", "data.shuffle=false", "optimizer.lr=1e-12")
    network = recorded.load_network(Checkpoints(run / "checkpoints").load("best"), run)
    data = read_splits(RunDir(run).config, print)
    logged = info(run)["results"] | records(run)[-2]
    for split in ("train", "val", "test"):
        [(images, targets)] = data.batches(split)
        logits = network.module(network.transform(images)).detach().double()
        right = logits.log_softmax(1)[torch.arange(len(targets)), targets]
        # The weights hardly moved, so that the epoch's training steps saw what there is now.
        assert logged[f"{split}/loss"] == pytest.approx(-right.mean().item(), abs=1e-4), split
        accuracy = (logits.argmax(1) == targets).double().mean().item()
        assert logged[f"{split}/accuracy"] == pytest.approx(accuracy), split


def fake_scores(monkeypatch: pytest.MonkeyPatch, accuracies: dict[str, list[float]]) -> list[str]:
    """Make evaluations of a split score what is listed; return the splits that were read."""
    from cnnbench.metrics import Scores

    reads: list[str] = []

    def evaluate(self: Training, split: str, *counted: object) -> Scores:
        reads.append(split)
        place = reads.count(split) - 1
        value = accuracies[split][place % len(accuracies[split])]
        return Scores(1.0, value, 0, 1)

    monkeypatch.setattr(Training, "_evaluate", evaluate)
    return reads


@pytest.mark.parametrize(
    ("settings", "best", "num_reads"),
    [
        (["selection=val/accuracy"], 2, 1),
        (["selection=last"], 4, 1),
        (["selection=last", "data.val_fraction=0"], 4, 1),
        (["selection=test"], 1, 5),
        (["selection=test", "data.val_fraction=0"], 1, 5),
    ],
)
def test_which_epoch_is_selected(
    settings: list[str],
    best: int,
    num_reads: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The first of equals counts; the test set says another epoch than validation.
    scores = {"val": [0.3, 0.8, 0.8, 0.5], "test": [0.9, 0.2, 0.6, 0.4]}
    reads = fake_scores(monkeypatch, scores)
    run = train(tmp_path, "num_epochs=4", *settings)
    results = info(run)["results"]
    assert results["best_epoch"] == best
    assert results["selection"] == settings[0].partition("=")[2]
    assert reads.count("test") == results["test_reads"] == num_reads
    assert same(weights(run, "best"), weights(run, f"epoch_000{best}"))
    if num_reads == 1:
        assert reads[-1] == "test"


def test_the_results_are_of_the_selected_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first epoch is made the best, and what is reported must be measured on its weights."""
    from cnnbench.metrics import Scores

    original = Training._evaluate

    def evaluate(self: Training, split: str, *counted: object) -> Scores:
        scores = original(self, split, *counted)
        is_first = self.progress.ended_epoch == 0
        return Scores(scores.loss, float(is_first), 0, 1) if split == "val" else scores

    monkeypatch.setattr(Training, "_evaluate", evaluate)
    run = train(tmp_path, "num_epochs=3")
    monkeypatch.undo()
    assert info(run)["results"]["best_epoch"] == 1
    measured = cnnbench.evaluate(run)
    assert measured["loss"] == pytest.approx(info(run)["results"]["test/loss"], rel=1e-5)
    assert info(run)["results"]["test_reads"] == 2


def test_no_validation_images_needs_another_selection(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="selection=last"):
        train(tmp_path, "data.val_fraction=0")
    assert not list(tmp_path.iterdir())
    run = train(tmp_path, "data.val_fraction=0", "selection=last")
    assert info(run)["data"]["num_val"] == 0
    assert not {"val/accuracy", "val/loss"} & info(run)["results"].keys()


def test_evaluation_every_few_epochs_and_at_the_end(tmp_path: Path) -> None:
    run = train(tmp_path, "num_epochs=5", "eval_every_epochs=2")
    evaluated = [r["epoch"] for r in records(run) if "val/loss" in r]
    assert evaluated == [2, 4, 5]
    assert [r["epoch"] for r in records(run) if "train/loss" in r] == [1, 2, 3, 4, 5]
    assert same(weights(run), weights(train(tmp_path, "num_epochs=5")))


def test_the_same_seed_gives_the_same_weights_and_another_other_ones(tmp_path: Path) -> None:
    first, second = train(tmp_path), train(tmp_path)
    assert differences(first, second) == []
    other = train(tmp_path, "seed=1")
    assert not same(weights(first), weights(other))
    assert info(first)["data"]["sha256"] == info(other)["data"]["sha256"]


def test_looking_on_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    augmented = ("augment=crop_flip", "optimizer.ema_decay=0.9")
    plain = train(tmp_path, *augmented)
    quiet = train(tmp_path, *augmented, "log_every_steps=1000")
    assert same(weights(plain), weights(quiet))
    assert not series(quiet, "train/step_loss")
    rarely = train(tmp_path, *augmented, "eval_every_epochs=9")
    assert same(weights(plain), weights(rarely))
    saved = train(tmp_path, *augmented, "save_every_steps=2")
    assert differences(plain, saved) == []
    with monkeypatch.context() as patch:
        for name in ("scalars", "images", "graph"):
            patch.setattr(f"cnnbench.tracking.TensorBoard.{name}", lambda *args: None)
        patch.setattr("cnnbench.training.estimates.expected_epoch_seconds", lambda *args: 0.0)
        dark = train(tmp_path, *augmented)
    assert differences(plain, dark) == []
    terminal = functools.partial(rich.console.Console, force_terminal=True)
    monkeypatch.setattr("cnnbench.training.trainer.RichConsole", terminal)
    capsys.readouterr()
    with_bar = train(tmp_path, *augmented)
    assert "\x1b[" in capsys.readouterr().out
    assert differences(plain, with_bar) == []


def batch_sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    sizes: list[int] = []
    original = Splits.prepare_train

    def prepare(self, images, targets, *more):
        sizes.append(len(targets))
        return original(self, images, targets, *more)

    monkeypatch.setattr(Splits, "prepare_train", prepare)
    return sizes


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["data.batch_size=16"], [16, 16, 16, 16, 8]),
        (["data.batch_size=16", "data.drop_last=true"], [16] * 4),
        (["data.batch_size=24"], [24] * 3),
        (["data.batch_size=71"], [72]),  # one image alone joins the batch before
        (["data.batch_size=1000"], [72]),
        (["data.limit=9", "data.batch_size=4"], [4, 5]),
        (["data.val_fraction=0.5", "data.batch_size=40"], [40]),
        (["data.batch_size=16", "data.num_workers=1"], [16, 16, 16, 16, 8]),
    ],
)
def test_how_batches_are_cut(
    settings: list[str],
    expected: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sizes = batch_sizes(monkeypatch)
    train(tmp_path, "num_epochs=1", *settings)
    assert sizes == expected
    warned = "data.batch_size=1000 is more than the 72" in capsys.readouterr().err
    assert warned == ("data.batch_size=1000" in settings)


def test_every_loader_knob_acts_on_the_weights_or_not_as_it_should(tmp_path: Path) -> None:
    plain = weights(train(tmp_path))
    assert same(plain, weights(train(tmp_path, "data.num_workers=1")))
    for knob in ("data.shuffle=false", "data.normalize=none", "data.split_seed=1"):
        assert not same(plain, weights(train(tmp_path, knob))), knob


def test_dropping_the_only_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"data\.drop_last=true: the 72 images fill no batch"):
        train(tmp_path, "data.batch_size=73", "data.drop_last=true")
    assert not list(tmp_path.iterdir())


def test_one_image_at_a_time_with_batch_norm(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ("model=small_resnet", "data.limit=4", "num_epochs=1", "data.batch_size=1")
    settings = tiny(tmp_path, *small, "data.num_classes=2", "data.val_fraction=0.5")
    assert cli(["train", *settings, "data.image_size=32"]) == 0
    assert cli(["train", *settings, "data.image_size=8"]) == 2
    err = capsys.readouterr().err
    assert "batch norm cannot learn from one value" in err
    assert "data.batch_size=1" in err
    assert "bug" not in err


def test_a_finished_run_says_so(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    assert cli(["train", f"resume={copy}"]) == 0
    out, err = capsys.readouterr()
    assert out == f"{copy}\n"
    assert err.startswith(f"cnnbench: this run is finished: {copy}; ")
    assert f"cnnbench train --config {copy}/config.yaml num_epochs=4\n" in err
    assert before == {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}


@pytest.mark.parametrize("setting", ["seed=1", "num_epochs=9", "model=lenet", "optimizer.lr=0.1"])
def test_going_on_takes_no_other_settings(
    setting: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(["train", f"resume={run}", setting]) == 2
    assert "resumed with its recorded config" in capsys.readouterr().err


def test_extended_is_as_if_it_had_been_longer_from_the_start(tmp_path: Path) -> None:
    settings = ("scheduler=constant", "augment=crop", "optimizer=sgd", "optimizer.ema_decay=0.9")
    long = train(tmp_path, *settings, "num_epochs=4")
    short = train(tmp_path, *settings, "num_epochs=2")
    assert cnnbench.train([f"resume={short}", "extend_epochs=2"]) == short
    assert info(short)["config"]["num_epochs"] == 4
    assert info(short)["results"]["test_reads"] == 2
    assert [found for found in differences(long, short) if found != "results"] == []
    assert info(long)["results"]["test/loss"] == info(short)["results"]["test/loss"]


def test_a_schedule_that_would_change_cannot_be_extended(run: Path) -> None:
    before = (run / "run.json").read_bytes()
    with pytest.raises(UsageError, match="scheduler=cosine spreads over the run's 2 epochs"):
        cnnbench.train([f"resume={run}", "extend_epochs=2"])
    assert (run / "run.json").read_bytes() == before


def test_a_learning_rate_that_is_too_large_ends_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tiny(tmp_path, "optimizer=sgd", "optimizer.lr=1e20", "scheduler=constant")
    assert cli(["train", *settings]) == 76
    err = capsys.readouterr().err
    assert "epoch 1, step 2" in err
    assert "1e+20" in err
    assert "Traceback" not in err
    [file] = tmp_path.rglob("run.json")
    assert json.loads(file.read_text())["status"] == "failed"
    assert not list(file.parent.rglob("*.pt"))


@pytest.mark.parametrize("lr", ["1e20", "3e38"])
def test_what_the_last_update_broke_is_neither_saved_nor_reported(lr: str, tmp_path: Path) -> None:
    one_step = ("data.batch_size=100", "num_epochs=1", "scheduler=constant", "optimizer=sgd")
    with pytest.raises(NonFiniteError, match="epoch 1, step 1") as caught:
        train(tmp_path, *one_step, f"optimizer.lr={lr}")
    assert caught.value.exit_code == 76
    [file] = tmp_path.rglob("run.json")
    assert json.loads(file.read_text())["status"] == "failed"
    assert not list(file.parent.rglob("*.pt"))


def test_a_dead_loader_worker_ends_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import multiprocessing
    import os
    import signal

    original = trainer.log_step

    def log_and_kill(*args: object, **keywords: object) -> None:
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGKILL)
            child.join()
        original(*args, **keywords)

    monkeypatch.setattr(trainer, "log_step", log_and_kill)
    with pytest.raises(ResourceError, match=r"loader worker died with data\.batch_size=2") as found:
        train(tmp_path, "data.batch_size=2", "data.num_workers=1")
    assert found.value.exit_code == 75


def test_memory_that_ran_out_ends_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*args: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate ...")

    monkeypatch.setattr("cnnbench.engine.loop.training_loss", exhausted)
    with pytest.raises(ResourceError, match=r"data\.batch_size=16 data\.image_size=16") as caught:
        train(tmp_path)
    assert caught.value.exit_code == 75


@pytest.mark.parametrize("file", ["epoch_0002.pt", "manifest.json", "run.json"])
def test_a_full_disk_ends_in_one_sentence_and_the_run_goes_on(
    file: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import errno
    import os

    replace = os.replace
    seen: list[str] = []

    def full(source: str | Path, target: str | Path) -> None:
        seen.append(Path(target).name)
        if seen.count(file) > 1 or "epoch_0002" in file == seen[-1]:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        assert cli(["train", *tiny(tmp_path)]) == 74
    err = capsys.readouterr().err
    assert "the disk is full" in err
    assert err.count("\n") == 1
    [path] = [found.parent for found in tmp_path.rglob("run.json")]
    assert not list(path.rglob("*.tmp-*"))
    assert cnnbench.train([f"resume={path}"]) == path
    assert differences(train(tmp_path), path) == []


def test_twenty_starts_make_twenty_directories(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from cnnbench.runs.directory import RunDir

    config = RunDir(train(tmp_path / "first", "num_epochs=1")).config
    with ThreadPoolExecutor(20) as pool:
        made = list(pool.map(lambda _: RunDir.create_new(config, tmp_path), range(20)))
    assert len({run.path for run in made}) == 20
    with pytest.raises(UsageError, match="exists"):
        RunDir.create(made[0].path)


def test_a_limit_that_leaves_no_training_image_is_told(tmp_path: Path) -> None:
    few = ("data.num_train=3", "data.batch_size=1", "data.limit=1")
    with pytest.raises(UsageError, match=r"data\.limit=1 leaves no training image of 3 classes"):
        train(tmp_path, *few)
    assert not list(tmp_path.iterdir())
