"""``cnnbench data`` and ``cnnbench runs`` through the command line."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image
from tiny import info, train

from cnnbench.cli.main import run as cli
from cnnbench.runs.directory import RunDir


@pytest.mark.parametrize("name", ["digits", "synthetic"])
@pytest.mark.parametrize("action", ["prepare", "verify", "where"])
def test_each_action_answers(action: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["data", action, name]) == 0
    assert capsys.readouterr().out.strip()
    assert cli(["data", action, name, "--format", "json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    if action == "prepare":
        counts = {"digits": 1797, "synthetic": 2500}
        text = json.dumps(answer)
        assert answer["num_train"] + answer["num_test"] == counts[name], text
    else:
        assert answer[0].keys() == {"location", "path", "state"}


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_show_saves_a_row_of_pictures(
    ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / f"row.{ending}"
    assert cli(["data", "show", "digits", "--output", str(file)]) == 0
    assert capsys.readouterr().out == f"{file}\n"
    with Image.open(file) as image:
        assert image.size == (1560, 204)
        # Ten digits are more than one shade of grey.
        assert len(set(image.convert("L").tobytes())) > 16


@pytest.mark.parametrize("name", ["\udce9t\udce9", "\x1b[31mred", r"$\frac{", "猫"])
def test_show_draws_any_class_name(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder's name need not be text in the system's encoding, nor what fonts can draw."""
    for label in (name, "dog"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for index in range(3):
            image = Image.fromarray(np.full((8, 8), 80 * index, dtype=np.uint8))
            image.save(tmp_path / "data" / label / f"{index}.png")
    file = tmp_path / "row.png"
    folder = ["data", "show", "folder", f"data.root={tmp_path / 'data'}"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cli([*folder, "--output", str(file)]) == 0
    assert file.exists()


def rows_of(file: Path, *settings: str) -> list[list[np.ndarray]]:
    """Return the pixels that ``data show`` draws, row by row."""
    drawn: list[np.ndarray] = []
    draw = Axes.imshow

    def seen(axes: Axes, pixels: np.ndarray, **keywords: Any) -> Any:
        drawn.append(pixels)
        return draw(axes, pixels, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Axes, "imshow", seen)
        assert cli(["data", "show", *settings, "--output", str(file)]) == 0
    return [drawn[start : start + 10] for start in range(0, len(drawn), 10)]


@pytest.mark.parametrize("size", [8, 13])
def test_show_has_the_size_that_is_trained_on(size: int, tmp_path: Path) -> None:
    [row] = rows_of(tmp_path / "row.png", "digits", f"data.image_size={size}")
    assert {pixels.shape for pixels in row} == {(size, size)}


@pytest.mark.parametrize("augment", ["crop", "crop_flip", "shift_rotate", "erase", "cutmix"])
def test_show_draws_augmented_versions_below(augment: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.png"
    data = ("synthetic", "data.in_channels=3")
    plain, *versions = rows_of(file, *data, f"augment={augment}")
    with Image.open(file) as image:
        assert image.size == (1560, 708)
    [alone] = rows_of(file, *data)
    assert np.array_equal(plain, alone)
    assert len(versions) == 3
    distinct = {np.array(row).tobytes() for row in (plain, *versions)}
    assert len(distinct) == 4
    assert np.array_equal(versions, rows_of(file, *data, f"augment={augment}")[1:])
    assert not np.array_equal(versions, rows_of(file, *data, f"augment={augment}", "seed=1")[1:])


def test_show_takes_turns_where_classes_are_few(tmp_path: Path) -> None:
    file = tmp_path / "row.png"
    words = ["data", "show", "synthetic", "data.num_classes=3", "data.in_channels=3"]
    assert cli([*words, "--output", str(file)]) == 0
    with Image.open(file) as image:
        assert image.size == (1560, 204)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["shwo", "digits"], 2, "did you mean 'show'"),
        (["show", "digts"], 2, "did you mean 'digits'"),
        (["show", "digits", "--output", "row.txt"], 2, "ending in .png"),
        (["show", "digits", "data.colour=1"], 2, "data.colour"),
        (["show", "digits", "augment=crop_flip"], 2, "one is none; set augment.flip=false"),
        (["show", "digits", "augment.crop_padding=28"], 2, "augment.crop_padding=28: "),
        (["show", "digits", "num_epochs=3"], 2, "num_epochs: has no effect on data show"),
        (["where", "digits", "augment=crop"], 2, "augment: has no effect on data where"),
        (["verify", "folder", "data.root=/none/such"], 66, "/none/such"),
        (["prepare", "synthetic", "data.num_train=3"], 66, "data.num_train=3"),
    ],
)
def test_mistakes(
    words: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli(["data", *words]) == code
    out, err = capsys.readouterr()
    assert message in err
    assert "Traceback" not in err
    assert not out
    assert not list(tmp_path.iterdir())


def test_a_folder_of_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        (tmp_path / "x" / name).mkdir(parents=True)
        for number in range(5):
            Image.new("RGB", (8, 8), (number * 20, 0, 0)).save(
                tmp_path / "x" / name / f"{number}.png"
            )
    assert cli(["data", "prepare", "folder", f"data.root={tmp_path / 'x'}", "--format=json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["num_train"] + facts["num_test"] == 10
    (tmp_path / "x" / "a" / "3.png").write_text("no image")
    assert cli(["data", "verify", "folder", f"data.root={tmp_path / 'x'}"]) == 66
    assert "3.png" in capsys.readouterr().err


def test_runs_are_listed_with_what_became_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = train(tmp_path, "num_epochs=1")
    capsys.readouterr()
    rows = {"done": done}
    for status in ("dead", "failed", "interrupted", "foreign"):
        copy = rows[status] = shutil.copytree(done, tmp_path / status)
        told = {"dead": "running", "foreign": "unheard"}.get(status, status)
        (copy / "run.json").write_text(json.dumps({**info(done), "status": told}))
    held = shutil.copytree(rows["dead"], tmp_path / "held")
    rows["running"] = held
    with RunDir(held).lock():
        assert cli(["runs", "list", str(tmp_path), "--format", "json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {row["status"]: row["run"] for row in listed} == {k: str(v) for k, v in rows.items()}
    [row] = [row for row in listed if row["status"] == "done"]
    assert row["test/accuracy"] == info(done)["results"]["test/accuracy"]
    assert (row["model"], row["data"]) == ("basic_cnn", "synthetic")
    assert row["size_bytes"] > 10_000
    for output_format in ("text", "markdown", "csv"):
        assert cli(["runs", "list", str(tmp_path), "--format", output_format]) == 0
        out = capsys.readouterr().out
        assert all(str(path) in out for path in rows.values())


def test_no_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli(["runs", "list"]) == 0
    assert f"no runs below {tmp_path / 'outputs'}" in capsys.readouterr().out
    assert cli(["runs", "list", "none"]) == 2
    assert cli(["runs", "lsit"]) == 2
    assert "did you mean 'list'" in capsys.readouterr().err
