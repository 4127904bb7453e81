"""Images that one of two runs gets right, against both runs' own predictions."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from scipy import stats

import cnnbench
from cnnbench.analysis.statistics.image_tests import mcnemar
from cnnbench.cli.main import run as cli
from cnnbench.runs.directory import RunDir
from cnnbench.training.data import read_splits
from tests.tiny import info, train


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two networks of other input sizes, half trained on the same data."""
    root = tmp_path_factory.mktemp("runs")
    more = ("data.num_classes=6", "num_epochs=3")
    return train(root, *more), train(root, "model=softmax", "data.image_size=20", *more)


@pytest.fixture
def pair(trained: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    a, b = (shutil.copytree(run, tmp_path / name) for run, name in zip(trained, "ab", strict=True))
    return a, b


def predicted(run: Path) -> tuple[list[str], list[str]]:
    """Return the classes of the test images, and what a run takes them for."""
    data = read_splits(RunDir(run).config, print)
    [(images, targets)] = data.batches("test")
    with torch.no_grad():
        guesses = cnnbench.load(run)(data.prepare(images, targets)[0]).argmax(1)
    names = data.class_names
    return [names[place] for place in targets], [names[place] for place in guesses]


def test_counts_and_images(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["compare", *map(str, pair), "--errors", "--format", "json"]) == 0
    came = json.loads(capsys.readouterr().out)
    (classes, a), (_, b) = map(predicted, pair)
    triples = list(zip(classes, a, b, strict=True))
    assert came["runs"] == [str(run) for run in pair]
    assert came["num_images"] == 30
    assert came["both_right"] == sum(true == x == y for true, x, y in triples)
    assert came["only_a_right"] == sum(true == x != y for true, x, y in triples)
    assert came["only_b_right"] == sum(true == y != x for true, x, y in triples)
    assert came["both_wrong"] == sum(true not in (x, y) for true, x, y in triples)
    assert came["only_a_right"] > 0
    expected = [
        {"index": index, "class": true, "right": "A" if true == x else "B", "a": x, "b": y}
        for index, (true, x, y) in enumerate(triples)
        if (true == x) != (true == y)
    ]
    assert sorted(came["images"], key=lambda image: image["index"]) == expected
    counts = came["only_a_right"], came["only_b_right"]
    assert came["p"] == pytest.approx(stats.binomtest(counts[0], sum(counts)).pvalue)
    assert [info(run)["results"]["test_reads"] for run in pair] == [2, 2]


@pytest.mark.parametrize(
    "counts", [(0, 0), (1, 0), (0, 7), (3, 3), (4, 3), (12, 30), (248, 1), (510, 402)]
)
def test_mcnemar_is_the_exact_test(counts: tuple[int, int]) -> None:
    total = sum(counts)
    tail = sum(math.comb(total, k) for k in range(min(counts) + 1))
    assert mcnemar(*counts) == pytest.approx(min(1.0, 2 * tail / 2**total), rel=1e-9)
    if total:
        assert mcnemar(*counts) == pytest.approx(stats.binomtest(counts[0], total).pvalue)


def test_every_format(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    outs = {}
    for output_format in ("json", "csv", "text", "markdown", "latex"):
        assert cli(["compare", *map(str, pair), "--errors", "--format", output_format]) == 0
        outs[output_format] = capsys.readouterr().out
    came = json.loads(outs["json"])
    rows = list(csv.DictReader(io.StringIO(outs["csv"])))
    assert rows == [{key: str(value) for key, value in row.items()} for row in came["images"]]
    for output_format in ("text", "markdown", "latex"):
        lines = [
            line.translate(str.maketrans("|&\\", "   ")).split()
            for line in outs[output_format].splitlines()
        ]
        assert ["A", "right", str(came["both_right"]), str(came["only_a_right"])] in lines
        assert ["A", "wrong", str(came["only_b_right"]), str(came["both_wrong"])] in lines
    assert f"p = {came['p']:.3g}" in outs["text"]
    assert outs["text"].startswith(f"A {pair[0]}\nB {pair[1]}\n")


def test_pictures(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "new" / "place"
    # A run against itself: nothing to draw, and no difference to test.
    for runs in (pair, (pair[0], pair[0])):
        assert cli(["compare", *map(str, runs), "--errors", "--plots", str(place)]) == 0
        out, err = capsys.readouterr()
        assert sorted(file.name for file in place.iterdir()) == [
            "only_a_right.png",
            "only_b_right.png",
        ]
        assert all(f"cnnbench: {file}\n" in err for file in place.iterdir())
    assert "p = 1\n" in out


def test_other_images_are_refused(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ("num_epochs=1", "data.num_classes=6", "model=softmax")
    cases = {
        "have other data (SHA-256": train(tmp_path, "data.data_seed=5", *quick),
        "have other test images": train(tmp_path, "data.limit=20", *quick),
    }
    for message, other in cases.items():
        assert cli(["compare", str(pair[0]), str(other), "--errors"]) == 2
        assert message in capsys.readouterr().err
    # Another draw of the validation images, or a limit that the test split is below, is no matter.
    for setting in ("data.split_seed=3", "data.limit=50"):
        other = train(tmp_path, setting, *quick)
        assert cli(["compare", str(pair[0]), str(other), "--errors"]) == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--where", "n=1"], "--where"),
        (["--sort", "n"], "--sort"),
        (["--descending"], "--descending"),
        (["--group", "data"], "--group"),
        (["--baseline", "1"], "--baseline"),
        (["--html", "x.html"], "--html"),
    ],
)
def test_flags_of_tables_do_not_go_with_it(
    more: list[str], message: str, pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(["compare", *map(str, pair), "--errors", *more]) == 2
    assert f"{message}: shapes a table of runs" in capsys.readouterr().err


def test_two_runs_are_needed(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = map(str, pair)
    for paths in ([a], [a, b, a]):
        assert cli(["compare", *paths, "--errors"]) == 2
        assert f"{len(paths)} paths given; expected two runs" in capsys.readouterr().err
    assert cli(["compare", a, str(tmp_path), "--errors"]) == 2
    assert "not a run" in capsys.readouterr().err
    assert cli(["compare", a, b, "--model-path", "net.py:Net"]) == 2
    assert "goes with --errors alone" in capsys.readouterr().err


def test_a_network_of_ones_own(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "net.py"
    source.write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, in_channels, num_classes):\n"
        "        super().__init__()\n"
        "        self.head = nn.Linear(16 * 16 * in_channels, num_classes)\n"
        "    def forward(self, x):\n"
        "        return self.head(x.flatten(1))\n"
    )
    path = f"{source}:Net"
    more = ("data.num_classes=6", "num_epochs=1", "model=custom", f"model.path={path}")
    own = train(tmp_path / "own", *more)
    assert cli(["compare", str(pair[0]), str(own), "--errors"]) == 2
    assert "--model-path FILE:CLASS" in capsys.readouterr().err
    assert cli(["compare", str(pair[0]), str(own), "--errors", "--model-path", path]) == 0
    assert cli(["evaluate", str(own), "--robustness"]) == 2
    argv = ["evaluate", str(own), "--robustness", "--model-path", path, "--format", "json"]
    capsys.readouterr()
    assert cli(argv) == 0
    assert len(json.loads(capsys.readouterr().out)["robustness"]) == 30
