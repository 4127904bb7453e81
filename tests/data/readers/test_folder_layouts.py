"""What counts as a class, a part and an image below a folder of the user's own."""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnbench.data import fingerprint, read_dataset, split_train
from cnnbench.data.readers.folder import list_folder
from cnnbench.data.readers.walk import find_images
from cnnbench.errors import DataError

COLOUR = {"in_channels": 3, "split_by": "path"}


def save(path: Path, seed: int | None = None, kind: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(zlib.crc32(str(path).encode()) if seed is None else seed)
    pixels = draw.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, kind)


def fill(root: Path, *folders: str, count: int = 5) -> Path:
    for folder in folders:
        for number in range(count):
            save(root / folder / f"{number}.png")
    return root


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "val", "test"),
        ("Train", None, "Test"),
        ("TRAINING", "Valid", "Testing"),
        ("training", "validation", "test"),
        ("seg_train", None, "seg_test"),
        ("seg_train/seg_train", None, "seg_test/seg_test"),
        ("train", "VAL", None),
        ("Training", None, None),
    ],
)
def test_the_usual_names_in_any_case_are_parts(
    train: str, val: str | None, test: str | None, tmp_path: Path
) -> None:
    for part in filter(None, (train, val, test)):
        fill(tmp_path, f"{part}/cat", f"{part}/dog")
    found = list_folder(tmp_path)
    assert found.train.class_names == ("cat", "dog")
    assert len(found.train.paths) == (10 if test else 8)
    assert len(found.test.paths) == (10 if test else 2)
    assert (found.val is not None) == (val is not None)
    if test is None:
        assert any("fixed fifth" in note for note in found.notes)
    if val is not None:
        assert any("data.val_fraction draws nothing" in note for note in found.notes)


