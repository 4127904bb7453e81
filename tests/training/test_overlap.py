"""Runs that start or learn from others that were trained on the images they are measured on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import TINY, train

import cnnbench
from cnnbench.errors import UsageError

FOLDS = "data.num_folds=3"
SHORT = ("model=softmax", "num_epochs=1", "data.batch_size=8")


def images(root: Path, *parts: str) -> Path:
    draw = np.random.default_rng(0)
    for part in parts:
        for label in ("cat", "dog"):
            (root / part / label).mkdir(parents=True)
            for index in range(15):
                pixels = draw.integers(0, 255, (8, 8), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / label / f"{index}.png")
    return root


def settings(data: Path) -> list[str]:
    own = ("data=folder", f"data.root={data}", "data.image_size=8", "data.val_fraction=.2")
    device = [setting for setting in TINY if setting.startswith("device")]
    return [*SHORT, *own, *device, f"output_root={data.parent / 'runs'}"]


def num_runs(root: Path) -> int:
    return len(list(root.rglob("run.json")))


@pytest.mark.parametrize("key", ["model.weights", "loss.teacher"])
@pytest.mark.parametrize("parts", [("",), ("train", "test")], ids=["drawn", "own test part"])
def test_a_run_of_another_fold_is_refused(
    key: str, parts: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = settings(images(tmp_path / "data", *parts))
    first = cnnbench.train([*base, FOLDS, "data.fold=0"])
    plain = cnnbench.train(base)
    count = num_runs(tmp_path)
    for path in (first, plain, first / "checkpoints" / "epoch_0001.pt"):
        if key == "loss.teacher" and path.suffix:
            continue
        with pytest.raises(UsageError, match="that this run is measured on") as caught:
            cnnbench.train([*base, FOLDS, "data.fold=1", f"{key}={path}"])
        assert "\n" not in str(caught.value)
    assert num_runs(tmp_path) == count
    capsys.readouterr()
    cnnbench.train([*base, FOLDS, "data.fold=0", f"{key}={first}"])
    assert "may have seen" not in capsys.readouterr().err
    if "test" in parts:
        # The test part is nobody's fold; only images that validate may have been seen.
        cnnbench.train([*base, f"{key}={first}"])
        assert "may have seen those that validate" in capsys.readouterr().err
    else:
        with pytest.raises(UsageError, match="this run no fold"):
            cnnbench.train([*base, f"{key}={first}"])


@pytest.mark.parametrize("key", ["model.weights", "loss.teacher"])
def test_another_validation_part_is_said(
    key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = train(tmp_path, *SHORT)
    capsys.readouterr()
    train(tmp_path, *SHORT, f"{key}={first}")
    assert "may have seen" not in capsys.readouterr().err
    train(tmp_path, *SHORT, "data.split_seed=5", f"{key}={first}")
    assert f"{key}: was trained on another part of the images" in capsys.readouterr().err


def test_more_folds_than_images_of_a_class_are_named(tmp_path: Path) -> None:
    base = settings(images(tmp_path / "data", ""))
    with pytest.raises(UsageError, match=r"expected fewer data\.num_folds") as caught:
        cnnbench.train([*base, "data.num_folds=40", "data.fold=39"])
    assert "\n" not in str(caught.value)
    assert num_runs(tmp_path) == 0
