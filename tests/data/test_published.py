"""Fashion-MNIST's real files, the search order, and every way a file can be wrong."""

from __future__ import annotations

import gzip
import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest

from cnnbench.data import DATASETS, fingerprint, read_dataset
from cnnbench.data.arrays import DatasetArrays, survey
from cnnbench.data.readers.published import (
    CIFAR10,
    DIGITS,
    FASHION_MNIST,
    FASHION_MNIST_FILES,
    MNIST,
)
from cnnbench.data.readers.sources import data_root, read_published
from cnnbench.errors import DataError

from .files import IDX_NAMES, idx_bytes, small_idx, write_idx

DEBIAN = Path("/usr/share/datasets/fashion-mnist")


@pytest.fixture(scope="module")
def fashion() -> DatasetArrays:
    return read_dataset("fashion_mnist", root=Path("/nonexistent"), args={}, image_size=28)


@pytest.fixture
def no_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_DIRS", "/nonexistent")


def read_small(root: Path, facts=None) -> DatasetArrays:
    known, published, _ = small_idx()
    return read_published(
        "small", facts or known, published, root=root, download=False, report=print
    )


def test_fashion_mnist_comes_from_the_system_package(fashion: DatasetArrays) -> None:
    assert fashion.source == f"system package {DEBIAN}"
    assert fashion.warnings == ()
    assert fashion.train.images.shape == (60_000, 1, 28, 28)
    assert fashion.test.images.shape == (10_000, 1, 28, 28)
    assert np.bincount(fashion.train.targets).tolist() == [6000] * 10
    assert fashion.sha256 == fingerprint("fashion_mnist", None, {})


def test_fashion_mnist_agrees_with_torchvision(fashion: DatasetArrays, tmp_path: Path) -> None:
    from torchvision.datasets.mnist import read_image_file, read_label_file

    for name in ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        (tmp_path / name).write_bytes(gzip.decompress((DEBIAN / f"{name}.gz").read_bytes()))
    images = read_image_file(str(tmp_path / "t10k-images-idx3-ubyte")).numpy()
    labels = read_label_file(str(tmp_path / "t10k-labels-idx1-ubyte")).numpy()
    assert np.array_equal(fashion.test.images[:, 0], images)
    assert np.array_equal(fashion.test.targets, labels)


def test_shipped_normalisation_is_that_of_the_training_pictures(fashion: DatasetArrays) -> None:
    digits = read_dataset("digits", root=None, args={}, image_size=8)
    for arrays, facts in ((fashion, FASHION_MNIST), (digits, DIGITS)):
        pixels = arrays.train.images / 255
        assert facts.mean == (pytest.approx(pixels.mean(), abs=5e-5),)
        assert facts.std == (pytest.approx(pixels.std(), abs=5e-5),)
        seen = survey(arrays.train)
        assert seen.mean[0] == pytest.approx(pixels.mean(), abs=1e-12)
        assert seen.std[0] == pytest.approx(pixels.std(), abs=1e-9)


def test_published_constants_of_sets_that_are_not_at_hand() -> None:
    assert (MNIST.mean, MNIST.std) == ((0.1307,), (0.3081,))
    assert CIFAR10.mean == (0.4914, 0.4822, 0.4465)
    assert CIFAR10.std == (0.2470, 0.2435, 0.2616)
    assert sum(MNIST.train_counts) == 60_000
    assert sum(MNIST.test_counts) == 10_000


def test_sums_are_those_of_torchvision() -> None:
    from torchvision import datasets

    from cnnbench.data.readers.published import (
        CIFAR10_FILES,
        CIFAR100,
        CIFAR100_FILES,
        EMNIST,
        EMNIST_FILES,
        KMNIST,
        KMNIST_FILES,
        MNIST_FILES,
    )

    for ours, theirs in (
        (MNIST_FILES, datasets.MNIST),
        (FASHION_MNIST_FILES, datasets.FashionMNIST),
        (KMNIST_FILES, datasets.KMNIST),
    ):
        assert [(file.name, file.md5) for file in ours.files] == list(theirs.resources)
        assert set(theirs.mirrors) <= set(ours.mirrors)
    for facts, files, theirs in (
        (CIFAR10, CIFAR10_FILES, datasets.CIFAR10),
        (CIFAR100, CIFAR100_FILES, datasets.CIFAR100),
    ):
        assert files.files[0].md5 == theirs.tgz_md5
        assert facts.file_md5 == dict(theirs.train_list + theirs.test_list)
        assert files.mirrors[0] + files.files[0].name == theirs.url
        assert {Path(path).parent.name for path in files.layouts[0]} == {theirs.base_folder}
    assert EMNIST_FILES.files[0].md5 == datasets.EMNIST.md5
    assert EMNIST_FILES.mirrors[0] + EMNIST_FILES.files[0].name == datasets.EMNIST.url
    assert datasets.FashionMNIST.classes == list(FASHION_MNIST.class_names)
    assert datasets.KMNIST.classes == list(KMNIST.class_names)
    for split, facts in EMNIST.items():
        classes = datasets.EMNIST.classes_split_dict[split]
        assert list(facts.class_names) == [name for name in classes if name != "N/A"]