@pytest.mark.parametrize(
    "folders",
    [
        ("car", "plane", "train"),
        ("test", "quiz"),
        ("valid", "invalid"),
        ("cat/2023", "dog/2023"),
        ("cat/images", "dog/images"),
        ("cat/a", "cat/b", "dog/a", "dog/b", "cat", "dog"),
        ("cat/a", "cat/b", "dog/a", "dog/c"),
        ("trainer", "testament"),
    ],
)
def test_other_names_are_classes(folders: tuple[str, ...], tmp_path: Path) -> None:
    fill(tmp_path, *folders)
    found = list_folder(tmp_path)
    assert found.train.class_names == tuple(sorted({f.split("/")[0] for f in folders}))


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        (("trainset/a", "trainset/b", "testset/a", "testset/b"), "trainset/ to train/"),
        (("train_images/a", "test_images/a"), "train_images/ to train/"),
        (("Training Data/a", "Holdout/a"), "Holdout/ to test/"),
        (("train/a", "train/b", "dev/a", "dev/b"), "dev/ to val/"),
        (("train/a", "dev/a", "eval/a"), "dev/ to val/, eval/ to test/"),
        (("train", "test"), "holds no class folders"),
        (("train/a", "train/b", "Training/a", "Training/b"), "both look like the train part"),
        (("val/a", "test/a"), "has no train/"),
        (("cat/train", "cat/test", "dog/train", "dog/test"), "the parts above the classes"),
        (("2022/cat", "2022/dog", "2023/cat", "2023/dog"), "hold the same folders cat, dog"),
        (("photos/cat", "photos/dog"), "did you mean"),
        (("train/a", "train/b", "test/a", "test/b", "docs"), "test/, train/ look like parts"),
        (("train/a", "train/b", "test", "docs"), "look like parts of the data beside docs/"),
        (("train/a", "train/b", "prueba/a"), "train/ look like parts of the data beside prueba/"),
        (
            ("ensayo/a", "ensayo/b", "ensayo/c", "prueba/a", "prueba/b"),
            "hold the same folders a, b",
        ),
    ],
)
def test_what_is_refused_says_what_was_meant(
    folders: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    fill(tmp_path, *folders)
    with pytest.raises(DataError) as caught:
        list_folder(tmp_path)
    assert words in str(caught.value)
    assert caught.value.exit_code == 66


@pytest.mark.parametrize(
    "folders",
    [
        ("train", "car", "ship"),
        ("train/steam", "train/diesel", "car"),
        ("a/x", "b/y"),
        ("test", "rest"),
    ],
)
def test_a_class_may_have_the_name_of_a_part(folders: tuple[str, ...], tmp_path: Path) -> None:
    fill(tmp_path, *folders)
    expected = sorted({folder.partition("/")[0] for folder in folders})
    assert list(list_folder(tmp_path).train.class_names) == expected


def test_a_class_with_a_hidden_name_is_told(tmp_path: Path) -> None:
    fill(tmp_path, ".22", ".45", "9mm", "rifle")
    found = list_folder(tmp_path)
    assert found.train.class_names == ("9mm", "rifle")
    assert f"passed over 2 hidden folders, such as {tmp_path / '.22'}" in found.notes


def test_a_flat_test_folder_is_left_out_and_said(tmp_path: Path) -> None:
    fill(tmp_path, "train/a", "train/b", "test")
    found = list_folder(tmp_path)
    assert any("test/ holds images without class folders" in note for note in found.notes)
    assert not any("/test/" in str(path) for path in found.test.paths)


def copy_hidden(root: Path, name: str) -> None:
    shutil.copytree(root / "cat", root / "cat" / "deep" / name)


@pytest.mark.parametrize("name", [".ipynb_checkpoints", "__MACOSX", "@eaDir", "#recycle", ".git"])
def test_hidden_folders_hold_no_images_at_any_depth(name: str, tmp_path: Path) -> None:
    fill(tmp_path, "cat", "dog")
    copy_hidden(tmp_path, name)
    shutil.copytree(tmp_path / "cat", tmp_path / name)
    shutil.copy(tmp_path / "cat" / "0.png", tmp_path / "cat" / "._0.png")
    found = list_folder(tmp_path)
    assert found.train.class_names == ("cat", "dog")
    assert len(found.train.paths) + len(found.test.paths) == 10
    assert any("hidden" in note for note in found.notes)


def link_class(root: Path) -> None:
    (root / "dog" / "more").symlink_to(root / "cat")


def link_file(root: Path) -> None:
    (root / "dog" / "x.png").symlink_to(root / "cat" / "0.png")


def hard_link(root: Path) -> None:
    os.link(root / "cat" / "0.png", root / "dog" / "x.png")


@pytest.mark.parametrize("link", [link_class, link_file, hard_link])
def test_a_file_counts_once_however_it_is_linked(
    link: Callable[[Path], None], tmp_path: Path
) -> None:
    fill(tmp_path, "cat", "dog")
    link(tmp_path)
    found = list_folder(tmp_path)
    assert len(found.train.paths) + len(found.test.paths) == 10
    assert any("another class" in note for note in found.notes)


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    fill(tmp_path, "cat", "dog")
    (tmp_path / "cat" / "up").symlink_to(tmp_path)
    (tmp_path / "dog" / "gone").symlink_to(tmp_path / "nowhere")
    found = list_folder(tmp_path)
    assert len(found.train.paths) + len(found.test.paths) == 10


def test_kinds_of_files_are_read_or_counted(tmp_path: Path) -> None:
    fill(tmp_path, "cat", "dog")
    save(tmp_path / "cat" / "a.jfif", kind="JPEG")
    save(tmp_path / "cat" / "b.JPE", kind="JPEG")
    (tmp_path / "cat" / "c.heic").write_bytes(b"x")
    (tmp_path / "cat" / "d.txt").write_text("x")
    os.mkfifo(tmp_path / "cat" / "e.png")
    found = list_folder(tmp_path)
    assert len(found.train.paths) + len(found.test.paths) == 12
    notes = "\n".join(found.notes)
    assert ".heic images, a kind that is not read" in notes
    assert ".txt files, which are no images" in notes
    assert "entries that are no files" in notes


@pytest.mark.parametrize("parts", [("",), ("train/", "test/")])
def test_images_beside_the_class_folders_are_counted(
    parts: tuple[str, ...], tmp_path: Path
) -> None:
    for part in parts:
        fill(tmp_path, f"{part}cat", f"{part}dog")
        fill(tmp_path / part, ".", count=2)
    save(tmp_path / "alone.png")
    found = list_folder(tmp_path)
    loose = 2 * len(parts) + 1
    assert any(f"passed over {loose} images outside" in note for note in found.notes)
    assert not any(path.parent == tmp_path for path in found.train.paths)


def test_a_folder_that_cannot_be_read_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, "cat", "cat/locked", "dog")
    scan = os.scandir

    def refuse(path: str | Path) -> object:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    walk = find_images(tmp_path / "cat")
    assert len(walk.files) == 5
    assert any("Permission denied" in note for note in walk.notes())


