"""The splits of a data set as batches, made without a config."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from cnnbench.data.arrays import DatasetArrays, ImageArrays
from cnnbench.data.augment import Augment
from cnnbench.data.splits import Splits, eval_batch_size
from cnnbench.errors import UsageError


def arrays(num_train: int = 40, num_test: int = 12) -> DatasetArrays:
    """Return images whose first pixel tells them apart, of four classes."""
    parts = []
    for count in (num_train, num_test):
        images = np.random.default_rng(count).integers(0, 256, (count, 1, 8, 8), dtype=np.uint8)
        images[:, 0, 0, 0] = np.arange(count)
        parts.append(ImageArrays(images, np.arange(count, dtype=np.int64) % 4))
    names = ("a", "b", "c", "d")
    return DatasetArrays(*parts, names, (0.5,), (0.25,), sha256="0" * 64, source="a test")


def make(**options: object) -> Splits:
    settings = {"image_size": 8, "batch_size": 16, "val_fraction": 0.2, "shuffle": False}
    return Splits("made", arrays(), **{**settings, **options})


def identities(splits: Splits, split: str) -> list[int]:
    return [int(image[0, 0, 0]) for images, _ in splits.batches(split, 7) for image in images]


def test_training_and_validation_images_are_all_and_apart() -> None:
    splits = make()
    train, val = identities(splits, "train"), identities(splits, "val")
    assert (len(train), len(val)) == (splits.num_train, splits.num_val) == (32, 8)
    assert sorted(train + val) == list(range(40))
    assert identities(splits, "test") == list(range(12))
    assert identities(make(split_seed=1), "val") != val


def test_batches_are_prepared_where_and_as_the_constructor_was_told() -> None:
    splits = make(channels_last=True, image_size=4)
    raw, targets = next(iter(splits.train_batches(1, 0)))
    assert (raw.shape, raw.dtype) == ((16, 1, 4, 4), torch.uint8)
    inputs, _ = splits.prepare(raw, targets)
    assert inputs.shape == (16, 1, 4, 4)
    assert inputs.is_contiguous(memory_format=torch.channels_last)
    plain, _ = make(normalize=False).prepare(*make().first_images(3))
    normal, _ = make().prepare(*make().first_images(3))
    assert torch.allclose((plain - 0.5) / 0.25, normal)
    assert 0 <= plain.min() <= plain.max() <= 1


def test_resizing_each_batch_gives_the_bits_of_resizing_once() -> None:
    once, each = make(image_size=5), make(image_size=5, resize_once=False)
    assert once.first_images(4)[0].shape[-1] == 5
    assert each.first_images(4)[0].shape[-1] == 8
    assert once.prepare(*once.first_images(4))[0].equal(each.prepare(*each.first_images(4))[0])


def test_augmentation_is_for_training_alone_and_drawn_from_the_generator() -> None:
    splits = make(augment=Augment(crop_padding=2))
    raw = splits.first_images(16)

    def changed(seed: int) -> torch.Tensor:
        return splits.prepare_train(*raw, torch.Generator().manual_seed(seed))[0]

    assert changed(1).equal(changed(1))
    assert not changed(1).equal(changed(2))
    assert not changed(1).equal(splits.prepare(*raw)[0])
    assert make().prepare_train(*raw, torch.Generator())[0].equal(splits.prepare(*raw)[0])


@pytest.mark.parametrize("limit", [4, 8, 1000])
def test_a_limit_holds_for_each_split(limit: int) -> None:
    splits = make(limit=limit)
    for split, count in (("train", 32), ("val", 8), ("test", 12)):
        assert len(splits.parts[split]) == min(limit, count)


def test_what_the_user_should_know() -> None:
    assert make().warnings == []
    [message] = make(batch_size=33).warnings
    assert message.startswith("data.batch_size=33 is more than the 32 training images")
    with pytest.raises(UsageError, match=r"data\.drop_last=true"):
        make(batch_size=33, drop_last=True)


def test_splits_that_share_memory_share_it_on_a_device_too() -> None:
    data = make()
    moved: dict[int, torch.Tensor] = {}
    device = torch.device("meta")
    train, val = (data.parts[name].to(device, moved) for name in ("train", "val"))
    assert train._images is val._images
    assert len(moved) == 4  # images, targets, and the rows of each
    images, targets = train[torch.arange(5)]
    assert (images.shape, images.device, targets.device) == ((5, 1, 8, 8), device, device)
    assert data.parts["train"][torch.arange(2)][0].device.type == "cpu"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_with_room_the_images_are_there_from_the_start() -> None:
    device = torch.device("cuda")
    there, here = make(device=device), make()
    raw = next(iter(there.train_batches(1, 0)))
    assert raw[0].device.type == "cuda"
    assert there.prepare(*raw)[0].cpu().equal(here.prepare(*here.first_images(16))[0])
    assert identities(there, "val") == identities(here, "val")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_worker_processes_make_batches_on_a_machine_with_a_gpu_too() -> None:
    device = torch.device("cuda")
    workers, resident = make(device=device, num_workers=1), make(device=device)
    loader = workers.train_batches(1, 0)
    assert isinstance(loader, DataLoader)
    assert loader.num_workers == 1
    for made, there in zip(loader, resident.train_batches(1, 0), strict=True):
        assert made[0].device.type == "cpu"
        assert workers.prepare(*made)[0].equal(resident.prepare(*there)[0])


@pytest.mark.parametrize("augment", [Augment(mixup_alpha=0.2), Augment(cutmix_alpha=1), Augment()])
def test_mixed_images_are_said_to_count(augment: Augment) -> None:
    notes = make(augment=augment).notes
    assert ("train/accuracy counts mixed images, each for its heavier class" in notes) == (
        augment.mixes
    )


def test_images_with_large_activations_are_evaluated_fewer_at_once() -> None:
    assert eval_batch_size(0) == 1024
    assert eval_batch_size(1 << 20) == 256
    assert eval_batch_size(1 << 40) == 1
