"""Batches: every image once, in an order that seed and epoch alone decide."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cnnbench.data import read_dataset
from cnnbench.data.arrays import ImageArrays, ImageFiles
from cnnbench.data.loader import BatchOrder, ImageDataset, make_loader
from cnnbench.data.transforms import InputTransform
from cnnbench.errors import UsageError
from cnnbench.seeds import derive_seed

SEED_GOLDEN = 8024286156118006313


def arrays(count: int = 23, side: int = 6) -> ImageArrays:
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (count, 3, side, side), dtype=np.uint8)
    return ImageArrays(images, np.arange(count, dtype=np.int64) % 5)


@given(st.integers(1, 60), st.integers(1, 20), st.booleans(), st.booleans(), st.integers(1, 4))
def test_every_picture_comes_once(
    count: int, size: int, shuffle: bool, drop: bool, epoch: int
) -> None:
    if drop and count < size:
        with pytest.raises(UsageError, match="drop_last"):
            BatchOrder(count, size, drop_last=drop)
        return
    order = BatchOrder(count, size, shuffle=shuffle, drop_last=drop)
    order.set_epoch(epoch)
    batches = list(order)
    seen = torch.cat(batches).tolist()
    assert len(batches) == len(order)
    assert len(set(seen)) == len(seen)
    assert len(seen) == (count // size * size if drop else count)
    if not shuffle:
        assert seen == list(range(len(seen)))
    if size > 1 and count > 1:
        assert min(map(len, batches)) > 1
    assert max(map(len, batches)) <= size + 1
    assert all(len(batch) == size for batch in batches[:-1])
    order.set_epoch(epoch, first_batch=1)
    rest = list(order)
    assert [batch.tolist() for batch in rest] == [batch.tolist() for batch in batches[1:]]


def test_order_follows_seed_and_epoch_alone() -> None:
    def first(seed: int, epoch: int) -> list[int]:
        order = BatchOrder(100, 100, shuffle=True, seed=seed)
        order.set_epoch(epoch)
        return next(iter(order)).tolist()

    torch.manual_seed(1)
    before = first(0, 3)
    torch.manual_seed(2)
    assert first(0, 3) == before
    assert first(0, 4) != before
    assert first(1, 3) != before


def test_derived_seeds_differ_and_never_change() -> None:
    seeds = {derive_seed(run, use, step) for run in (0, 1) for use in "ab" for step in range(50)}
    assert len(seeds) == 200
    assert derive_seed(1, 23) != derive_seed(12, 3)
    assert derive_seed(0, "order", 1) == SEED_GOLDEN


def read_all(loader) -> tuple[torch.Tensor, torch.Tensor]:
    images, targets = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(targets)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loader_gives_what_the_order_says(num_workers: int) -> None:
    part = arrays()
    order = BatchOrder(23, 4, shuffle=True, seed=7)
    loader = make_loader(ImageDataset(part, 6), order, num_workers=num_workers)
    before = torch.get_rng_state()
    for epoch in (1, 2):
        order.set_epoch(epoch)
        locations = torch.cat(list(order)).numpy()
        images, targets = read_all(loader)
        assert np.array_equal(images.numpy(), part.images[locations])
        assert np.array_equal(targets.numpy(), part.targets[locations])
        assert len(loader) == len(order)
    assert torch.equal(torch.get_rng_state(), before)


def test_rows_choose_a_split() -> None:
    part, rows = arrays(), np.array([20, 3, 11])
    dataset = ImageDataset(part, 6, rows=rows)
    images, targets = dataset[torch.tensor([2, 0])]
    assert np.array_equal(images.numpy(), part.images[[11, 20]])
    assert np.array_equal(targets.numpy(), part.targets[[11, 20]])
    assert len(dataset) == 3
    assert dataset.targets.tolist() == part.targets[rows].tolist()


def test_resized_once_or_by_batch_is_the_same() -> None:
    part, locations = arrays(), torch.arange(23).flip(0)
    once = ImageDataset(part, 17)
    later = ImageDataset(part, 17, limit_bytes=1000)
    assert once[locations][0].shape == (23, 3, 17, 17)
    assert later[locations][0].shape == (23, 3, 6, 6)
    transform = InputTransform(image_size=17, mean=(0.5,) * 3, std=(0.2,) * 3)
    assert torch.equal(transform(once[locations][0]), transform(later[locations][0]))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_files_are_decoded_by_workers(tmp_path: Path, num_workers: int) -> None:
    part = arrays(9)
    for number, image in enumerate(part.images):
        Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / f"{number}.png")
    paths = tuple(tmp_path / f"{number}.png" for number in range(9))
    files = ImageFiles(paths, part.targets, in_channels=3, image_size=6)
    dataset = ImageDataset(files, 6, rows=np.arange(8))
    loader = make_loader(dataset, BatchOrder(8, 3), num_workers=num_workers)
    images, targets = read_all(loader)
    assert np.array_equal(images.numpy(), part.images[:8])
    assert np.array_equal(targets.numpy(), part.targets[:8])


class SignalProbe(ImageDataset):
    def __getitem__(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        os.kill(os.getpid(), signal.SIGINT)
        return super().__getitem__(indices)


def test_workers_leave_interrupts_to_the_parent() -> None:
    loader = make_loader(SignalProbe(arrays(), 6), BatchOrder(23, 8), num_workers=1)
    assert len(read_all(loader)[0]) == 23


def test_workers_can_be_spawned() -> None:
    import pickle

    dataset = ImageDataset(arrays(), 6, rows=np.arange(4))
    order = BatchOrder(4, 2, shuffle=True)
    copies = pickle.loads(pickle.dumps((dataset, order)))
    assert torch.equal(copies[0][torch.arange(4)][0], dataset[torch.arange(4)][0])
    assert [b.tolist() for b in copies[1]] == [b.tolist() for b in order]
    loader = make_loader(dataset, order, num_workers=1)
    pickle.dumps(loader.worker_init_fn)


@pytest.mark.parametrize("name", ["digits", "synthetic"])
def test_what_readers_give_can_be_loaded(name: str) -> None:
    args = {
        "num_train": 30,
        "num_test": 10,
        "num_classes": 3,
        "in_channels": 1,
        "native_size": 7,
        "data_seed": 0,
    }
    data = read_dataset(name, root=None, args=args, image_size=12)
    for part in (data.train, data.test):
        images, targets = ImageDataset(part, 12)[torch.arange(10)]
        assert images.shape == (10, 1, 12, 12)
        assert targets.dtype == torch.int64


def test_the_indices_of_an_epoch_are_on_the_images_device() -> None:
    order = BatchOrder(10, 4, shuffle=True, seed=3)
    there = BatchOrder(10, 4, shuffle=True, seed=3, device="meta")
    assert [len(indices) for indices in there] == [len(indices) for indices in order] == [4, 4, 2]
    assert all(indices.device.type == "meta" for indices in there)


@pytest.mark.parametrize(
    ("images", "batch", "drop_last", "sizes"),
    [
        (10, 4, False, [4, 4, 2]),
        (9, 4, False, [4, 5]),
        (8, 4, False, [4, 4]),
        (10, 4, True, [4, 4]),
        (3, 8, False, [3]),
        (1, 8, False, [1]),
        (1, 1, False, [1]),
    ],
)
def test_the_size_of_the_last_batch_is_known_before_it_is_made(
    images: int, batch: int, drop_last: bool, sizes: list[int]
) -> None:
    order = BatchOrder(images, batch, drop_last=drop_last)
    assert [len(indices) for indices in order] == sizes
    assert order.last_batch_size == sizes[-1]