def test_our_own_runs_are_no_class(tmp_path: Path) -> None:
    fill(tmp_path, "cat", "dog")
    run = tmp_path / "outputs" / "folder" / "lenet" / "20260101-000000-abcdef"
    save(run / "plots" / "confusion.png")
    (run / "run.json").write_text("{}")
    before = list_folder(tmp_path)
    assert before.train.class_names == ("cat", "dog")
    save(tmp_path / "cat" / "sweep" / "a.png")
    (tmp_path / "cat" / "sweep" / "sweep.json").write_text("{}")
    assert list_folder(tmp_path).train.paths == before.train.paths


def parts_of(root: Path, seed: int = 0) -> dict[str, str]:
    """Return the part of each image by its relative path."""
    arrays = read_dataset("folder", root=root, args=COLOUR, image_size=4)
    listing = list_folder(root)
    train, val = split_train(arrays, 0.2, seed)
    names = arrays.train_names or ()
    return {
        **{names[i]: "train" for i in train},
        **{names[i]: "val" for i in val},
        **{str(path.relative_to(root)): "test" for path in listing.test.paths},
    }


@pytest.mark.parametrize("count", [4, 7, 20])
def test_an_added_image_moves_at_most_one_other_across_each_border(
    count: int, tmp_path: Path
) -> None:
    fill(tmp_path, "cat", "dog", count=count)
    before = parts_of(tmp_path)
    for number in range(8):
        added = tmp_path / "cat" / f"{number:02d}-new.png"
        save(added)
        after = parts_of(tmp_path)
        moved = [name for name, part in before.items() if after[name] != part]
        assert all(name.startswith("cat/") for name in moved)
        borders = [(before[name], after[name]) for name in moved]
        assert sum("test" in border for border in borders) <= 1
        assert sum("test" not in border for border in borders) <= 1
        before = after


def test_the_test_part_does_not_follow_the_split_seed_and_the_validation_part_does(
    tmp_path: Path,
) -> None:
    fill(tmp_path, "cat", "dog", count=40)
    one, two = parts_of(tmp_path, 0), parts_of(tmp_path, 1)
    tests = [{name for name, part in parts.items() if part == "test"} for parts in (one, two)]
    vals = [{name for name, part in parts.items() if part == "val"} for parts in (one, two)]
    assert tests[0] == tests[1]
    assert len(tests[0]) == 16
    assert vals[0] != vals[1]


@pytest.mark.parametrize("kind", ["bmp", "ppm"])
def test_other_content_of_equal_size_is_other_data(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "images"
    for name in ("cat", "dog"):
        for number in range(4):
            save(root / name / f"{number}.{kind}", seed=number)
    first = fingerprint("folder", root, COLOUR)
    assert fingerprint("folder", root, COLOUR) == first
    changed = root / "cat" / f"0.{kind}"
    status = changed.stat()
    save(changed, seed=99)
    assert changed.stat().st_size == status.st_size
    os.utime(changed, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert fingerprint("folder", root, COLOUR) != first
