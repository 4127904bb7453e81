"""Sizes of every network against recorded ones, and its YAML against its constructor."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Annotated, Literal, get_args, get_origin, get_type_hints

import pytest
import yaml
from network_cases import meta_model

from cnnbench.config.roles import is_choice
from cnnbench.config.run_config import ARGUMENTS, Only, argument_type
from cnnbench.config.schema import Range, Ratio, expectation, marks, read_value
from cnnbench.geometry.trace import analyze
from cnnbench.models import MODELS, model_arguments

ROOT = Path(__file__).parents[2]
GOLDENS = json.loads((ROOT / "tests/goldens/models.json").read_text())
# Networks made for another size than the data's; the size gives a last map of 2 x 2.
STATED_SIZES = {
    "alexnet": 97,
    "alexnet_small": 97,
    "nin": 99,
    "vgg11": 32,
    "vgg13": 32,
    "vgg16": 32,
    "vgg19": 32,
}


# Networks without norms that hardly start with PyTorch's initial weights.
INITS = {
    **dict.fromkeys(
        ("alexnet", "alexnet_small", "nin_cifar", "vgg11", "vgg13", "vgg16", "vgg19"),
        "kaiming_normal",
    ),
    "nin": "xavier_uniform",
}
ADAM_LRS = {"nin": 0.0003, "vgg13": 0.0003, "vgg16": 0.0003, "vgg19": 0.0001}


def golden_id(row):
    return "-".join([row["model"], str(row["image_size"]), *map(str, row["args"].values())])


@pytest.mark.parametrize("row", GOLDENS, ids=golden_id)
def test_params_and_macs(row):
    module = meta_model(
        row["model"],
        in_channels=row["in_channels"],
        num_classes=row["num_classes"],
        image_size=row["image_size"],
        args=row["args"],
    )
    geometry = analyze(module, (row["in_channels"], row["image_size"], row["image_size"]))
    assert (geometry.num_params, geometry.macs) == (row["num_params"], row["macs"])


def test_every_model_has_a_golden():
    assert {row["model"] for row in GOLDENS} == set(MODELS)


@pytest.mark.parametrize(
    ("name", "num_params"),
    [
        ("alexnet", 46_764_746),
        ("vgg11", 128_806_154),
        ("vgg16", 134_300_362),
        ("nin", 1_992_166),
        ("googlenet", 5_977_530),
    ],
)
def test_parameters_on_grey_images_of_224_pixels(name, num_params):
    args = {"vgg": {"head_size": 7}, "goo": {"stem": "imagenet", "norm": "none"}}.get(name[:3])
    module = meta_model(name, in_channels=1, image_size=224, args=args)
    assert sum(p.numel() for p in module.parameters()) == num_params


def test_vgg11_for_96_pixels():
    module = meta_model("vgg11", in_channels=1, image_size=96, args={"head_size": 3})
    assert sum(p.numel() for p in module.parameters()) == 44_920_074


def test_alexnet_in_two_streams_has_the_published_size():
    args = {"groups": 2, "padding": 0}
    module = meta_model("alexnet", num_classes=1000, image_size=227, args=args)
    assert sum(p.numel() for p in module.parameters()) == 60_965_224


@pytest.mark.parametrize(("norm", "num_params"), [("conv", 3_188_968), ("block", 3_188_840)])
def test_auxiliary_heads(norm, num_params):
    args = {"stem": "imagenet", "norm": norm, "aux": True}
    module = meta_model("googlenet", num_classes=1000, image_size=224, args=args)
    first, second = module.aux_heads.values()
    assert sum(p.numel() for p in first.parameters()) == num_params
    # 4d has 16 maps more than 4a, each seen by 128 kernels.
    assert sum(p.numel() for p in second.parameters()) == num_params + 16 * 128


@pytest.mark.parametrize("name", MODELS)
def test_yaml_shows_the_constructor(name):
    path = ROOT / "conf/model" / f"{name}.yaml"
    text = path.read_text()
    tree = yaml.safe_load(text)
    assert text.startswith("# ")
    assert tree.pop("name") == name
    assert tree.pop("image_size", None) == STATED_SIZES.get(name)
    assert tree.pop("init", None) == INITS.get(name)
    assert tree.pop("adam_lr", None) == ADAM_LRS.get(name)
    kinds = {key: argument_type("model", key, name) for key in tree}
    values = {key: read_value(kinds[key], value) for key, value in tree.items()}
    assert values == model_arguments(name)
    assert list(values) == list(model_arguments(name))
    assert all(" # " in line for line in text.splitlines()[2:])


def bounds_alone(kind):
    """Return a type without the marks that only a config has."""
    if get_origin(kind) is not Annotated:
        return kind
    found = [mark for mark in kind.__metadata__ if isinstance(mark, Range | Ratio)]
    inner = get_args(kind)[0]
    return Annotated[(inner, *found)] if found else inner


def expected_values(kind):
    """Return the words of a message on a type, whose choices may come in any order."""
    kind = bounds_alone(kind)
    return set(get_args(kind)) if get_origin(kind) is Literal else expectation(kind)


@pytest.mark.parametrize("name", MODELS)
def test_the_config_takes_what_the_constructor_takes(name):
    hints = get_type_hints(MODELS[name].constructor.__init__, include_extras=True)
    for key in model_arguments(name):
        if (name, key) != ("torchvision", "args"):
            kind = argument_type("model", key, name)
            assert expected_values(kind) == expected_values(hints[key]), key


def test_argument_types_that_single_choices_narrow_name_choices_that_exist():
    for (_, key), kind in ARGUMENTS.items():
        for only in (mark for mark in marks(kind) if isinstance(mark, Only)):
            named = {name for name in MODELS if is_choice(name, only.choices)}
            assert named, only
            assert all(key in model_arguments(name) for name in named)


@pytest.mark.parametrize("name", MODELS)
def test_constructor_is_keyword_only_and_typed(name):
    row = MODELS[name]
    signature = inspect.signature(row.constructor)
    for parameter in signature.parameters.values():
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        assert parameter.annotation is not inspect.Parameter.empty
    assert set(row.fixed) <= set(signature.parameters)
    if name in STATED_SIZES and "image_size" in signature.parameters:
        assert signature.parameters["image_size"].default == STATED_SIZES[name]


def test_every_yaml_is_a_model():
    # A network of the user's own has a file of settings, and no constructor here.
    shipped = {path.stem for path in (ROOT / "conf/model").glob("*.yaml")}
    assert shipped == set(MODELS) | {"custom"}
