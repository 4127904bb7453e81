"""Every data set by name: its YAML, its facts, its identity, and what the `data` verb tells."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from cnnbench.config.run_config import ARGUMENTS
from cnnbench.config.schema import read_value
from cnnbench.data import DATASETS, check_augment, describe, fingerprint, read_dataset
from cnnbench.data.manage import prepare, samples, verify, where
from cnnbench.errors import DataError, UsageError

from .files import cifar_arrays, python2_batch, small_idx, write_cifar, write_idx

CONF = Path(__file__).parents[2] / "conf"
COMMON = {
    "name",
    "root",
    "batch_size",
    "image_size",
    "val_fraction",
    "split_seed",
    "num_workers",
    "shuffle",
    "drop_last",
    "normalize",
}
SYNTHETIC = {
    "num_train": 60,
    "num_test": 25,
    "num_classes": 6,
    "in_channels": 2,
    "native_size": 9,
    "data_seed": 3,
}

SYNTHETIC_SHA256 = "ca9417f64c38f1ca1f41535a88e06d0c9d7c17d165bafda78772b573c4c6bce0"


def test_each_row_has_a_yaml_and_each_yaml_a_row() -> None:
    assert {path.stem for path in (CONF / "data").glob("*.yaml")} == set(DATASETS)


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_yaml_shows_every_key(name: str) -> None:
    text = (CONF / "data" / f"{name}.yaml").read_text()
    tree = yaml.safe_load(text)
    assert text.startswith("# ")
    assert tree["name"] == name
    owns = {
        "folder": {"in_channels", "split_by"},
        "synthetic": set(SYNTHETIC),
        "emnist": {"split"},
        "custom": {"path"},
        "csv": {"target", "header", "delimiter", "test_root"},
    }
    own = owns.get(name, set())
    assert set(tree) == COMMON | own
    for key in own:
        read_value(ARGUMENTS["data", key], tree[key])
    lines = [line for line in text.splitlines() if not line.startswith(("#", "name:"))]
    assert all("  # " in line for line in lines)


def test_readers_load_no_torch() -> None:
    code = (
        "import sys; from pathlib import Path; from cnnbench.data import *; "
        "import cnnbench.data.manage; "
        "read_dataset('digits', root=None, args={}, image_size=8); "
        "heavy = {'torch', 'torchvision', 'sklearn', 'PIL', 'matplotlib'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_digits_are_scikit_learns() -> None:
    from sklearn.datasets import load_digits

    theirs = load_digits()
    arrays = read_dataset("digits", root=None, args={}, image_size=8)
    assert len(arrays.train) == 1438
    assert len(arrays.test) == 359
    ours = np.concatenate([arrays.train.images, arrays.test.images]).reshape(-1, 64)
    ours = np.rint(ours / 255 * 16).astype(int)
    labels = np.concatenate([arrays.train.targets, arrays.test.targets])
    pairs = {(*pixels, label) for pixels, label in zip(ours.tolist(), labels, strict=True)}
    expected = zip(theirs.data.astype(int).tolist(), theirs.target, strict=True)
    assert pairs == {(*pixels, label) for pixels, label in expected}
    assert arrays.sha256 == fingerprint("digits", None, {})


@pytest.mark.parametrize("damage", [b"", b"\x1f\x8bgarbage", None])
def test_damaged_digits_are_named(tmp_path: Path, damage: bytes | None) -> None:
    from cnnbench.data.readers.digits import digits_path, read_digits

    path = tmp_path / "digits.csv.gz"
    path.write_bytes(digits_path().read_bytes()[:-500] if damage is None else damage)
    with pytest.raises(DataError, match="scikit-learn"):
        read_digits(path)


def test_synthetic_is_seeded_and_of_the_shape_asked_for() -> None:
    arrays = read_dataset("synthetic", root=None, args=SYNTHETIC, image_size=9)
    assert arrays.train.images.shape == (60, 2, 9, 9)
    assert arrays.test.images.shape == (25, 2, 9, 9)
    facts = describe("synthetic", None, SYNTHETIC)
    assert facts.class_names == arrays.class_names
    assert np.bincount(arrays.train.targets).tolist() == list(facts.train_counts)
    assert np.bincount(arrays.test.targets).tolist() == list(facts.test_counts)
    pixels = arrays.train.images / 255
    assert arrays.mean == pytest.approx(pixels.mean(axis=(0, 2, 3)))
    assert arrays.std == pytest.approx(pixels.std(axis=(0, 2, 3)))
    assert arrays.sha256 == SYNTHETIC_SHA256
    other = read_dataset("synthetic", root=None, args={**SYNTHETIC, "data_seed": 4}, image_size=9)
    assert other.sha256 != arrays.sha256


def test_synthetic_can_be_learned() -> None:
    arrays = read_dataset("synthetic", root=None, args=SYNTHETIC, image_size=9)
    flat = arrays.train.images.reshape(60, -1).astype(float)
    centres = np.stack([flat[arrays.train.targets == label].mean(axis=0) for label in range(6)])
    test = arrays.test.images.reshape(25, -1)
    nearest = ((test[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
    assert (nearest == arrays.test.targets).mean() > 0.9


def test_synthetic_needs_a_picture_of_each_class() -> None:
    with pytest.raises(DataError, match=r"data\.num_train=5"):
        read_dataset("synthetic", root=None, args={**SYNTHETIC, "num_train": 5}, image_size=9)


@pytest.mark.parametrize("name", sorted(set(DATASETS) - {"folder", "csv", "npz", "custom"}))
def test_facts_need_no_files(name: str) -> None:
    facts = describe(name, Path("/nonexistent"), SYNTHETIC)
    assert len(facts.class_names) == facts.num_classes
    assert len(facts.train_counts) == len(facts.test_counts) == facts.num_classes
    assert len(fingerprint(name, Path("/nonexistent"), SYNTHETIC)) == 64


def test_fingerprints_differ() -> None:
    names = sorted(set(DATASETS) - {"folder", "csv", "npz", "custom"})
    assert len({fingerprint(name, None, SYNTHETIC) for name in names}) == len(names)
    changed = fingerprint("synthetic", None, {**SYNTHETIC, "data_seed": 4})
    assert changed != fingerprint("synthetic", None, SYNTHETIC)


def test_digits_and_letters_are_never_flipped() -> None:
    refused = set()
    for name in DATASETS:
        check_augment(name, flip=False)
        try:
            check_augment(name, flip=True)
        except UsageError:
            refused.add(name)
    assert refused == {"digits", "mnist", "kmnist", "emnist"}


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(UsageError, match="fashion_mnist"):
        read_dataset("fashionmnist", root=None, args={}, image_size=28)


def test_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_DIRS", str(tmp_path / "share"))
    _, _, raw = small_idx()
    write_idx(tmp_path / "share/datasets/fashion-mnist", raw)
    write_idx(tmp_path / "FashionMNIST/raw", dict(list(raw.items())[:2]))
    states = [(row["location"], row["state"]) for row in where("fashion_mnist", tmp_path)]
    assert states[0][0] == "data root"
    assert states[0][1].startswith("incomplete: lacks t10k-images")
    assert states[1] == ("data root", "absent")
    assert states[2] == ("system package", "all files there")
    assert {location for location, _ in states[3:]} == {"mirror"}
    assert where("digits", None)[0]["state"] == "needs no files"
    assert where("folder", tmp_path)[0]["path"] == str(tmp_path)


def test_verify_reads_every_copy(tmp_path: Path) -> None:
    _, _, raw = small_idx()
    write_idx(tmp_path / "FashionMNIST/raw", raw)
    rows = verify("fashion_mnist", tmp_path, {}, 28)
    assert rows[0]["state"].startswith("damaged: ")
    assert rows[1]["state"].startswith("sound, SHA-256")
    assert verify("digits", None, {}, 8)[0]["state"].startswith("sound")


def test_verify_without_a_sound_copy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none was found"):
        verify("mnist", tmp_path, {}, 28)
    files = {name: python2_batch(batch) for name, batch in cifar_arrays().items()}
    write_cifar(tmp_path, files)
    with pytest.raises(DataError, match="data_batch_1"):
        verify("cifar10", tmp_path, {}, 32)


def test_prepare_and_samples() -> None:
    facts = prepare("digits", None, {}, 8, print)
    assert (facts["num_train"], facts["num_test"]) == (1438, 359)
    arrays = read_dataset("digits", root=None, args={}, image_size=8)
    images, names = samples(arrays, 12)
    assert names == [*"0123456789", "0", "1"]
    assert np.array_equal(images[9], arrays.train.images[arrays.train.targets == 9][0])
    assert np.array_equal(images[11], arrays.train.images[arrays.train.targets == 1][1])
