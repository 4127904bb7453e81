"""Exact metrics of a run, against scikit-learn on the same predictions."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import info, train

import cnnbench
from cnnbench.analysis.evaluate import measure
from cnnbench.cli.main import run as cli
from cnnbench.data import shared
from cnnbench.errors import DataError, UsageError
from cnnbench.runs.directory import RunDir
from cnnbench.training.data import read_splits

SIZES = {"train": 72, "val": 8, "test": 30}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Half trained, so that the classes are confused.
    return train(tmp_path_factory.mktemp("run"), "data.num_classes=6", "num_epochs=5")


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "run")


def predictions(run: Path, split: str) -> tuple[np.ndarray, np.ndarray, torch.Tensor]:
    """Return targets, predictions and logits, by way of the public model alone."""
    module = cnnbench.load(run)
    data = read_splits(RunDir(run).config, print)
    [(images, targets)] = data.batches(split)
    with torch.no_grad():
        logits = module(data.prepare(images, targets)[0])
    return targets.numpy(), logits.argmax(1).numpy(), logits


@pytest.mark.parametrize("split", SIZES)
def test_it_agrees_with_scikit_learn(split: str, run: Path) -> None:
    from sklearn import metrics

    result = cnnbench.evaluate(run, split=split)
    targets, predicted, logits = predictions(run, split)
    assert len(set(predicted.tolist())) > 1
    assert result["split"] == split
    assert result["num_images"] == SIZES[split]
    assert result["accuracy"] == pytest.approx(metrics.accuracy_score(targets, predicted))
    assert result["num_correct"] == metrics.accuracy_score(targets, predicted, normalize=False)
    labels = list(range(6))
    matrix = metrics.confusion_matrix(targets, predicted, labels=labels)
    assert result["confusion_matrix"] == matrix.tolist()
    scores = metrics.precision_recall_fscore_support(
        targets, predicted, labels=labels, zero_division=0
    )
    for word, values in zip(("precision", "recall", "f1", "support"), scores, strict=True):
        ours = [row[word] for row in result["per_class"]]
        assert ours == pytest.approx(values.tolist()), word
    probabilities = logits.double().softmax(1).numpy()
    loss = metrics.log_loss(targets, probabilities, labels=labels)
    assert result["loss"] == pytest.approx(loss, rel=1e-5)
    top5 = metrics.top_k_accuracy_score(targets, probabilities, k=5, labels=labels)
    assert result["top5_accuracy"] == pytest.approx(top5)
    assert result["model"] == "basic_cnn"
    sure, right = probabilities.max(1), predicted == targets
    parts = np.minimum(np.ceil(sure * 15), 15)
    gaps = [
        abs(right[parts == part].mean() - sure[parts == part].mean()) * (parts == part).mean()
        for part in np.unique(parts)
    ]
    assert result["ece"] == pytest.approx(sum(gaps), rel=1e-4)


def test_it_agrees_with_what_the_run_recorded_and_counts_its_reading(run: Path) -> None:
    before = info(run)["results"]
    result = cnnbench.evaluate(run)
    assert result["accuracy"] == before["test/accuracy"]
    assert result["loss"] == pytest.approx(before["test/loss"], rel=1e-5)
    assert info(run)["results"] == {**before, "test_reads": 2}
    val = cnnbench.evaluate(run, split="val")
    assert val["accuracy"] == before["val/accuracy"]
    assert info(run)["results"]["test_reads"] == 2


def test_json_is_all_there_is_on_standard_output(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # What takes long is told, but not there.
    read = shared.read_dataset

    def talkative(name, *, report, **more):
        report("this takes long")
        return read(name, report=report, **more)

    monkeypatch.setattr(shared, "read_dataset", talkative)
    assert cli(["evaluate", str(run), "--format", "json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == cnnbench.evaluate(run)
    assert "this takes long" in err
    assert cli(["evaluate", str(run), str(run), "--split=val", "--format=json"]) == 0
    assert [row["split"] for row in json.loads(capsys.readouterr().out)] == ["val", "val"]


def test_csv_has_a_row_for_each_class(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["evaluate", str(run), "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    expected = cnnbench.evaluate(run)["per_class"]
    assert [float(row["f1"]) for row in rows] == [row["f1"] for row in expected]
    assert [row["class"] for row in rows] == [row["class"] for row in expected]
    assert {row["run"] for row in rows} == {str(run)}


@pytest.mark.parametrize("output_format", ["text", "markdown"])
def test_people_see_the_matrix(
    output_format: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(["evaluate", str(run), "--format", output_format]) == 0
    out = capsys.readouterr().out
    result = cnnbench.evaluate(run)
    assert f"test accuracy {result['accuracy']:.4f} [{result['num_correct']}/30]" in out
    assert f"ECE {result['ece']:.4f}\n" in out
    rows = [line.replace("|", " ").split() for line in out.splitlines()]
    for counts in result["confusion_matrix"]:
        assert any(row[-6:] == [str(count) for count in counts] for row in rows)
    assert ("---:" in out) == (output_format == "markdown")


def test_an_empty_split_and_an_unknown_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(tmp_path, "data.val_fraction=0", "selection=last", "num_epochs=1")
    with pytest.raises(UsageError, match="has no val images"):
        cnnbench.evaluate(run, split="val")
    with pytest.raises(UsageError, match=r"split.*did you mean 'test'"):
        cnnbench.evaluate(run, split="tests")
    assert cli(["evaluate", str(run), "--split", "tset"]) == 2
    assert "tset" in capsys.readouterr().err


def test_other_data_than_it_was_trained_on(run: Path) -> None:
    file = run / "run.json"
    content = json.loads(file.read_text())
    content["data"]["sha256"] = "0" * 64
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match="is not the data this run was trained on") as caught:
        cnnbench.evaluate(run)
    assert caught.value.exit_code == 66


def test_a_network_in_half_precision_is_measured_in_full(tmp_path: Path) -> None:
    run = train(tmp_path, "device.precision=bf16", "num_epochs=1")
    measured = cnnbench.evaluate(run)
    assert measured["loss"] == pytest.approx(info(run)["results"]["test/loss"], rel=0.02)


NAMES = ["confusion_matrix", "class_accuracy", "calibration", "mistakes", "robustness"]


def test_a_reading_is_counted_while_another_one_is_being_counted(run: Path) -> None:
    held, lock = threading.Event(), RunDir(run).lock()

    def hold() -> None:
        with lock:
            held.set()
            time.sleep(0.5)

    other = threading.Thread(target=hold)
    other.start()
    held.wait()
    cnnbench.evaluate(run)
    other.join()
    assert info(run)["results"]["test_reads"] == 2


def test_a_run_that_cannot_be_written_is_evaluated_all_the_same(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*args: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "replace", refuse)
    assert cnnbench.evaluate(run)["num_images"] == SIZES["test"]
    assert "this reading of the test set is not counted" in capsys.readouterr().err
    assert info(run)["results"]["test_reads"] == 1


def test_pictures_lie_in_the_run_and_are_named_on_standard_error(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(["evaluate", str(run), "--plots", "--robustness", "--format", "json"]) == 0
    out, err = capsys.readouterr()
    came = json.loads(out)
    files = sorted((run / "plots").iterdir())
    wanted = {f"test_{name}.{kind}" for name in NAMES for kind in ("png", "svg")}
    assert {file.name for file in files} == wanted - {"test_mistakes.svg"}
    for file in files:
        assert f"cnnbench: {file}\n" in err
    assert info(run)["results"]["test_reads"] == 2
    # The same numbers and bytes again, from Python.
    before = {file: file.read_bytes() for file in files}
    again = cnnbench.evaluate(run, plots=True)
    assert {**again, "robustness": came["robustness"]} == came
    assert {file: file.read_bytes() for file in files} == before


def test_changed_pictures_are_measured_exactly(run: Path) -> None:
    from cnnbench.analysis.evaluate.robustness import CORRUPTIONS

    result = cnnbench.evaluate(run, robustness=True)
    rows = {(row["corruption"], row["severity"]): row["accuracy"] for row in result["robustness"]}
    assert len(rows) == len(result["robustness"])
    assert set(rows) == {
        (name, v) for name, kind in CORRUPTIONS.items() for v in (0, *kind.severities)
    }
    module = cnnbench.load(run)
    data = read_splits(RunDir(run).config, print)
    [(images, targets)] = data.batches("test")
    for (name, level), accuracy in rows.items():
        if level == 0:
            assert accuracy == result["accuracy"]
            continue
        changed = CORRUPTIONS[name].apply(images, level, range(len(images)))
        with torch.no_grad():
            predicted = module(data.prepare(changed, targets)[0]).argmax(1)
        assert accuracy == (predicted == targets).sum().item() / len(targets), (name, level)
    assert len(set(rows.values())) > 5
    assert info(run)["results"]["test_reads"] == 2


def test_changes_are_made_before_a_networks_own_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Networks of any input size see the same changed images, however they are batched."""
    from cnnbench.analysis.evaluate.robustness import CORRUPTIONS, Corruption

    seen: list[torch.Tensor] = []

    def look(images: torch.Tensor, level: float, places: range) -> torch.Tensor:
        assert len(images) == len(places)
        seen.append(images)
        return images

    monkeypatch.setattr(
        "cnnbench.analysis.evaluate.robustness.CORRUPTIONS", {"look": Corruption(look, (1,))}
    )
    assert CORRUPTIONS
    batches = []
    for size in (16, 33):
        run = train(tmp_path, "num_epochs=1", f"data.image_size={size}")
        monkeypatch.setattr(measure, "eval_batch_size", lambda _, size=size: size)
        result = cnnbench.evaluate(run, robustness=True)
        assert result["robustness"][1]["accuracy"] == result["accuracy"]
        assert result["accuracy"] == info(run)["results"]["test/accuracy"]
        batches.append(torch.cat(seen))
        seen.clear()
    assert batches[0].shape == (30, 1, 16, 16)
    assert torch.equal(*batches)


