"""`summary --block`: the notes' comparisons, each number counted by hand."""

from __future__ import annotations

import csv
import io
import json

import pytest

import cnnbench
from cnnbench.analysis.blocks import BLOCKS
from cnnbench.cli.main import run as cli
from cnnbench.errors import UsageError

# (block, parameters, MACs on 28 x 28 maps, receptive field)
COSTS = [
    ("conv 256 256 3", 256 * 256 * 9 + 256, 784 * 256 * 256 * 9, 3),
    ("bottleneck 256 32", 25_920, 784 * (2 * 256 * 32 + 32 * 32 * 9), 3),
    ("conv 4 8 3", 296, 784 * 288, 3),
    ("grouped 4 8 3 2", 152, 784 * 144, 3),
    ("conv 4 8 3 bias=false", 288, 784 * 288, 3),
    ("separable 4 8 3 bias=false", 36 + 32, 784 * 68, 3),
    ("separable 4 8 3 2 bias=false", 72 + 64, 784 * 136, 3),
    ("conv 192 32 5", 153_632, 120_422_400, 5),
    ("reduced 192 16 32 5", 15_920, 12_443_648, 5),
    ("stacked 192 32 3 2 bias=false", 192 * 32 * 9 + 32 * 32 * 9, 784 * 9 * 32 * 224, 5),
    ("asymmetric 192 32 3 2 bias=false", 32 * 3 * (192 + 3 * 32), 784 * 32 * 3 * 288, 5),
    ("dilated 64 64 3 2", 36_928, 784 * 36_864, 5),
    ("dilated 64 64 3 1 size=7", 36_928, 49 * 36_864, 3),
    ("linear 4096 10", 40_970, 40_960, None),
    ("linear_head 512 10 size=7", 512 * 49 * 10 + 10, 512 * 49 * 10, None),
    ("conv_head 512 10 size=7", 5_130, 49 * 5_120, 1),
    ("average_head 512 10 size=7", 5_130, 5_120, None),
]


@pytest.mark.parametrize(("block", "num_params", "macs", "field"), COSTS)
def test_costs(block, num_params, macs, field):
    [row] = cnnbench.summary(blocks=[block])["blocks"]
    assert (row["num_params"], row["macs"], row["receptive_field"]) == (num_params, macs, field)


def test_one_block_alone_needs_no_list():
    texts = "conv 4 8 3", ["conv 4 8 3"]
    assert cnnbench.summary(blocks=texts[0]) == cnnbench.summary(blocks=texts[1])


def test_every_kind_is_counted():
    assert {block.split()[0] for block, *_ in COSTS} == BLOCKS.keys()


def test_ratios_are_to_the_first():
    """A depthwise-separable convolution has .2361 of the weights, .4722 in the notes' form."""
    texts = ["conv 4 8 3", "separable 4 8 3", "separable 4 8 3 2"]
    rows = cnnbench.summary(blocks=[f"{text} bias=false" for text in texts])["blocks"]
    assert [round(row["params_ratio"], 4) for row in rows] == [1, 0.2361, 0.4722]
    assert [round(row["macs_ratio"], 4) for row in rows] == [1, 0.2361, 0.4722]


def test_on_the_command_line(capsys):
    command = ["summary", "--block", "conv 256 256 3", "--block", "bottleneck 256 32"]
    assert cli(command) == 0
    text = capsys.readouterr().out
    assert "590,080" in text
    assert "25,920" in text
    assert max(map(len, text.splitlines())) <= 120
    assert cli([*command, "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["num_params"] for row in rows] == ["590080", "25920"]
    assert cli([*command, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == cnnbench.summary(blocks=command[2::2])


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("grouped 4 8 3 3", "in_channels must be divisible by groups"),
        ("botleneck 256 32", "did you mean 'bottleneck'"),
        ("", "no such block"),
        ("conv 4 8", r"has 2 numbers; write conv IN OUT K \[size=28\]"),
        ("conv 4 8 3 1", "has 4 numbers"),
        ("conv 4 8 x", "x is not expected"),
        ("conv 4 0 3", "0 is not expected"),
        ("conv 4 -8 3", "-8 is not expected"),
        ("conv 4 8 3 sise=3", "sise=3 is not expected"),
        ("conv 4 8 3 bias=maybe", "bias=maybe is not expected"),
        ("conv 4 8 99999999", "99999999 is not expected"),
    ],
)
def test_bad_blocks(block, message):
    with pytest.raises(UsageError, match=message):
        cnnbench.summary(blocks=[block])


def test_blocks_stand_alone(capsys):
    assert cli(["summary", "model=lenet", "--block", "conv 4 8 3"]) == 2
    assert "leave settings and other flags out" in capsys.readouterr().err


def test_the_share_of_linear_layers():
    """VGG-16 as torchvision has it: 123,642,856 of 138,357,544 are in linear layers."""
    settings = ["model=vgg16", "model.head_size=7", "data=synthetic", "data.in_channels=3"]
    settings += ["data.native_size=224", "data.num_classes=1000"]
    assert cnnbench.summary(settings)["linear_share"] == pytest.approx(123_642_856 / 138_357_544)
    nin = ["model=nin", "data=fashion_mnist", "data.image_size=224"]
    assert cnnbench.summary(nin)["linear_share"] == 0
