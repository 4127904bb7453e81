"""Mistakes that are told before torch is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cnnbench.config.command import single_config
from cnnbench.config.compose import Composer
from cnnbench.config.early import check_early
from cnnbench.errors import UsageError

CODE = """
import sys; from cnnbench.cli.main import run
code = run(["train", *sys.argv[1:]])
assert "torch" not in sys.modules
sys.exit(code)
"""


def refused(*settings: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", CODE, *settings], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    return done.stderr


@pytest.mark.skipif(sys.platform == "darwin", reason="Macs have such a device")
def test_a_device_that_cannot_be_there() -> None:
    assert "no MPS device" in refused("device=mps")


def test_a_class_that_the_file_lacks(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("from torch import nn\nclass MyNet(nn.Module): pass\n")
    text = refused("model=custom", f"model.path={file}:MyNte")
    assert "has no class MyNte; did you mean 'MyNet'" in text


@pytest.mark.parametrize(
    ("source", "is_refused"),
    [
        ("class Net: pass", False),
        ("def Net(): pass", False),
        ("Net = 3", False),
        ("from elsewhere import Net", False),
        ("from elsewhere import Other as Net", False),
        ("from elsewhere import *", False),
        ("if True:\n    class Net: pass", False),
        ("class Net(:", False),
        ("", True),
        ("'a text'\nimport os\nfrom elsewhere import Other", True),
    ],
)
def test_only_what_is_sure_is_refused(source: str, is_refused: bool, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(source)
    composer = Composer()
    config = single_config(composer, composer.parse(["model=custom", f"model.path={file}:Net"]))
    if is_refused:
        with pytest.raises(UsageError, match="has no class Net"):
            check_early(config)
    else:
        check_early(config)
