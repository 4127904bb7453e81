"""CIFAR-10's pickles are read as data; hostile ones do nothing."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import pickle
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnbench.data import read_dataset
from cnnbench.data.arrays import ImageArrays
from cnnbench.data.readers.cifar import CIFAR10_BATCHES, CIFAR100_BATCHES, read_batch
from cnnbench.data.readers.published import CIFAR10, CIFAR100, CIFAR100_FILES
from cnnbench.data.readers.sources import Facts, read_published
from cnnbench.errors import DataError

from .files import (
    CIFAR_FACTS,
    CIFAR_PUBLISHED,
    cifar_arrays,
    python2_batch,
    python3_batch,
    write_cifar,
)

BATCHES, FOLDER = CIFAR10_BATCHES.names, CIFAR10_BATCHES.folder
BATCH = cifar_arrays()["test_batch"]


def read_small(root: Path, facts: Facts = CIFAR_FACTS):
    return read_published("small", facts, CIFAR_PUBLISHED, root=root, download=False, report=print)


@pytest.mark.parametrize("write", [python2_batch, python3_batch])
@pytest.mark.parametrize("packed", [True, False])
def test_both_layouts_of_both_pythons(tmp_path: Path, write, packed: bool) -> None:
    batches = cifar_arrays()
    write_cifar(tmp_path, {name: write(batch) for name, batch in batches.items()}, packed=packed)
    arrays = read_small(tmp_path)
    expected = np.concatenate([batches[name].images for name in BATCHES[:-1]])
    assert np.array_equal(arrays.train.images, expected)
    assert np.array_equal(arrays.test.images, batches["test_batch"].images)
    assert np.array_equal(arrays.test.targets, batches["test_batch"].targets)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("name", BATCHES)
def test_a_changed_pixel_is_noticed_by_the_sum_of_its_batch(
    tmp_path: Path, packed: bool, name: str
) -> None:
    files = {name: python2_batch(batch) for name, batch in cifar_arrays().items()}
    sums = {name: hashlib.md5(data).hexdigest() for name, data in files.items()}
    known = replace(CIFAR_FACTS, file_md5=sums)
    write_cifar(tmp_path, files, packed=packed)
    assert read_small(tmp_path, known).warnings == ()
    batches = cifar_arrays()
    batches[name].images[3, 1, 5, 7] ^= 1
    write_cifar(tmp_path, {**files, name: python2_batch(batches[name])}, packed=packed)
    with pytest.raises(DataError, match=f"{name}.*damaged or another file.*{sums[name]}"):
        read_small(tmp_path, known)


@pytest.mark.parametrize("packed", [True, False])
def test_cifar100_takes_its_fine_labels(tmp_path: Path, packed: bool) -> None:
    draw = np.random.default_rng(2)
    parts = {
        name: ImageArrays(
            draw.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8),
            np.arange(count, dtype=np.int64)[::-1] % 100,
        )
        for name, count in (("train", 200), ("test", 100))
    }
    facts = replace(CIFAR100, train_counts=(2,) * 100, test_counts=(1,) * 100, file_md5={})

    def stored(facts: Facts, **files: bytes):
        sound = {name: python2_batch(part, key=b"fine_labels") for name, part in parts.items()}
        write_cifar(tmp_path, {**sound, **files}, packed=packed, batches=CIFAR100_BATCHES)
        return read_published(
            "cifar100", facts, CIFAR100_FILES, root=tmp_path, download=False, report=print
        )

    arrays = stored(facts)
    for ours, theirs in ((arrays.train, parts["train"]), (arrays.test, parts["test"])):
        assert np.array_equal(ours.images, theirs.images)
        assert np.array_equal(ours.targets, theirs.targets)
    pixels = arrays.train.images / 255
    assert arrays.mean == pytest.approx(pixels.mean(axis=(0, 2, 3)))
    assert arrays.std == pytest.approx(pixels.std(axis=(0, 2, 3)))
    with pytest.raises(DataError, match="damaged or another file"):
        stored(replace(facts, file_md5=CIFAR100.file_md5))
    with pytest.raises(DataError, match="no list of fine_labels"):
        stored(facts, train=python2_batch(parts["train"]))
    canary = tmp_path / "canary"
    evil = pickle.dumps({"fine_labels": Canary(canary)}, protocol=2)
    with pytest.raises(DataError, match=r"not a CIFAR-100 batch.*mkdir"):
        stored(facts, train=evil)
    assert not canary.exists()


def test_the_stream_is_what_pickle_itself_reads() -> None:
    theirs = pickle.loads(python2_batch(BATCH), encoding="bytes")
    ours = read_batch(python2_batch(BATCH), "batch", len(BATCH))
    assert np.array_equal(theirs[b"data"].reshape(-1, 3, 32, 32), ours.images)
    assert theirs[b"labels"] == ours.targets.tolist()


def test_arrays_in_column_order_are_turned() -> None:
    ours = read_batch(python2_batch(BATCH, fortran=True), "batch", len(BATCH))
    assert np.array_equal(ours.images, BATCH.images)


def test_full_size_and_none_but_the_published_pictures(tmp_path: Path) -> None:
    batches = cifar_arrays(5000, 1000)
    write_cifar(tmp_path, {name: python2_batch(batch) for name, batch in batches.items()})
    with pytest.raises(DataError, match="data_batch_1: damaged or another file"):
        read_dataset("cifar10", root=tmp_path, args={}, image_size=32, download=False)
    arrays = read_small(tmp_path, replace(CIFAR10, file_md5={}))
    assert arrays.train.images.shape == (50_000, 3, 32, 32)
    assert np.array_equal(arrays.test.images, batches["test_batch"].images)


class Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_hostile_pickle_is_refused_and_does_nothing(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    evil = pickle.dumps({"data": Canary(canary), "labels": []}, protocol=2)
    files = {name: python2_batch(batch) for name, batch in cifar_arrays().items()}
    write_cifar(tmp_path, {**files, "data_batch_3": evil})
    with pytest.raises(DataError, match="mkdir") as caught:
        read_small(tmp_path)
    assert "data_batch_3" in str(caught.value)
    assert not canary.exists()
    pickle.loads(evil)
    assert canary.exists(), "the canary could not have fired"


@pytest.mark.parametrize(
    "stream",
    [
        b"\x80\x02cbuiltins\neval\n(U\x011tR.",
        b"\x80\x02c__builtin__\ngetattr\n.",
        b"\x80\x02cnumpy\nload\n.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
        b"(S'ls'\nios\nsystem\n.",
        b"\x80\x02}r\xff\xff\xff\x7f.",
        b"\x80\x05\x96\xff\xff\xff\xff\xff\x00\x00\x00.",
        b"\x80\x02)" + b"\x85" * 100_000 + b".",
        b"\x80\x02]q\x00h\x00h\x00\x86.",
        b"\x80\x02c_codecs\nencode\nU\x01aU\x05idna\x86R.",
        b"\x80\x02Ppersistent\n.",
        b"",
        b"<html>",
    ],
)
def test_other_streams_are_refused(stream: bytes) -> None:
    with pytest.raises(DataError, match="batch file"):
        read_batch(stream, "batch file", 20)


@pytest.mark.parametrize(
    "fields",
    [
        {"data": BATCH.images.reshape(20, -1).astype(np.int32)},
        {"data": BATCH.images.reshape(40, -1)},
        {"data": BATCH.images.reshape(20, -1)[:10]},
        {"data": "no array"},
        {"labels": [0] * 19},
        {"labels": [10] * 20},
        {"labels": [True] * 20},
        {"labels": None},
    ],
)
def test_wrong_contents_are_named(fields) -> None:
    good = {"data": BATCH.images.reshape(20, -1), "labels": BATCH.targets.tolist()}
    read_batch(pickle.dumps(good, protocol=2), "batch file", 20)
    with pytest.raises(DataError, match="batch file"):
        read_batch(pickle.dumps({**good, **fields}, protocol=2), "batch file", 20)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_only_our_errors_escape(data: st.DataObject) -> None:
    content = bytearray(python2_batch(BATCH))
    # Nearly all bytes are pixels; what lies around them is where the reader could stumble.
    locations = st.one_of(st.integers(0, 400), st.integers(len(content) - 20, len(content) - 1))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(locations)] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    try:
        message = f"batch file {read_batch(bytes(content), 'batch file', 20).images.shape[1:]}"
    except DataError as error:
        message = str(error)
    assert message.startswith("batch file")


def archive_bytes(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def test_damaged_archives_are_named(tmp_path: Path) -> None:
    files = {f"{FOLDER}/{n}": python2_batch(b) for n, b in cifar_arrays().items()}
    sound = archive_bytes(files)
    lacking = {name: data for name, data in files.items() if "batch_2" not in name}
    huge = {**files, f"{FOLDER}/data_batch_1": bytes(10_000_000)}
    path = tmp_path / "cifar-10-python.tar.gz"
    for content in (
        sound[:-5000],
        sound[:5000] + bytes([sound[5000] ^ 1]) + sound[5001:],
        archive_bytes(lacking),
        archive_bytes(huge),
        archive_bytes({"big": bytes(20_000_000), **files}),
        b"<html>404</html>",
        gzip.compress(b"no archive"),
        b"",
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match="cifar-10-python"):
            read_small(tmp_path)
    path.write_bytes(archive_bytes({"../evil": b"x", "/abs": b"x", **files}))
    read_small(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name]
