"""Many classes, few classes, other scripts, moved folders, swept paths."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import info, tiny, train

import cnnbench
from cnnbench.cli.main import run as cli
from cnnbench.config.compose import Composer
from cnnbench.rendering import figures

SCRIPTS = {"Chinese": "猫", "Japanese": "ねこ", "Korean": "고양이", "Arabic": "قطة", "emoji": "🐈"}


def folder(root: Path, names: list[str], count: int = 10) -> Path:
    draw = np.random.default_rng(0)
    for number, name in enumerate(names):
        path = root / name
        path.mkdir(parents=True)
        for index in range(count):
            pixels = draw.integers(0, 90, (8, 8)) + 160 * (number % 2)
            Image.fromarray(pixels.astype(np.uint8)).save(path / f"{index}.png")
    return root


def settings(root: Path, images: Path, *more: str) -> list[str]:
    return [
        "model=softmax", "data=folder", f"data.root={images}", "data.image_size=8",
        "num_epochs=1", "device=cpu", "device.num_threads=1", f"output_root={root / 'o'}", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """Return a run on 230 classes."""
    root = tmp_path_factory.mktemp("many")
    few = ("model=softmax", "num_epochs=1", "data.num_classes=230", "data.num_train=920")
    return train(root, *few, "data.num_test=460", "data.batch_size=460")


@pytest.mark.parametrize("verb", ["evaluate"])
def test_many_classes_fit_a_terminal(many, capsys, verb):
    assert cli([verb, str(many)]) == 0
    _, *lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) < 70
    assert "of 230 classes with the lowest recall" in "\n".join(lines)


def test_the_whole_matrix_is_in_json(many, capsys):
    assert cli(["evaluate", str(many), "--format", "json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert len(result["per_class"]) == len(result["confusion_matrix"]) == 230


def test_the_classes_shown_are_the_worst(many, capsys):
    result = cnnbench.evaluate(many)
    assert cli(["evaluate", str(many)]) == 0
    out = capsys.readouterr().out
    recalls = sorted(row["recall"] for row in result["per_class"] if row["support"])
    table = out.split("lowest recall\n")[1].split("\n\n")[0].splitlines()[1:]
    shown = [float(line.split()[-3]) for line in table]
    assert shown == pytest.approx(recalls[: len(shown)], abs=1e-4)


def test_many_classes_are_drawn_in_seconds(many):
    from cnnbench.analysis.evaluate.measure import measure, open_split
    from cnnbench.analysis.evaluate.plots import _class_accuracy, _confusion_matrix
    from cnnbench.runs.directory import open_run

    measured = measure(open_split(open_run(many), "test"))
    began = time.process_time()
    with figures.style():
        for draw in (_class_accuracy, _confusion_matrix):
            draw(measured).savefig("/dev/null", format="png")
    assert time.process_time() - began < 8


@pytest.mark.parametrize("num_classes", [3, 5, 6])
def test_top_5_only_of_more_than_five(tmp_path, capsys, num_classes):
    run = train(tmp_path, "model=softmax", "num_epochs=1", f"data.num_classes={num_classes}")
    result = cnnbench.evaluate(run)
    assert ("top5_accuracy" in result) == (num_classes > 5)
    assert cli(["evaluate", str(run)]) == 0
    assert ("top-5" in capsys.readouterr().out) == (num_classes > 5)


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_is_drawn_or_numbered(tmp_path, script, recwarn):
    from matplotlib.figure import Figure

    with figures.style():
        figure = Figure()
        text = figures.plain(SCRIPTS[script])
        figure.add_subplot().set_title(text)
        figure.savefig(tmp_path / "x.png")
    assert not [w for w in recwarn if "Glyph" in str(w.message)]
    assert text == SCRIPTS[script] or text.startswith("\\u")


def test_a_missing_font_is_said_once(monkeypatch, capsys):
    own = dict(list(figures._installed_fonts().items())[:1])
    for cached in (figures._has_glyph, figures._tell_missing):
        cached.cache_clear()
    monkeypatch.setattr(figures, "_installed_fonts", lambda: own)
    assert figures.plain("猫 and 犬") == "\\u732b and \\u72ac"
    assert figures.plain("猫") == "\\u732b"
    assert capsys.readouterr().err.count("no installed font") == 1
    figures._has_glyph.cache_clear()


@pytest.mark.parametrize("verb", ["evaluate", "resume"])
@pytest.mark.parametrize("change", ["moved", "changed"])
def test_a_moved_folder(tmp_path, capsys, verb, change):
    images = folder(tmp_path / "images", ["a", "b"])
    run = cnnbench.train(settings(tmp_path, images, "scheduler=constant"))
    new = tmp_path / "elsewhere"
    shutil.move(images, new)
    resume = ["train", f"resume={run}", "extend_epochs=1"]
    assert cli(["evaluate", str(run)] if verb == "evaluate" else resume) == 66
    assert "if it was moved, say where it is: " in capsys.readouterr().err
    if change == "changed":
        shutil.copy(new / "a" / "0.png", new / "b" / "0.png")
    command = {
        "evaluate": ["evaluate", str(run), "--data-root", str(new)],
        "resume": [*resume, f"data.root={new}"],
    }[verb]
    code = cli(command)
    captured = capsys.readouterr()
    assert (code == 0) == (change == "moved"), captured.err
    assert "a bug in" not in captured.err
    if verb == "evaluate" and change == "moved":
        assert f"{info(run)['results']['test/accuracy']:.4f}" in captured.out


@pytest.mark.parametrize("limit", ["data.limit=6", "data.limit=8"])
def test_classes_that_vanish_are_named(tmp_path, capsys, limit):
    images = folder(tmp_path / "images", ["many", "some", "rare"], 10)
    for file in list((images / "rare").iterdir())[2:]:
        file.unlink()
    code = cli(["train", *settings(tmp_path, images, limit)])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    assert "image of rare" in captured.out


PATHS = {
    "two": ("{a},{b}", ["a", "b"]),
    "one": ("{a}", ["a"]),
    "a comma that exists": ("{comma}", ["x,y"]),
    "quoted": ("'{a},{b}'", ["a,{b}"]),
    "an end": ("{a},", ["a"]),
}


@pytest.mark.parametrize("key", ["data.root", "model.weights"])
@pytest.mark.parametrize("kind", PATHS)
def test_commas_in_a_swept_path(tmp_path, key, kind):
    places = {"a": tmp_path / "a", "b": tmp_path / "b", "comma": tmp_path / "x,y"}
    for path in places.values():
        path.mkdir()
    text, expected = PATHS[kind]
    [setting] = Composer().parse([f"{key}={text.format(**places)}"], sweeps=True)
    assert setting.values == tuple(str(tmp_path / e).format(**places) for e in expected)
    assert setting.is_sweep == (len(expected) > 1)
    [alone] = Composer().parse([f"{key}={places['a']},{places['b']}"])
    assert not alone.is_sweep


def test_a_sweep_over_folders(tmp_path, capsys):
    a, b = (folder(tmp_path / name, ["x", "y"]) for name in ("a", "b"))
    words = [s for s in settings(tmp_path, a) if not s.startswith("data.root")]
    assert cli(["train", "-m", *words, f"data.root={a},{b}"]) == 0
    runs = list((tmp_path / "o").rglob("run.json"))
    assert {info(run.parent)["config"]["data"]["root"] for run in runs} == {str(a), str(b)}


@pytest.mark.parametrize(
    "swept", ["model.hidden=[4],[8]", "optimizer.weight_decay=0,.1", "data.shuffle=true,false"]
)
def test_a_swept_key_is_a_column_of_hparams(tmp_path, swept):
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.plugins.hparams import plugin_data_pb2

    words = [s for s in tiny(tmp_path, "model=mlp", "num_epochs=1") if s != "model=basic_cnn"]
    assert cli(["train", "-m", *words, swept]) == 0
    key, seen = swept.partition("=")[0], []
    for file in tmp_path.rglob("events.out.*"):
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                if value.tag == "_hparams_/session_start_info":
                    data = plugin_data_pb2.HParamsPluginData()
                    data.ParseFromString(value.metadata.plugin_data.content)
                    seen.append(str(data.session_start_info.hparams[key]).strip())
    assert len(set(seen)) == 2, seen
    assert all(seen)
