"""``cnnbench data check`` and ``evaluate --without-duplicates``, by planted findings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import cnnbench
from cnnbench.cli.main import run as cli

SIZE = "data.image_size=16"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Real digits of two classes in parts, and what is wrong with them."""
    digits = load_digits()
    images = np.repeat(np.repeat(np.rint(digits.images * 15.9), 2, 1), 2, 2).astype(np.uint8)
    root = tmp_path / "images"
    for label, name in ((0, "zero"), (1, "one")):
        chosen = images[digits.target == label]
        for part, first, count in (("train", 0, 30), ("val", 30, 12), ("test", 42, 12)):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(first, first + count):
                Image.fromarray(chosen[number]).save(folder / f"{number:03d}.png")
    shutil.copy(root / "train/zero/000.png", root / "test/zero/copy.png")
    shutil.copy(root / "train/one/001.png", root / "train/zero/other_label.png")
    mirrored = Image.open(root / "val/one/031.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    mirrored.save(root / "test/one/mirrored.png")
    (root / "train/zero/broken.png").write_bytes(b"no image")
    (root / "test/one/empty.png").touch()
    (root / "train/few").mkdir()
    shutil.copy(root / "train/one/005.png", root / "train/few/a.png")
    return root


def checked(root: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    argv = ["data", "check", "folder", f"data.root={root}", SIZE, "--format", "json"]
    assert cli(argv) == 0
    return json.loads(capsys.readouterr().out)


def files(groups: list[list[dict[str, str]]]) -> list[set[str]]:
    return [{member["file"] for member in group} for group in groups]


def test_what_was_planted_is_found(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = checked(root, capsys)
    exact = files(found["exact"])
    assert {"train/zero/000.png", "test/zero/copy.png"} in exact
    assert {"train/one/001.png", "train/zero/other_label.png"} in exact
    assert {"train/one/005.png", "train/few/a.png"} in exact
    assert len(exact) == 3
    assert len(found["different_labels"]) == 2
    assert {"val/one/031.png", "test/one/mirrored.png"} in files(found["near"])
    assert len(found["unreadable"]) == 2
    assert {"split": "train", "class": "few", "count": 1} in found["small_classes"]


def test_the_text_has_a_line_for_each_kind(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["data", "check", "folder", f"data.root={root}", SIZE]) == 0
    out = capsys.readouterr().out
    assert "3 groups of equal images:" in out
    assert "2 files that cannot be read:" in out
    assert "test zero/copy.png" in out or "test test/zero/copy.png" in out


def test_every_data_set_that_needs_no_files_can_be_checked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli(["data", "check", "synthetic", "data.num_train=60", "data.num_test=20"]) == 0
    assert "54 train images, 6 val images, 20 test images" in capsys.readouterr().out
    assert cli(["data", "check", "digits", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["exact"] == []
    assert sum(found["counts"]["test"].values()) == 359


def test_evaluation_leaves_out_what_training_has_seen(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("train/zero/broken.png", "test/one/empty.png"):
        (root / name).unlink()
    shutil.rmtree(root / "train/few")
    run = cnnbench.train(
        [
            "model=softmax",
            "data=folder",
            f"data.root={root}",
            SIZE,
            "data.in_channels=1",
            "num_epochs=1",
            "device=cpu",
            f"output_root={tmp_path / 'runs'}",
        ]
    )
    capsys.readouterr()
    whole = cnnbench.evaluate(run)
    clean = cnnbench.evaluate(run, without_duplicates=True)
    assert whole["num_images"] == 26
    assert clean["num_duplicates"] == 2
    assert clean["num_images"] == 24
    assert "num_duplicates" not in whole
    assert cli(["evaluate", str(run), "--without-duplicates"]) == 0
    assert "without 2 images that training or choosing has seen" in capsys.readouterr().out
    assert cli(["evaluate", str(run), "--without-duplicates", "--split", "train"]) == 2
