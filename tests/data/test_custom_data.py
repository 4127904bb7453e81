"""`data=custom`: what a file of one's own may make, and whose code is run when."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cnnbench.cli.main import run as cli
from cnnbench.data import DatasetArrays, describe, fingerprint, read_dataset
from cnnbench.errors import DataError, UsageError

HEAD = """
import numpy as np, random, torch
from torch.utils.data import Dataset, TensorDataset, random_split
x = np.random.default_rng(0).integers(0, 256, (40, 6, 6)).astype(np.uint8)
y = np.arange(40) % 4
"""
X = np.random.default_rng(0).integers(0, 256, (40, 6, 6)).astype(np.uint8)
Y = np.arange(40) % 4


def write(folder: Path, code: str) -> Path:
    path = folder / "mydata.py"
    path.write_text(HEAD + code)
    return path


def read(folder: Path, code: str, name: str = "it", root: Path | None = None) -> DatasetArrays:
    args = {"path": f"{write(folder, code)}:{name}"}
    arrays = read_dataset("custom", root=root, args=args, image_size=6)
    facts = describe("custom", root, args)
    assert facts.class_names == arrays.class_names
    assert sum(facts.train_counts) == len(arrays.train)
    assert (facts.in_channels, facts.image_size) == arrays.train.images.shape[1:3]
    return arrays


PAIRS = {
    "four arrays": "it = x, y, x, y",
    "two pairs": "it = (x, y), (x, y)",
    "a function": "def it(): return (x, y), (x, y)",
    "a dict": "it = dict(x_train=x, y_train=y, x_test=x, y_test=y)",
    "tensors": "t = torch.from_numpy\nit = t(x), t(y), t(x), t(y)",
    "floats": "t = torch.from_numpy\nit = t(x)[:, None] / 255, t(y), t(x)[:, None] / 255, t(y)",
    "two Datasets": "d = TensorDataset(torch.from_numpy(x), torch.from_numpy(y))\nit = d, d",
    "a class with train": """
class it(Dataset):
    def __init__(self, root="unused", train=True, transform=None):
        assert train in (True, False)
    def __len__(self): return 40
    def __getitem__(self, i):
        if i >= 40: raise IndexError
        return torch.from_numpy(x[i])[None] / 255, int(y[i])
""",
    "PIL images": """
from PIL import Image
class it:
    classes = ["ant", "bee", "cow", "dog"]
    def __init__(self, train): pass
    def __len__(self): return 40
    def __getitem__(self, i): return Image.fromarray(x[i]), y[i]
""",
}


@pytest.mark.parametrize("code", PAIRS.values(), ids=PAIRS)
def test_a_training_and_a_test_part(tmp_path: Path, code: str) -> None:
    arrays = read(tmp_path, code)
    for part in (arrays.train, arrays.test):
        assert np.array_equal(part.images[:, 0], X)
        assert np.array_equal(part.targets, Y)
    names = ("ant", "bee", "cow", "dog") if "classes" in code else ("0", "1", "2", "3")
    assert arrays.class_names == names
    assert any("read once" in note for note in arrays.notes) == ("aset" in code or "PIL" in code)


NAMED = """
class Named:
    def __init__(self, classes): self.classes = classes
    def __len__(self): return 12
    def __getitem__(self, i): return x[i], i % len(self.classes)
"""


def test_pil_images_in_a_list_are_those_of_a_dataset(tmp_path: Path) -> None:
    """Of a palette the colours count, not the numbers of its entries."""
    code = """
from PIL import Image
colours = [Image.new("RGB", (8, 8), (200, 10 * n, 30)).quantize(4) for n in range(12)]
it = colours, [n % 2 for n in range(12)]
"""
    arrays = read(tmp_path, code)
    assert arrays.train.images.shape[1:] == (3, 8, 8)
    assert arrays.train.images[:, 0].min() > 190
    with pytest.raises(UsageError, match=r"item 12 is uint8 .9, 9, 3.*resize them"):
        read(tmp_path, code + "colours.append(Image.new('P', (9, 9)))\nit[1].append(0)\n")


def test_test_labels_are_those_of_training_by_their_names(tmp_path: Path) -> None:
    """As two ImageFolders number their classes, each from 0."""
    arrays = read(tmp_path, NAMED + "it = Named(['cat', 'dog', 'fish']), Named(['dog', 'fish'])")
    assert arrays.class_names == ("cat", "dog", "fish")
    assert arrays.train.targets.tolist() == [0, 1, 2] * 4
    assert arrays.test.targets.tolist() == [1, 2] * 6
    arrays = read(tmp_path, NAMED + "it = Named(['cat', 'dog']), Named(['dog', 'cat'])")
    assert arrays.test.targets.tolist() == [1, 0] * 6
    with pytest.raises(UsageError, match="test: class owl is none of the training classes"):
        read(tmp_path, NAMED + "it = Named(['cat', 'dog']), Named(['dog', 'owl'])")


@pytest.mark.parametrize(
    "code",
    [
        "it = x, y",
        "def it(): return x, y",
        "it = TensorDataset(torch.from_numpy(x), torch.from_numpy(y))",
        "class it:\n  def __len__(self): return 40\n  def __getitem__(self, i): return x[i], y[i]",
    ],
)
def test_a_fifth_tests_where_one_part_came(tmp_path: Path, code: str) -> None:
    arrays = read(tmp_path, code)
    assert np.bincount(arrays.test.targets).tolist() == [2] * 4
    assert "a fixed fifth, 8 images" in arrays.notes[0]


def test_what_is_drawn_is_drawn_alike_and_leaves_the_generators(tmp_path: Path) -> None:
    code = """
