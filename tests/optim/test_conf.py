"""The YAML of optimizers and schedules against the constructors and the table of types."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from shipped import shipped

from cnnbench.config.run_config import ARGUMENTS
from cnnbench.optim import OPTIMIZERS, SCHEDULES, build_schedule

CONF = Path(__file__).parents[2] / "conf"
# Keys of a whole group, which build_optimizer takes beside the constructor's.
COMMON = {"optimizer": {"decay_norms_and_biases": False}, "scheduler": {}}
REGISTRIES: dict[str, Mapping[str, Any]] = {"optimizer": OPTIMIZERS, "scheduler": SCHEDULES}
CHOICES = [(group, name) for group, registry in REGISTRIES.items() for name in registry]


def read(group: str, name: str) -> dict[str, Any]:
    items = shipped(group, name).items()
    return {key: tuple(v) if isinstance(v, list) else v for key, v in items}


@pytest.mark.parametrize("group", REGISTRIES)
def test_each_choice_has_one_file(group: str) -> None:
    files = {path.stem for path in (CONF / group).glob("*.yaml")}
    assert files == set(REGISTRIES[group])


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_file_shows_every_argument_with_its_default(group: str, name: str) -> None:
    parameters = inspect.signature(REGISTRIES[group][name]).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    if name in ("adam", "adamw"):  # a network may ask for another
        defaults["lr"] = f"${{oc.select:model.adam_lr,{defaults['lr']}}}"
    assert read(group, name) == {"name": name, **defaults, **COMMON[group]}


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_own_arguments_have_a_type(group: str, name: str) -> None:
    common = {"name", "lr", "weight_decay", "decay_norms_and_biases", "warmup_fraction"}
    for key in read(group, name).keys() - common:
        assert (group, key) in ARGUMENTS


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_file_starts_with_a_description_and_explains_each_key(group: str, name: str) -> None:
    first, second, *rest = (CONF / group / f"{name}.yaml").read_text().splitlines()
    assert first.startswith("# ")
    assert second == f"name: {name}"
    assert all(" # " in line for line in rest)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_builds_from_its_file(name: str) -> None:
    values = read("scheduler", name)
    del values["name"]
    schedule = build_schedule(name, warmup_fraction=values.pop("warmup_fraction"), args=values)
    assert max(schedule(at / 100) for at in range(101)) == pytest.approx(1)
