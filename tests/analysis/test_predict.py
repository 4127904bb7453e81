"""Predictions: files and tensors alike, ink on paper, transparency, and files that are broken."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

import cnnbench
from cnnbench.cli.main import run as cli
from cnnbench.errors import DataError, UsageError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A linear model of white digits on black, which is right nine times of ten."""
    root = tmp_path_factory.mktemp("runs")
    return cnnbench.train(
        ["model=softmax", "data=digits", "num_epochs=8", "device=cpu", f"output_root={root}"]
    )


def digits(count: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Return images (N, 64, 64), white on black, and their labels."""
    found = load_digits()
    images = np.rint(found.images[:count] * 15.9375).astype(np.uint8)
    large = [np.asarray(Image.fromarray(i).resize((64, 64), 2)) for i in images]
    return np.stack(large), found.target[:count]


def write(folder: Path, images: np.ndarray) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:03d}.png" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    return paths


def accuracy(rows: list[dict[str, object]], labels: np.ndarray) -> float:
    return float(np.mean([row["class"] == str(n) for row, n in zip(rows, labels, strict=True)]))


def test_files_and_tensors_of_any_shape_are_treated_alike(run: Path, tmp_path: Path) -> None:
    images, labels = digits()
    wide = np.pad(images, ((0, 0), (0, 0), (40, 40)))
    by_file = cnnbench.predict(run, write(tmp_path, wide))
    by_tensor = cnnbench.predict(run, torch.from_numpy(wide)[:, None])
    assert [row["class"] for row in by_file] == [row["class"] for row in by_tensor]
    for one, other in zip(by_file, by_tensor, strict=True):
        assert one["probability"] == pytest.approx(other["probability"], abs=0.03)
    assert accuracy(by_file, labels) > 0.85


@pytest.mark.parametrize("nothing", [[], (), np.zeros((0, 8, 8))], ids=type)
def test_no_images_have_no_predictions(nothing: object, run: Path) -> None:
    assert cnnbench.predict(run, nothing) == []


@pytest.mark.parametrize("form", ["files", "tensor"])
def test_ink_on_paper_is_noticed_and_can_be_inverted(
    form: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels = digits()
    paper = (255 - images * 0.8).astype(np.uint8)
    what = write(tmp_path, paper) if form == "files" else torch.from_numpy(paper)[:, None]
    plain = cnnbench.predict(run, what)
    err = capsys.readouterr().err
    assert "60 of 60 images have a light background" in err
    assert "--invert" in err
    assert accuracy(plain, labels) < 0.4
    for how in (True, "auto"):
        assert accuracy(cnnbench.predict(run, what, invert=how), labels) > 0.8
    assert "60 of 60 images were inverted" in capsys.readouterr().err


def test_images_like_those_of_training_are_left_alone(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels = digits()
    rows = cnnbench.predict(run, write(tmp_path, images), invert="auto")
    assert accuracy(rows, labels) > 0.85
    assert capsys.readouterr().err == ""


def test_transparency_is_laid_on_the_background_of_training_and_said(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels = digits()
    white = np.full_like(images, 255)
    rgba = np.stack([white, white, white, images], axis=-1)
    rows = cnnbench.predict(run, write(tmp_path, rgba))
    assert accuracy(rows, labels) > 0.85
    assert "60 images have transparent pixels, which are laid on black" in capsys.readouterr().err


def test_files_are_read_as_those_of_training(tmp_path: Path) -> None:
    """Depth and background are the run's own: the same files get the same classes."""
    for part in ("train", "test"):
        for number in range(12):
            shade = number % 2
            pixels = np.full((8, 8), (600, 60000)[shade], dtype=np.uint16)
            (tmp_path / "deep" / part / f"shade {shade}").mkdir(parents=True, exist_ok=True)
            pixels[0, 0] += number
            Image.fromarray(pixels).save(tmp_path / f"deep/{part}/shade {shade}/{number}.png")
            rgba = np.zeros((8, 8, 4), dtype=np.uint8)
            rgba[..., 3] = 255
            if shade:  # a hole in black, that shows the background
                rgba[2:6, 2:6] = 0
            rgba[0, 0, 0] = number
            (tmp_path / "holes" / part / f"hole {shade}").mkdir(parents=True, exist_ok=True)
            Image.fromarray(rgba).save(tmp_path / f"holes/{part}/hole {shade}/{number}.png")
    for name in ("deep", "holes"):
        trained = cnnbench.train(
            [
                *("model=softmax", "data=folder", f"data.root={tmp_path / name}", "num_epochs=6"),
                *("data.in_channels=1", "data.image_size=8", "data.batch_size=4", "device=cpu"),
                *("optimizer.lr=0.05", f"output_root={tmp_path}/out"),
            ]
        )
        assert cnnbench.evaluate(trained)["accuracy"] == 1
        rows = cnnbench.predict(trained, tmp_path / name / "test")
        assert all(row["class"] == Path(str(row["file"])).parent.name for row in rows)


def test_an_image_that_shows_nothing_is_told(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, _ = digits(3)
    # Black ink on a transparent ground, laid on the black of training.
    ink = np.zeros((*images.shape, 4), dtype=np.uint8)
    ink[..., 3] = images
    cnnbench.predict(run, write(tmp_path, ink))
    assert "3 of 3 images have the same value nearly everywhere" in capsys.readouterr().err
    cnnbench.predict(run, np.full((1, 8, 8), 7, dtype=np.uint8))
    assert "1 of 1 images have the same value" in capsys.readouterr().err


def test_broken_files_are_named_after_the_others(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, _ = digits(3)
    write(tmp_path, images)
    (tmp_path / "001b.png").write_bytes(b"no image")
    (tmp_path / ".hidden.png").write_bytes(b"no image")
    (tmp_path / "notes.txt").touch()
    assert cli(["predict", str(run), str(tmp_path), "--format", "json"]) == 0
    out, err = capsys.readouterr()
    assert len(json.loads(out)) == 3
    assert "1 file could not be read" in err
    assert "001b.png" in err
    assert ".txt files, which are no images" in err
    for path in tmp_path.glob("00?.png"):
        path.unlink()
    assert cli(["predict", str(run), str(tmp_path)]) == 66
    assert "001b.png" in capsys.readouterr().err


def test_bad_requests(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="invert='maybe'"):
        cnnbench.predict(run, torch.zeros(1, 1, 8, 8, dtype=torch.uint8), invert="maybe")
    with pytest.raises(DataError, match="nowhere"):
        cnnbench.predict(run, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        cnnbench.predict(run, tmp_path / "empty")


class Frame:
    """What a data frame of pandas or polars has in common, where neither is installed."""

    def __init__(self, columns: dict[str, list[float]]) -> None:
        self._values, self.columns = columns, list(columns)

    def __getitem__(self, names: list[str]) -> Frame:
        return Frame({name: self._values[name] for name in names})

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        return np.array(list(self._values.values()), dtype).T


def test_columns_of_a_data_frame_are_found_by_name(tmp_path: Path) -> None:
    settings = "model=linear data=diabetes loss=mse device=cpu num_epochs=1"
    run = cnnbench.train(settings, output_root=tmp_path)
    names = ("age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6")
    rows = np.random.default_rng(0).normal(size=(3, 10)) + 50
    expected = cnnbench.predict(run, rows)
    frame = {name: list(column) for name, column in zip(names, rows.T, strict=True)}
    turned = Frame({"row": [0.0, 1.0, 2.0], **dict(reversed(frame.items()))})
    assert cnnbench.predict(run, turned) == cnnbench.predict(run, Frame(frame)) == expected
    del frame["bmi"]
    with pytest.raises(UsageError, match="no column is named 'bmi'"):
        cnnbench.predict(run, Frame(frame))


def test_arrays_may_be_read_only_and_read_backwards(run: Path) -> None:
    images = np.arange(128, dtype=np.uint8).reshape(2, 8, 8)
    expected = cnnbench.predict(run, images)
    images = images[:, ::-1].copy()
    images.flags.writeable = False
    assert cnnbench.predict(run, images[:, ::-1]) == expected
    assert cnnbench.predict(run, np.frombuffer(images.tobytes(), np.uint8).reshape(2, 8, 8))


def test_rows_of_numbers_come_as_arrays_tensors_and_lists(tmp_path: Path) -> None:
    run = cnnbench.train(
        "experiment=hours_to_pass device=cpu", num_epochs=2, output_root=tmp_path / "runs"
    )
    rows = np.array([[1.0], [2.5]])
    expected = cnnbench.predict(run, torch.from_numpy(rows))
    assert len(expected) == 2
    assert cnnbench.predict(run, rows) == cnnbench.predict(run, rows.tolist()) == expected
    assert cnnbench.predict(run, rows.astype(np.int8)[:1]) == expected[:1]
    assert cnnbench.predict(run, rows[1]) == expected[1:]  # one row alone
    assert cnnbench.predict(run, rows[::-1]) == expected[::-1]
    with pytest.raises(UsageError, match=r"rows are \(2, 3\), expected \(N, 1\)"):
        cnnbench.predict(run, np.zeros((2, 3)))
    with pytest.raises(UsageError, match="no numbers"):
        cnnbench.predict(run, [["a"], [b"b"]])
