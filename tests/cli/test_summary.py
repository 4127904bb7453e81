"""`cnnbench summary`: numbers, folding, warnings, formats, runs, and what it costs."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import train
from torch import nn

import cnnbench
from cnnbench.cli.main import run as cli
from cnnbench.errors import UsageError

LAYER_KEYS = {
    "name",
    "kind",
    "output_shape",
    "num_params",
    "macs",
    "receptive_field",
    "stride",
    "macs_share",
    "params_share",
}


def found(capsys, *args):
    assert cli(["summary", *args, "--format", "json"]) == 0
    return json.loads(capsys.readouterr().out)


def failure(capsys, *args):
    code = cli(["summary", *args])
    captured = capsys.readouterr()
    assert captured.out == ""
    return code, captured.err


def by_name(summary):
    return {layer["name"]: layer for layer in summary["layers"]}


def test_lenet_layer_by_layer(capsys):
    summary = found(capsys, "model=lenet", "data=mnist")
    assert summary["num_params"] == 61_706
    assert summary["macs"] == 416_520
    assert summary["input_shape"] == [1, 28, 28]
    assert summary["param_bytes"] == 4 * 61_706
    assert summary["input_bytes"] == 4 * 28 * 28
    # What is kept to go back through: outputs of the activations, what layers took, and which
    # pixel each pool chose, in eight bytes.
    values = 6 * 28 * 28 + 6 * 14 * 14 + 16 * 100 + 16 * 25 + 120 + 84
    assert summary["activation_bytes"] == 4 * values + 8 * (6 * 14 * 14 + 16 * 25)
    assert all(layer.keys() == LAYER_KEYS for layer in summary["layers"])
    layers = by_name(summary)
    assert [layers[name]["receptive_field"] for name in ("conv1", "pool1", "conv2", "pool2")] == [
        5,
        6,
        14,
        16,
    ]
    assert layers["conv2"] == {
        "name": "conv2",
        "kind": "Conv2d",
        "output_shape": [16, 10, 10],
        "num_params": 2416,
        "macs": 240_000,
        "receptive_field": 14,
        "stride": 2,
        "macs_share": 240_000 / 416_520,
        "params_share": 2416 / 61_706,
    }
    assert sum(layer["macs_share"] for layer in summary["layers"]) == pytest.approx(1)


def test_python_gives_what_the_command_prints(capsys):
    module = cnnbench.create_model("lenet")
    assert cnnbench.summary(module, (1, 28, 28)) == found(capsys, "model=lenet", "data=mnist")


def test_any_module_and_frozen_parameters():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 5))
    module[0].requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    summary = cnnbench.summary(module, (3, 8, 8))
    assert (summary["num_trainable"], summary["num_frozen"]) == (4 * 36 * 5 + 5, 3 * 4 * 9 + 4)
    assert module.training
    assert all(torch.equal(before[name], t) for name, t in module.state_dict().items())
    with pytest.raises(UsageError, match="Sequential does not take an image of 3 x 9 x 9"):
        cnnbench.summary(module, (3, 9, 9))


def test_folding_keeps_the_totals_and_shows_what_a_module_gives(capsys):
    whole = found(capsys, "model=googlenet", "data=cifar10")
    for depth in (1, 2, 3):
        folded = found(capsys, "model=googlenet", "data=cifar10", "--depth", str(depth))
        assert {k: v for k, v in folded.items() if k != "layers"} == {
            k: v for k, v in whole.items() if k != "layers"
        }
        for key in ("num_params", "macs"):
            assert sum(layer[key] for layer in folded["layers"]) == whole[key]
        assert all(layer["name"].count(".") < depth for layer in folded["layers"])
    two = by_name(found(capsys, "model=googlenet", "data=cifar10", "--depth", "2"))
    block = two["blocks.inception3a"]
    assert block["kind"] == "InceptionBlock"
    assert block["output_shape"] == [256, 8, 8]
    inside = [
        layer
        for layer in whole["layers"]
        if layer["name"].startswith("blocks.inception3a.") and layer["receptive_field"]
    ]
    assert block["receptive_field"] == max(layer["receptive_field"] for layer in inside)
    one = by_name(found(capsys, "model=googlenet", "data=cifar10", "--depth", "1"))
    assert list(one) == ["stem", "blocks", "dropout", "head"]
    assert one["blocks"]["output_shape"] == [1024, 2, 2]


def warnings(module, shape):
    return cnnbench.summary(module, shape)["warnings"]


def test_warns_of_a_receptive_field_larger_than_the_image():
    convs = [nn.Conv2d(1, 1, 5, padding=2) for _ in range(4)]
    assert warnings(nn.Sequential(*convs), (1, 17, 17)) == []
    [text] = warnings(nn.Sequential(*convs), (1, 16, 20))
    assert text.startswith("from 3 on, the receptive field (17) is larger than the image (16 x 20)")


def test_warns_of_maps_smaller_than_the_pool():
    padded = nn.Sequential(nn.Conv2d(1, 2, 2, 4), nn.MaxPool2d(3, 1, 1))
    text = warnings(padded, (1, 8, 8))[1]
    assert "1: the map (2 x 2) is smaller than the pool's window (3 x 3)" in text
    spread = nn.Sequential(nn.Conv2d(1, 2, 2, 2), nn.AdaptiveAvgPool2d(7))
    text = warnings(spread, (1, 8, 8))[0]
    assert "1: the map (4 x 4) is smaller than what the pool makes of it (7 x 7)" in text
    vgg = cnnbench.create_model("vgg11", image_size=32, head_size=7, width_multiplier=1 / 16)
    assert any("makes of it (7 x 7)" in text for text in warnings(vgg, (1, 32, 32)))


@pytest.mark.parametrize(
    ("stem", "size", "is_warned"),
    [
        ("imagenet", 28, True),
        ("small", 28, False),
        ("imagenet", 96, False),
    ],
)
def test_warns_of_a_stem_that_throws_pixels_away(stem, size, is_warned):
    module = cnnbench.create_model("resnet18", image_size=size, stem=stem)
    texts = [text for text in warnings(module, (1, size, size)) if text.startswith("the stem")]
    assert len(texts) == is_warned
    if is_warned:
        assert "up to stem.pool, leaves 7 x 7 of 28 x 28 pixels" in texts[0]


def test_warns_of_a_linear_layer_that_holds_most_parameters():
    [text] = warnings(cnnbench.create_model("lenet"), (1, 28, 28))
    assert text.startswith("head.0, one linear layer, holds 78% of all parameters")
    assert warnings(cnnbench.create_model("mlp"), (1, 28, 28)) == []


def test_warns_of_activations_that_shrink_at_once():
    layers = [nn.Conv2d(1, 8, 3, padding=1), nn.MaxPool2d(3, 3), nn.Flatten(), nn.Linear(648, 81)]
    texts = warnings(nn.Sequential(*layers, nn.ReLU(), nn.Linear(81, 2)), (1, 27, 27))
    assert [text for text in texts if "shrinks" in text] == [
        "1 shrinks the activations 9-fold, from 8 x 27 x 27 to 8 x 9 x 9, in one layer"
    ]
    # Exactly eightfold is fine, and so is the layer that gives the logits.
    texts = warnings(nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 2)), (1, 8, 8))
    assert texts == []


def test_a_branch_that_shrinks_is_no_bottleneck(capsys):
    texts = found(capsys, "model=googlenet", "data=cifar10")["warnings"]
    assert not any("shrinks" in text for text in texts)


def test_every_format(capsys):
    for output_format in ("text", "markdown"):
        assert cli(["summary", "model=lenet", "--format", output_format]) == 0
        text = capsys.readouterr().out
        assert "16x10x10" in text
        assert "parameters 61,706 (trainable 61,706, frozen 0), MACs 416,520" in text
        assert "input 0.003, activations 0.045, parameters 0.247" in text
        assert "- head.0, one linear layer" in text
    assert cli(["summary", "model=lenet", "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert sum(int(row["num_params"]) for row in rows) == 61_706
    assert set(rows[0]) == LAYER_KEYS


def test_two_networks_side_by_side(capsys):
    against = "model=vgg11 data.image_size=224 model.head_size=7 data=mnist"
    both = found(capsys, "model=alexnet", "data.image_size=224", "--against", against)
    totals = {row["total"]: row for row in both["totals"]}
    assert totals["num_params"] == {
        "total": "num_params",
        "first": 46_764_746,
        "second": 128_806_154,
        "difference": 82_041_408,
        "ratio": 128_806_154 / 46_764_746,
    }
    assert both["networks"] == ["alexnet on digits", "vgg11 on mnist"]
    assert [summary["macs"] for summary in both["summaries"]] == [
        totals["macs"]["first"],
        totals["macs"]["second"],
    ]
    # A name alone: the rest as in the settings, but not the other network's own keys.
    named = found(capsys, "model=alexnet", "model.padding=0", "data=cifar10", "--against", "lenet")
    assert named["networks"] == ["alexnet on cifar10", "lenet on cifar10"]
    assert cli(["summary", "model=lenet", "--against", "softmax"]) == 0
    text = capsys.readouterr().out
    assert "-53,856" in text
    assert "61,706" in text


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return train(tmp_path_factory.mktemp("runs"), "num_epochs=1")


def test_a_run(capsys, run):
    summary = found(capsys, str(run))
    info = json.loads((run / "run.json").read_text())["model"]
    assert (summary["num_params"], summary["macs"]) == (info["num_params"], info["macs"])
    assert summary["layers"][-1]["output_shape"] == [3]


def test_a_runs_tensors(capsys, run):
    state = cnnbench.load(run).state_dict()
    rows = found(capsys, str(run), "--params", "conv*.weight")
    assert [row["name"] for row in rows] == ["conv1.weight", "conv2.weight"]
    values = state["conv2.weight"].double()
    assert rows[1]["shape"] == [20, 10, 5, 5]
    assert rows[1]["count"] == 5000
    assert rows[1]["trainable"] is True
    oracle = values.numpy()
    numbers = {
        "mean": oracle.mean(),
        "std": oracle.std(),
        "min": oracle.min(),
        "max": oracle.max(),
    }
    assert {key: rows[1][key] for key in numbers} == pytest.approx(numbers)
    assert cli(["summary", str(run), "--params", "head.*"]) == 0
    assert "head.weight  3x" in capsys.readouterr().out


def test_bad_input(capsys, run, tmp_path):
    for args, code, text in (
        (["model=lenett"], 2, "did you mean 'lenet'"),
        (["model.widht_multiplier=2", "model=vgg11"], 2, "did you mean 'model.width_multiplier'"),
        (["model=lenet", "--depth", "0"], 2, "depth=0: expected at least 1"),
        (["model=lenet", "--params", "*"], 2, "--params"),
        ([str(run), "--params", "conv1.wieght"], 2, "did you mean 'conv1.weight'"),
        (["model=lenet", "data.image_size=11"], 2, "pool2 needs at least 12 x 12"),
        ([str(tmp_path)], 2, "not a run"),
        (["model=lenet", "--against", "nothing"], 2, "unknown choice"),
    ):
        got, message = failure(capsys, *args)
        assert got == code, args
        assert text in message


def test_a_strangers_run_decides_nothing_but_sizes(capsys, run, tmp_path):
    changes = {"name": "os.system", "num_classes": "x", "args": {"path": "/evil.py:A"}}
    for key, value in changes.items():
        copy = tmp_path / key
        copy.mkdir()
        content = json.loads((run / "run.json").read_text())
        content["model"][key] = value
        (copy / "run.json").write_text(json.dumps(content))
        code, message = failure(capsys, str(copy))
        assert code == 65, message


def test_a_closed_pipe_is_fine(tmp_path):
    text = f"{sys.executable} -m cnnbench summary model=densenet121 | head -n 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", text],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_quick_small_and_without_torchvision(tmp_path):
    code = """
import resource, sys, time
import torch
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, started = peak(), time.process_time()
from cnnbench.cli.main import run
settings = ["model=resnet152", "model.stem=imagenet", "data.image_size=224", "data=cifar10"]
assert run(["summary", *settings]) == 0
spent, grown = time.process_time() - started, peak() - before
loaded = [name for name in ("torchvision", "sklearn", "matplotlib") if name in sys.modules]
print(spent, grown, loaded, file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    spent, grown, loaded = done.stderr.split(maxsplit=2)
    assert loaded.strip() == "[]"
    assert float(grown) < 100
    # 2 seconds on a machine of its own; CPU time still grows where others share it.
    assert float(spent) < 3


def test_help(capsys):
    assert cli(["summary", "--help"]) == 0
    assert "--against" in capsys.readouterr().out
