"""What tables say from predictions: calibration with intervals, and accuracy on unseen images."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import log_loss

import cnnbench
from cnnbench.analysis.compare.formats import comparison_text
from cnnbench.analysis.compare.tables import Comparison, compare_runs
from cnnbench.analysis.statistics.calibration import calibration_estimates
from cnnbench.cli import main as cli
from tests.recorded_runs import write_predictions, write_run

IMAGES = 300


def predicted(root: Path, model: str, seed: int, sharpness: float = 2.0) -> Path:
    """Write a run whose predictions are those of a noisy network of three classes."""
    draw = np.random.default_rng([seed, len(model)])
    targets = draw.integers(0, 3, IMAGES).astype(np.uint8)
    logits = draw.normal(size=(IMAGES, 3)) + sharpness * np.eye(3)[targets]
    shifted = (logits - logits.max(1, keepdims=True)).astype(np.float16)
    answers = logits.argmax(1).astype(np.uint8)
    accuracy = float((answers == targets).mean())
    run = write_run(root, model=model, seed=seed, test=accuracy)
    np.savez(
        run / "predictions.npz",
        log_probabilities=shifted,
        predictions=answers,
        targets=targets,
        images_sha256=np.frombuffer(b"\xab" * 32, np.uint8),
    )
    return run


def brute_force(run: Path) -> dict[str, float]:
    """Take the three by their definitions, image by image."""
    with np.load(run / "predictions.npz") as file:
        logits, targets = file["log_probabilities"].astype(float), file["targets"].astype(int)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    brier = np.mean(
        [((p - np.eye(3)[t]) ** 2).sum() for p, t in zip(probabilities, targets, strict=True)]
    )
    ece = 0.0
    confidence, right = probabilities.max(1), probabilities.argmax(1) == targets
    for part in range(15):
        inside = (confidence > part / 15) & (confidence <= (part + 1) / 15)
        ece += abs(confidence[inside].sum() - right[inside].sum()) / len(targets)
    return {"ece": ece, "brier": float(brier), "nll": log_loss(targets, probabilities)}


def rows_of(found: Comparison) -> dict[str, dict[str, Any]]:
    rows = json.loads(comparison_text(found, "json"))["rows"]
    return {row["model"]: row for row in rows}


def test_calibration_of_seeds(tmp_path: Path) -> None:
    runs = [predicted(tmp_path, "lenet", seed) for seed in range(4)]
    predicted(tmp_path, "mlp", 0, sharpness=4)
    found = compare_runs([tmp_path], calibration=True)
    row, single = rows_of(found)["lenet"], rows_of(found)["mlp"]
    for name in ("ece", "brier", "nll"):
        values = [brute_force(run)[name] for run in runs]
        shown = row[f"test/{name}"]
        assert shown["mean"] == pytest.approx(np.mean(values))
        assert shown["std"] == pytest.approx(np.std(values, ddof=1))
        assert shown["interval_basis"] == "seeds"
        wanted = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
        assert shown["interval"] == pytest.approx([max(0, wanted[0]), wanted[1]])
        assert single[f"test/{name}"]["interval_basis"] == "images"
    [table] = found.tables
    [note] = [note for note in table.notes if note.startswith("Intervals of ece")]
    assert "over seeds of row 2; over test images, for these trained networks, of row 1" in note
    text = comparison_text(found, "text")
    mean, (low, high) = row["test/ece"]["mean"], row["test/ece"]["interval"]
    assert f"{mean:.4f} ({low:.4f} to {high:.4f})" in text
    lines = list(csv.DictReader(io.StringIO(comparison_text(found, "csv"))))
    assert float(lines[1]["test/ece_low"]) == low
    assert lines[1]["test/ece_interval_basis"] == "seeds"
    # Without being asked for, none of it is there.
    assert "test/ece" not in comparison_text(compare_runs([tmp_path]), "text")


def test_calibration_of_one_and_two_runs_is_over_images(tmp_path: Path) -> None:
    one = predicted(tmp_path, "mlp", 0)
    two = [predicted(tmp_path, "lenet", seed) for seed in range(2)]
    rows = rows_of(compare_runs([tmp_path], calibration=True))
    for model, runs in (("mlp", [one]), ("lenet", two)):
        estimates = []
        for run in runs:
            with np.load(run / "predictions.npz") as file:
                targets = file["targets"].astype(np.int64)
                estimates.append(calibration_estimates(file["log_probabilities"], targets))
        for name in ("ece", "brier", "nll"):
            low = np.mean([each[name].low for each in estimates])
            high = np.mean([each[name].high for each in estimates])
            assert rows[model][f"test/{name}"]["interval"] == pytest.approx([low, high])
            assert low < rows[model][f"test/{name}"]["mean"] < high or low == 0


def test_intervals_of_calibration_end_where_it_does(tmp_path: Path) -> None:
    """Sure of the wrong class in one run of three, and of the right one in the others."""
    for seed in range(3):
        run = write_run(tmp_path, seed=seed, test=float(seed > 0))
        write_predictions(run, np.full(IMAGES, seed > 0))
        with np.load(run / "predictions.npz") as file:
            arrays = dict(file)
        sure = np.where(arrays["log_probabilities"] == 0, 0, -30).astype(np.float16)
        np.savez(run / "predictions.npz", **{**arrays, "log_probabilities": sure})
    row = rows_of(compare_runs([tmp_path], calibration=True))["lenet"]
    for name, values, most in (
        ("ece", [1, 0, 0], 1),
        ("brier", [2, 0, 0], 2),
        ("nll", [30, 0, 0], 99),
    ):
        low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
        assert low < 0
        assert high > most or name == "nll"
        assert row[f"test/{name}"]["interval"] == pytest.approx([0, min(high, most)], rel=1e-3)


def test_rows_are_chosen_and_sorted_by_calibration(tmp_path: Path) -> None:
    for model, sharpness in (("lenet", 2.0), ("mlp", 4.0), ("nin", 3.0)):
        predicted(tmp_path, model, 0, sharpness)
    found = compare_runs([tmp_path], calibration=True, sort="test/nll")
    assert [row.values["model"] for row in found.tables[0].rows] == ["mlp", "nin", "lenet"]
    kept = cnnbench.compare(tmp_path, calibration=True, where="test/nll<0.2")["rows"]
    assert [row["model"] for row in kept] == ["mlp"]


@pytest.mark.parametrize("kind", ["missing", "disagrees", "damaged", "log-probabilities damaged"])
def test_a_row_has_no_calibration_of_a_part_of_its_runs(kind: str, tmp_path: Path) -> None:
    for seed in range(3):
        predicted(tmp_path, "lenet", seed)
    predicted(tmp_path, "mlp", 0)
    odd = next(tmp_path.rglob("lenet/run-0001/predictions.npz"))
    if kind == "missing":
        odd.unlink()
    elif kind == "disagrees":
        write_predictions(odd.parent, np.ones(IMAGES, bool))
    elif kind == "damaged":
        odd.write_bytes(b"PK")
    else:
        with np.load(odd) as file:
            arrays = dict(file)
        np.savez(odd, **{**arrays, "log_probabilities": arrays["log_probabilities"][:9]})
    found = compare_runs([tmp_path], calibration=True)
    assert rows_of(found)["lenet"]["test/ece"] == {"mean": None, "std": None}
    assert rows_of(found)["mlp"]["test/ece"]["mean"] is not None
    number = next(row.number for row in found.tables[0].rows if row.values["model"] == "lenet")
    note = f"No calibration of row {number}: not all runs have predictions that can be used."
    assert note in found.tables[0].notes


# Duplicates: indices of the test images that training has seen.
RIGHT = {"lenet": [0, 1, 2, 3, 4, 5], "mlp": [4, 5, 6, 7, 8], "nin": [3, 4, 5, 6]}


def flagged(root: Path) -> Path:
    """Write three runs on ten images, of which the first four are seen ones."""
    for model, indices in RIGHT.items():
        flags = np.zeros(10, bool)
        flags[indices] = True
        write_predictions(write_run(root, model=model, test=float(flags.mean())), flags)
    return root


def listed(path: Path, seen: list[int], images: str = "ab") -> Path:
    path.write_text(
        json.dumps({"images_sha256": {"test": images * 32}, "seen_before": {"test": seen}})
    )
    return path


def test_the_order_without_images_seen_before_is_marked(tmp_path: Path) -> None:
    root, seen = flagged(tmp_path / "runs"), [0, 1, 2, 3]
    found = compare_runs([root], without_duplicates=[listed(tmp_path / "list.json", seen)])
    rows = rows_of(found)
    for model, indices in RIGHT.items():
        unseen = len(set(indices) - set(seen)) / 6
        assert rows[model]["test/accuracy_unseen"]["mean"] == pytest.approx(unseen)
    # lenet (6) before mlp (5) before nin (4); of unseen ones 2, 5 and 3.
    assert [row.is_order_changed for row in found.tables[0].rows] == [True] * 3
    text = comparison_text(found, "text")
    assert text.count("†") == 4
    [note] = [note for note in found.tables[0].notes if "accuracy_unseen" in note]
    assert "without the 4 images that training or choosing has seen" in note
    assert "† in another order: rows 1, 2 and 3" in note
    same = compare_runs([root], without_duplicates=[listed(tmp_path / "one.json", [9])])
    assert "in the same order" in same.tables[0].notes[-1]
    assert "†" not in comparison_text(same, "text")
    # An index beyond the images leaves none out.
    more = compare_runs([root], without_duplicates=[listed(tmp_path / "big.json", [99])])
    assert rows_of(more)["mlp"]["test/accuracy_unseen"]["mean"] == 0.5


def test_the_note_counts_what_was_left_out_of_the_part_measured(tmp_path: Path) -> None:
    """A list also has other splits, and indices that the images do not reach."""
    root, file = flagged(tmp_path / "runs"), tmp_path / "list.json"
    hashes = {"train": "01" * 32, "val": "02" * 32, "test": "ab" * 32}
    seen = {"train": [], "val": [7], "test": [0, 3, 9, 99]}
    file.write_text(json.dumps({"images_sha256": hashes, "seen_before": seen}))
    [table] = compare_runs([root], without_duplicates=[file]).tables
    [note] = [note for note in table.notes if "accuracy_unseen" in note]
    assert note.startswith("accuracy_unseen: without the 3 images that training or choosing")


def test_a_list_of_other_images_is_not_used(tmp_path: Path) -> None:
    root, other = flagged(tmp_path / "runs"), listed(tmp_path / "list.json", [0], "cd")
    found = compare_runs([root], without_duplicates=[other])
    assert rows_of(found)["mlp"]["test/accuracy_unseen"]["mean"] is None
    assert found.tables[0].notes[-1].startswith("No accuracy_unseen of rows 1, 2 and 3: ")
    # Of several lists, each row takes its own.
    both = [other, listed(tmp_path / "right.json", [0])]
    assert rows_of(compare_runs([root], without_duplicates=both))["mlp"]["test/accuracy_unseen"][
        "mean"
    ] == pytest.approx(5 / 9)


@pytest.mark.parametrize(
    "content",
    [
        None,
        "no json",
        "[]",
        '{"images_sha256": {"test": "ab"}}',
        '{"images_sha256": {"test": 5}, "seen_before": {"test": []}}',
        '{"images_sha256": {"test": "ab"}, "seen_before": {"test": ["x"]}}',
        '{"images_sha256": {"test": "ab"}, "seen_before": {"test": [-1]}}',
        '{"images_sha256": 3, "seen_before": {}}',
    ],
)
def test_what_is_no_list_is_refused(
    content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, file = flagged(tmp_path / "runs"), tmp_path / "list.json"
    if content is not None:
        file.write_text(content)
    assert cli.run(["compare", str(root), "--without-duplicates", str(file)]) == 2
    error = capsys.readouterr().err
    assert f"--without-duplicates {file}: " in error
    assert ("cannot be read" if content is None else "no list of duplicates") in error


def test_what_data_check_writes_is_what_evaluation_leaves_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = np.random.default_rng(0)
    x, y = draw.integers(0, 256, (60, 8, 8), np.uint8), np.arange(60) % 3
    test = np.concatenate([x[:5], draw.integers(0, 256, (15, 8, 8), np.uint8)])
    data, file = tmp_path / "data.npz", tmp_path / "list.json"
    np.savez(data, x_train=x, y_train=y, x_test=test, y_test=np.arange(20) % 3)
    settings = ["data=npz", f"data.root={data}", "device=cpu", f"output_root={tmp_path / 'runs'}"]
    run = cnnbench.train(["model=softmax", "num_epochs=1", *settings])
    capsys.readouterr()
    assert cli.run(["data", "check", "npz", f"data.root={data}", "--format", "json"]) == 0
    file.write_text(capsys.readouterr().out)
    assert json.loads(file.read_text())["seen_before"]["test"] == [0, 1, 2, 3, 4]
    assert cli.run(["data", "check", "npz", f"data.root={data}"]) == 0
    assert "5 test images are, equal or nearly, in a split before" in capsys.readouterr().out
    [row] = cnnbench.compare(run, without_duplicates=[file])["rows"]
    assert cnnbench.compare(run, without_duplicates=str(file))["rows"] == [row]
    clean = cnnbench.evaluate(run, without_duplicates=True)
    assert row["test/accuracy_unseen"]["mean"] == pytest.approx(clean["accuracy"])
    shutil.rmtree(run)
