"""The learning rate range test: what it measures, what it copies, and what it leaves alone."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
from PIL import Image
from tiny import tiny

import cnnbench
from cnnbench.data.splits import Splits
from cnnbench.errors import CnnbenchError

FAST = ("model=softmax", "optimizer=sgd")


def test_the_rate_grows_by_the_same_factor_each_step(tmp_path: Path) -> None:
    found = cnnbench.find_lr(tiny(tmp_path, *FAST), low=1e-4, high=1e-1, num_steps=31)
    rates = [point["lr"] for point in found["points"]]
    expected = [1e-4 * 10 ** (n / 10) for n in range(31)]
    assert rates == pytest.approx(expected)
    assert found["diverged_lr"] is None


def test_the_smoothed_loss_is_the_corrected_average(tmp_path: Path) -> None:
    points = cnnbench.find_lr(tiny(tmp_path, *FAST), low=1e-4, high=1e-1, num_steps=20)["points"]
    for count in range(1, 21):
        weights = [0.95 ** (count - n) for n in range(1, count + 1)]
        mean = sum(w * p["loss"] for w, p in zip(weights, points[:count], strict=True)) / sum(
            weights
        )
        assert points[count - 1]["smoothed"] == pytest.approx(mean)


def test_a_tenth_of_the_rate_at_the_least_loss_is_copied(tmp_path: Path) -> None:
    found = cnnbench.find_lr(tiny(tmp_path, *FAST), num_steps=60, high=1e4, low=1e-5)
    least = min(found["points"], key=lambda point: point["smoothed"])
    assert found["least_loss_lr"] == least["lr"]
    assert math.isclose(found["lr"], least["lr"] / 10, rel_tol=0.06)  # two digits
    assert found["diverged_lr"] is not None
    assert found["diverged_lr"] >= least["lr"]


def test_it_neither_writes_a_run_nor_evaluates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("a split was evaluated")

    monkeypatch.setattr(Splits, "batches", refuse)
    cnnbench.find_lr(tiny(tmp_path / "runs", *FAST), num_steps=20)
    assert not (tmp_path / "runs").exists()


def test_it_writes_a_table_and_figures(tmp_path: Path) -> None:
    found = cnnbench.find_lr(tiny(tmp_path, *FAST), num_steps=40, output=tmp_path / "out")
    stem = tmp_path / "out" / "synthetic-softmax"
    rows = list(csv.DictReader(stem.with_suffix(".csv").read_text().splitlines()))
    assert [float(row["lr"]) for row in rows] == [point["lr"] for point in found["points"]]
    with Image.open(stem.with_suffix(".png")) as image:
        assert image.width > 600
    assert stem.with_suffix(".svg").exists()


@pytest.mark.parametrize("seed", range(3))
def test_what_only_chance_makes_lower_is_no_fall(seed: int) -> None:
    settings = f"model=linear data=diabetes loss=mse data.batch_size=2 device=cpu seed={seed}"
    with pytest.raises(CnnbenchError, match=r"did not fall.*differs from batch to batch"):
        cnnbench.find_lr(settings, low=1e-9, high=1e-8, num_steps=40)
    found = cnnbench.find_lr(f"{settings} data.batch_size=100", low=1e-4, num_steps=100)
    assert 1e-3 < found["lr"] < 1


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"low": 1.0, "high": 0.1}, "expected 0 < low < high"),
        ({"num_steps": 3}, "expected at least 20"),
        ({"low": 1e-9, "high": 1e-8, "num_steps": 40}, "did not fall"),
    ],
)
def test_what_makes_no_sense_is_refused(
    options: dict[str, float], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(CnnbenchError, match=reason):
        cnnbench.find_lr(tiny(tmp_path, *FAST), **options)
