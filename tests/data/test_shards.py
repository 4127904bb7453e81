"""The parts of batches: every image once, whatever the sizes, and draws that belong to images."""

from __future__ import annotations

import pytest
import torch

from cnnbench.data.augment import Augment
from cnnbench.data.loader import BatchOrder
from cnnbench.data.shards import Shard


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("total", [7, 8, 20])
def test_the_parts_make_up_the_batch(total: int, count: int) -> None:
    parts = [list(range(total))[Shard(index, count).rows(total)] for index in range(count)]
    assert [image for part in parts for image in part] == list(range(total))
    sizes = {len(part) for part in parts}
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("num_images", [64, 65, 70, 79])
@pytest.mark.parametrize("options", [{}, {"drop_last": True}, {"shuffle": True, "seed": 3}])
def test_processes_share_the_batches_of_one(num_images: int, options: dict[str, int]) -> None:
    whole = BatchOrder(num_images, 16, **options)
    parts = [BatchOrder(num_images, 16, shard=Shard(i, 3), **options) for i in range(3)]
    for batch, (one, *shared) in enumerate(zip(whole, *parts, strict=True)):
        assert torch.equal(one, torch.cat(shared))
        assert len(one) == whole.size_of(batch)


def test_few_images_left_over_join_the_batch_before_where_that_is_asked_for() -> None:
    assert [len(batch) for batch in BatchOrder(34, 16)] == [16, 16, 2]
    assert [len(batch) for batch in BatchOrder(34, 16, smallest=3)] == [16, 18]
    assert [len(batch) for batch in BatchOrder(2, 16, smallest=3)] == [2]


@pytest.mark.parametrize(
    "augment",
    [
        Augment(crop_padding=2, flip=True),
        Augment(rotate_degrees=20, brightness=0.2, contrast=0.3),
        Augment(erase_probability=0.7),
        Augment(randaugment_ops=2),
        Augment(flip="alternating"),
    ],
)
def test_an_image_has_the_same_draws_in_whatever_part_it_is(augment: Augment) -> None:
    images = torch.randint(256, (11, 3, 9, 9), generator=torch.Generator().manual_seed(1))
    images = images.to(torch.uint8)
    seeded = torch.Generator().manual_seed(5)
    parts = []
    for index in range(3):
        shard = Shard(index, 3)
        shard.total = len(images)
        parts.append(augment.images(images[shard.rows(11)], shard.generator(seeded)))
    whole = augment.images(images, seeded)
    assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(whole, images)
