"""What is found before a run directory is made: parts without images, settings without effect."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import TINY, differences, info, tiny, train

import cnnbench
from cnnbench.errors import DataError, UsageError


def folder_of(root: Path, count: int, *parts: str) -> str:
    """Write so many images of each of three classes into each part, and return the setting."""
    draw = np.random.default_rng(0)
    for part in parts or ("",):
        for name in "abc":
            folder = root / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = draw.integers(0, 256, (8, 8, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return f"data.root={root}"


def refusal(root: Path, *settings: str) -> str:
    """Return why a run is refused, which leaves nothing behind."""
    with pytest.raises(UsageError) as caught:
        cnnbench.train([*settings, f"output_root={root}"])
    assert caught.value.exit_code == 2
    assert not root.exists()
    [line] = str(caught.value).splitlines()
    return line


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["data.val_fraction=0.0001"], "data.val_fraction=0.0001 leaves no validation image"),
        (["data.num_train=30", "data.limit=2"], "data.limit=2 leaves no validation image"),
        (["data.num_train=4"], "data.val_fraction=0.1 leaves no validation image"),
    ],
)
def test_no_validation_image(settings: list[str], words: str, tmp_path: Path) -> None:
    line = refusal(tmp_path / "out", *TINY, *settings)
    assert words in line
    assert "larger data.val_fraction, or selection=last data.val_fraction=0" in line
    run = train(tmp_path, *settings, "selection=last", "data.val_fraction=0", "num_epochs=1")
    assert info(run)["status"] == "done"


def test_no_test_image(tmp_path: Path) -> None:
    line = refusal(tmp_path / "out", *TINY, "data.num_test=3", "data.limit=2")
    assert "data.limit=2: has no test image beside 2 training images" in line


@pytest.mark.parametrize("count", [1, 2])
def test_few_images_of_each_class(count: int, tmp_path: Path) -> None:
    settings = ["data=folder", "data.image_size=8", "num_epochs=1", "model=softmax", "device=cpu"]
    output = f"output_root={tmp_path / 'outputs'}"
    alone = folder_of(tmp_path / "alone", count)
    with pytest.raises(DataError, match=f"the largest class has {count} images, too few to test"):
        cnnbench.train([*settings, alone, output])
    assert not list(tmp_path.glob("outputs"))
    parts = folder_of(tmp_path / "parts", count, "train", "test")
    assert "leaves no validation image" in refusal(tmp_path / "out", *settings, parts)
    run = cnnbench.train([*settings, parts, "selection=last", "data.val_fraction=0", output])
    assert info(run)["status"] == "done"
    if count == 2:
        run = cnnbench.train([*settings, parts, "data.val_fraction=0.5", output])
        assert info(run)["data"]["num_val"] == 3


def test_a_run_by_the_test_part_needs_no_validation_image(tmp_path: Path) -> None:
    run = train(tmp_path, "selection=test", "data.val_fraction=0", "num_epochs=1")
    assert info(run)["results"]["best_epoch"] == 1


def test_layers_that_the_network_lacks(tmp_path: Path) -> None:
    line = refusal(
        tmp_path / "out",
        *TINY,
        "model=nin_cifar",
        "data.native_size=32",
        "model.init=normal",
        "model.init_layers=linear",
    )
    assert "has no effect: the network has no linear layer" in line


@pytest.mark.parametrize(("every", "is_said"), [(4, False), (5, True), (10, True), (99, True)])
def test_saves_that_never_come_are_said(
    every: int, is_said: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path, f"save_every_steps={every}")
    words = f"warning: save_every_steps={every}: saves nothing within an epoch, which has 5 steps"
    assert (words in capsys.readouterr().err) == is_said


def test_a_sweeps_name_without_a_sweep(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"sweep.name=mine: has no effect on one run; add -m"):
        cnnbench.train(tiny(tmp_path, "sweep.name=mine"))


def test_mixed_images_are_said_to_count_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path, "augment=mixup", "num_epochs=1")
    words = "train/accuracy counts mixed images, each for its heavier class"
    assert capsys.readouterr().out.count(words) == 1
    train(tmp_path, "augment=crop", "num_epochs=1")
    assert words not in capsys.readouterr().out


NETWORK_WITH_DROPOUT = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, in_channels, num_classes):
        pixels = in_channels * 16 * 16
        super().__init__(nn.Flatten(), nn.Dropout(0.5), nn.Linear(pixels, num_classes))
"""


def test_threads_train_one_after_another_as_they_do_alone(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text(NETWORK_WITH_DROPOUT)
    custom = ("model=custom", f"model.path={file}:Net", "num_epochs=8")
    settings = [[*custom, f"seed={seed}"] for seed in range(2)]
    with ThreadPoolExecutor(2) as threads:
        together = list(threads.map(lambda more: train(tmp_path / "together", *more), settings))
    for run, more in zip(together, settings, strict=True):
        assert differences(train(tmp_path / "alone", *more), run) == []
