"""Code of the user's own that fails: their file and line, what was expected, never our bug."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from PIL import Image
from tiny import info, tiny

from cnnbench import registry
from cnnbench.cli.main import run as cli

BASE = """
import sys
import torch
from torch import nn

class Stop(BaseException):
    pass

class MyNet(nn.Module):
    def __init__(self, *, in_channels, num_classes):
        super().__init__()
        self.num_classes = num_classes
        self.conv = nn.Conv2d(in_channels, 4, 3)
        self.head = nn.Linear(4, num_classes)

    def forward(self, x):
        return self.head(self.conv(x).mean((2, 3)))
"""


def line_of(file: Path, mark: str = "HERE") -> int:
    lines = file.read_text().splitlines()
    return next(number for number, line in enumerate(lines, start=1) if mark in line)


def fails(capsys, tmp_path, source: str, *more: str, name: str = "MyNet") -> tuple[Path, str]:
    """Train a network of a source, and return its file and what the user reads."""
    folder = tmp_path / "mine"
    folder.mkdir(exist_ok=True)
    file = folder / "mynet.py"
    file.write_text(BASE + textwrap.dedent(source))
    path = f"model.path={file}:{name}"
    few = ("num_epochs=1", "data.num_train=48")
    settings = [s for s in tiny(tmp_path / "o", *few, *more) if not s.startswith("model=")]
    code = cli(["train", "model=custom", path, *settings])
    err = capsys.readouterr().err
    assert "a bug in cnnbench" not in err
    assert "Traceback" not in err
    assert code == 2, err
    return file, err.splitlines()[-1]


FORWARD = {
    "shapes that do not fit": ("return self.head(x)  # HERE", "RuntimeError: "),
    "a key that is not there": ("return {}['x']  # HERE", "KeyError: 'x'"),
    "endless recursion": ("return self.forward(x)  # HERE", "RecursionError: "),
    "sys.exit": ("sys.exit(0)  # HERE", "SystemExit: 0"),
    "a bare exception": ("raise Stop('enough')  # HERE", "Stop: enough"),
    "an error without words": ("raise ValueError  # HERE", "ValueError"),
    "a message of many lines": ("raise ValueError('a\\n' * 900)  # HERE", "ValueError: a a a"),
    "another device": ("return x + torch.zeros(3, device='cpu')  # HERE", "RuntimeError"),
}


@pytest.mark.parametrize("when", ["always", "training", "evaluation", "the third step"])
@pytest.mark.parametrize("how", FORWARD)
def test_forward(tmp_path, capsys, how, when):
    line, message = FORWARD[how]
    condition = {
        "always": "True",
        "training": "self.training",
        "evaluation": "not self.training and x.device.type != 'meta'",
        "the third step": "self.seen > 2",
    }[when]
    if how == "another device" and when != "always":
        line = "return x.to('cuda:99')  # HERE"
        message = ""
    file, said = fails(
        capsys,
        tmp_path,
        f"""
        class Broken(MyNet):
            seen = 0
            def forward(self, x):
                self.seen += 1
                if {condition}:
                    {line}
                return super().forward(x)
        """,
        name="Broken",
    )
    # Where a recursion meets its limit is chance.
    number = "" if how == "endless recursion" else f"{line_of(file)}, in forward: "
    assert f"{file}, line {number}" in said
    assert message in said
    assert "expected" in said
    assert len(said) < 900
    for record in tmp_path.rglob("run.json"):
        assert info(record.parent)["status"] == "failed"
        assert str(file) in info(record.parent)["reason"]


OUTPUTS = {
    "nothing": ("None", "None"),
    "text": ("'cat'", "str"),
    "too many classes": ("torch.cat([good, good], 1)", "(2, 6)"),
    "too few images": ("good[:1]", "1 row of logits"),
    "one number each": ("good.sum(1)", "(2,)"),
}


@pytest.mark.parametrize("mode", ["training", "evaluation"])
@pytest.mark.parametrize("how", OUTPUTS)
def test_what_forward_returns(tmp_path, capsys, how, mode):
    value, came = OUTPUTS[how]
    is_training = "" if mode == "training" else "not "
    source = f"""
        class Broken(MyNet):
            def forward(self, x):  # HERE
                good = super().forward(x)
                return {value} if {is_training}self.training else good
        """
    file, said = fails(capsys, tmp_path, source, name="Broken")
    assert f"{file}, line {line_of(file)}, in forward" in said
    assert "expected" in said
    if mode == "training":
        assert came in said


CONSTRUCTORS = {
    "an error": ("raise RuntimeError('no luck')  # HERE", "RuntimeError: no luck"),
    "sys.exit": ("sys.exit('bye')  # HERE", "SystemExit: bye"),
    "a bare exception": ("raise Stop  # HERE", "Stop"),
    "recursion": ("(lambda f: f(f))(lambda f: f(f))  # HERE", "Recursion"),
    "too little memory": ("raise MemoryError  # HERE", "MemoryError"),
}


@pytest.mark.parametrize("how", CONSTRUCTORS)
def test_constructor(tmp_path, capsys, how):
    line, message = CONSTRUCTORS[how]
    source = f"""
        class Broken(MyNet):
            def __init__(self, *, in_channels, num_classes):
                super().__init__(in_channels=in_channels, num_classes=num_classes)
                {line}
        """
    file, said = fails(capsys, tmp_path, source, name="Broken")
    assert f"{file}, line {line_of(file)}, in " in said
    assert message in said


IMPORTS = {
    "a mistake in the syntax": ("def broken(:  # HERE", "SyntaxError"),
    "a wrong indent": ("if True:\nx = 1  # HERE", "IndentationError"),
    "an import": ("import nothing_of_that_name  # HERE", "ModuleNotFoundError"),
    "sys.exit": ("sys.exit()  # HERE", "SystemExit"),
    "a bare exception": ("raise Stop  # HERE", "Stop"),
    "division": ("1 / 0  # HERE", "ZeroDivisionError"),
}


@pytest.mark.parametrize("how", IMPORTS)
def test_the_file_itself(tmp_path, capsys, how):
    line, message = IMPORTS[how]
    file, said = fails(capsys, tmp_path, line)
    assert f"{file}, line {line_of(file)}" in said
    assert message in said
    assert not (tmp_path / "o").exists()


BACKWARD = {
    "a gradient hook": "x.register_hook(fail)",
    "a module's hook": "self.head.register_full_backward_hook(lambda *a: fail(a))",
}


@pytest.mark.parametrize("how", BACKWARD)
def test_backward(tmp_path, capsys, how):
    source = f"""
        def fail(grad):
            raise KeyError("late")  # HERE

        class Broken(MyNet):
            def forward(self, x):
                x = self.conv(x).mean((2, 3))
                if self.training and not x.is_meta:
                    {BACKWARD[how]}
                return self.head(x)
        """
    file, said = fails(capsys, tmp_path, source, name="Broken")
    assert f"{file}, line {line_of(file)}, in fail: KeyError: 'late'" in said


def test_two_inputs(tmp_path, capsys):
    source = """
        class Broken(MyNet):
            def forward(self, x, y):  # HERE
                return super().forward(x)
        """
    file, said = fails(capsys, tmp_path, source, name="Broken")
    assert f"{file}, line {line_of(file)}, in forward: TypeError" in said
    assert "'y'" in said


def test_a_module_beside_it(tmp_path, capsys):
    folder = tmp_path / "mine"
    folder.mkdir()
    beside = folder / "my_blocks_beside.py"
    beside.write_text("def block(x):\n    return x['a']  # HERE\n")
    source = """
        from my_blocks_beside import block

        class Broken(MyNet):
            def forward(self, x):
                return block(x) if self.training else super().forward(x)
        """
    _, said = fails(capsys, tmp_path, source, name="Broken")
    assert f"{beside}, line 2, in block: " in said


@pytest.mark.parametrize("more", [(), ("optimizer.ema_decay=.9",)])
def test_auxiliary_heads(tmp_path, capsys, more):
    source = """
        class Broken(MyNet):
            aux_weight = 0.3
            def forward_with_aux(self, x):
                return self.forward(x)
        """
    _, said = fails(capsys, tmp_path, source, *more, name="Broken")
    assert "forward_with_aux: gives Tensor, expected logits, and a tuple" in said


def test_a_number_that_is_none_is_no_fault_of_the_code(tmp_path, capsys):
    folder = tmp_path / "nan.py"
    folder.write_text(BASE.replace("mean((2, 3)))", "mean((2, 3))) * float('nan')"))
    settings = [s for s in tiny(tmp_path / "o") if not s.startswith("model=")]
    assert cli(["train", "model=custom", f"model.path={folder}:MyNet", *settings]) == 76
    assert "bug" not in capsys.readouterr().err


def test_evaluation_of_a_finished_run(tmp_path, capsys):
    file, flag = tmp_path / "mynet.py", tmp_path / "broken"
    file.write_text(
        BASE.replace(
            "        return self.head(",
            f"        if __import__('os').path.exists({str(flag)!r}) and not x.is_meta:\n"
            "            raise ValueError('on purpose')  # HERE\n        return self.head(",
        )
    )
    settings = [s for s in tiny(tmp_path / "o", "num_epochs=1") if not s.startswith("model=")]
    path = f"{file}:MyNet"
    assert cli(["train", "model=custom", f"model.path={path}", *settings]) == 0
    run = capsys.readouterr().out.splitlines()[-1]
    flag.touch()
    image = tmp_path / "image.png"
    Image.new("L", (16, 16)).save(image)
    for verb in (["evaluate", run], ["features", run, str(image)], ["predict", run, str(image)]):
        assert cli([*verb, "--model-path", path]) == 2, verb
        err = capsys.readouterr().err
        assert f"{file}, line {line_of(file)}, in forward: ValueError: on purpose" in err
        assert "a bug in" not in err


@pytest.mark.parametrize("when", ["import", "constructor", "training"])
def test_a_plug_in(tmp_path, capsys, monkeypatch, when):
    site = tmp_path / "site-packages"
    facts = site / "pal-1.0.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: pal\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(f"[cnnbench.models]\npalnet = pal_{when}.nets:MyNet\n")
    package = site / f"pal_{when}"
    package.mkdir()
    (package / "__init__.py").write_text("")
    bad = "{}['x']  # HERE"
    text = {
        "import": f"{BASE}\n{bad}\n",
        "constructor": BASE.replace("self.num_classes = num_classes", bad),
        "training": BASE.replace(
            "        return", f"        self.training and {bad}\n        return"
        ),
    }[when]
    file = package / "nets.py"
    file.write_text(text)
    monkeypatch.syspath_prepend(site)
    registry._found.cache_clear()
    try:
        settings = [s for s in tiny(tmp_path / "o") if not s.startswith("model=")]
        assert cli(["train", "model=palnet", *settings]) == 2
    finally:
        registry._found.cache_clear()
    err = capsys.readouterr().err
    assert f"{file}, line {line_of(file)}" in err
    assert "KeyError: 'x'" in err


def test_our_own_mistakes_stay_bugs(tmp_path, capsys, monkeypatch):
    file = tmp_path / "mynet.py"
    file.write_text(BASE)
    monkeypatch.setattr("cnnbench.training.trainer.log_step", lambda *a, **k: 1 / 0)
    settings = [s for s in tiny(tmp_path / "o") if not s.startswith("model=")]
    assert cli(["train", "model=custom", f"model.path={file}:MyNet", *settings]) == 70
    assert "a bug in cnnbench, ZeroDivisionError" in capsys.readouterr().err
