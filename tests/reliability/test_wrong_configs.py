"""Wrong configs made from the schema: each mistake is named with key, value and expectation."""

from __future__ import annotations

import math
import resource
import time
import types
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest
from shipped import shipped
from tiny import command

from cnnbench.config.command import single_config
from cnnbench.config.compose import Composer
from cnnbench.config.run_config import ARGUMENTS, GROUPS, RunConfig, argument_type
from cnnbench.config.schema import ConfigError, Range, expectation

COMPOSER = Composer()
MAX_SECONDS = 3  # that one wrong config may take
HINTS = typing.get_type_hints(RunConfig)


def bounds(kind: Any) -> Iterator[Range]:
    if get_origin(kind) is Annotated:
        yield from (mark for mark in kind.__metadata__ if isinstance(mark, Range))
    if get_origin(kind) in (typing.Union, types.UnionType):
        for part in get_args(kind):
            yield from bounds(part)


def is_optional(kind: Any) -> bool:
    return type(None) in get_args(kind)


def is_text(kind: Any) -> bool:
    return all(isinstance(choice, str) for choice in get_args(kind))


def base(kind: Any) -> Any:
    parts = [part for part in get_args(kind) if part is not type(None)]
    if is_optional(kind) or get_origin(kind) is Annotated:
        return base(parts[0])
    return get_origin(kind) or kind


def wrong_values(kind: Any) -> dict[str, str]:
    """Return kinds of mistake with a value that makes each, as one writes it."""
    wrong: dict[str, str] = {"mapping": "{a:1}"}
    plain = base(kind)
    if plain is not tuple and plain is not Literal:
        wrong |= {"list": "[1]"}
    if not is_optional(kind):
        wrong |= {"null": "null", "missing": "???"}
    if plain in (int, float):
        wrong |= {"text": "many", "boolean": "true"}
        wrong |= {"infinite": "inf", "not a number": "nan"}
    if plain is int:
        wrong |= {"broken": "1.5"}
    if plain is str:
        wrong |= {"number": "3"}
    if plain is bool:
        wrong |= {"number": "1", "text": "maybe"}
    if plain is Literal:
        first = next(str(choice) for choice in get_args(kind))
        wrong |= {"misspelt": f"{first}x", "other case": first.upper() + "_"}
    if plain is tuple:
        wrong |= {"no list": "7", "text in a list": "[a]"}
    for mark in bounds(kind):
        below = mark.ge if mark.ge is not None else mark.gt
        above = mark.le if mark.le is not None else mark.lt
        if below is not None:
            wrong |= {"too small": f"{below - 1:g}"}
        if above is not None and not math.isinf(above):
            wrong |= {"too large": str(int(above) + 1)}
    return wrong


def value_of(kind: Any) -> Any:
    """Return a type without marks that no value has to meet, such as its role."""
    if get_origin(kind) is Annotated and not any(isinstance(m, Range) for m in kind.__metadata__):
        return value_of(get_args(kind)[0])
    return kind


def fields(group: str) -> dict[str, Any]:
    """Return the types of a group's keys in the default choice and of its choices' own."""
    hints = typing.get_type_hints(HINTS[group], include_extras=True)
    return {name: value_of(kind) for name, kind in hints.items() if name not in ("name", "args")}


@cache
def own_keys(group: str) -> list[tuple[str, str, Any]]:
    """Return the keys of a group's choices: a choice that has it, the key, and its type."""
    found: dict[str, tuple[str, str, Any]] = {}
    for choice in COMPOSER.groups.choices(group):
        for name in shipped(group, choice):
            known = (group, name) in ARGUMENTS
            kind = argument_type(group, name, choice) if known else None
            is_open = name in ("args", "path")
            if kind is not None and name not in found and not is_open:
                found[name] = (choice, name, value_of(kind))
    return list(found.values())


