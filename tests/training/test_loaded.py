"""Splits for a loop of one's own: the batches of a run, and its arrays."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import cnnbench
from cnnbench.config.command import single_config
from cnnbench.config.compose import Composer
from cnnbench.errors import UsageError
from cnnbench.training.data import read_splits

SETTINGS = ("augment=shift_rotate", "seed=3")


def test_each_iteration_is_an_epoch_of_a_run() -> None:
    composer = Composer()
    words = ["data=digits", "data.batch_size=100", "data.image_size=8", *SETTINGS]
    splits = read_splits(single_config(composer, composer.parse(words)), print)
    data = cnnbench.load_data("digits", SETTINGS, batch_size=100, image_size=8)
    assert len(data.train) == splits.steps_per_epoch
    generator = torch.Generator()
    from cnnbench.seeds import derive_seed

    step = 0
    for epoch in (1, 2):
        raw = list(splits.train_batches(epoch, 0))
        for batch, (images, targets) in zip(raw, data.train, strict=True):
            generator.manual_seed(derive_seed(3, "augment", step))
            expected = splits.prepare_train(*batch, generator)
            assert torch.equal(images, expected[0])
            assert torch.equal(targets, expected[1])
            step += 1


def test_evaluated_splits_come_in_order_and_arrays_are_all_of_them() -> None:
    data = cnnbench.load_data("digits", batch_size=50, image_size=8)
    for split in (data.val, data.test):
        batches = list(split)
        assert len(batches) == len(split)
        inputs, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
        np.testing.assert_array_equal(targets, split.targets)
        expected = (split.images / 255 - data.mean[0]) / data.std[0]
        np.testing.assert_allclose(inputs, expected, atol=1e-5)
    assert len(data.train.images) + len(data.val.images) + len(data.test.images) == 1797
    assert data.class_names == tuple("0123456789")


def test_tables_and_mistakes() -> None:
    data = cnnbench.load_data("diabetes", ["loss=mse"], val_fraction=0)
    assert data.train.images.shape == (354, 10)
    assert len(list(data.val)) == len(data.val) == 0
    inputs, targets = next(iter(data.train))
    assert inputs.shape == (16, 10, 1, 1)
    assert targets.dtype == torch.float32
    for name, keys in (("digit", {}), ("digits", {"batchsize": 3}), ("digits", {"batch_size": 0})):
        with pytest.raises(UsageError):
            cnnbench.load_data(name, **keys)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ("seed=0,1", "seed=0,1: a list of choices sweeps"),
        ("data.batch_size=4,5", "data.batch_size=4,5: a list of choices sweeps"),
        ("data=mnist", "data=mnist: has no effect: what is loaded is 'digits'"),
        ("resume=a/run", "resume=.*a/run: has no effect"),
    ],
)
def test_settings_that_would_not_act_are_refused(settings: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        cnnbench.load_data("digits", settings)


@pytest.mark.parametrize("choice", ["crop_flip", "cutmix", "erase", "mixup"])
def test_what_a_refused_mirror_image_is_told_is_what_helps(choice: str) -> None:
    with pytest.raises(UsageError, match=r"; set augment\.flip=false"):
        cnnbench.load_data("digits", f"augment={choice}")
    data = cnnbench.load_data("digits", f"augment={choice} augment.flip=false", image_size=8)
    assert next(iter(data.train))[0].shape == (16, 1, 8, 8)


def test_values_of_numpy_and_lists_are_plain_ones() -> None:
    data = cnnbench.load_data("digits", batch_size=np.int64(500), progressive_sizes=[8])
    assert repr(data.train) == "<1294 images in 3 batches>"


def test_a_notebook_shows_what_was_loaded() -> None:
    data = cnnbench.load_data("digits", batch_size=100, image_size=8)
    assert repr(data.test) == "<359 images in 4 batches>"
    assert repr(data).startswith("LoadedData(train=<1294 images in 13 batches>, val=<144 images")