@pytest.mark.parametrize("packed", [True, False])
def test_torchvision_layout_in_the_data_root(tmp_path: Path, packed: bool) -> None:
    _, _, raw = small_idx()
    write_idx(tmp_path / "Small/raw", raw, packed=packed)
    arrays = read_small(tmp_path)
    assert arrays.source == f"data root {tmp_path / 'Small/raw'}"
    assert idx_bytes(arrays.test.images[:, 0]) == raw["t10k-images-idx3-ubyte"]
    assert arrays.train.images.flags.writeable


def test_data_root_comes_before_the_system_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, raw = small_idx()
    monkeypatch.setenv("XDG_DATA_DIRS", f"/nonexistent:{tmp_path / 'share'}")
    write_idx(tmp_path / "share/datasets/small", raw)
    assert read_small(tmp_path / "root").source.startswith("system package")
    write_idx(tmp_path / "root/Small/raw", raw)
    assert read_small(tmp_path / "root").source.startswith("data root")


def test_default_root_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    for name in ("CNNBENCH_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert data_root(None) == Path("/home/somebody/.cache/cnnbench/data")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert data_root(None) == Path("/cache/cnnbench/data")
    monkeypatch.setenv("CNNBENCH_DATA", "~/data")
    assert data_root(None) == Path("/home/somebody/data")
    assert data_root(Path("/mine")) == Path("/mine")


def test_missing_files_make_one_message(no_system: None, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_dataset("fashion_mnist", root=tmp_path, args={}, image_size=28, download=False)
    message = str(caught.value)
    for name in IDX_NAMES:
        assert f"{name}.gz" in message
    assert str(tmp_path / "FashionMNIST/raw") in message
    assert "dataset-fashion-mnist" in message
    assert "data=digits" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_no_package_is_named_where_there_is_none(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="data=digits") as caught:
        read_dataset(name, root=tmp_path, args={}, image_size=28, download=False)
    assert "Debian" not in str(caught.value)


def flip_byte(data: bytes, location: int) -> bytes:
    return data[:location] + bytes([data[location] ^ 1]) + data[location + 1 :]


def damage_packed(folder: Path, kind: str) -> str:
    """Damage one file and return its name."""
    images, labels, test_images, _ = (folder / f"{name}.gz" for name in IDX_NAMES)
    if kind == "truncated":
        images.write_bytes(images.read_bytes()[:-200])
    elif kind == "empty":
        labels.write_bytes(b"")
        return labels.name
    elif kind == "web page":
        images.write_bytes(b"<!DOCTYPE html><html>404</html>")
    elif kind == "flipped byte":
        images.write_bytes(flip_byte(images.read_bytes(), 700))
    elif kind == "trailing bytes":
        images.write_bytes(gzip.compress(gzip.decompress(images.read_bytes()) + b"\0"))
    elif kind == "test for train":
        shutil.copy(test_images, images)
    elif kind == "labels for images":
        shutil.copy(labels, images)
    elif kind == "images for labels":
        shutil.copy(images, labels)
        return labels.name
    elif kind == "a folder":
        return "Small"
    return images.name


PACKED_KINDS = [
    "truncated",
    "empty",
    "web page",
    "flipped byte",
    "trailing bytes",
    "test for train",
    "labels for images",
    "images for labels",
]


@pytest.mark.parametrize("kind", PACKED_KINDS)
def test_damage_is_named(no_system: None, tmp_path: Path, kind: str) -> None:
    _, _, raw = small_idx()
    write_idx(tmp_path / "Small/raw", raw)
    name = damage_packed(tmp_path / "Small/raw", kind)
    with pytest.raises(DataError) as caught:
        read_small(tmp_path)
    assert str(tmp_path / "Small/raw" / name) in str(caught.value)
    assert caught.value.exit_code == 66


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("train-images-idx3-ubyte", lambda data: flip_byte(data, 500)),
        ("train-images-idx3-ubyte", lambda data: data[:-1]),
        ("t10k-labels-idx1-ubyte", lambda data: flip_byte(data, 10)),
        ("train-labels-idx1-ubyte", lambda data: data[:8] + b"\xff" + data[9:]),
        ("train-labels-idx1-ubyte", lambda data: data[:8] + data[:7:-1]),
        ("train-images-idx3-ubyte", lambda data: data[:4] + b"\xff" * 12 + data[16:]),
        ("train-images-idx3-ubyte", lambda data: b"\x1f\x8b" + data),
    ],
)
def test_damage_to_unpacked_files_is_named(no_system: None, tmp_path: Path, name, change) -> None:
    _, _, raw = small_idx()
    write_idx(tmp_path / "Small/raw", {**raw, name: change(raw[name])}, packed=False)
    with pytest.raises(DataError, match=str(tmp_path / "Small/raw" / name)):
        read_small(tmp_path)


