"""What a run says of its data before it trains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny import train

from cnnbench.data import split_notes
from cnnbench.data.arrays import DatasetArrays, ImageArrays


def arrays(train: list[int], test: list[int], names: tuple[str, ...]) -> DatasetArrays:
    """Return images that are constant: the value of image i of ``train`` is i."""

    def part(targets: list[int], first: int) -> ImageArrays:
        values = np.arange(first, first + len(targets), dtype=np.uint8)
        images = np.broadcast_to(values[:, None, None, None], (len(targets), 1, 4, 4)).copy()
        return ImageArrays(images, np.array(targets))

    return DatasetArrays(part(train, 0), part(test, 250), names, (0.5,), (0.5,), "", "")


def test_duplicates_across_splits_and_labels_are_counted() -> None:
    data = arrays([0, 0, 1, 1], [0, 1], ("cat", "dog"))
    assert isinstance(data.train, ImageArrays)
    assert isinstance(data.test, ImageArrays)
    data.test.images[0] = data.train.images[0]
    data.test.images[1] = data.train.images[1]
    notes = split_notes(data, np.array([0, 2]), np.array([1, 3]), np.array([0, 1]))
    assert notes == [
        "classes (train/val/test): cat 1/1/1, dog 1/1/1",
        "1 of the test images is also in train, pixel for pixel",
        "1 of the test images is also in val, pixel for pixel",
        "1 image is there with different labels",
    ]


def test_classes_that_a_split_lacks_are_named() -> None:
    data = arrays([0, 1, 2], [0], ("cat", "dog", "emu"))
    notes = split_notes(data, np.arange(3), np.arange(0), np.arange(1))
    assert notes[1:] == ["no test image of dog, emu"]


def test_many_classes_are_not_listed() -> None:
    names = tuple(map(str, range(230)))
    data = arrays(list(range(230)), [0], names)
    [note, missing] = split_notes(data, np.arange(230), np.arange(0), np.arange(1))
    assert note == "230 classes of 1 to 1 training images"
    assert missing == "no test image of 1, 2, 3, 4 and 225 more"


def test_a_run_says_them_before_it_trains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path, "num_epochs=1")
    out = capsys.readouterr().out
    assert "classes (train/val/test): class 0 24/3/10" in out
    assert out.index("classes (train/val/test)") < out.index("epoch 1")
