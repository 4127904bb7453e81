"""A network of the user's own: from a file, from a package; and never from a stranger's run."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from tiny import command, info, same, tiny, train, weights
from torch import nn

import cnnbench
from cnnbench import registry as plugins
from cnnbench.cli.main import run as cli
from cnnbench.config.compose import Composer
from cnnbench.errors import CheckpointError, UsageError
from cnnbench.runs.checkpoint import Checkpoints

SOURCE = """
from pathlib import Path
from typing import Literal
import torch
from torch import nn

Path(__file__).with_name("ran").touch()

class MyNet(nn.Module):
    def __init__(self, *, in_channels, num_classes, width=4, scale=(1.0, 2.0)):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, width, 3)
        self.scale = float(torch.tensor(scale).sum())
        self.head = nn.Linear(width, num_classes)

    def forward(self, x):
        return self.head(self.conv(x).mean((2, 3))) * self.scale

class Sized(nn.Module):
    def __init__(self, in_channels, num_classes, image_size):
        super().__init__()
        self.head = nn.Linear(in_channels * image_size**2, num_classes)

    def forward(self, x):
        return self.head(x.flatten(1))

class Blind(nn.Module):
    def __init__(self, width=3):
        super().__init__()

class Broken(nn.Module):
    def __init__(self, in_channels, num_classes):
        super().__init__()
        raise RuntimeError("no luck")

class Stuck(MyNet):
    def forward(self, x):
        return x.nonsense

class Flat(MyNet):
    def forward(self, x):
        return super().forward(x).sum(1)

class Typed(MyNet):
    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        width: int = 4,
        rate: float | None = None,
        norm: Literal["batch", "none"] = "none",
        bias: bool = True,
        name: str = "x",
        sides: tuple[int, ...] = (3,),
        other: nn.Module | int = 1,
        free=None,
    ):
        super().__init__(in_channels=in_channels, num_classes=num_classes, width=width)

def function(in_channels, num_classes):
    return 1