def test_a_bomb_is_not_unpacked(no_system: None, tmp_path: Path) -> None:
    import tracemalloc

    _, _, raw = small_idx()
    write_idx(tmp_path / "Small/raw", raw)
    name = "train-images-idx3-ubyte"
    bomb = gzip.compress(raw[name] + bytes(100_000_000), compresslevel=1)
    (tmp_path / f"Small/raw/{name}.gz").write_bytes(bomb)
    tracemalloc.start()
    with pytest.raises(DataError, match="more values"):
        read_small(tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5_000_000


def test_a_damaged_copy_is_passed_over_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, raw = small_idx()
    monkeypatch.setenv("XDG_DATA_DIRS", str(tmp_path / "share"))
    write_idx(tmp_path / "share/datasets/small", raw)
    write_idx(tmp_path / "root/Small/raw", raw)
    damaged = damage_packed(tmp_path / "root/Small/raw", "truncated")
    arrays = read_small(tmp_path / "root")
    assert arrays.source == f"system package {tmp_path / 'share/datasets/small'}"
    assert len(arrays.warnings) == 1
    assert damaged in arrays.warnings[0]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("name", IDX_NAMES)
def test_a_changed_byte_is_noticed_by_the_sum_of_the_file(
    no_system: None, tmp_path: Path, packed: bool, name: str
) -> None:
    from dataclasses import replace

    facts, _, raw = small_idx()
    sums = {name: hashlib.md5(data).hexdigest() for name, data in raw.items()}
    known = replace(facts, part_sha256=None, file_md5=sums)
    folder = tmp_path / "Small/raw"
    write_idx(folder, raw, packed=packed)
    assert read_small(tmp_path, known).warnings == ()
    # Two labels of one training and test image each change locations: the counts stay.
    changed = bytearray(raw[name])
    changed[-1], changed[-2] = changed[-2], changed[-1]
    assert changed != raw[name]
    write_idx(folder, {name: bytes(changed)}, packed=packed)
    with pytest.raises(DataError, match=f"{name}.*damaged or another file.*{sums[name]}"):
        read_small(tmp_path, known)


def test_every_published_set_has_sums_of_all_its_files() -> None:
    for name, row in DATASETS.items():
        # EMNIST is published as one archive, of which alone there is a sum.
        if name == "emnist":
            continue
        if row.published is not None and row.facts(None, {}).part_sha256 is None:
            names = {Path(path).name for path in row.published.layouts[-1]}
            names |= {Path(path).name for path in row.published.layouts[0]}
            unpacked = {name for name in names if not name.endswith(".gz")}
            packed = names - unpacked
            assert row.facts(None, {}).file_md5.keys() == (packed if name == "kmnist" else unpacked)


def test_class_counts_are_checked_where_no_sum_is_known(no_system: None, tmp_path: Path) -> None:
    from dataclasses import replace

    facts, _, raw = small_idx()
    name = "t10k-labels-idx1-ubyte"
    write_idx(tmp_path / "Small/raw", {**raw, name: flip_byte(raw[name], 10)})
    with pytest.raises(DataError, match=f"{name}.*per class"):
        read_small(tmp_path, replace(facts, part_sha256=None))
