"""What each key does to the run key, to a row of ``compare`` and at resume, for every key at once.

Two configs that differ in one key alone are made for each key that there is, those of single
choices included. What must follow from its role is written out here, apart from ``Role``.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from recorded_runs import write_run
from shipped import needed, shipped

import cnnbench
from cnnbench.cli.main import run as cli
from cnnbench.config.command import single_config
from cnnbench.config.compose import Composer
from cnnbench.config.roles import RECORDING, RESULT, Before, is_choice, read_keys
from cnnbench.config.run_config import (
    ARGUMENTS,
    GROUPS,
    RunConfig,
    all_keys,
    read_config,
    to_tree,
)
from cnnbench.config.schema import ConfigError
from cnnbench.config.settings import assign, leaves
from cnnbench.runs.directory import RunDir
from cnnbench.runs.provenance import run_key

COMPOSER = Composer()
CHOICES = [(group, name) for group in GROUPS for name in COMPOSER.groups.choices(group)]
RECORDED = Path(__file__).parents[1] / "data" / "run_v1" / "interrupted"
EFFECTIVE = {"device": "cpu", "device_name": "a cpu", "precision": "bf16", "num_threads": 2}


@dataclass(frozen=True)
class Consequences:
    """What follows where two runs differ in one key.

    Attributes:
        key: whether their run keys differ.
        row: whether they are two rows of ``compare``.
        resume: whether a resumed run may have the other value.
    """

    key: bool
    row: bool
    resume: bool


CONSEQUENCES = {
    "result": Consequences(key=True, row=True, resume=False),
    "repetition": Consequences(key=True, row=False, resume=False),
    "computation": Consequences(key=True, row=True, resume=True),
    # Paths alone: the hash of what is there has a test of its own.
    "content": Consequences(key=False, row=False, resume=False),
    "fallback": Consequences(key=False, row=False, resume=False),
    "recording": Consequences(key=False, row=False, resume=True),
    "location": Consequences(key=False, row=False, resume=False),
}


def composed(*settings: str) -> RunConfig:
    return single_config(COMPOSER, COMPOSER.parse(settings))


def other_values(group: str, key: str, value: Any, kind: Any) -> list[Any]:
    """Return values near this one, most of them allowed."""
    members = typing.get_args(kind)
    texts = [v for part in (kind, *members) for v in typing.get_args(part)]
    if typing.get_origin(kind) is Literal:
        texts = list(members)
    numbers = [value] if type(value) in (int, float) else []
    lists = [[*value, 1], [0.25, 0.75], [3, 4], [0.5, 0.5]] if isinstance(value, list) else []
    plain = [] if lists else [n * 2 for n in numbers] + [n / 2 for n in numbers] + [0.5, 3, 1, 2]
    return [*lists, *texts, *plain, False, True, "other", {"width": 3}]


@cache
def base_of(group: str, name: str) -> dict[str, Any]:
    return to_tree(
        composed(
            *(f"{group}={name}", "resume=/run", "model.weights=/given"),
            *("data.num_folds=4", "data.fold=0"),  # neither goes without the other
            *needed(group, name),
        )
    )


def variant(key: str) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Return another value of a key, and two trees that differ in it alone."""
    owner, _, last = key.rpartition(".")
    kind = ARGUMENTS.get((owner, last))
    if kind is None:
        node: Any = RunConfig
        for part in key.split("."):
            kind = typing.get_type_hints(node)[part]
            node = kind
    owners = [(group, n) for group, n in CHOICES if group == owner and last in shipped(group, n)]
    for group, name in owners or CHOICES:
        base = base_of(group, name)
        for other in other_values(owner, key, dict(leaves(base))[key], kind):
            changed = to_tree(read_config(base))
            assign(changed, key, other)
            try:
                tree = to_tree(read_config(changed))
            except ConfigError:
                continue
            if tree != base:
                return other, base, tree
    raise AssertionError(f"{key}: no other value was found")


# Data sets of other packages take theirs by data.args; none that is shipped does.
NO_SETTING = {"data.args", *(f"{group}.name" for group in GROUPS)}
KEYS = [key for key, facts in all_keys().items() if not facts.is_group and key not in NO_SETTING]


