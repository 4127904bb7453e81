"""Damaged copies of a real data set: noticed before the first step; a sound copy is taken."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import info

from cnnbench.cli.main import run as cli

IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"
FASHION = Path("/usr/share/datasets/fashion-mnist")
SMALL = (
    "model=softmax",
    "num_epochs=1",
    "data.limit=64",
    "data.batch_size=64",
    "device=cpu",
)


def flip_a_bit(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "a flipped bit": flip_a_bit,
    "truncated": lambda content: content[:-1000],
    "partial": lambda content: content[: len(content) // 3],
    "empty": lambda content: b"",
    "a web page": lambda content: b"<!DOCTYPE html><html>404 Not Found</html>",
    "a packed web page": lambda content: gzip.compress(b"<!DOCTYPE html><html></html>"),
}


def train(root: Path) -> int:
    where = (f"data.root={root / 'data'}", f"output_root={root}")
    return cli(["train", "data=fashion_mnist", *where, *SMALL])


def check_noticed(root: Path, named: str, err: str) -> None:
    assert named in err
    assert "Traceback" not in err
    assert not list(root.rglob("run.json"))


@pytest.fixture
def fashion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The four real files in a data root, and no other copy of them at hand."""
    if not FASHION.is_dir():
        pytest.skip("no Fashion-MNIST on this machine")
    raw = tmp_path / "data" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for file in FASHION.iterdir():
        (raw / file.name).symlink_to(file)
    monkeypatch.setenv("XDG_DATA_DIRS", "/nonexistent")
    # No network either: a repair must not hide the damage.
    monkeypatch.setattr("urllib.request.OpenerDirector.open", refuse)
    return raw


def refuse(*args: object, **keywords: object) -> None:
    raise OSError("no network in this test")


def replace(file: Path, content: bytes) -> None:
    file.unlink()
    file.write_bytes(content)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_fashion_mnist(
    damage: str, fashion: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = (IMAGES, TEST_IMAGES)[list(DAMAGES).index(damage) % 2]
    replace(fashion / name, DAMAGES[damage]((fashion / name).read_bytes()))
    assert train(tmp_path) == 66
    check_noticed(tmp_path, name, capsys.readouterr().err)


@pytest.mark.parametrize(("target", "source"), [(LABELS, TEST_LABELS), (IMAGES, TEST_IMAGES)])
def test_swapped_files_of_fashion_mnist(
    target: str,
    source: str,
    fashion: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    replace(fashion / target, (fashion / source).read_bytes())
    assert train(tmp_path) == 66
    check_noticed(tmp_path, target, capsys.readouterr().err)


def test_a_sound_copy_elsewhere_is_taken(
    fashion: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_DATA_DIRS", str(FASHION.parents[1]))
    replace(fashion / IMAGES, b"<!DOCTYPE html>")
    assert train(tmp_path) == 0
    assert IMAGES in capsys.readouterr().err
    [file] = tmp_path.rglob("run.json")
    assert info(file.parent)["status"] == "done"
