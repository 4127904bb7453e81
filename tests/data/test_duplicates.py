"""Copies damaged by Pillow are found among real images, and other images are not called copies."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from cnnbench.data.duplicates import DuplicateReport, find_duplicates
from cnnbench.data.readers.digits import digits_path, read_digits
from cnnbench.data.readers.idx import read_idx

FASHION = Path("/usr/share/datasets/fashion-mnist/t10k-images-idx3-ubyte.gz")
WAYS = Image.Resampling


def to_image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)).squeeze())


def to_pixels(image: Image.Image) -> np.ndarray:
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def move(right: int, down: int) -> Callable[[Image.Image], Image.Image]:
    matrix = (1, 0, -right, 0, 1, -down)
    return lambda image: image.transform(image.size, Image.Transform.AFFINE, matrix)


def encode(image: Image.Image, kind: str = "JPEG", quality: int = 75) -> Image.Image:
    file = io.BytesIO()
    image.save(file, kind, quality=quality)
    return Image.open(file).convert(image.mode)


def resize(way: Image.Resampling, scale: float = 0.75) -> Callable[[Image.Image], Image.Image]:
    def there_and_back(image: Image.Image) -> Image.Image:
        small = image.resize((round(image.width * scale), round(image.height * scale)), way)
        return small.resize(image.size, way)

    return there_and_back


DAMAGE: dict[str, Callable[[Image.Image], Image.Image]] = {
    "right": move(1, 0),
    "up": move(0, -1),
    "diagonal": move(1, 1),
    "jpeg 75": encode,
    "jpeg 85": lambda image: encode(image, quality=85),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.9),
    "bilinear": resize(WAYS.BILINEAR),
    "bicubic": resize(WAYS.BICUBIC),
    "lanczos": resize(WAYS.LANCZOS),
    "box": resize(WAYS.BOX),
    "enlarged": resize(WAYS.BILINEAR, 4 / 3),
    "mirrored": ImageOps.mirror,
    "mirrored jpeg": lambda image: encode(ImageOps.mirror(image)),
    "moved brighter": lambda image: ImageEnhance.Brightness(move(0, 1)(image)).enhance(1.1),
}


def zeros(count: int) -> np.ndarray:
    return np.zeros(count, dtype=np.int64)


def digit_images() -> np.ndarray:
    train, test = read_digits(digits_path())
    return np.concatenate([train.images, test.images])


def fashion_images() -> np.ndarray:
    if not FASHION.exists():
        pytest.skip("Fashion-MNIST is not installed (dataset-fashion-mnist)")
    return read_idx(FASHION, (10000, 28, 28))[:, None]


def photographs(side: int) -> np.ndarray:
    from sklearn.datasets import load_sample_images

    crops = [
        photograph[top : top + side, left : left + side].transpose(2, 0, 1)
        for photograph in load_sample_images().images
        for top in range(0, photograph.shape[0] - side, side)
        for left in range(0, photograph.shape[1] - side, side)
    ]
    # A crop of plain sky is no image to recognise.
    return np.stack([crop for crop in crops if crop.mean(axis=0).std() >= 20])


def recall(images: np.ndarray, names: list[str], per_damage: int) -> dict[str, float]:
    """Look for damaged copies of the first images, all damages at once, among all images."""
    copies = [to_pixels(DAMAGE[name](to_image(i))) for name in names for i in images[:per_damage]]
    report = find_duplicates(
        {"train": images, "test": copies},
        {"train": zeros(len(images)), "test": zeros(len(copies))},
        num_classes=1,
    )
    found = report.duplicated_in("test", "train")
    hits = np.isin(np.arange(len(copies)), found).reshape(len(names), per_damage)
    return dict(zip(names, hits.mean(axis=1).tolist(), strict=True))


@pytest.mark.parametrize(
    ("load", "count"),
    [(digit_images, 500), (fashion_images, 2000), (lambda: photographs(32), 120)],
    ids=["digits", "fashion", "photographs"],
)
def test_damaged_copies_are_found(load: Callable[[], np.ndarray], count: int) -> None:
    images = np.unique(load(), axis=0)
    images = images[np.random.default_rng(0).permutation(len(images))[:count]]
    rates = recall(images, list(DAMAGE), 30)
    assert min(rates.values()) >= 0.9, rates
    assert np.mean(list(rates.values())) >= 0.98, rates


def test_large_photographs_are_compared_small_and_still_found_after_a_shift() -> None:
    rates = recall(photographs(48)[:50], ["right", "diagonal", "jpeg 75", "mirrored"], 25)
    assert min(rates.values()) >= 0.92, rates


@pytest.mark.parametrize(("load", "count"), [(digit_images, 1797), (fashion_images, 5000)])
def test_at_most_one_in_a_thousand_others_is_called_a_copy(
    load: Callable[[], np.ndarray], count: int
) -> None:
    images = load()[:count]
    report = find_duplicates({"train": images}, {"train": zeros(len(images))}, num_classes=1)
    called = {member.index for group in report.near for member in group.members}
    assert len(called) <= count / 1000
    assert report.exact == ()


@pytest.mark.parametrize("scale", [0.75, 1.5])
def test_copies_stored_at_another_size_are_found(scale: float) -> None:
    images = photographs(48)[:40]
    side = round(48 * scale)
    copies = [to_pixels(to_image(i).resize((side, side), WAYS.BICUBIC)) for i in images]
    targets = {"train": zeros(len(images)), "test": zeros(len(copies))}
    report = find_duplicates({"train": images, "test": copies}, targets, num_classes=1)
    assert len(report.duplicated_in("test", "train")) >= 39
    assert all(group.members[0].index == group.members[1].index for group in report.near)


def small_report(*, near: bool = True) -> DuplicateReport:
    images = digit_images()[:40]
    train = np.concatenate([images, images[:1], images[3:4]])
    test = np.concatenate([images[5:6], images[:1], np.roll(images[7:8], 1, axis=2)])
    test = np.concatenate([test, images[:1, :, ::-1, ::-1]])
    targets = np.arange(42) % 3
    targets[40] = targets[0]
    targets[41] = targets[3] + 1
    return find_duplicates(
        {"train": train, "test": test},
        {"train": targets, "test": np.array([2, 0, 1, 0])},
        num_classes=4,
        near=near,
    )


def test_equal_images_form_groups_and_other_labels_are_named() -> None:
    report = small_report()
    locations = [[(m.split, m.index) for m in group.members] for group in report.exact]
    assert locations == [
        [("train", 0), ("train", 40), ("test", 1)],
        [("train", 3), ("train", 41)],
        [("train", 5), ("test", 0)],
    ]
    assert [group.members[0].index for group in report.conflicts] == [3]


def test_test_images_seen_in_training_are_listed() -> None:
    report = small_report()
    assert report.duplicated_in("test", "train", near=False).tolist() == [0, 1]
    assert report.duplicated_in("test", "train").tolist() == [0, 1, 2]
    assert report.duplicated_in("train", "test").tolist() == [0, 5, 7, 40]
    assert small_report(near=False).near == ()


def test_empty_and_tiny_classes_are_counted() -> None:
    report = small_report()
    assert report.counts["test"] == (2, 1, 1, 0)
    assert {(s.split, s.target): s.count for s in report.small_classes} == {
        ("train", 3): 0,
        **{("test", target): count for target, count in enumerate((2, 1, 1, 0))},
    }


def test_the_report_is_ready_for_json() -> None:
    loaded = json.loads(json.dumps(small_report().to_dict()))
    assert loaded["exact"][2]["members"][1] == {"split": "test", "index": 0, "target": 2}
    assert loaded["near"][0]["kind"] == "near"


def test_chunks_singles_and_arrays_give_the_same_report() -> None:
    images = digit_images()[:90]
    images[70:80] = images[:10, :, :, ::-1]

    def chunks() -> Iterator[np.ndarray]:
        yield from (images[:37], images[37:])

    targets = {"train": zeros(90)}
    reports = [
        find_duplicates({"train": form}, targets, num_classes=1)
        for form in (images, chunks(), list(images))
    ]
    assert reports[0] == reports[1] == reports[2]
    assert len(reports[0].near) >= 10


@pytest.mark.parametrize("shape", [(0, 1, 8, 8), (1, 1, 8, 8), (3, 3, 1, 1), (2, 2, 40, 9)])
def test_few_flat_and_odd_images_are_no_trouble(shape: tuple[int, ...]) -> None:
    images = np.full(shape, 7, dtype=np.uint8)
    report = find_duplicates({"train": images}, {"train": zeros(len(images))}, num_classes=1)
    assert report.near == ()
    assert len(report.exact) == (len(images) > 1)


def test_flat_images_of_other_levels_are_not_near() -> None:
    images = np.arange(100, dtype=np.uint8)[:, None, None, None] + np.zeros((1, 1, 8, 8), np.uint8)
    report = find_duplicates({"train": images}, {"train": zeros(100)}, num_classes=1)
    assert (report.exact, report.near) == ((), ())


def test_colour_tells_images_apart() -> None:
    image = photographs(32)[0]
    recoloured = image[[2, 0, 1]]
    pair = np.stack([image, recoloured])
    assert find_duplicates({"train": pair}, {"train": zeros(2)}, num_classes=1).near == ()


def test_a_wrong_number_of_targets_is_refused() -> None:
    with pytest.raises(ValueError, match="train: 3 images and 2 targets"):
        find_duplicates({"train": digit_images()[:3]}, {"train": zeros(2)}, num_classes=1)
