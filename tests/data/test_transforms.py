"""Batch transforms against Pillow and against plain per-image references."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from cnnbench.config.run_config import ARGUMENTS
from cnnbench.config.schema import read_value
from cnnbench.data.augment import Augment, crop, cutmix, erase, flip, mixup, rotate
from cnnbench.data.transforms import InputTransform, resize
from cnnbench.errors import UsageError

CONF = Path(__file__).parents[2] / "conf"


def random_images(count: int, channels: int, side: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(
        0, 256, (count, channels, side, side), dtype=torch.uint8, generator=generator
    )


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("source", "size"), [(28, 224), (28, 96), (28, 32), (28, 17), (32, 28), (8, 28), (64, 7)]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_resize_agrees_with_pillow_and_torchvision(source: int, size: int, channels: int) -> None:
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.functional import resize as torchvision_resize

    images = random_images(3, channels, source)
    images[0] = 255
    ours = resize(images, size)
    assert ours.dtype == torch.uint8
    assert (ours[0] == 255).all()
    for image, result in zip(images, ours, strict=True):
        pixels = image.numpy().transpose(1, 2, 0)
        image = Image.fromarray(pixels if channels == 3 else pixels[:, :, 0])
        theirs = torchvision_resize(image, [size, size], InterpolationMode.BILINEAR)
        expected = np.asarray(theirs).reshape(size, size, channels).transpose(2, 0, 1)
        assert np.abs(result.numpy().astype(int) - expected).max() <= 1


def test_resize_does_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    from cnnbench.data import transforms

    images = random_images(9, 1, 28)
    whole = resize(images, 50)
    monkeypatch.setattr(transforms, "_CHUNK_BYTES", 1)
    assert torch.equal(resize(images, 50), whole)
    assert torch.equal(torch.cat([resize(image[None], 50) for image in images]), whole)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(resize(images, 50), whole)
    assert resize(images, 28) is images


@pytest.mark.parametrize("channels_last", [False, True])
def test_input_is_normalised_per_channel(channels_last: bool) -> None:
    images = random_images(4, 3, 10)
    mean, std = (0.1, 0.5, 0.9), (0.2, 0.3, 0.0)
    transform = InputTransform(image_size=10, mean=mean, std=std, channels_last=channels_last)
    ours = transform(images)
    scaled = images.double() / 255 - torch.tensor(mean, dtype=torch.float64).view(1, 3, 1, 1)
    expected = scaled / torch.tensor((0.2, 0.3, 1.0), dtype=torch.float64).view(1, 3, 1, 1)
    torch.testing.assert_close(ours, expected.float())
    assert ours.is_contiguous(memory_format=torch.channels_last) == channels_last


def test_plain_inputs_are_fractions() -> None:
    images = random_images(4, 1, 10)
    plain = InputTransform(image_size=10, mean=(0.0,), std=(1.0,))(images)
    torch.testing.assert_close(plain, images / 255)
    small = InputTransform(image_size=5, mean=(0.0,), std=(1.0,), dtype=torch.bfloat16)(images)
    assert small.shape == (4, 1, 5, 5)
    assert small.dtype == torch.bfloat16


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("padding", [1, 4])
def test_each_picture_is_cropped_at_its_own_place(channels: int, padding: int) -> None:
    images = random_images(200, channels, 8)
    ours = crop(images, padding, seeded()).numpy()
    around = [(0, 0), (padding, padding), (padding, padding)]
    locations = set()
    for image, result in zip(images.numpy(), ours, strict=True):
        padded = np.pad(image, around)
        matches = [
            (top, left)
            for top in range(2 * padding + 1)
            for left in range(2 * padding + 1)
            if np.array_equal(padded[:, top : top + 8, left : left + 8], result)
        ]
        assert len(matches) == 1
        locations.add(matches[0])
    assert len(locations) > min(20, (2 * padding + 1) ** 2 - 1)


def test_about_half_is_flipped() -> None:
    images = random_images(400, 3, 5)
    ours = flip(images, seeded())
    mirrored = [torch.equal(new, old.flip(2)) for new, old in zip(ours, images, strict=True)]
    kept = [torch.equal(new, old) for new, old in zip(ours, images, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert 150 < sum(mirrored) < 250


@pytest.mark.parametrize("size", [8, 9])
def test_each_picture_is_turned_by_its_own_angle(size: int) -> None:
    images = random_images(6, 3, size)
    ours = rotate(images, 40.0, seeded(5))
    fractions = torch.rand(6, generator=seeded(5))
    for image, result, fraction in zip(
        images.double().numpy(), ours.numpy(), fractions, strict=True
    ):
        angle = (2 * fraction.item() - 1) * np.deg2rad(40)
        expected = turned(image, angle)
        assert np.abs(result - expected).max() <= 0.51
    assert torch.equal(rotate(images, 1e-6, seeded()), images)


def turned(image: np.ndarray, angle: float) -> np.ndarray:
    """Sample the image, pixel by pixel, where a turn about its centre takes each from."""
    size = image.shape[1]
    result = np.zeros_like(image)
    centre = (size - 1) / 2
    for row in range(size):
        for column in range(size):
            y, x = row - centre, column - centre
            from_x = np.cos(angle) * x - np.sin(angle) * y + centre
            from_y = np.sin(angle) * x + np.cos(angle) * y + centre
            for corner_y in (int(np.floor(from_y)), int(np.floor(from_y)) + 1):
                for corner_x in (int(np.floor(from_x)), int(np.floor(from_x)) + 1):
                    weight = (1 - abs(from_y - corner_y)) * (1 - abs(from_x - corner_x))
                    if 0 <= corner_y < size and 0 <= corner_x < size:
                        result[:, row, column] += weight * image[:, corner_y, corner_x]
    return result


def box_of(changed: np.ndarray) -> tuple[int, int]:
    """Return the sides of the box that is changed, which must be all of a rectangle."""
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    if len(rows) == 0:
        return 0, 0
    assert changed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    return len(rows), len(columns)


def test_each_picture_loses_its_own_rectangle() -> None:
    images = random_images(300, 3, 20) // 2 + 1
    ours = erase(images, 0.5, 0.3, seeded())
    boxes = []
    for image, result in zip(images.numpy(), ours.numpy(), strict=True):
        erased = (result == 0).all(axis=0)
        assert np.array_equal(result, image * ~erased)
        boxes.append(box_of(erased))
    areas = np.array([tall * wide for tall, wide in boxes]) / 400
    assert 0.4 < (areas > 0).mean() < 0.6
    assert areas.max() <= 0.34
    assert areas.max() > 0.25
    assert len(set(boxes)) > 50
    assert torch.equal(erase(images, 0.0, 0.3, seeded()), images)


def test_mixup_blends_pictures_and_targets_alike() -> None:
    inputs, targets = torch.randn(50, 2, 6, 6), torch.arange(50) % 10
    mixed, soft = mixup(inputs, targets, 10, 0.4, seeded())
    assert soft.shape == (50, 10)
    torch.testing.assert_close(soft.sum(dim=1), torch.ones(50))
    for result, share, own, own_class in zip(mixed, soft, inputs, targets, strict=True):
        # One of all images is the partner, at the share its class has lost.
        weight = share[own_class]
        left = [
            torch.allclose(result, weight * own + (1 - weight) * other, atol=1e-5)
            and torch.isclose(share[other_class], 1 - weight, atol=1e-5)
            for other, other_class in zip(inputs, targets, strict=True)
            if other_class != own_class
        ]
        assert any(left) or torch.isclose(weight, torch.tensor(1.0), atol=1e-5)


def test_beta_shares_have_the_right_spread() -> None:
    inputs = torch.zeros(20_000, 1, 1, 1)
    targets = torch.zeros(20_000, dtype=torch.int64)
    targets[10_000:] = 1
    for alpha in (0.2, 1.0, 3.0):
        partners = torch.randperm(20_000, generator=seeded())
        _, soft = mixup(inputs, targets, 2, alpha, seeded())
        own = soft.gather(1, targets[:, None])[:, 0][targets[partners] != targets].double()
        assert own.mean().item() == pytest.approx(0.5, abs=0.02)
        assert own.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), abs=0.01)


def test_cutmix_pastes_a_box_and_counts_it() -> None:
    inputs = torch.arange(60.0).view(60, 1, 1, 1).expand(60, 3, 12, 12).contiguous()
    targets = torch.arange(60)
    mixed, soft = cutmix(inputs, targets, 60, 1.0, seeded())
    sizes = set()
    for label, (result, share) in enumerate(zip(mixed, soft, strict=True)):
        foreign = (result != label)[0].numpy()
        tall, wide = box_of(foreign)
        sizes.add((tall, wide))
        assert share[label].item() == pytest.approx(1 - tall * wide / 144, abs=1e-6)
        if tall:
            (other,) = set(result[result != label].tolist())
            assert share[int(other)].item() == pytest.approx(tall * wide / 144, abs=1e-6)
    assert len(sizes) > 8


def test_soft_targets_go_into_the_same_loss() -> None:
    logits, targets = torch.randn(8, 10), torch.arange(8)
    plain = Augment()
    inputs, kept = plain.mix(torch.zeros(8, 1, 2, 2), targets, 10, seeded())
    assert kept is targets
    _, soft = Augment(mixup_alpha=1.0).mix(inputs, targets, 10, seeded())
    loss = torch.nn.functional.cross_entropy(logits, soft)
    expected = -(soft * logits.log_softmax(dim=1)).sum(dim=1).mean()
    torch.testing.assert_close(loss, expected)


def test_both_mixes_are_refused() -> None:
    with pytest.raises(UsageError, match="mixup_alpha"):
        Augment(mixup_alpha=0.1, cutmix_alpha=0.1)


CHOICES = sorted(path.stem for path in (CONF / "augment").glob("*.yaml"))


@pytest.mark.parametrize("name", CHOICES)
def test_augment_yaml(name: str) -> None:
    text = (CONF / "augment" / f"{name}.yaml").read_text()
    tree = yaml.safe_load(text)
    assert text.startswith("# ")
    assert tree.pop("name") == name
    assert set(tree) == set(Augment.__dataclass_fields__)
    args = {key: read_value(ARGUMENTS["augment", key], value) for key, value in tree.items()}
    augment = Augment(**args)
    images = random_images(16, 3, 12)
    before = torch.get_rng_state()
    first, again = augment.images(images, seeded()), augment.images(images, seeded())
    other = augment.images(images, seeded(1))
    inputs, targets = augment.mix(first.float(), torch.arange(16), 16, seeded())
    assert torch.equal(first, again)
    assert first.shape == images.shape
    assert first.dtype == torch.uint8
    assert inputs.shape == images.shape
    assert (targets.ndim == 2) == (name in ("mixup", "cutmix"))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, other) == (name == "none")


def test_none_is_the_default() -> None:
    tree = yaml.safe_load((CONF / "augment" / "none.yaml").read_text())
    del tree["name"]
    assert Augment(**tree) == Augment()
    images = random_images(4, 1, 6)
    assert Augment().images(images, seeded()) is images