def key_of(tree: Mapping[str, Any], data: str = "d", code: str = "c", **files: str) -> str:
    return run_key(read_config(tree), data_fingerprint=data, code_version=code, model_files=files)


def num_rows(root: Path, *runs: Mapping[str, Any]) -> int:
    """Write runs of seeds 0, 1, ... and count the rows that they make.

    Args:
        root: an empty directory.
        runs: of each what differs from a usual one, with its ``config``.
    """
    for seed, run in enumerate(runs):
        processes = [{"started": f"2026-01-01T00:00:0{seed}", "effective": run["effective"]}]
        provenance = {"processes": processes, "model_files": run.get("files", {})}
        results = {"selection": run["config"]["selection"]}
        if not run["config"].get("evaluate_test", True):
            results["test/accuracy"] = None  # as long as nobody evaluates it
        if run["config"].get("loss", {}).get("name") == "mse":
            results |= {"test/r2": 0.5, "test/mae": 1.0}
        change = {"config": run["config"], "provenance": provenance, "results": results}
        write_run(root, seed=seed, change=change)
    result = cnnbench.compare([root])
    assert sum(row["n"] for row in result["rows"]) == len(runs)
    return len(result["rows"])


def computed(tree: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Return a run whose device took what was requested, and chose what was left to it."""
    asked = {k: v for k, v in tree["device"].items() if v not in ("auto", None)}
    return {"config": tree, "effective": {**EFFECTIVE, **asked, **more}}


def test_the_keys_are_those_of_the_yaml() -> None:
    every = {
        key for group, name in CHOICES for key in (f"{group}.{k}" for k in shipped(group, name))
    }
    every |= {key for key, _ in leaves(to_tree(composed()))}
    assert set(KEYS) == every - NO_SETTING


@pytest.mark.parametrize("key", KEYS)
def test_run_key_row_and_resume_follow_from_the_role(
    key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, base, tree = variant(key)
    role = all_keys()[key].role
    expected = CONSEQUENCES[role.name]
    if key == "data.root":  # its content is compared, so that it may have moved
        expected = dataclasses.replace(expected, resume=True)
    assert (key_of(base) != key_of(tree)) == expected.key
    rows = num_rows(tmp_path / "runs", computed(base), computed(tree))
    assert (rows == 2) == expected.row
    if role.name == "computation" and "num_workers" not in key:
        # What both came to counts, not what was asked for.
        name = key.rpartition(".")[2]
        same = [computed(config, **{name: "same"}) for config in (base, tree)]
        assert num_rows(tmp_path / "same", *same) == 1

    shutil.copytree(RECORDED, tmp_path / "run")
    text = str(other) if isinstance(other, str) else json.dumps(other).replace('"', "")
    code = cli(["train", f"resume={tmp_path / 'run'}", f"{key}={text}", "--cfg"])
    shown = capsys.readouterr()
    if key in ("resume", "data.test_root"):
        assert code == 2  # the other run is not there; the recorded one reads no table
    elif expected.resume:
        assert code == 0, shown.err
        resumed = dict(leaves(yaml.safe_load(shown.out)))
        assert resumed[key] == other or key == "data.root"
    else:
        assert code == 2
        assert f"{key}: a run" in shown.err
        assert "may change" in shown.err


def test_the_run_key_changes_with_choices_data_and_code() -> None:
    base = to_tree(composed())
    keys = [key_of(base), key_of(base, data="e"), key_of(base, code="e")]
    keys += [key_of(base, weights="a"), key_of(base, weights="b")]
    for setting in ("model=mlp", "data=mnist", "augment=crop", "optimizer=sgd", "scheduler=step"):
        keys.append(key_of(to_tree(composed(setting))))
    assert len(set(keys)) == len(keys)
    assert key_of(base) == key_of(to_tree(read_config(base)))


def test_choices_make_rows(tmp_path: Path) -> None:
    choices = ("model=mlp", "augment=crop", "optimizer=sgd", "scheduler=step")
    runs = [computed(to_tree(composed(*setting))) for setting in ([], *([c] for c in choices))]
    assert num_rows(tmp_path, *runs) == len(runs)


def test_the_device_that_computed_makes_the_row_not_its_setting(tmp_path: Path) -> None:
    auto, cpu = (to_tree(composed(f"device={name}")) for name in ("auto", "cpu"))
    assert key_of(auto) == key_of(cpu)
    assert num_rows(tmp_path / "a", computed(auto), computed(cpu)) == 1
    other = computed(auto, device_name="another cpu")
    assert num_rows(tmp_path / "b", computed(auto), other) == 2


def test_content_makes_the_row_not_its_path(tmp_path: Path) -> None:
    runs = [computed(to_tree(composed(f"model.weights=/{name}"))) for name in "ab"]
    same = [run | {"files": {"weights": "0" * 64}} for run in runs]
    assert num_rows(tmp_path / "a", *same) == 1
    assert num_rows(tmp_path / "b", same[0], runs[1] | {"files": {"weights": "1" * 64}}) == 2


def test_older_runs_without_the_effective_layout_join_newer_ones(tmp_path: Path) -> None:
    config = to_tree(composed())
    assert num_rows(tmp_path / "a", computed(config), computed(config, channels_last=True)) == 1
    assert num_rows(tmp_path / "b", computed(config), computed(config, channels_last=False)) == 2


def choices_of(key: str) -> list[str]:
    """Return the choices of a key's group; one without a name where the key is a whole group."""
    return list(COMPOSER.groups.choices(key.partition(".")[0])) if "." in key else [""]


OLDER = [
    (key, choice)
    for key, facts in all_keys().items()
    if facts.before
    for choice in choices_of(key)
    if is_choice(choice, facts.before.choices)
]


def test_every_key_that_came_later_has_choices() -> None:
    assert {key for key, _ in OLDER} == {key for key, facts in all_keys().items() if facts.before}


@pytest.mark.parametrize(("key", "choice"), OLDER)
def test_a_run_from_before_a_key_is_one_with_the_older_value(
    key: str, choice: str, tmp_path: Path
) -> None:
    before = all_keys()[key].before
    assert before is not None
    group, _, name = key.rpartition(".")
    settings = []
    if group:
        own = f"{key}={json.dumps(before.value)}"
        settings = [f"{group}={choice}", *needed(group, choice), own]
    config = to_tree(composed(*settings))
    older = json.loads(json.dumps(config))
    del (older[group] if group else older)[name]
    run = write_run(tmp_path / "read", change={"config": older})
    assert to_tree(RunDir(run).config) == config
    assert num_rows(tmp_path / "rows", computed(config), computed(older)) == 1


def test_a_key_that_may_be_null_was_null_before_it_came(tmp_path: Path) -> None:
    config = to_tree(composed())
    older = json.loads(json.dumps(config))
    removed = []
    for key, value in leaves(config):
        if value is None:
            *parents, name = key.split(".")
            node = older
            for parent in parents:
                node = node[parent]
            del node[name]
            removed.append(key)
            if not node and all_keys()[parents[0]].before:
                del older[parents[0]]
    assert "data.limit" in removed
    assert to_tree(RunDir(write_run(tmp_path / "read", change={"config": older})).config) == config
    assert num_rows(tmp_path / "rows", computed(config), computed(older)) == 1


@dataclass(frozen=True)
class Part:
    name: str
    size: int
    log: Annotated[int | None, RECORDING]
    args: Mapping[str, Any]


@dataclass(frozen=True)
class Whole:
    part: Annotated[Part, RESULT]
    more: Annotated[int, Before(3), RECORDING]


@dataclass(frozen=True)
class Lacking:
    part: Annotated[Part, RESULT]
    more: int


def test_a_key_at_the_top_without_a_role_is_a_mistake() -> None:
    keys = read_keys(Whole, {("part", "depth"): int, ("part", "title"): Annotated[str, RECORDING]})
    assert {key: facts.role.name for key, facts in keys.items()} == {
        "part": "result",
        "part.name": "result",
        "part.size": "result",
        "part.log": "recording",
        "more": "recording",
        "part.depth": "result",
        "part.title": "recording",
    }
    assert keys["more"].before == Before(3)
    with pytest.raises(TypeError, match=r"Lacking\.more has no role"):
        read_keys(Lacking, {})
