"""`data=npz`: which arrays are read, as what, and what is refused."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from cnnbench.cli.main import run as cli
from cnnbench.data import DatasetArrays, describe, fingerprint, read_dataset
from cnnbench.errors import DataError

DRAW = np.random.default_rng(0)
IMAGES = DRAW.integers(0, 256, (40, 6, 5), dtype=np.uint8)
LABELS = np.arange(40) % 4
COLOUR = DRAW.integers(0, 256, (40, 6, 6, 3), dtype=np.uint8)


def write(folder: Path, **arrays: np.ndarray) -> Path:
    path = folder / "mine.npz"
    np.savez(path, **arrays)
    return path


def read(path: Path) -> DatasetArrays:
    return read_dataset("npz", root=path, args={}, image_size=6)


def read_pair(folder: Path, images: np.ndarray, labels: np.ndarray = LABELS) -> DatasetArrays:
    arrays = {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels}
    return read(write(folder, **arrays))


@pytest.mark.parametrize(
    "names",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("X_train", "Y_train", "X_test", "Y_test"),
        ("train_images", "train_labels", "test_images", "test_labels"),
        ("x", "y", "x_test", "y_test"),
        ("images", "labels", "test_data", "test_targets"),
        ("Xtrain", "ytrain", "testX", "testY"),
    ],
)
def test_parts_are_found_by_their_names(tmp_path: Path, names: tuple[str, ...]) -> None:
    square = IMAGES[:, :5]
    path = write(
        tmp_path, **dict(zip(names, (square, LABELS, square[:7], LABELS[:7]), strict=True))
    )
    arrays = read(path)
    assert np.array_equal(arrays.train.images[:, 0], square)
    assert np.array_equal(arrays.test.images[:, 0], square[:7])
    assert np.array_equal(arrays.test.targets, LABELS[:7])
    assert (arrays.class_names, arrays.notes) == (("0", "1", "2", "3"), ())
    assert arrays.mean == pytest.approx((square / 255).mean())
    facts = describe("npz", path, {})
    assert (facts.in_channels, facts.image_size, facts.num_classes) == (1, 5, 4)
    assert facts.train_counts == (10,) * 4
    assert facts.test_counts == (2, 2, 2, 1)


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (COLOUR, COLOUR.transpose(0, 3, 1, 2)),
        (COLOUR.transpose(0, 3, 1, 2), COLOUR.transpose(0, 3, 1, 2)),
        (np.asfortranarray(COLOUR), COLOUR.transpose(0, 3, 1, 2)),
        (COLOUR[:, :, :3].transpose(0, 3, 2, 1), COLOUR[:, 1:4, :3].transpose(0, 3, 2, 1)),
        (COLOUR[..., :1], COLOUR.transpose(0, 3, 1, 2)[:, :1]),
        (IMAGES, IMAGES[:, None, :5]),
        (IMAGES.astype(np.float32) / 255, IMAGES[:, None, :5]),
        (IMAGES.astype(np.float64), IMAGES[:, None, :5]),
        (IMAGES.astype(np.int64), IMAGES[:, None, :5]),
        (IMAGES.astype(">u2") * 257, IMAGES[:, None, :5]),
        (IMAGES > 99, (IMAGES[:, None, :5] > 99) * 255),
        ((IMAGES > 99).astype(np.int64), (IMAGES[:, None, :5] > 99) * 255),
        (IMAGES.astype(np.float32) / 254.9, IMAGES[:, None, :5]),
        (np.clip(IMAGES / 255 * 1.1 - 0.05, -0.05, 1.05), None),
        (IMAGES.astype(np.float64) // 16, IMAGES[:, None, :5] // 16),
    ],
    ids=lambda value: value is not None and f"{value.dtype}-{value.shape}",
)
def test_axes_and_ranges_are_those_of_image_files(
    tmp_path: Path, images: np.ndarray, expected: np.ndarray | None
) -> None:
    if images.shape[1:] == (3, 3, 6):  # the largest centred square of 6 x 3 pixels
        expected = COLOUR[:, :, :3].transpose(0, 3, 2, 1)[:, :, :, 1:4]
    arrays = read_pair(tmp_path, images)
    if expected is None:  # what resizing carried beyond 0 and 1 is cut, and said
        expected = np.rint(images[:, None, :5].clip(0, 1) * 255)
        assert "values from -0.05 to 1.05 are cut to 0 to 1" in arrays.notes
    assert np.array_equal(arrays.train.images, expected)


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (IMAGES / 255 * 2, IMAGES / 255 * 2, "floating-point values from 0 to 2; expected 0 to 1"),
        (IMAGES / 255, IMAGES.astype(float), "test images are float64 to 255, of 0 to 255, those"),
        (IMAGES.astype(float), IMAGES / 255, "test images are float64 to 1, of 0 to 1, those of"),
        (IMAGES, IMAGES.astype(np.uint16) * 257, "test images are uint16 to 65535, of 0 to 65535"),
    ],
)
def test_parts_of_other_ranges_are_refused(
    tmp_path: Path, train: np.ndarray, test: np.ndarray, message: str
) -> None:
    path = write(tmp_path, x_train=train, y_train=LABELS, x_test=test, y_test=LABELS)
    with pytest.raises(DataError, match=message):
        read(path)


def test_arrays_that_are_not_read_are_named(tmp_path: Path) -> None:
    arrays = read(write(tmp_path, x=IMAGES, y=LABELS, prueba_x=IMAGES, prueba_y=LABELS))
    assert "arrays passed over: prueba_x, prueba_y" in arrays.notes


def test_one_range_is_of_all_parts(tmp_path: Path) -> None:
    dark = (IMAGES // 4).astype(np.int32)
    bright = IMAGES.astype(np.int32) * 16
    path = write(tmp_path, x_train=bright, y_train=LABELS, x_test=dark, y_test=LABELS)
    assert read(path).test.images.max() <= 255 // 16 // 4 + 1


def test_a_fifth_tests_where_no_test_images_are(tmp_path: Path) -> None:
    path = write(tmp_path, x=IMAGES, y=LABELS)
    arrays = read(path)
    assert (len(arrays.train), len(arrays.test)) == (32, 8)
    assert np.bincount(arrays.test.targets).tolist() == [2] * 4
    assert "a fixed fifth, 8 images" in arrays.notes[0]
    both = np.concatenate([arrays.train.images, arrays.test.images])
    assert sorted(map(bytes, both)) == sorted(map(bytes, IMAGES[:, :5].copy()))
    assert describe("npz", path, {}).test_counts == (2,) * 4


def test_validation_images_validate(tmp_path: Path) -> None:
    arrays = read(
        write(
            tmp_path,
            train_images=IMAGES,
            train_labels=LABELS[:, None],
            val_images=IMAGES[:5],
            val_labels=LABELS[:5, None],
            test_images=IMAGES[:6],
            test_labels=LABELS[:6, None],
        )
    )
    assert (len(arrays.train), arrays.num_val, len(arrays.test)) == (45, 5, 6)
    assert np.array_equal(arrays.train.targets[40:], LABELS[:5])


def test_classes_have_names(tmp_path: Path) -> None:
    names = np.array(["ant", "bee", "cow", "dog"])
    assert read(write(tmp_path, x=IMAGES, y=LABELS, class_names=names)).class_names == (
        *("ant", "bee", "cow", "dog"),
    )
    assert read(write(tmp_path, x=IMAGES, y=names[LABELS])).class_names == (
        *("ant", "bee", "cow", "dog"),
    )
    arrays = read(write(tmp_path, x=IMAGES, y=(LABELS * 10).astype(float)))
    assert arrays.class_names == ("0", "10", "20", "30")
    assert arrays.train.targets.max() == 3
    with pytest.raises(DataError, match="names 3 classes"):
        read(write(tmp_path, x=IMAGES, y=LABELS, class_names=names[:3]))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "holds no arrays, without train images"),
        ({"x": IMAGES}, "without train labels"),
        ({"x": IMAGES, "y": LABELS, "x_test": IMAGES}, "without test labels"),
        ({"x_test": IMAGES, "y_test": LABELS}, "without train images"),
        ({"foo": IMAGES, "bar": LABELS}, "holds foo, bar, without .* expected arrays named x"),
        ({"x": IMAGES, "images": IMAGES, "y": LABELS}, "both x and images"),
        ({"x": IMAGES.reshape(40, -1), "y": LABELS}, "rows of 30 numbers.*data=csv"),
        ({"x": IMAGES[..., None, None], "y": LABELS}, "expected .N, H, W."),
        ({"x": COLOUR[:, :3, :3], "y": LABELS}, "one way alone to read it"),
        ({"x": np.zeros((40, 6, 6, 4), np.uint8), "y": LABELS}, "C 1 or 3"),
        ({"x": IMAGES[:0], "y": LABELS[:0]}, "are no images"),
        ({"x": IMAGES, "y": LABELS[:-1]}, "40 images and 39 labels"),
        ({"x": IMAGES, "y": np.eye(4)[LABELS]}, r"one-hot.*argmax"),
        ({"x": IMAGES, "y": LABELS + 0.5}, "labels are float64"),
        ({"x": IMAGES, "y": LABELS * np.nan}, "labels are float64"),
        ({"x": IMAGES, "y": LABELS * 0}, "all training images have label 0"),
        ({"x": IMAGES, "y": np.arange(40)}, "too few images of each class"),
        ({"x": IMAGES, "y": LABELS, "x_test": IMAGES, "y_test": LABELS + 1}, "test label 4 has no"),
        ({"x": IMAGES / 127.5 - 1, "y": LABELS}, "values from -1 to 1; expected 0 to 1"),
        ({"x": IMAGES * np.nan, "y": LABELS}, "values from nan"),
        ({"x": IMAGES.astype(complex), "y": LABELS}, "complex128, expected numbers"),
        ({"x": IMAGES, "y": LABELS, "x_test": COLOUR, "y_test": LABELS}, "3 channels of 6"),
        ({"x": IMAGES, "y": LABELS, "x_test": IMAGES / 255, "y_test": LABELS}, "expected one kind"),
    ],
)
def test_what_is_no_data_set_is_refused_in_one_sentence(
    tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    path = write(tmp_path, **arrays)
    with pytest.raises(DataError, match=message) as caught:
        read(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


class Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.mkdir, (self.path,)


@pytest.mark.parametrize("name", ["x", "y", "class_names"])
def test_no_pickle_is_read(tmp_path: Path, name: str) -> None:
    canary = tmp_path / "canary"
    evil = np.empty(40, dtype=object)
    evil[0] = Canary(canary)
    path = tmp_path / "mine.npz"
    np.savez(path, **{"x": IMAGES, "y": LABELS, name: evil})
    with pytest.raises(DataError, match=rf"{name}: holds Python objects"):
        read(path)
    assert not canary.exists()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", pickle.dumps(Canary(canary)))
        archive.writestr("y.npy", pickle.dumps(Canary(canary)))
    with pytest.raises(DataError, match="damaged"):
        read(path)
    assert not canary.exists()


def rewritten(path: Path, change) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, change(data) if name == "x.npy" else data)


def test_damage_and_claims_are_noticed_before_memory_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, x=IMAGES, y=LABELS)
    sound = path.read_bytes()
    rewritten(path, lambda data: data.replace(b"(40, 6, 5)", b"(4096, 4096, 4096)"))
    with pytest.raises(DataError, match="damaged"):
        read(path)
    rewritten(path, lambda data: data[:-1])
    with pytest.raises(DataError, match="damaged"):
        read(path)
    for content in (sound[:-60], sound[:300], b"", b"<html>404</html>", pickle.dumps(3)):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"not an \.npz file"):
            read(path)
    for location in range(0, len(sound), 97):
        path.write_bytes(sound[:location] + bytes([sound[location] ^ 32]) + sound[location + 1 :])
        try:
            said = str(read(path).source.removeprefix("NPZ "))
        except DataError as error:
            said = str(error)
        assert said.startswith(str(path))
    path.write_bytes(sound)
    monkeypatch.setattr("cnnbench.data.readers.npz._MAX_BYTES", 1000)
    with pytest.raises(DataError, match="take more than"):
        read(path)
    with pytest.raises(DataError, match="there is no such file"):
        read(tmp_path / "none.npz")
    with pytest.raises(DataError, match=r"data\.root=FILE\.npz"):
        read_dataset("npz", root=None, args={}, image_size=6)


def test_the_fingerprint_is_of_the_file(tmp_path: Path) -> None:
    first = fingerprint("npz", write(tmp_path, x=IMAGES, y=LABELS), {})
    assert first == fingerprint("npz", write(tmp_path, x=IMAGES, y=LABELS), {})
    assert first != fingerprint("npz", write(tmp_path, x=IMAGES, y=LABELS[::-1]), {})


def test_a_run_is_trained_and_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    means = DRAW.integers(0, 200, (4, 12, 12))
    images = (means[LABELS] + DRAW.integers(0, 50, (40, 12, 12))).astype(np.float32) / 255
    path = write(tmp_path, x=images, y=LABELS)
    words = [f"data.root={path}", "data=npz", "model=softmax", "num_epochs=2", "device=cpu"]
    assert cli(["train", *words, f"output_root={tmp_path / 'out'}"]) == 0
    capsys.readouterr()
    run = next((tmp_path / "out").rglob("run.json")).parent
    assert cli(["evaluate", str(run), "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["num_images"] == 8
    assert cli(["data", "where", "npz", f"data.root={path}"]) == 0
    assert str(path) in capsys.readouterr().out
