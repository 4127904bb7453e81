"""The keys: the shipped YAML against types and constructors, and what makes two runs the same."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import yaml
from shipped import needed, shipped

from cnnbench.config.command import single_config
from cnnbench.config.compose import Composer
from cnnbench.config.groups import conf_dir
from cnnbench.config.run_config import (
    ARGUMENTS,
    GROUPS,
    PRESET_GROUPS,
    RunConfig,
    read_config,
    to_tree,
)
from cnnbench.config.schema import ConfigError, read_value
from cnnbench.config.settings import settings_of

COMPOSER = Composer()
CHOICES = [(group, name) for group in GROUPS for name in COMPOSER.groups.choices(group)]
# Networks whose constructors are not ours.
FOREIGN = ("custom", "torchvision")
NODES = {name: kind for name, kind in typing.get_type_hints(RunConfig).items() if name in GROUPS}


def composed(*settings: str) -> RunConfig:
    return single_config(COMPOSER, COMPOSER.parse(settings))


def fields_of(group: str) -> set[str]:
    return {field.name for field in dataclasses.fields(NODES[group])} - {"args"}


def constructors(group: str) -> Mapping[str, Callable[..., Any] | None]:
    """Return what each choice of a group ends in; None where it has no arguments of its own."""
    from cnnbench.data import DATASETS
    from cnnbench.data.augment import Augment
    from cnnbench.device.device import DEVICES
    from cnnbench.losses import LOSSES
    from cnnbench.models import MODELS
    from cnnbench.optim import OPTIMIZERS, SCHEDULES

    rows: dict[str, Mapping[str, Any]] = {
        "model": {n: row.constructor for n, row in MODELS.items()} | dict.fromkeys(FOREIGN),
        "data": dict.fromkeys(DATASETS),
        "loss": dict.fromkeys(LOSSES),
        "augment": dict.fromkeys(COMPOSER.groups.choices("augment"), Augment),
        "optimizer": OPTIMIZERS,
        "scheduler": SCHEDULES,
        "device": dict.fromkeys(DEVICES),
    }
    return rows[group]


@pytest.mark.parametrize("group", GROUPS)
def test_each_row_of_a_registry_has_a_file_and_no_file_is_left_over(group: str) -> None:
    assert COMPOSER.groups.choices(group).keys() == constructors(group).keys()


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_every_choice_composes_to_what_its_file_says(group: str, name: str) -> None:
    tree = to_tree(composed(f"{group}={name}", *needed(group, name)))[group]
    for key, value in shipped(group, name).items():
        if value != "???" and not (isinstance(value, str) and "${" in value):
            assert tree[key] == value, key


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_every_file_has_a_description_its_name_and_a_word_on_each_key(
    group: str, name: str
) -> None:
    path = conf_dir() / group / f"{name}.yaml"
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(COMPOSER.groups.choices(group)[name]) > 3
    body = [line for line in lines if not line.startswith("#")]
    assert body[0] == f"name: {name}"
    assert all(" # " in line for line in body[1:])
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_every_key_of_a_file_has_a_type(group: str, name: str) -> None:
    for key, value in shipped(group, name).items():
        kind = ARGUMENTS.get((group, key))
        assert (kind is None) == (key in fields_of(group)), key
        if kind is not None:
            read_value(kind, value)


def test_every_type_belongs_to_a_key_of_some_file() -> None:
    used = {(group, key) for group, name in CHOICES for key in shipped(group, name)}
    # Data sets of other packages take theirs by this key; none that is shipped does.
    assert ARGUMENTS.keys() - {("data", "args")} <= used
    assert all(group in GROUPS for group, _ in ARGUMENTS)


def same(left: Any, right: Any) -> bool:
    return bool(left == right) and isinstance(left, bool) == isinstance(right, bool)


@pytest.mark.parametrize("name", [n for n in COMPOSER.groups.choices("model") if n not in FOREIGN])
def test_a_networks_file_shows_its_constructors_defaults(name: str) -> None:
    from cnnbench.models import model_arguments

    common = {"name", "image_size", "adam_lr", "init"}
    tree = {k: v for k, v in shipped("model", name).items() if k not in common}
    defaults = model_arguments(name)
    assert tree.keys() == defaults.keys()
    for key, value in tree.items():
        assert same(tuple(value) if isinstance(value, list) else value, defaults[key]), key


def test_no_augmentation_is_the_constructors_defaults() -> None:
    from cnnbench.data.augment import Augment

    defaults = {field.name: field.default for field in dataclasses.fields(Augment)}
    assert shipped("augment", "none") == {"name": "none", **defaults}


@pytest.mark.parametrize("name", [n for n in COMPOSER.groups.choices("augment") if n != "none"])
def test_each_augmentation_shows_every_key_and_does_something(name: str) -> None:
    from cnnbench.data.augment import Augment

    tree = shipped("augment", name)
    del tree["name"]
    assert tree.keys() == {field.name for field in dataclasses.fields(Augment)}
    assert Augment(**tree) != Augment()


@pytest.mark.parametrize("group", ["optimizer", "scheduler"])
def test_optimizers_and_schedules_show_their_constructors_defaults(group: str) -> None:
    for name, constructor in constructors(group).items():
        assert constructor is not None
        parameters = inspect.signature(constructor).parameters
        tree = shipped(group, name)
        del tree["name"]
        tree.pop("decay_norms_and_biases", None)
        if group == "optimizer":  # some networks ask for another rate than the constructor's
            tree["lr"] = composed("model=lenet", f"optimizer={name}").optimizer.lr
        wanted = {k: p.default for k, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
        assert {k: tuple(v) if isinstance(v, list) else v for k, v in tree.items()} == wanted


@pytest.mark.parametrize("name", COMPOSER.groups.choices("data"))
def test_data_sets_differ_in_their_own_keys_alone(name: str) -> None:
    of_all = set(yaml.safe_load((conf_dir() / "train.yaml").read_text())["data"])
    common = {k: v for k, v in shipped("data", name).items() if k in fields_of("data")}
    special = {"name", "image_size", "root", "batch_size"}  # 1,797 digits want smaller batches
    assert common.keys() == fields_of("data") - of_all
    wanted = {k: v for k, v in shipped("data", "digits").items() if k not in special}
    assert {k: v for k, v in common.items() if k not in special} == wanted


def test_every_key_is_described_where_it_is_set() -> None:
    """The keys of the config are those of the files, all with a default."""
    tree = yaml.safe_load((conf_dir() / "train.yaml").read_text())
    listed = [next(iter(entry)) for entry in tree.pop("defaults") if entry != "_self_"]
    assert listed == [*GROUPS, *PRESET_GROUPS]
    everything = {field.name for field in dataclasses.fields(RunConfig)}
    assert everything == set(tree) | set(GROUPS)
    for group in GROUPS:
        choice = next(iter(COMPOSER.groups.choices(group)))
        # Another key's default, which only some choices have.
        fallbacks = {"model": {"image_size", "adam_lr"}, "loss": {"selection"}}
        given = fields_of(group) - fallbacks.get(group, set())
        assert given == (set(tree.get(group, {})) | shipped(group, choice).keys()) & given


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_a_tree_reads_back_to_the_same_config(group: str, name: str) -> None:
    config = composed(f"{group}={name}", *needed(group, name))
    assert read_config(yaml.safe_load(yaml.safe_dump(to_tree(config)))) == config
    settings = settings_of(to_tree(config))
    assert single_config(COMPOSER, settings) == config


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["data.val_fraction=0"], "expected selection=last"),
        (["extend_epochs=2"], "only goes with resume=RUN"),
    ],
)
def test_settings_that_cannot_go_together(settings: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        composed(*settings)
