"""A user's own images: ImageFolder's layout, every mode a file can have, files that are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnbench.data import (
    decode_image,
    describe,
    fingerprint,
    read_dataset,
    sample_grid,
    split_train,
)
from cnnbench.data.arrays import ImageArrays, ImageFiles
from cnnbench.data.readers.folder import list_folder, read_folder
from cnnbench.errors import DataError, UsageError

COLOUR = {"in_channels": 3}


def save(path: Path, size: tuple[int, int] = (9, 7), mode: str = "RGB", seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for label, name in enumerate(("cat", "dog", "Zebra", "ähre 李")):
        for number in range(5):
            save(tmp_path / name / f"{number}.png", seed=10 * label + number)
    save(tmp_path / "cat" / "deeper" / "x.JPG")
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / ".hidden").mkdir()
    return tmp_path


def test_classes_and_order_are_those_of_image_folder(root: Path) -> None:
    from torchvision.datasets import ImageFolder

    (root / ".hidden").rmdir()
    theirs = ImageFolder(str(root))
    listing = list_folder(root)
    train, test = listing.train, listing.test
    assert list(train.class_names) == theirs.classes
    ours = dict(zip(train.paths + test.paths, [*train.targets, *test.targets], strict=True))
    assert ours == {Path(path): label for path, label in theirs.samples}
    in_train = [path for path, _ in theirs.samples if Path(path) in set(train.paths)]
    assert [str(path) for path in train.paths] == in_train


def test_a_fixed_fifth_is_the_test_part(root: Path) -> None:
    arrays = read_dataset("folder", root=root, args=COLOUR, image_size=8)
    assert (len(arrays.train), len(arrays.test)) == (17, 4)
    assert sorted(arrays.test.targets) == [0, 1, 2, 3]
    again = read_dataset("folder", root=root, args=COLOUR, image_size=8)
    assert again.sha256 == arrays.sha256


def test_train_and_test_folders(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    base = tmp_path_factory.mktemp("parts")
    for name in ("a", "b", "c"):
        save(base / "train" / name / "1.png")
    save(base / "test" / "c" / "1.png")
    save(base / "test" / "a" / "1.png")
    save(base / "val" / "b" / "1.png")
    arrays = read_dataset("folder", root=base, args={"in_channels": 1}, image_size=5)
    assert arrays.class_names == ("a", "b", "c")
    assert arrays.test.targets.tolist() == [0, 2]
    assert isinstance(arrays.train, ImageArrays)
    assert arrays.train.images.shape == (4, 1, 5, 5)
    assert [part.tolist() for part in split_train(arrays, 0.1, 0)] == [[0, 1, 2], [3]]
    assert [part.tolist() for part in split_train(arrays, 0, 0)] == [[0, 1, 2], []]
    save(base / "test" / "e" / "1.png")
    with pytest.raises(DataError, match="without training images: e"):
        list_folder(base)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda root: None, "no|none"),
        (lambda root: save(root / "only" / "1.png"), "at least two"),
        (lambda root: (save(root / "a" / "1.png"), (root / "b").mkdir()), "without images"),
        (lambda root: save(root / "test" / "a" / "1.png"), "has no train/"),
    ],
)
def test_other_layouts_are_refused(tmp_path: Path, make, words: str) -> None:
    make(tmp_path)
    with pytest.raises(DataError, match=words) as caught:
        describe("folder", tmp_path, COLOUR)
    assert str(tmp_path) in str(caught.value)


def test_root_and_channels_are_checked(root: Path) -> None:
    with pytest.raises(DataError, match=r"data\.root"):
        read_dataset("folder", root=None, args=COLOUR, image_size=8)
    with pytest.raises(DataError, match="cannot be read"):
        read_dataset("folder", root=root / "none", args=COLOUR, image_size=8)
    with pytest.raises(UsageError, match="in_channels=2"):
        describe("folder", root, {"in_channels": 2})


def test_facts_and_fingerprint_follow_the_files(root: Path) -> None:
    facts = describe("folder", root, COLOUR)
    assert facts.num_classes == 4
    assert sum(facts.train_counts) == 17
    before = fingerprint("folder", root, COLOUR)
    assert fingerprint("folder", root, COLOUR) == before
    assert fingerprint("folder", root, {"in_channels": 1}) != before
    save(root / "dog" / "9.png")
    assert fingerprint("folder", root, COLOUR) != before


def test_a_file_that_is_no_picture_is_named(root: Path) -> None:
    (root / "dog" / "bad.png").write_text("<html>")
    with pytest.raises(DataError, match=r"bad\.png.*not an image") as caught:
        read_dataset("folder", root=root, args=COLOUR, image_size=8)
    assert caught.value.exit_code == 66


def test_links_that_lead_upwards_end(root: Path) -> None:
    (root / "dog" / "loop").symlink_to(root / "dog")
    listing = list_folder(root)
    assert len(listing.train.paths) + len(listing.test.paths) == 21
    assert any("that a link reaches again" in note for note in listing.notes)


def test_what_does_not_fit_is_decoded_by_batch(root: Path) -> None:
    held = read_folder(root, COLOUR, 8)
    lazy = read_folder(root, COLOUR, 8, limit_bytes=100)
    assert isinstance(held.train, ImageArrays)
    assert isinstance(lazy.train, ImageFiles)
    assert (held.sha256, held.mean, held.std) == (lazy.sha256, lazy.mean, lazy.std)
    assert np.array_equal(lazy.train.decode([5, 2]), held.train.images[[5, 2]])


def test_the_centred_square_is_resized_as_pillow_does(tmp_path: Path) -> None:
    save(tmp_path / "a.png", (41, 20))
    image = Image.open(tmp_path / "a.png").crop((10, 0, 30, 20)).resize((8, 8), 2)
    ours = decode_image(tmp_path / "a.png", 3, 8)
    assert np.array_equal(ours, np.asarray(image).transpose(2, 0, 1))
    assert ours.flags.writeable


def test_the_cameras_rotation_is_applied(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    pixels[:4] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to see it upright
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    seen = decode_image(tmp_path / "a.png", 1, 8)[0]
    assert (seen[:, 4:] == 255).all()
    assert (seen[:, :4] == 0).all()


def test_modes(tmp_path: Path) -> None:
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    rgba = np.zeros((8, 8, 4), dtype=np.uint8)
    palette = Image.fromarray(grey).convert("P")
    transparent = palette.copy()
    transparent.info["transparency"] = 0
    cases = {
        "l": (Image.fromarray(grey), grey),
        "sixteen": (Image.fromarray(grey.astype(np.uint16) * 257), grey),
        "rgba": (Image.fromarray(rgba), np.full((8, 8), 255)),
        "la": (Image.fromarray(rgba).convert("LA"), np.full((8, 8), 255)),
        "p": (palette, np.asarray(palette.convert("L"))),
        "one": (Image.fromarray(grey > 100), (grey > 100) * 255),
    }
    for name, (image, expected) in cases.items():
        image.save(tmp_path / f"{name}.png")
        for channels in (1, 3):
            seen = decode_image(tmp_path / f"{name}.png", channels, 8)
            assert seen.shape == (channels, 8, 8), name
            assert np.array_equal(seen[0], expected), name
    Image.fromarray(grey).convert("CMYK").save(tmp_path / "cmyk.jpg")
    assert decode_image(tmp_path / "cmyk.jpg", 3, 4).shape == (3, 4, 4)


def test_bad_pictures(tmp_path: Path) -> None:
    save(tmp_path / "cut.png", (50, 50))
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:2000])
    (tmp_path / "empty.png").touch()
    (tmp_path / "page.jpg").write_text("<html>")
    (tmp_path / "shell.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    for name in ("cut.png", "empty.png", "page.jpg", "shell.png", "bomb.png", "none.png"):
        with pytest.raises(DataError, match=name.replace(".", r"\.")):
            decode_image(tmp_path / name, 3, 8)
    with pytest.raises(DataError, match="1 or 3 channels"):
        decode_image(tmp_path / "cut.png", 4, 8)


def test_sample_grid() -> None:
    images = np.arange(5 * 1 * 3 * 4, dtype=np.uint8).reshape(5, 1, 3, 4)
    grid = sample_grid(images, columns=2, gap=1)
    assert grid.shape == (1, 3 * 4 + 1, 2 * 5 + 1)
    assert np.array_equal(grid[:, 1:4, 1:5], images[0])
    assert np.array_equal(grid[:, 1:4, 6:10], images[1])
    assert np.array_equal(grid[:, 9:12, 1:5], images[4])
    assert (grid[:, 9:12, 6:10] == 255).all()


@pytest.mark.parametrize(
    ("whole", "dtype", "suffix"),
    [(64000, "u2", "png"), (64000, "u2", "tiff"), (4000, "u2", "png"), (1.0, "f4", "tiff")],
)
def test_one_depth_is_of_all_files(tmp_path: Path, whole: float, dtype: str, suffix: str) -> None:
    """A dark image stays dark beside the others, in a part of its own as well."""
    shades = {"train/dark": 0.01, "train/bright": 1.0, "test/dark": 0.02, "test/bright": 0.9}
    for name, shade in shades.items():
        (tmp_path / name).mkdir(parents=True)
        pixels = np.full((8, 8), whole * shade).astype(dtype)
        Image.fromarray(pixels).save(tmp_path / name / f"a.{suffix}")
    white = {64000: 65535, 4000: 4095, 1.0: 1}[whole]
    args = {"in_channels": 1}
    for limit in (1 << 30, 0):  # in memory, and decoded batch by batch
        arrays = read_folder(tmp_path, args, 8, limit_bytes=limit)
        for part, expected in ((arrays.train, (1.0, 0.01)), (arrays.test, (0.9, 0.02))):
            [images] = list(part.chunks())
            found = images.reshape(2, -1)
            assert np.ptp(found, axis=1).tolist() == [0, 0]
            wanted = [255 * int(whole * shade) / white for shade in expected]
            if dtype == "f4":
                wanted = [255 * shade for shade in expected]
            assert found[:, 0] == pytest.approx(wanted, abs=0.51)


@pytest.mark.parametrize(("wrong", "word"), [(np.nan, "nan"), (-5.0, "-5"), (300.0, "300")])
def test_a_file_of_no_usual_range_is_refused_beside_others(
    tmp_path: Path, wrong: float, word: str
) -> None:
    for number in range(10):
        (tmp_path / f"c{number % 2}").mkdir(exist_ok=True)
        pixels = np.linspace(0, 1, 64, dtype="f4").reshape(8, 8) / (number + 1)
        pixels[0, 0] = wrong if number == 7 else pixels[0, 0]
        Image.fromarray(pixels).save(tmp_path / f"c{number % 2}/{number}.tiff")
    with pytest.raises(DataError, match=rf"7\.tiff.*{word}"):
        read_folder(tmp_path, {"in_channels": 1}, 8)


def test_a_dark_file_of_fractions_is_read_beside_bright_ones(tmp_path: Path) -> None:
    """By itself its few levels would be refused; of 0 to 255 they are those it has."""
    for number in range(10):
        (tmp_path / f"c{number % 2}").mkdir(exist_ok=True)
        pixels = np.linspace(0, 250.5 if number else 20.5, 64, dtype="f4").reshape(8, 8)
        Image.fromarray(pixels).save(tmp_path / f"c{number % 2}/{number}.tiff")
    arrays = read_folder(tmp_path, {"in_channels": 1}, 8)
    assert {int(image.max()) for image in arrays.train.images} | {20, 250} == {20, 250}