def it():
    d = TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    noise = torch.randint(0, 9, (1,)), np.random.randint(9), random.random()
    return random_split(d, [30, 10])
"""
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = read(tmp_path, code)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(6)
    (tmp_path / "b").mkdir()
    assert read(tmp_path / "b", code).sha256 == first.sha256


def test_the_root_is_given(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=X)
    code = "def it(root): return np.load(root)['x'], y"
    arrays = read(tmp_path, code, root=tmp_path / "a.npz")
    assert len(arrays.train) == 32
    with pytest.raises(UsageError, match=r"takes root; name it: data\.root="):
        read(tmp_path, code)


@pytest.mark.parametrize("code", ["def it(**others): return x, y", "it = x, y"])
def test_a_root_that_nothing_takes_is_refused(tmp_path: Path, code: str) -> None:
    with pytest.raises(UsageError, match=r"takes no root, so data\.root=/none has no effect"):
        read(tmp_path, code, root=Path("/none"))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("other = 3", "the file has no it"),
        ("it = 3", "is int; expected a Dataset, a pair"),
        ("it = x, y, x", "is tuple of 3; expected"),
        ("def it(size): pass", "takes size, which has no default"),
        ("def it(): return None", "is NoneType"),
        (
            "class it:\n  def __len__(self): return 3\n  def __getitem__(self, i): return 3",
            "item 0",
        ),
        ("class it:\n  def __len__(self): return 0\n  def __getitem__(self, i): pass", "no items"),
        (
            "class it:\n  def __len__(self): return 9\n"
            "  def __getitem__(self, i): return x[i][:6 - i], 0",
            r"item 1 is uint8 \(5, 6\), item 0",
        ),
        ("it = torch.from_numpy(x) / 127.5 - 1, y", "values from -1 to 1.*leave Normalize out"),
        (
            "it = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.from_numpy(x)))",
            r"name the Dataset in it \(\.dataset\)",
        ),
        ("it = x, y * 0", "all training images have label 0"),
        ("it = x, y[:3]", "40 images and 3 labels"),
        ("it = dict(x=x)", "without train labels"),
    ],
)
def test_what_is_no_data_set_is_refused(tmp_path: Path, code: str, message: str) -> None:
    with pytest.raises((UsageError, DataError), match=message) as caught:
        read(tmp_path, code)
    assert "\n" not in str(caught.value)
    assert "mydata.py:it" in str(caught.value)


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("raise KeyError('k')", 6),
        ("def it():\n    return {}['k']", 7),
        ("def it():\n    raise SystemExit(3)", None),
        ("class it:\n  def __len__(self): return 3\n  def __getitem__(self, i): return {}['k']", 8),
        ("class it:\n  def __init__(self): self.a = {}['k']", 7),
        ("it = (", 6),
    ],
)
def test_an_error_inside_names_the_users_line(
    tmp_path: Path, code: str, line: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, code)
    words = ["data=custom", f"data.path={path}:it", "model=softmax"]
    assert cli(["train", *words, f"output_root={tmp_path / 'out'}"]) == 2
    err = capsys.readouterr().err
    assert str(path) in err
    assert "Traceback" not in err
    assert line is None or f"line {line}" in err


def test_code_that_a_run_names_is_never_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    marker = tmp_path / "ran"
    code = f"open({str(marker)!r}, 'a').close()\nit = x, y\nother = x, y\n"
    path = write(tmp_path, code)
    words = ["data=custom", f"data.path={path}:it", "model=softmax", "num_epochs=1", "device=cpu"]
    words += ["scheduler=constant"]
    assert cli(["train", *words, f"output_root={tmp_path / 'out'}"]) == 0
    assert marker.exists()
    run = next((tmp_path / "out").rglob("run.json")).parent
    marker.unlink()
    # A file of another content is a module of another name: it would be run anew.
    path.write_text(path.read_text() + "# changed\n")
    capsys.readouterr()
    changed = f"{path}:it"
    for command, code, message in (
        (["evaluate", str(run)], 2, "--data-path FILE:NAME"),
        (["evaluate", str(run), "--data-path", changed], 65, "not what this run was trained with"),
        (["train", f"resume={run}"], 2, "data.path=FILE:CLASS"),
        (["train", f"resume={run}", f"data.path={changed}"], 65, "not what this run was trained"),
        (["train", "--config", str(run / "config.yaml")], 2, "names code to run"),
        (["compare", str(run), str(run), "--errors"], 2, "--data-path FILE:NAME"),
        (["export", str(run), "--to", "torch"], 2, "--data-path FILE:NAME"),
    ):
        assert cli(command) == code, command
        assert message in capsys.readouterr().err, command
    for command in (["compare", str(run)], ["predict", str(run), str(tmp_path)]):
        cli(command)
    assert not marker.exists()
    path.write_text(path.read_text().removesuffix("# changed\n"))
    capsys.readouterr()
    assert cli(["evaluate", str(run), "--data-path", f"{path}:other"]) == 65
    assert cli(["evaluate", str(run), "--data-path", changed, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_images"] == 8
    named = ["--data-path", changed]
    assert cli(["compare", str(run), str(run), "--errors", *named]) == 0
    assert cli(["export", str(run), "--to", "torch", *named]) == 0
    assert cli(["train", f"resume={run}", f"data.path={changed}", "extend_epochs=1"]) == 0


def test_the_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    one = fingerprint("custom", None, {"path": f"{write(tmp_path, 'it = x, y')}:it"})
    same = fingerprint("custom", None, {"path": f"{write(tmp_path, 'it = x + 0, y')}:it"})
    other = fingerprint("custom", None, {"path": f"{write(tmp_path, 'it = x // 2, y')}:it"})
    assert one == same != other
