"""Code that a YAML of the user's directory names runs, and which file named it is said."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import tiny

from cnnbench.cli.main import run as cli

NET = """
from torch import nn

class MyNet(nn.Module):
    def __init__(self, *, in_channels, num_classes):
        super().__init__()
        self.head = nn.Linear(in_channels, num_classes)

    def forward(self, x):
        return self.head(x.mean((2, 3)))
"""


@pytest.fixture
def net(tmp_path) -> Path:
    file = tmp_path / "net.py"
    file.write_text(NET)
    return file


def write(root: Path, name: str, text: str) -> Path:
    file = root / "conf" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def said(capsys, root: Path, *settings: str) -> str:
    few = [s for s in tiny(root / "o", "num_epochs=1") if not s.startswith("model=")]
    assert cli(["train", *settings, *few, "--config-dir", str(root / "conf")]) == 0
    return capsys.readouterr().err


@pytest.mark.parametrize("more", [(), ("-m", "seed=0,1")])
def test_a_model_of_the_directory(net, tmp_path, capsys, more):
    file = write(tmp_path, "model/mine.yaml", f"name: custom\npath: {net}:MyNet\nargs: {{}}\n")
    err = said(capsys, tmp_path, "model=mine", *more)
    assert err.count("names code, which is run") == 1
    assert f"{file}: names code, which is run: model {net}:MyNet" in err


def test_an_experiment(net, tmp_path, capsys):
    head = "# @package _global_\ndefaults:\n  - override /model: custom\n"
    text = f"{head}model:\n  path: {net}:MyNet\n"
    file = write(tmp_path, "experiment/mine.yaml", text)
    assert f"{file}: names code" in said(capsys, tmp_path, "experiment=mine")


def test_what_was_typed_needs_no_word(net, tmp_path, capsys):
    write(tmp_path, "model/mine.yaml", f"name: custom\npath: {net}:Other\nargs: {{}}\n")
    for model in ("custom", "mine"):
        err = said(capsys, tmp_path, f"model={model}", f"model.path={net}:MyNet")
        assert "names code" not in err


def test_a_directory_without_code_is_silent(tmp_path, capsys):
    write(tmp_path, "model/small.yaml", "name: softmax\n")
    assert "names code" not in said(capsys, tmp_path, "model=small")
