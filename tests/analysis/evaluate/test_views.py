"""Test-time augmentation: which views there are, and that it stays apart from the accuracy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import TINY, info, train

import cnnbench
from cnnbench.errors import CnnbenchError

OWN = [setting for setting in TINY if setting.startswith("data.")]


@pytest.fixture(scope="module")
def flipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("flipped"), "augment.flip=true")


def by_hand(run: Path, *, is_mirrored: bool) -> tuple[float, float]:
    """Return accuracy and loss of the average over views, with NumPy's shifts."""
    data = cnnbench.load_data("synthetic", OWN)
    padded = np.pad(data.test.images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    views = [
        padded[:, :, r : r + 16, c : c + 16] for r, c in ((1, 1), (0, 1), (2, 1), (1, 0), (1, 2))
    ]
    views += [view[..., ::-1] for view in views] if is_mirrored else []
    mean, std = (np.reshape(part, (1, -1, 1, 1)) for part in (data.mean, data.std))
    network = cnnbench.load(run)
    with torch.no_grad():
        probabilities = [
            network(torch.from_numpy((view / 255 - mean) / std).float()).softmax(1)
            for view in views
        ]
    average = torch.stack(probabilities).mean(0).numpy()
    targets = data.test.targets
    chosen = average[np.arange(len(targets)), targets]
    return float((average.argmax(1) == targets).mean()), float(-np.log(chosen).mean())


def test_it_is_the_average_over_shifts_and_mirrors(flipped: Path) -> None:
    plain = cnnbench.evaluate(flipped)
    reads = info(flipped)["results"]["test_reads"]
    result = cnnbench.evaluate(flipped, tta=True)
    accuracy, loss = by_hand(flipped, is_mirrored=True)
    assert result["tta"]["num_views"] == 10
    assert result["tta"]["accuracy"] == accuracy
    assert result["tta"]["loss"] == pytest.approx(loss, rel=1e-4)
    del result["tta"]
    assert result == plain
    assert info(flipped)["results"]["test_reads"] == reads + 1


def test_what_trained_without_flips_is_not_mirrored(tmp_path: Path) -> None:
    run = train(tmp_path, "num_epochs=1")
    result = cnnbench.evaluate(run, split="val", tta=True)["tta"]
    assert result["num_views"] == 5
    test = cnnbench.evaluate(run, tta=True)["tta"]
    assert test["loss"] == pytest.approx(by_hand(run, is_mirrored=False)[1], rel=1e-4)


def test_digits_are_never_mirrored() -> None:
    with pytest.raises(CnnbenchError, match="mirrored one is none"):
        cnnbench.train("model=softmax data=digits augment.flip=true")


def test_numbers_have_no_probabilities(tmp_path: Path) -> None:
    run = cnnbench.train(f"model=linear data=diabetes loss=mse num_epochs=1 output_root={tmp_path}")
    with pytest.raises(CnnbenchError, match="predicts a number"):
        cnnbench.evaluate(run, tta=True)