def mistakes(group: str) -> Iterator[tuple[list[str], str, str, str]]:
    """Yield settings with one mistake, its key, what came, and what is expected."""
    default = next(iter(COMPOSER.groups.choices(group)))
    # A key that only some networks have.
    owners = {("model", "adam_lr"): "vgg16"}
    rows = [
        (owners.get((group, name), default), name, kind) for name, kind in fields(group).items()
    ]
    for choice, name, kind in [*rows, *own_keys(group)]:
        key = f"{group}.{name}"
        paths = ("data.root", "data.test_root", "model.weights", "loss.teacher")
        if key in (*paths, "model.image_size", "loss.selection"):
            continue  # paths are taken as they stand; the others are no keys of the user's
        beside = ["data.root=table.csv"] if choice == "csv" else []
        for value in wrong_values(kind).values():
            if (name, value) in (("native_size", "???"), ("target", "many")):
                continue  # found as what data.image_size needs; a column may have any name
            yield [f"{group}={choice}", *beside, f"{key}={value}"], key, value, expectation(kind)
            if base(kind) is Literal and value == f"{get_args(kind)[0]}x" and is_text(kind):
                near = f"did you mean '{get_args(kind)[0]}'"
                yield [f"{group}={choice}", f"{key}={value}", "seed=1"], key, value, near
    names = list(COMPOSER.groups.choices(group))
    for name in names[:3]:
        yield [f"{group}={name}x"], group, f"{name}x", f"did you mean '{name}'"
    for name in (*fields(group), *(name for _, name, _ in own_keys(group))):
        if (group, name) not in (("model", "image_size"), ("loss", "selection")) and len(name) > 4:
            choice = next((c for c, n, _ in [*rows, *own_keys(group)] if n == name), default)
            near = f"did you mean '{group}.{name}'"
            yield [f"{group}={choice}", f"+{group}.{name}_x=1"], f"{group}.{name}_x", "", near
    yield [f"+{group}._target_=os.system"], f"{group}._target_", "", "unknown key"
    yield [f"{group}=null"], group, "null", "expected a choice"


@cache
def every_mistake() -> dict[str, list[tuple[list[str], str, str, str]]]:
    """Return the mistakes of each group."""
    return {group: list(mistakes(group)) for group in GROUPS}


@pytest.mark.parametrize("group", GROUPS)
def test_every_mistake_is_named(
    group: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    started = time.process_time()
    for settings, key, value, expected in every_mistake()[group]:
        with pytest.raises(ConfigError) as caught:
            single_config(COMPOSER, COMPOSER.parse(settings))
        assert caught.value.exit_code == 2
        lines = [line for line in str(caught.value).splitlines() if line.startswith(key)]
        assert len(lines) == 1, (settings, str(caught.value))
        came = {"nan": "NaN", "inf": "Infinity", "{a:1}": '{"a": 1}', "???": "missing"}
        assert came.get(value, value.strip("[]")) in lines[0], settings
        words = expected.removesuffix(" or null") if value == "???" else expected
        assert words in lines[0], (settings, lines)
    assert list(tmp_path.iterdir()) == []
    assert time.process_time() - started < MAX_SECONDS * len(every_mistake()[group])


def test_the_command_refuses_each_groups_mistake_in_time(tmp_path: Path) -> None:
    """Whole processes, their start included, by the time they compute: the machine may be busy."""
    for group, rows in every_mistake().items():
        settings, key, *_ = rows[0]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        answer = command("train", *settings, cwd=tmp_path)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert answer.returncode == 2, group
        assert answer.stderr.startswith(f"cnnbench: {key}"), group
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        assert used < MAX_SECONDS, group
    assert list(tmp_path.iterdir()) == []


def test_there_are_ten_kinds_in_each_group_and_no_two_alike() -> None:
    for group, rows in every_mistake().items():
        assert len(rows) >= 10, group
    seen = [tuple(settings) for rows in every_mistake().values() for settings, *_ in rows]
    assert len(seen) == len(set(seen))
    assert len(seen) >= 60
