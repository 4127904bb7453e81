"""Exact metrics of a run, against scikit-learn on the same predictions."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import info, train

import cnnbench
from cnnbench import build
from cnnbench.cli import run as cli
from cnnbench.errors import DataError, UsageError
from cnnbench.rundir import RunDir

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
    data = build.build_data(RunDir(run).config, print)
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
    read = build.read_dataset

    def talkative(name, *, report, **more):
        report("this takes long")
        return read(name, report=report, **more)

    monkeypatch.setattr(build, "read_dataset", talkative)
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
