"""``cnnbench features`` as a person sees it: files, TensorBoard, answers, refusals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from tiny import train

import cnnbench
from cnnbench.cli.main import run as cli
from cnnbench.errors import UsageError
from cnnbench.runs.directory import RunDir

KINDS = ["filters", "grad_cam", "maps", "receptive_field"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("runs")
    return {
        "basic_cnn": train(root, "num_epochs=3"),
        "cifar_quick": train(root, "model=cifar_quick", "num_epochs=1"),
        "softmax": train(root, "model=softmax", "num_epochs=1"),
    }


@pytest.fixture
def runs(trained: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    return {name: shutil.copytree(run, tmp_path / name) for name, run in trained.items()}


@pytest.fixture
def image(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    path = tmp_path / "images" / "ein Bild $é.png"
    path.parent.mkdir()
    Image.fromarray(draw.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)
    return path


def check_pictures(files: list[str], directory: Path, kinds: list[str]) -> None:
    """Both kinds of each image are there, can be read, and show something."""
    assert sorted(files) == sorted(
        str(directory / f"{kind}.{end}") for kind in kinds for end in ("png", "svg")
    )
    for file in map(Path, files):
        if file.suffix == ".svg":
            assert ElementTree.parse(file).getroot().tag.endswith("}svg")
        else:
            with Image.open(file) as shown:
                assert min(shown.size) > 200
                assert len(np.unique(np.asarray(shown.convert("L")))) > 20


def board(directory: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(directory), size_guidance={"images": 0})
    accumulator.Reload()
    return accumulator


def test_files_board_and_answer(
    runs: dict[str, Path], image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs["basic_cnn"]
    before = sorted(path.name for path in run.iterdir())
    assert cli(["features", str(run), str(image), "--format", "json"]) == 0
    [row] = json.loads(capsys.readouterr().out)
    check_pictures(row["files"], run / "features" / image.stem, KINDS)
    [answer] = cnnbench.predict(run, image, top=5)
    assert {key: row[key] for key in ("file", "class")} == {
        key: answer[key] for key in ("file", "class")
    }
    assert row["probability"] == pytest.approx(answer["probability"], abs=1e-6)
    assert [top["class"] for top in row["top"]] == [top["class"] for top in answer["top"]]
    assert (row["model"], row["first_layer"], row["note"]) == ("basic_cnn", "conv1", None)
    assert [(s["name"], s["shape"], s["receptive_field"]) for s in row["stages"]] == [
        ("conv1", [10, 12, 12], 5),
        ("act1", [10, 6, 6], 6),
        ("conv2", [20, 2, 2], 14),
    ]
    # One event file more, at the step of the weights.
    added = {path.name for path in run.iterdir()} - set(before) - {".lock"}
    [events] = added - {"features"}
    assert events.startswith("events.out.tfevents.")
    shown = board(run)
    tags = {f"features/{image.stem}/{kind}" for kind in KINDS}
    assert tags <= set(shown.Tags()["images"])
    for tag in tags:
        [image] = shown.Images(tag)
        saves = json.loads((run / "checkpoints" / "manifest.json").read_text())
        assert image.step == saves["saves"][saves["best"]]["global_step"]
        with Image.open(run / f"{tag}.png") as file:
            assert (image.width, image.height) == file.size
    assert cnnbench.evaluate(run)["accuracy"] >= 0
    assert cli(["runs", "list", str(run)]) == 0


def test_the_same_input_gives_the_same_bytes(runs: dict[str, Path], image: Path) -> None:
    run = runs["basic_cnn"]
    contents = []
    for _ in range(2):
        [row] = cnnbench.features(run, image)
        contents.append([Path(file).read_bytes() for file in row["files"]])
    assert contents[0] == contents[1]


def test_several_runs_side_by_side(
    runs: dict[str, Path], image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    kept = {run: sorted(run.rglob("*")) for run in runs.values()}
    words = [*map(str, runs.values()), str(image.parent), "--output", str(output)]
    assert cli(["features", *words]) == 0
    text = capsys.readouterr().out
    assert {run: sorted(run.rglob("*")) for run in runs.values()} == kept
    for name in [image.stem]:
        files = [str(output / name / f"side_by_side.{end}") for end in ("png", "svg")]
        check_pictures(files, output / name, ["side_by_side"])
        assert files[0] in text
        for number, model in enumerate(runs, 1):
            kinds = ["filters", "prediction"] if model == "softmax" else KINDS
            directory = output / f"{number}_{model}" / name
            check_pictures(list(map(str, directory.iterdir())), directory, kinds)
            tags = board(directory.parent).Tags()["images"]
            assert {f"features/{name}/{kind}" for kind in kinds} <= set(tags)
    assert "softmax has no convolution: there are no maps, no Grad-CAM" in text
    # Without a directory of their own, they lie in the first run's.
    rows = cnnbench.features(list(runs.values())[:2], image)
    first = runs["basic_cnn"] / "features" / image.stem
    for row in rows:
        assert row["side_by_side"] == [str(first / f"side_by_side.{e}") for e in ("png", "svg")]
    assert (runs["cifar_quick"] / "features" / image.stem / "maps.png").is_file()


def test_pictures_of_one_name_do_not_overwrite_each_other(
    runs: dict[str, Path], image: Path, tmp_path: Path
) -> None:
    paths = [image.parent / "x.png", tmp_path / "other" / "x.png", tmp_path / "other" / "..x.png"]
    paths[1].parent.mkdir()
    for path in paths:
        shutil.copy(image, path)
    rows = cnnbench.features(runs["softmax"], paths, output=tmp_path / "out")
    places = [Path(row["files"][0]).parent.name for row in rows]
    assert places == ["x", "x-2", "x-3"]


def test_every_format(
    runs: dict[str, Path], image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs["softmax"]
    for output_format in ("text", "markdown", "csv"):
        assert cli(["features", str(run), str(image), "--format", output_format]) == 0
        out = capsys.readouterr().out
        assert str(run / "features" / image.stem) in out
        assert ("no convolution" in out) == (output_format != "csv")


@pytest.fixture
def untouched(runs: dict[str, Path]) -> Iterator[Path]:
    """Hold that a refusal writes nothing."""
    run = runs["basic_cnn"]
    before = sorted(run.rglob("*"))
    yield run
    assert sorted(run.rglob("*")) == before


def test_refusals(
    untouched: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(untouched)
    text = tmp_path / "text.png"
    text.write_text("no image")
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    for words, code, message in (
        ([run], 2, "no IMAGE"),
        ([str(image)], 2, "not a run"),
        ([str(tmp_path), str(image)], 2, "not a run: holds no run.json; a run below it is"),
        ([str(image), run], 2, "not a run"),
        ([run, str(image), run], 2, "a run after an image"),
        ([run, run, str(image)], 2, "twice"),
        ([run, str(text)], 66, "text.png: not an image"),
        ([run, str(tmp_path / "missing.png")], 66, "there is no such file"),
        ([run, str(image), "--output", str(in_the_way)], 2, "cannot be made"),
        ([run, str(image), "--output", "/proc/nowhere"], 74, "cannot be written"),
    ):
        assert cli(["features", *words]) == code, words
        out, err = capsys.readouterr()
        assert message in err
        assert "Traceback" not in err
        assert not out


def test_a_run_that_is_being_written_to_is_left_alone(untouched: Path, image: Path) -> None:
    with (
        RunDir(untouched).lock(),
        pytest.raises(UsageError, match="another process is writing to this run"),
    ):
        cnnbench.features(untouched, image)


def test_a_full_disk(
    untouched: Path,
    image: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cnnbench.files.os.fsync", full)
    assert cli(["features", str(untouched), str(image), "--output", str(tmp_path / "out")]) == 74
    assert "the disk is full" in capsys.readouterr().err
    assert not list((tmp_path / "out").rglob("*.tmp-*"))


def test_a_broken_file_is_named_and_the_others_are_written(
    untouched: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_text("no image")
    [row] = cnnbench.features(untouched, [image, broken], output=tmp_path / "seen")
    assert row["file"] == str(image)
    assert "1 file could not be read" in capsys.readouterr().err