number = 1
"""


@pytest.fixture
def source(tmp_path) -> Path:
    folder = tmp_path / "my nets, (李)=1"
    folder.mkdir()
    file = folder / "my,net.py"
    file.write_text(SOURCE)
    return file


@pytest.fixture
def run(source, tmp_path) -> Path:
    return custom(source, tmp_path, "model.args.width=3")


def custom(source, root, *more, name="MyNet"):
    path = f"model.path={source}:{name}"
    return train(root / "outputs", "num_epochs=1", "model=custom", path, *more)


def ran(source) -> bool:
    mark = source.with_name("ran")
    was_there = mark.exists()
    mark.unlink(missing_ok=True)
    return was_there


def test_it_trains_with_its_arguments_and_its_hash_is_recorded(run, source):
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    content = info(run)
    assert content["status"] == "done"
    assert content["model"]["file_sha256"] == digest
    assert content["config"]["model"]["args"] == {"width": 3}
    assert Checkpoints(run / "checkpoints").load("best")["network"]["file_sha256"] == digest
    assert weights(run)["conv.weight"].shape == (3, 1, 3, 3)


def test_it_may_ask_for_the_image_size(source, tmp_path):
    run = custom(source, tmp_path, name="Sized")
    assert weights(run)["head.weight"].shape == (3, 16 * 16)


def test_the_same_file_elsewhere_is_the_same_run_and_an_edited_one_is_not(source, tmp_path):
    keys = []
    for file in (source, tmp_path / "copy.py"):
        file.write_text(SOURCE)
        keys.append(info(custom(file, tmp_path))["provenance"]["run_key"])
    (tmp_path / "copy.py").write_text(SOURCE + "\n")
    keys.append(info(custom(tmp_path / "copy.py", tmp_path))["provenance"]["run_key"])
    assert keys[0] == keys[1] != keys[2]


def test_reading_a_run_does_not_run_the_file_it_names(run, source, capsys):
    ran(source)
    for args in (["evaluate", str(run)], ["summary", str(run)]):
        assert cli(args) == 2
        assert "Code that a run names is not run" in capsys.readouterr().err
    with pytest.raises(UsageError, match="--model-path FILE:CLASS"):
        cnnbench.load(run)
    with pytest.raises(UsageError, match="--model-path FILE:CLASS"):
        cnnbench.predict(run, torch.zeros(1, 1, 16, 16, dtype=torch.uint8))
    assert cli(["summary", str(run), "--params", "*"]) == 0
    assert "head.weight" in capsys.readouterr().out
    assert cli(["runs", "list", str(run.parent)]) == 0
    assert not ran(source)


def test_a_strangers_run_cannot_name_code(run, source, tmp_path, capsys):
    evil = tmp_path / "evil.py"
    evil.write_text(SOURCE + "# other bytes\n")
    content = info(run)
    content["status"] = "interrupted"
    for node in (content["config"]["model"], content["model"]["args"]):
        node["path"] = f"{evil}:MyNet"
    foreign = tmp_path / "foreign"
    shutil.copytree(run, foreign)
    (foreign / "run.json").write_text(json.dumps(content))
    text = (foreign / "config.yaml").read_text().replace(str(source), str(evil))
    (foreign / "config.yaml").write_text(text)
    ran(evil)
    for args in (
        ["evaluate", str(foreign)],
        ["summary", str(foreign)],
        ["train", f"resume={foreign}"],
        ["train", "--config", str(foreign / "config.yaml"), "num_epochs=1"],
    ):
        assert cli(args) == 2, args
        assert "code" in capsys.readouterr().err.lower()
    assert not ran(evil)


def test_its_owner_reads_it_by_naming_the_file_again(run, source):
    path = f"{source}:MyNet"
    module = cnnbench.load(run, model_path=path)
    assert same(module.state_dict(), weights(run, "best"))
    assert not module.training
    result = cnnbench.evaluate(run, model_path=path)
    assert result["accuracy"] == info(run)["results"]["test/accuracy"]
    images = torch.zeros(2, 1, 16, 16, dtype=torch.uint8)
    assert len(cnnbench.predict(run, images, model_path=path)) == 2


def test_an_edited_file_is_not_what_the_run_was_trained_with(run, source):
    source.write_text(SOURCE.replace("* self.scale", "* 0"))
    ran(source)
    with pytest.raises(CheckpointError, match="not the file this run was trained with"):
        cnnbench.load(run, model_path=f"{source}:MyNet")
    assert not ran(source)


def test_it_goes_on_where_its_file_is_named_again(source, tmp_path):
    run = custom(source, tmp_path, "scheduler=constant")
    path = f"model.path={source}:MyNet"
    with pytest.raises(UsageError, match=r"name it yourself: model\.path=FILE:CLASS"):
        cnnbench.train([f"resume={run}", "extend_epochs=1"])
    with pytest.raises(CheckpointError, match="not what this run was trained with"):
        cnnbench.train([f"resume={run}", "extend_epochs=1", f"model.path={source}:Flat"])
    assert cnnbench.train([f"resume={run}", "extend_epochs=1", path]) == run
    assert info(run)["results"]["best_epoch"] in (1, 2)
    assert info(run)["config"]["num_epochs"] == 2


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("MyNte", [], "has no class MyNte; did you mean 'MyNet'"),
        ("Blind", [], "fails on images .*NotImplementedError"),
        ("function", [], r"returns int, expected a torch\.nn\.Module"),
        ("number", [], r"is no class of torch\.nn\.Module"),
        ("Broken", [], "its constructor fails with .*RuntimeError: no luck"),
        ("Stuck", [], "fails on images .*no attribute 'nonsense'"),
        ("Flat", [], r"gives \(2,\) for 2 images, expected \(2, 3\)"),
        ("MyNet", ["model.args.widht=2"], "did you mean 'width'"),
        ("MyNet", ["model.widht=2"], r"model\.widht: unknown key"),
        ("MyNet", ["model.args={a: {b: 1}}"], r"model\.args.*expected keys with plain values"),
        ("MyNet", ["model.args.in_channels=2"], "unknown argument"),
    ],
)
def test_bad_classes_and_arguments(source, tmp_path, name, more, message):
    with pytest.raises(UsageError, match=message):
        custom(source, tmp_path, *more, name=name)
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("width=wide", "a whole number"),
        ("width=1.5", "a whole number"),
        ("width=true", "a whole number"),
        ("rate=high", "a number or null"),
        ("norm=bach", "one of batch, none; did you mean 'batch'?"),
        ("bias=1", "true or false"),
        ("name=1", "text; in quotes it is text: \"model.args.name='...'\""),
        ("sides=[3,x]", "a list of values, each a whole number"),
        ("sides=3", "a list of values, each a whole number"),
    ],
)
def test_values_are_held_to_plain_annotations(source, tmp_path, setting, expected):
    key, _, value = setting.partition("=")
    with pytest.raises(UsageError) as caught:
        custom(source, tmp_path, f"model.args.{setting}", name="Typed")
    shown = '[3, "x"]' if value == "[3,x]" else value
    assert str(caught.value).endswith(f":Typed: model.args.{key}={shown}: expected {expected}")
    assert not (tmp_path / "outputs").exists()


def test_other_annotations_and_right_values_are_left_to_the_class(source):
    path = f"model.path={source}:Typed"
    args = ["rate=1", "norm=batch", "bias=false", "name=a", "sides=[3,5]", "other=x", "free=x"]
    settings = ["model=custom", path, "data=digits", *(f"model.args.{text}" for text in args)]
    assert cli(["summary", *settings]) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing.py:MyNet", "there is no file"),
        ("nothing.py", "expected FILE:CLASS"),
        ("null", r"model\.path=null"),
    ],
)
def test_bad_paths(tmp_path, text, message):
    with pytest.raises(UsageError, match=message):
        train(tmp_path, "model=custom", f"model.path={text}")


def test_a_file_that_fails(source, tmp_path):
    source.write_text("import nothing_of_that_name\nclass MyNet: ...\n")
    with pytest.raises(
        UsageError, match=r"cannot be run: .*, line 1, in <module>: ModuleNotFoundError"
    ):
        custom(source, tmp_path)
    source.write_text("class MyNet(:")
    with pytest.raises(UsageError, match=r"cannot be run: .*, line 1: SyntaxError"):
        custom(source, tmp_path)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Install a package that announces networks and data sets."""

    def install(name: str, points: str) -> Path:
        root = tmp_path / name
        facts = root / f"{name}-1.0.dist-info"
        facts.mkdir(parents=True)
        (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (facts / "entry_points.txt").write_text(points)
        (root / f"{name}_nets.py").write_text(SOURCE + DATA)
        monkeypatch.syspath_prepend(root)
        plugins._found.cache_clear()
        return root / f"{name}_nets.py"

    yield install
    plugins._found.cache_clear()


DATA = """
from cnnbench.data import DATASETS
row = DATASETS["digits"]

class Stripes:
    classes = ["lying", "standing"]
    def __len__(self):
        return 60
    def __getitem__(self, index):
        import numpy as np
        image = np.zeros((8, 8), np.uint8)
        image[index % 7 :: 2] = 255
        return (image if index % 2 else image.T), index % 2
"""


def test_a_packages_network_and_data_set(package, tmp_path, capsys):
    file = package(
        "friend",
        "[cnnbench.models]\nfriendnet = friend_nets:MyNet\nwrongnet = friend_nets:row\n"
        "[cnnbench.datasets]\nfriends = friend_nets:row\nstripes = friend_nets:Stripes\n"
        "wrongs = friend_nets:MyNet\n",
    )
    assert cli(["ls", "model"]) == 0
    assert "from the package friend (friend_nets:MyNet)" in capsys.readouterr().out
    assert "friends" in Composer().groups.choices("data")
    assert not ran(file)
    settings = ["data.limit=40", "num_epochs=1", f"output_root={tmp_path / 'o'}"]
    run = cnnbench.train(["model=friendnet", "model.args.width=2", "data=friends", *settings])
    assert ran(file)
    assert info(run)["config"]["data"]["name"] == "friends"
    assert weights(run)["conv.weight"].shape == (2, 1, 3, 3)
    striped = cnnbench.train(["model=softmax", "data=stripes", *settings])
    assert info(striped)["data"]["class_names"] == ["lying", "standing"]
    assert 0 <= cnnbench.evaluate(striped)["accuracy"] <= 1
    # An installed package is the user's own doing: its runs are read like ours.
    assert isinstance(cnnbench.load(run), nn.Module)
    for wrong in ("model=wrongnet", "data=wrongs"):
        with pytest.raises(UsageError, match=wrong):
            cnnbench.train([wrong, *settings])


@pytest.mark.parametrize("name", ["lenet", "twin"])
def test_a_name_that_is_there_twice(package, name):
    package("one", f"[cnnbench.models]\n{name} = one_nets:MyNet\n")
    if name == "twin":
        package("two", f"[cnnbench.models]\n{name} = two_nets:MyNet\n")
    with pytest.raises(UsageError, match=f"model={name} is there twice"):
        Composer().groups.choices("model")


@pytest.mark.parametrize("name", ["my net", "a/b", "-net"])
def test_a_name_that_no_run_could_be_read_by(package, name):
    package("odd", f"[cnnbench.models]\n{name} = odd_nets:MyNet\n")
    with pytest.raises(UsageError, match=f"model={name}: from the package odd .*: a name has"):
        Composer().groups.choices("model")


def with_blocks(folder, width):
    """Write a network whose width is in a file beside it, and return the network's file."""
    folder.mkdir()
    (folder / "its_blocks.py").write_text(f"WIDTH = {width}\n")
    (folder / "random.py").write_text("raise RuntimeError('not the standard library')\n")
    file = folder / "net.py"
    file.write_text(SOURCE.replace("from torch import nn", "from torch import nn\n" + BESIDE))
    return file


BESIDE = """
import random
from its_blocks import WIDTH

class Wide(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv = nn.Conv2d(1, WIDTH, 3)
        self.head = nn.Linear(WIDTH, num_classes)

    def forward(self, x):
        import its_blocks
        return self.head(self.conv(x).mean((2, 3)))
"""


def test_files_import_what_lies_beside_each(tmp_path):
    wides = [with_blocks(tmp_path / name, width) for name, width in (("one", 3), ("two", 5))]
    for file, width in zip(wides, (3, 5), strict=True):
        run = custom(file, tmp_path, name="Wide")
        assert weights(run)["head.weight"].shape == (3, width)


def test_it_is_found_from_another_folder_and_by_the_jobs_of_a_sweep(tmp_path):
    file = with_blocks(tmp_path / "one", 3)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    settings = tiny(tmp_path / "o", "model=custom", f"model.path={file}:Wide", "num_epochs=1")
    done = command("train", "-m", *settings, "seed=0,1", cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    assert not done.stderr.count("its_blocks")


def test_a_file_beside_it_that_python_does_not_take_is_told(tmp_path, monkeypatch, capsys):
    file = with_blocks(tmp_path / "one", 3)
    first = tmp_path / "first"
    first.mkdir()
    (first / "its_blocks.py").write_text("WIDTH = 4\n")
    monkeypatch.syspath_prepend(first)
    monkeypatch.delitem(sys.modules, "its_blocks", raising=False)
    custom(file, tmp_path, name="Wide")
    monkeypatch.delitem(sys.modules, "its_blocks")
    told = capsys.readouterr().err
    assert f"import its_blocks gives {first}/its_blocks.py" in told
    assert f"not {file.parent}/its_blocks.py" in told
