"""KMNIST and EMNIST in torchvision's layout: files of the same form, with fewer images."""

from __future__ import annotations

import gzip
import hashlib
import io
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cnnbench.data import read_dataset
from cnnbench.data.readers.published import EMNIST, EMNIST_FILES, KMNIST, KMNIST_FILES
from cnnbench.data.readers.sources import Facts, read_published
from cnnbench.errors import DataError

from .files import IDX_NAMES, idx_bytes

DRAW = np.random.default_rng(0)
FIRST = {"letters": 1, "balanced": 0}


def small(split: str) -> Facts:
    facts = EMNIST[split]
    count = facts.num_classes
    return replace(facts, train_counts=(2,) * count, test_counts=(1,) * count)


def emnist_files() -> dict[str, bytes]:
    files = {}
    for split, facts in EMNIST.items():
        for part, each in (("train", 2), ("test", 1)):
            count = each * facts.num_classes
            name = f"emnist-{split}-{part}"
            images = DRAW.integers(0, 256, (count, 28, 28), dtype=np.uint8)
            files[f"{name}-images-idx3-ubyte"] = idx_bytes(images)
            labels = np.arange(count) % facts.num_classes + FIRST[split]
            files[f"{name}-labels-idx1-ubyte"] = idx_bytes(labels)
    return files


EMNIST_SMALL = emnist_files()


def archive_of(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in files.items():
            archive.writestr(f"gzip/{name}.gz", gzip.compress(data, mtime=0))
    return stream.getvalue()


def write(root: Path, layout: str, files: dict[str, bytes]) -> Path:
    folder = root / "EMNIST" / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    if layout == "archive":
        (folder / "gzip.zip").write_bytes(archive_of(files))
        return folder
    for name, data in files.items():
        if layout == "packed":
            (folder / f"{name}.gz").write_bytes(gzip.compress(data, mtime=0))
        else:
            (folder / name).write_bytes(data)
    return folder


def read(root: Path, split: str):
    return read_published(
        "emnist", small(split), EMNIST_FILES, root=root, download=False, report=print
    )


@pytest.mark.parametrize("layout", ["unpacked", "packed", "archive"])
@pytest.mark.parametrize("split", EMNIST)
def test_emnist_is_torchvisions_set_upright(tmp_path: Path, split: str, layout: str) -> None:
    from torchvision.datasets import EMNIST as theirs

    write(tmp_path, layout, EMNIST_SMALL)
    arrays = read(tmp_path, split)
    write(tmp_path / "theirs", "unpacked", EMNIST_SMALL)
    for ours, is_train in ((arrays.train, True), (arrays.test, False)):
        reference = theirs(tmp_path / "theirs", split, train=is_train)
        assert np.array_equal(ours.images[:, 0], reference.data.numpy().transpose(0, 2, 1))
        names = [reference.classes[label] for label in reference.targets.tolist()]
        assert [arrays.class_names[target] for target in ours.targets] == names
    assert arrays.mean == pytest.approx([(arrays.train.images / 255).mean()])


def test_a_damaged_archive_of_emnist_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path, "archive", EMNIST_SMALL)
    path = folder / "gzip.zip"
    sound = path.read_bytes()
    name = "emnist-letters-train-images-idx3-ubyte"
    lacking = {key: data for key, data in EMNIST_SMALL.items() if key != name}
    bomb = {**EMNIST_SMALL, name: EMNIST_SMALL[name] + bytes(50_000_000)}
    damaged = bytearray(sound)
    damaged[sound.index(name.encode()) + 200] ^= 1
    for content, message in (
        (archive_of(lacking), f"lacks gzip/{name}.gz"),
        (archive_of(bomb), "more values than its header says"),
        (bytes(damaged), name),
        (sound[: len(sound) // 2], "not a zip file"),
        (b"<html>404</html>", "not a zip file"),
        (b"", "not a zip file"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=message) as caught:
            read(tmp_path, "letters")
        assert str(path) in str(caught.value)


def test_emnist_of_other_counts_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "unpacked", EMNIST_SMALL)
    with pytest.raises(DataError, match="holds 52 values, expected 124800"):
        read_dataset("emnist", root=tmp_path, args={}, image_size=28, download=False)
    with pytest.raises(DataError, match="holds 94 values, expected 112800"):
        read_dataset(
            "emnist", root=tmp_path, args={"split": "balanced"}, image_size=28, download=False
        )


def kmnist_files(seed: int = 0) -> dict[str, bytes]:
    draw = np.random.default_rng(seed)
    raw = {}
    for images, labels, count in ((*IDX_NAMES[:2], 30), (*IDX_NAMES[2:], 20)):
        raw[images] = idx_bytes(draw.integers(0, 256, (count, 28, 28), dtype=np.uint8))
        raw[labels] = idx_bytes(np.arange(count) % 10)
    return {f"{name}.gz": gzip.compress(data, mtime=0) for name, data in raw.items()}


@pytest.mark.parametrize("packed", [True, False])
def test_kmnist_is_torchvisions(tmp_path: Path, packed: bool) -> None:
    from torchvision.datasets import KMNIST as theirs

    files = kmnist_files()
    folder = tmp_path / "KMNIST" / "raw"
    folder.mkdir(parents=True)
    facts = replace(
        KMNIST,
        train_counts=(3,) * 10,
        test_counts=(2,) * 10,
        file_md5={name: hashlib.md5(data).hexdigest() for name, data in files.items()},
    )

    def write(files: dict[str, bytes]) -> None:
        for name, data in files.items():
            if packed:
                (folder / name).write_bytes(data)
            else:
                (folder / name.removesuffix(".gz")).write_bytes(gzip.decompress(data))

    def read():
        return read_published(
            "kmnist", facts, KMNIST_FILES, root=tmp_path, download=False, report=print
        )

    write(files)
    arrays = read()
    for name, data in files.items():
        (folder / name.removesuffix(".gz")).write_bytes(gzip.decompress(data))
    reference = theirs(tmp_path, train=False)
    assert np.array_equal(arrays.test.images[:, 0], reference.data.numpy())
    assert np.array_equal(arrays.test.targets, reference.targets.numpy())
    if packed:  # another set of the same form, as Fashion-MNIST's files are
        for name in IDX_NAMES:
            (folder / name).unlink()
        write(kmnist_files(seed=1))
        with pytest.raises(DataError, match="damaged or another file"):
            read()
