"""Names from a stranger are data: they steer no terminal, no spreadsheet, no page and no path."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import info, tiny, train

from cnnbench.cli.main import run as cli
from cnnbench.notices import NEWLINE, notice, visible
from cnnbench.rendering.text import render_json, render_table

HOSTILE = {
    "clear the screen": "cat\x1b[2J",
    "a title": "cat\x1b]0;owned\x07",
    "a link": "\x1b]8;;http://x\x1b\\cat\x1b]8;;\x1b\\",
    "C1": "cat\x9b31m",
    "bidi override": "cat\u202egod",
    "bidi isolate": "cat\u2066dog\u2069",
    "newline": "cat\ncnnbench: all is well",
    "carriage return": "cat\rdog",
    "tab": "cat\tdog",
    "backspace": "cat\x08\x08\x08dog",
    "delete": "cat\x7f",
    "line separator": "cat\u2028dog",
    "zero width": "cat\u200bdog\ufeff",
    "half a character": "cat\udce4",
    "private use": "cat\ue000",
}
FORMULAS = {
    "equals": "=1+1",
    "a command": "=cmd|'/c calc'!A1",
    "plus": "+SUM(A1)",
    "minus": "-2+3|x",
    "at": "@SUM(A1)",
    "after a space": " =1+1",
    "tab": "\t=1+1",
    "return": "\r=1+1",
    "full width": "\uff1d1+1",
}
HARMLESS = (
    "cat",
    "l'été",
    "猫",
    "고양이",
    "قطة",
    "نمی‌شود",
    "कुत्ता",
    "👨‍👩‍👧",
    "wide\u3000space",
    "naïve",
)


def steering(text: str) -> list[str]:
    """Return the characters of a text that are more than text, newlines apart."""
    kinds = {"Cc", "Cf", "Zl", "Zp", "Cs", "Co"}
    allowed = "\n\u200c\u200d"
    return [c for c in text if unicodedata.category(c) in kinds and c not in allowed]


@pytest.mark.parametrize("kind", HOSTILE)
def test_they_are_shown_by_number(kind):
    shown = visible(HOSTILE[kind])
    assert not steering(shown)
    assert "\n" not in shown
    assert "cat" in shown


@pytest.mark.parametrize("text", HARMLESS)
def test_other_scripts_stay(text):
    assert visible(text) == text


@pytest.mark.parametrize("output_format", ["text", "markdown", "csv", "latex"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_tables(kind, output_format):
    rows = [{"class": HOSTILE[kind], "n": 1}, {"class": "dog", "n": 2}]
    table = render_table(rows, ("class", "n"), output_format)
    ordinary = render_table([{**rows[0], "class": "cat"}, rows[1]], ("class", "n"), output_format)
    assert not steering(table)
    assert len(table.split("\n")) == len(ordinary.split("\n"))
    heads = render_table([{HOSTILE[kind]: 1}], (HOSTILE[kind],), output_format)
    assert not steering(heads)


@pytest.mark.parametrize("kind", HOSTILE)
def test_json_reads_back(kind):
    text = render_json({"class": HOSTILE[kind]})
    assert not steering(text)
    assert json.loads(text) == {"class": HOSTILE[kind]}


@pytest.mark.parametrize("kind", HOSTILE)
def test_errors(kind, capsys):
    notice(f"no class {HOSTILE[kind]}")
    assert not steering(capsys.readouterr().err)
    wrong = HOSTILE[kind].replace("=", "").replace("\x00", "")
    for args in ([wrong], ["train", f"model={wrong}"], ["predict", wrong, wrong], ["ls", wrong]):
        assert cli(args) == 2
        captured = capsys.readouterr()
        assert not steering(captured.err + captured.out), args


@pytest.mark.parametrize("kind", FORMULAS)
def test_no_cell_is_a_formula(kind):
    rows = [{"class": FORMULAS[kind], FORMULAS[kind]: 1}]
    table = render_table(rows, ("class", FORMULAS[kind]), "csv")
    for row in csv.reader(io.StringIO(table)):
        for cell in row:
            assert not re.match(r"[\s]*[=+\-@\uff1d]", cell), cell
            assert cell[:1] not in "\t\r"


@pytest.mark.parametrize("number", [-0.5, -3, 1e-7, "-0.5", "+3", "-1e5", "-inf"])
def test_numbers_stay_numbers(number):
    head, value = render_table([{"x": number}], ("x",), "csv").splitlines()
    assert (head, value) == ("x", str(number))


def test_a_tag_is_none_in_markdown():
    table = render_table([{"x": "<script>alert(1)</script> p < .05"}], ("x",), "markdown")
    assert "<script" not in table
    assert "p < .05" in table


NAMES = [
    "=cmd|1", "cat\x1b[2J", "a\u202eb", "new\nline", "ta\tb", "<script>x</script>", "猫", "$x_1$"
]  # fmt: skip


@pytest.fixture(scope="module")
def named(tmp_path_factory) -> tuple[Path, Path]:
    """Return a folder with such classes, and a run that was trained on it."""
    root = tmp_path_factory.mktemp("named")
    draw = np.random.default_rng(0)
    for number, name in enumerate(n.replace("/", "\u2215") for n in NAMES):
        folder = root / "images" / name
        folder.mkdir(parents=True)
        for index in range(8):
            pixels = np.full((12, 12), 30 * number, np.uint8) + draw.integers(0, 9, (12, 12))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index}.png")
    settings = [
        "model=softmax", "data=folder", f"data.root={root / 'images'}", "data.image_size=12",
        "num_epochs=1", "device=cpu", "device.num_threads=1", f"output_root={root / 'o'}",
    ]  # fmt: skip
    assert cli(["train", *settings]) == 0
    [record] = root.rglob("run.json")
    return root / "images", record.parent


@pytest.mark.parametrize("output_format", ["text", "markdown", "csv", "json"])
@pytest.mark.parametrize("verb", ["evaluate", "predict", "compare", "summary", "check"])
def test_every_verb(named, capsys, verb, output_format):
    images, run = named
    arguments = {
        "evaluate": ["evaluate", str(run)],
        "predict": ["predict", str(run), str(images)],
        "compare": ["compare", str(run)],
        "summary": ["summary", str(run)],
        "check": ["data", "check", "folder", f"data.root={images}", "data.image_size=12"],
    }[verb]
    assert cli([*arguments, "--format", output_format]) == 0
    captured = capsys.readouterr()
    assert not steering(captured.out + captured.err)
    if output_format == "csv":
        for row in csv.reader(io.StringIO(captured.out)):
            assert not any(cell[:1] in ("=", "@") for cell in row)


def test_first_lines_pages_and_pictures(named, capsys, tmp_path):
    images, run = named
    settings = [
        "model=softmax", "data=folder", f"data.root={images}", "data.image_size=12",
        "num_epochs=1", "device=cpu", f"output_root={tmp_path / 'o'}",
    ]  # fmt: skip
    assert cli(["train", *settings]) == 0
    captured = capsys.readouterr()
    assert not steering(captured.out + captured.err)
    assert cli(["compare", str(run), "--html", str(tmp_path / "page.html")]) == 0
    assert not steering((tmp_path / "page.html").read_text().replace("\t", ""))
    assert cli(["evaluate", str(run), "--plots"]) == 0
    assert not steering(capsys.readouterr().err)
    for file in (run / "plots").glob("*.svg"):
        assert not steering(file.read_text())


def test_tensorboard(named):
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    _, run = named
    [file] = run.glob("events.out.tfevents.*")
    tags = [
        value.tag for event in EventFileLoader(str(file)).Load() for value in event.summary.value
    ]
    assert any(tag.startswith("test/pr/") for tag in tags)
    for tag in tags:
        assert not steering(tag)
        assert "\n" not in tag


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    return train(tmp_path_factory.mktemp("run"), "model=softmax", "num_epochs=1")


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "..", "a/../../x", "x\n", "..\\x", ""])
@pytest.mark.parametrize("where", ["run", "checkpoint"])
def test_a_recorded_name_is_no_path(trained, tmp_path, capsys, name, where):
    run = tmp_path / "a" / "b" / "run"
    shutil.copytree(trained, run)
    if where == "run":
        content = info(run)
        content["config"]["model"]["name"] = content["model"]["name"] = name
        content["config"]["data"]["name"] = content["data"]["name"] = name
        (run / "run.json").write_text(json.dumps(content))
    else:
        manifest = run / "checkpoints" / "manifest.json"
        text = manifest.read_text()
        for file in (run / "checkpoints").glob("*.pt"):
            before = hashlib.sha256(file.read_bytes()).hexdigest()
            size = file.stat().st_size
            payload = torch.load(file, weights_only=True)  # noqa: TID251
            if "network" in payload:
                payload["network"]["name"] = name
                torch.save(payload, file)  # noqa: TID251
                text = text.replace(before, hashlib.sha256(file.read_bytes()).hexdigest())
                text = text.replace(str(size), str(file.stat().st_size))
        manifest.write_text(text)
    image = tmp_path / "image.png"
    Image.new("L", (16, 16)).save(image)
    before = sorted(path for path in tmp_path.rglob("*") if run not in path.parents)
    for args in (
        ["export", str(run), "--to", "torch"],
        ["evaluate", str(run), "--plots"],
        ["predict", str(run), str(image)],
        ["features", str(run), str(image)],
        ["compare", str(run), "--html", str(run / "page.html")],
    ):
        code = cli(args)
        err = capsys.readouterr().err
        assert code in (0, 2, 65), (args, err)
        assert "a bug in" not in err
        # Predicting asks the checkpoint alone.
        if args[0] == "evaluate" or (args[0] == "predict" and where == "checkpoint"):
            assert code in (2, 65)
    assert sorted(path for path in tmp_path.rglob("*") if run not in path.parents) == before


def test_the_names_of_sweeps_are_no_paths(tmp_path, capsys):
    for name in ("../../x", "/tmp/x-of-a-sweep", "a\x1bb"):
        settings = tiny(tmp_path / "o", f"sweep.name='{name}'", "num_epochs=1", "seed=0,1")
        code = cli(["train", "-m", "model=softmax", *settings[1:]])
        assert not steering(capsys.readouterr().err)
        assert code in (0, 2)
    assert {path.name for path in tmp_path.iterdir()} <= {"o"}


def test_what_is_kept():
    assert visible("a\nb\x1b", kept=NEWLINE) == "a\nb\\u001b"