@pytest.mark.parametrize("output_format", ["text", "markdown", "csv", "json"])
def test_several_runs_share_one_table(
    output_format: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = train(tmp_path, "model=softmax", "data.num_classes=6", "num_epochs=1")
    capsys.readouterr()
    argv = ["evaluate", str(run), str(other), "--robustness", "--format", output_format]
    assert cli(argv) == 0
    out = capsys.readouterr().out
    results = [cnnbench.evaluate(path, robustness=True) for path in (run, other)]
    if output_format == "json":
        assert json.loads(out) == results
        return
    pairs = list(zip(*(result["robustness"] for result in results), strict=True))
    if output_format == "csv":
        rows = list(csv.DictReader(io.StringIO(out)))
        assert list(rows[0]) == ["corruption", "severity", "unit", "basic_cnn", "softmax"]
        assert [
            (
                row["corruption"],
                float(row["severity"]),
                float(row["basic_cnn"]),
                float(row["softmax"]),
            )
            for row in rows
        ] == [(a["corruption"], a["severity"], a["accuracy"], b["accuracy"]) for a, b in pairs]
        return
    lines = [line.replace("|", " ").split() for line in out.splitlines()]
    for a, b in pairs:
        ends = [f"{a['accuracy']:.4f}", f"{b['accuracy']:.4f}"]
        start = [a["corruption"], f"{a['severity']:g}"]
        assert any(line[:2] == start and line[-2:] == ends for line in lines)
    assert out.count("accuracy on corrupted images") == 1


def test_runs_of_one_network_are_numbered(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["evaluate", str(run), str(run), "--robustness", "--format", "csv"]
    assert cli(argv) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert list(rows[0])[3:] == ["1 basic_cnn", "2 basic_cnn"]
    assert all(row["1 basic_cnn"] == row["2 basic_cnn"] for row in rows)


def test_runs_of_other_data_are_warned_of(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = train(tmp_path, "model=softmax", "num_epochs=1", "data.data_seed=1")
    for paths, warns in (([run, run], False), ([run, other], True)):
        assert cli(["evaluate", *map(str, paths), "--robustness"]) == 0
        assert ("warning: the runs have different images" in capsys.readouterr().err) == warns


@pytest.mark.parametrize(
    "settings",
    [
        ("data.num_classes=2", "data.limit=2"),
        ("data.num_classes=2", "data.num_test=1"),
        ("data.in_channels=2", "data.limit=20"),
        ("data.in_channels=3", "data.limit=20"),
    ],
    ids=str,
)
def test_small_and_odd_data_is_drawn_all_the_same(
    settings: tuple[str, ...], tmp_path: Path
) -> None:
    run = train(tmp_path, "num_epochs=1", "data.val_fraction=0", "selection=last", *settings)
    split = "test" if "data.num_test=1" in settings else "train"
    result = cnnbench.evaluate(run, split=split, plots=True)
    assert (result["num_images"] == 1) == (split == "test")
    names = sorted(file.name for file in (run / "plots").iterdir())
    assert len(names) == 7
    assert all(name.startswith(f"{split}_") for name in names)


def test_what_is_no_run_or_cannot_be_drawn_is_said_plainly(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(["evaluate", str(tmp_path / "none"), "--plots"]) == 2
    assert "not a run" in capsys.readouterr().err
    assert cli(["evaluate", str(tmp_path), "--robustness"]) == 2
    assert "a run below it is" in capsys.readouterr().err
    (run / "plots").write_text("in the way")
    assert cli(["evaluate", str(run), "--plots"]) == 2
    assert "in its way" in capsys.readouterr().err
