"""Folds: disjoint, whole, stratified, steady where images are added, and what is held out."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.model_selection import StratifiedKFold
from tiny import info, records, train

import cnnbench
from cnnbench.analysis.data_check import check_data
from cnnbench.config.command import single_config
from cnnbench.config.compose import Composer
from cnnbench.data import read_dataset
from cnnbench.data.arrays import DatasetArrays, ImageArrays, ImageFiles
from cnnbench.data.folds import hold_out
from cnnbench.data.readers.folder import read_folder
from cnnbench.data.split import fold_numbers, split_train
from cnnbench.errors import UsageError

TARGETS = st.lists(st.integers(0, 4), min_size=1, max_size=120).map(
    lambda labels: np.unique(labels, return_inverse=True)[1].astype(np.int64)
)


@given(TARGETS, st.integers(2, 7), st.integers(0, 2**63 - 1), st.booleans())
def test_folds_hold_each_class_in_proportion(
    targets: Any, num_folds: int, seed: int, is_named: bool
) -> None:
    names = [f"{target}/{index}.png" for index, target in enumerate(targets)]
    folds = fold_numbers(targets, num_folds, seed, names if is_named else None)
    # One number for each image: folds are disjoint and make the whole.
    assert folds.shape == targets.shape
    assert set(folds.tolist()) <= set(range(num_folds))
    for label in np.unique(targets):
        counts = np.bincount(folds[targets == label], minlength=num_folds)
        assert counts.max() - counts.min() <= 1
    if not is_named:
        sizes = np.bincount(folds, minlength=num_folds)
        assert sizes.max() - sizes.min() <= 1


@pytest.mark.filterwarnings("ignore:The least populated class")
@given(TARGETS, st.integers(2, 5))
def test_folds_hold_as_many_of_each_class_as_those_of_scikit_learn(
    targets: Any, num_folds: int
) -> None:
    targets = np.sort(targets)
    if np.bincount(targets).max() < num_folds:
        return  # which it refuses
    folds = fold_numbers(targets, num_folds, 0)
    ours = [np.bincount(targets[folds == k], minlength=5).tolist() for k in range(num_folds)]
    parts = StratifiedKFold(num_folds).split(targets, targets)
    theirs = [np.bincount(targets[test], minlength=5).tolist() for _, test in parts]
    assert ours == theirs


@given(TARGETS, st.integers(2, 5), st.integers(0, 9))
def test_an_added_image_moves_one_other_across_each_border(
    targets: Any, num_folds: int, label: int
) -> None:
    label = label % (targets.max() + 1)
    names = [f"{index}.png" for index in range(len(targets))]
    before = fold_numbers(targets, num_folds, 0, names)
    after = fold_numbers(np.append(targets, label), num_folds, 0, [*names, "new.png"])[:-1]
    moved = before != after
    assert moved.sum() <= num_folds - 1
    assert (targets[moved] == label).all()


GOLDEN = [1, 1, 1, 1, 2, 0, 2, 2, 0, 2, 0, 0]
NAMED_GOLDEN = [0, 1, 2, 0, 2, 0, 1, 2, 0, 2, 1, 1]


def test_seeds_draw_other_folds_and_numbers_never_change() -> None:
    targets = np.arange(12, dtype=np.int64) % 2
    assert fold_numbers(targets, 3, 0).tolist() == GOLDEN
    names = [f"{index}.png" for index in range(12)]
    assert fold_numbers(targets, 3, 0, names).tolist() == NAMED_GOLDEN
    assert fold_numbers(targets, 3, 1).tolist() != GOLDEN
    assert fold_numbers(targets, 3, 1, names).tolist() != NAMED_GOLDEN


def identified(num_train: int, num_test: int, **more: Any) -> DatasetArrays:
    """Return images whose first pixel tells them apart, those of the test part from 100."""
    parts = []
    for start, count in ((0, num_train), (100, num_test)):
        images = np.zeros((count, 1, 2, 2), np.uint8)
        images[:, 0, 0, 0] = start + np.arange(count)
        parts.append(ImageArrays(images, np.arange(count, dtype=np.int64) % 3))
    return DatasetArrays(*parts, ("a", "b", "c"), (0.5,), (0.25,), "0" * 64, "a test", **more)


def pixels(part: Any) -> list[int]:
    return part.images[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("num_val", [0, 6])
def test_without_a_test_part_each_image_is_tested_once(num_val: int) -> None:
    arrays = identified(30, 9, is_test_drawn=True, num_val=num_val)
    own_val = pixels(arrays.train)[30 - num_val :]
    tested = []
    for number in range(4):
        held = hold_out(arrays, number, 4, 0)
        # Its own validation part stays, at the end.
        assert pixels(held.train)[len(held.train) - num_val :] == own_val
        assert held.num_val == num_val
        every = [*pixels(held.train), *pixels(held.test)]
        assert sorted(every) == sorted([*range(30), *range(100, 109)])
        assert held.sha256 == arrays.sha256
        values = held.train.images.astype(np.float64) / 255
        assert held.mean == pytest.approx([values.mean()])
        assert held.std == pytest.approx([values.std()])
        tested += pixels(held.test)
        # The validation part is drawn from what is left.
        first, second = split_train(held, 0.2, 0)
        assert sorted([*first, *second]) == list(range(len(held.train)))
        assert len(second) == (num_val or round(0.2 * len(held.train)))
    assert sorted(tested) == sorted({*range(30), *range(100, 109)} - set(own_val))


@pytest.mark.parametrize("num_val", [0, 6])
def test_with_a_test_part_each_training_image_validates_once(num_val: int) -> None:
    arrays = identified(30, 9, num_val=num_val)
    validated = []
    for number in range(4):
        held = hold_out(arrays, number, 4, 0)
        assert pixels(held.test) == pixels(arrays.test)
        assert sorted(pixels(held.train)) == list(range(30))
        for fraction in (0.0, 0.3):  # it draws nothing
            first, second = split_train(held, fraction, 0)
            assert len(second) in (7, 8)
            assert sorted([*first, *second]) == list(range(30))
        validated += [pixels(held.train)[index] for index in second]
    assert sorted(validated) == list(range(30))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("cat", "dog"):
        for number in range(11):
            path = tmp_path / "images" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            value = 20 * number + (name == "dog")
            Image.new("L", (8, 8), value).save(path)
    return tmp_path / "images"


def test_folds_of_a_folder_follow_its_names(root: Path) -> None:
    args = {"in_channels": 1}
    in_memory = read_folder(root, args, 8)
    on_disk = read_folder(root, args, 8, limit_bytes=1)
    assert isinstance(on_disk.train, ImageFiles)
    tested: list[str] = []
    for number in range(3):
        held, files = (hold_out(arrays, number, 3, 5) for arrays in (in_memory, on_disk))
        assert held.test_names == files.test_names
        assert (held.mean, held.std, held.sha256) == (files.mean, files.std, files.sha256)
        assert held.test_names is not None
        assert held.train_names is not None
        assert sorted([*held.train_names, *held.test_names]) == sorted(
            f"{name}/{index}.png" for name in ("cat", "dog") for index in range(11)
        )
        # Names, files and images are in one order.
        assert [p.relative_to(root).as_posix() for p in files.test.paths] == [*files.test_names]
        values = [20 * int(n.split("/")[1][:-4]) + n.startswith("dog") for n in held.test_names]
        assert [image.mean() for image in held.test.images] == values
        assert held.test.targets.tolist() == [n.startswith("dog") for n in held.test_names]
        assert not any("fixed fifth" in note for note in held.notes)
        assert f"fold {number} of 0 to 2, {len(held.test)} images, is the test part" in held.notes
        tested += held.test_names
    assert len(tested) == len(set(tested)) == 22


@pytest.mark.parametrize(
    ("name", "is_drawn"),
    [("digits", True), ("synthetic", True), ("breast_cancer", True), ("hours_to_pass", False)],
)
def test_data_sets_say_whether_their_test_part_was_drawn(name: str, is_drawn: bool) -> None:
    composer = Composer()
    config = single_config(composer, composer.parse([f"data={name}", "model=softmax"]))
    arrays = read_dataset(name, root=None, args=config.data.args, image_size=8)
    assert arrays.is_test_drawn is is_drawn


def test_own_files_say_whether_their_test_part_was_drawn(tmp_path: Path, root: Path) -> None:
    x, y = np.zeros((20, 4, 4), np.uint8), np.arange(20) % 2
    for name, arrays in (
        ("drawn", {"x": x, "y": y}),
        ("own", {"x_train": x, "y_train": y, "x_test": x, "y_test": y}),
    ):
        np.savez(tmp_path / f"{name}.npz", **arrays)
    lines = "".join(f"{index},{index % 2}\n" for index in range(20))
    (tmp_path / "rows.csv").write_text(lines)
    csv = {"target": None, "header": "auto", "delimiter": "auto"}

    def is_drawn(name: str, path: Path, **args: Any) -> bool:
        return read_dataset(name, root=path, args=args, image_size=8).is_test_drawn

    assert is_drawn("npz", tmp_path / "drawn.npz")
    assert not is_drawn("npz", tmp_path / "own.npz")
    assert is_drawn("csv", tmp_path / "rows.csv", **csv)
    assert not is_drawn("csv", tmp_path / "rows.csv", **csv, test_root=str(tmp_path / "rows.csv"))
    assert is_drawn("folder", root, in_channels=1)
    for part in ("train", "test"):
        shutil.copytree(root, tmp_path / "parts" / part)
    assert not is_drawn("folder", tmp_path / "parts", in_channels=1)


def test_a_run_tests_on_its_fold(tmp_path: Path) -> None:
    folds = [f"data.fold={number}" for number in (0, 1)]
    runs = [train(tmp_path, "data.num_folds=4", fold, "num_epochs=1") for fold in folds]
    plain = train(tmp_path, "num_epochs=1")
    hashes = set()
    for run in runs:
        data = info(run)["data"]
        assert (data["num_train"] + data["num_val"], data["num_test"]) in ((82, 28), (83, 27))
        assert data["sha256"] == info(plain)["data"]["sha256"]
        with np.load(run / "predictions.npz") as file:
            assert len(file["targets"]) == data["num_test"]
            hashes.add(file["images_sha256"].tobytes())
        assert info(run)["results"]["test_reads"] == 1
    assert len(hashes) == 2
    assert info(runs[0])["provenance"]["run_key"] != info(runs[1])["provenance"]["run_key"]


def held_from_a_test_part(tmp_path: Path, *more: str) -> Path:
    """Train on arrays that have a test part of their own."""
    draw = np.random.default_rng(0)
    x, y = draw.integers(0, 256, (48, 8, 8), np.uint8), np.arange(48) % 3
    path = tmp_path / "both.npz"
    np.savez(path, x_train=x, y_train=y, x_test=x[:9], y_test=y[:9])
    data = ("model=softmax", "data=npz", f"data.root={path}", "device=cpu", "data.batch_size=16")
    fold = ("data.num_folds=4", "data.fold=1", f"output_root={tmp_path / 'runs'}", "num_epochs=2")
    return cnnbench.train([*data, *fold, *more])


def test_where_a_test_part_is_the_fold_validates_and_the_test_part_is_not_read(
    tmp_path: Path,
) -> None:
    run = held_from_a_test_part(tmp_path, "selection=last")
    record = info(run)
    assert record["data"]["measured"] == "val"
    assert (record["data"]["num_train"], record["data"]["num_val"]) == (36, 12)
    assert not any(name.startswith("test/") for name in record["results"])
    assert record["results"]["test_reads"] == 0
    assert record["results"]["val/accuracy"] == records(run)[-1]["val/accuracy"]
    with np.load(run / "predictions.npz") as file:
        assert len(file["targets"]) == 12
        correct = (file["targets"] == file["predictions"]).mean()
    assert record["results"]["val/accuracy"] == correct
    # Each epoch's numbers are there once.
    assert [line["epoch"] for line in records(run) if "val/accuracy" in line] == [1, 2]
    with pytest.raises(UsageError, match="the fold is what the run is measured on"):
        held_from_a_test_part(tmp_path, "selection=test")


def test_folds_are_checked_for_duplicates_as_they_are_trained(tmp_path: Path) -> None:
    composer = Composer()
    sizes = ["data=synthetic", "data.num_train=60", "data.num_test=20"]
    fold = ["data.num_folds=4", "data.fold=2"]
    found = [check_data(single_config(composer, composer.parse([*sizes, *m]))) for m in ([], fold)]
    assert [sum(f["counts"]["test"].values()) for f in found] == [20, 20]
    assert found[0]["images_sha256"]["test"] != found[1]["images_sha256"]["test"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["data.fold=1"], "data.fold=1: of how many"),
        (["data.num_folds=5"], "-m 'data.fold=range(5)' trains all"),
        (["data.num_folds=5", "data.fold=5"], "data.fold=5: expected 0 to 4"),
        (["data.num_folds=1", "data.fold=0"], "expected a whole number >= 2"),
    ],
)
def test_folds_that_are_none_are_refused(settings: list[str], words: str) -> None:
    composer = Composer()
    with pytest.raises(UsageError) as caught:
        single_config(composer, composer.parse(settings))
    assert words in str(caught.value)
