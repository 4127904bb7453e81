"""Augmentation that ``test_transforms`` does not hold: flips by turns, light, RandAugment."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import RandAugment

from cnnbench.data.augment import Augment, shade


def noise(count: int = 200, channels: int = 1, size: int = 9) -> Tensor:
    pixels = np.random.default_rng(0).integers(0, 256, (count, channels, size, size), np.uint8)
    return torch.from_numpy(pixels)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mirrored(images: Tensor, changed: Tensor) -> Tensor:
    """Whether each image was mirrored; each was left as it is or mirrored."""
    kept, turned = ((changed == part).flatten(1).all(1) for part in (images, images.flip(3)))
    assert (kept ^ turned).all()
    return turned


def test_alternating_flips_show_each_image_from_both_sides_by_turns() -> None:
    images, augment = noise(), Augment(flip="alternating")

    def sides(epoch: int, seed: int = 3, order: slice = slice(None)) -> Tensor:
        shown = images[order]
        return mirrored(shown, augment.images(shown, generator(epoch), epoch=epoch, seed=seed))

    first = sides(1)
    assert 0.35 < first.float().mean() < 0.65
    assert torch.equal(sides(2), ~first)
    assert torch.equal(sides(3), first)
    # Wherever an image lies in a batch.
    assert torch.equal(sides(1, order=slice(50, 90)), first[50:90])
    assert not torch.equal(sides(1, seed=4), first)


def test_alternating_flips_come_before_the_crop() -> None:
    images = noise()
    cropped = Augment(flip="alternating", crop_padding=2)
    by_hand = Augment(crop_padding=2).images(
        Augment(flip="alternating").images(images, generator(), epoch=2, seed=1), generator()
    )
    assert torch.equal(cropped.images(images, generator(), epoch=2, seed=1), by_hand)


def test_light_stays_within_what_is_asked_for() -> None:
    flat = torch.full((500, 1, 4, 4), 100, dtype=torch.uint8)
    brighter = shade(flat, 0.2, 0.0, generator())[:, 0, 0, 0].float()
    assert brighter.min() >= 100 - 51
    assert brighter.max() <= 100 + 51
    assert brighter.std() > 20
    # Contrast alone leaves a flat image, and the mean of any.
    assert torch.equal(shade(flat, 0.0, 0.5, generator()), flat)
    steps = torch.tensor([90, 110], dtype=torch.uint8).repeat(500, 1, 4, 2)
    spread = shade(steps, 0.0, 0.5, generator()).float()
    torch.testing.assert_close(spread.mean((1, 2, 3)), torch.full((500,), 100.0))
    distances = spread[:, 0, 0, 1] - 100
    assert distances.min() >= 5
    assert distances.max() <= 15


@pytest.mark.parametrize("channels", [1, 3])
def test_randaugment_is_torchvisions_image_by_image(channels: int) -> None:
    images = noise(12, channels, 16)
    before = torch.random.get_rng_state()
    changed = Augment(randaugment_ops=2, randaugment_magnitude=12).images(images, generator())
    assert torch.equal(torch.random.get_rng_state(), before)
    seeds = torch.randint(2**62, (len(images),), generator=generator())
    expected = []
    for seed, image in zip(seeds.tolist(), images, strict=True):
        torch.manual_seed(seed)
        expected.append(RandAugment(2, 12)(image))
    torch.random.set_rng_state(before)
    assert torch.equal(changed, torch.stack(expected))
    assert (changed != images).flatten(1).any(1).sum() > 6
