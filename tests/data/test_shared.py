"""Decoded images that several processes map: the same bits, whole or decoded anew, and bounded."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cnnbench
from cnnbench.data import shared
from cnnbench.data.arrays import DatasetArrays
from cnnbench.data.shared import read_decoded, sharing
from cnnbench.data.table import read_dataset


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of images, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    draw = np.random.default_rng(0)
    for number in range(24):
        file = tmp_path / "images" / f"class{number % 2}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (8, 8), np.uint8)).save(file)
    return tmp_path / "images"


def read(images: Path) -> DatasetArrays:
    with sharing():
        return read_decoded(
            "folder", root=images, args={"in_channels": 1}, image_size=8, report=print
        )


def stored(images: Path) -> list[Path]:
    return sorted((images.parent / "cache" / "cnnbench" / "decoded").glob("*"))


def assert_same(left: DatasetArrays, right: DatasetArrays) -> None:
    for field in dataclasses.fields(DatasetArrays):
        ours, theirs = getattr(left, field.name), getattr(right, field.name)
        if field.name in ("train", "test"):
            assert np.array_equal(ours.images, theirs.images)
            assert np.array_equal(ours.targets, theirs.targets)
            assert (ours.images.dtype, ours.targets.dtype) == (np.uint8, np.int64)
        else:
            assert ours == theirs, field.name


def test_what_is_shared_is_what_is_decoded(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = read_dataset("folder", root=images, args={"in_channels": 1}, image_size=8)
    assert_same(read(images), alone)
    assert len(stored(images)) == 1
    # Nothing is decoded any more.
    monkeypatch.setattr(shared, "read_dataset", None)
    again = read(images)
    assert_same(again, alone)
    # Who writes to it changes nothing for others.
    again.train.images[:] = 0
    assert_same(read(images), alone)


def test_another_content_is_another_data_set(images: Path) -> None:
    before = read(images)
    Image.new("L", (8, 8), 7).save(images / "class0" / "0.png")
    assert read(images).sha256 != before.sha256
    assert len(stored(images)) == 2


@pytest.mark.parametrize("name", ["train_images.npy", "test_targets.npy", "facts.json"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "missing"])
def test_damage_is_noticed_and_decoded_anew(name: str, damage: str, images: Path) -> None:
    alone = read_dataset("folder", root=images, args={"in_channels": 1}, image_size=8)
    read(images)
    file = stored(images)[0] / name
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        changed = bytearray(content[: len(content) // 2] if damage == "cut" else content)
        changed[len(changed) // 2] ^= 0xFF
        file.write_bytes(changed)
    assert_same(read(images), alone)


def test_no_more_is_kept_than_the_bound(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read(images)
    size = sum(file.stat().st_size for file in stored(images)[0].iterdir())
    monkeypatch.setattr(shared, "_MAX_BYTES", 2 * size)
    for value in range(4):
        Image.new("L", (8, 8), value).save(images / "class0" / "0.png")
        read(images)
        assert len(stored(images)) <= 2
    assert all(not path.name.startswith(".tmp-") for path in stored(images))


def test_a_cache_that_cannot_be_written_is_none(images: Path) -> None:
    (images.parent / "cache").write_text("a file")
    assert len(read(images).train) == 20


def test_jobs_of_a_sweep_share_and_one_run_does_not(images: Path, tmp_path: Path) -> None:
    words = ["model=softmax", "data=folder", f"data.root={images}", "data.in_channels=1"]
    words += ["data.image_size=8", "num_epochs=1", "data.batch_size=8", "device.num_threads=1"]
    run = cnnbench.train([*words, f"output_root={tmp_path / 'a'}", "seed=1"])
    assert stored(images) == []
    root, num_failed = cnnbench.train_sweep([*words, f"output_root={tmp_path / 'b'}", "seed=0,1"])
    assert num_failed == 0
    assert len(stored(images)) == 1
    [same] = root.glob("seed=1*/run.json")
    results = [json.loads(file.read_text()) for file in (run / "run.json", same)]
    assert results[0]["results"]["test/loss"] == results[1]["results"]["test/loss"]
    assert results[0]["data"] == results[1]["data"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_processes_map_the_same_pages(images: Path) -> None:
    read(images)
    code = (
        "from cnnbench.data.shared import read_decoded, sharing\nfrom pathlib import Path\n"
        f"with sharing(): a = read_decoded('folder', root=Path({str(images)!r}), "
        "args={'in_channels': 1}, image_size=8, report=print)\n"
        "print(open('/proc/self/maps').read())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"{stored(images)[0] / 'train_images.npy'}" in done.stdout
