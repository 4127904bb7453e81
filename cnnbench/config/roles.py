"""What each key does to a run, said once, as a mark on its type.

A key of no group says its role itself. A key of a group has the role that the group has in
``RunConfig``, unless it says another one. From the roles follow the run key
(``runs/provenance.py``), the rows of ``compare``, and what ``resume`` accepts:

============== ================================ ========= ================== =========
role           meaning                          run key   row of ``compare`` at resume
============== ================================ ========= ================== =========
``RESULT``     decides the result               value     its value          fixed
``REPETITION`` tells repetitions of a run apart value     folded             fixed
``COMPUTATION`` how the result is computed      value     effective value    may change
``MACHINE``    what computes it                 left out  effective value    may change
``CONTENT``    a path whose content decides     the hash  the hash           fixed
``FALLBACK``   another key's default            left out  left out           fixed
``RECORDING``  what is kept and shown, and how  left out  left out           may change
               long this process may run
``LOCATION``   where the run is kept            left out  left out           fixed
============== ================================ ========= ================== =========

The effective value is what the process that trained made of ``auto`` or ``null``.
The version of the code is no key: it is in the run key, and marks a row where its runs differ.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal, TypeVar, get_type_hints

from cnnbench.config.schema import IsPath, marks


@dataclass(frozen=True)
class Role:
    """What a key does to a run.

    Attributes:
        name: in lower case, for messages and tests.
        in_run_key: whether runs with other values have other run keys.
        row: which of its values makes another row of ``compare``.
        may_change: whether a resumed run may have another value.
    """

    name: str
    in_run_key: bool
    row: Literal["value", "effective", "none"]
    may_change: bool


RESULT = Role("result", in_run_key=True, row="value", may_change=False)
REPETITION = Role("repetition", in_run_key=True, row="none", may_change=False)
COMPUTATION = Role("computation", in_run_key=True, row="effective", may_change=True)
# `auto` and the device that it finds are the same run, and a sweep may go to another machine.
MACHINE = Role("machine", in_run_key=False, row="effective", may_change=True)
# The hashes count in place of the paths, and are no values of the config.
CONTENT = Role("content", in_run_key=False, row="none", may_change=False)
# Resuming compares the hash, so the content may have moved.
MOVABLE_CONTENT = dataclasses.replace(CONTENT, may_change=True)
FALLBACK = Role("fallback", in_run_key=False, row="none", may_change=False)
RECORDING = Role("recording", in_run_key=False, row="none", may_change=True)
LOCATION = Role("location", in_run_key=False, row="none", may_change=False)


@dataclass(frozen=True)
class Before:
    """Marks a key that came later, with the value that runs recorded without it had.

    Attributes:
        value: what they did.
        choices: patterns of the group's choices that have the key since then, joined by ``|``.

    A later key that may be null needs no mark: where it is absent, it is null.
    """

    value: Any
    choices: str = "*"


@dataclass(frozen=True)
class Key:
    """What the marks of one key or group say.

    Attributes:
        role: its own, or its group's.
        before: the value of older runs, if it came later.
        is_path: whether it is a path of the user's.
        is_group: whether it holds other keys.
        is_argument: whether only some choices of its group have it.
    """

    role: Role
    before: Before | None = None
    is_path: bool = False
    is_group: bool = False
    is_argument: bool = False


_Mark = TypeVar("_Mark")


def read_keys(node: type[Any], arguments: Mapping[tuple[str, str], Any]) -> dict[str, Key]:
    """Return all keys of a config, by dotted name, groups before their keys.

    Args:
        node: the dataclass of the whole config.
        arguments: types of the keys that only some choices have, by (group, key).

    Raises:
        TypeError: a key at the top has no role.
    """
    keys: dict[str, Key] = {}
    for name, kind in get_type_hints(node, include_extras=True).items():
        role = _mark(kind, Role)
        if role is None:
            raise TypeError(f"{node.__name__}.{name} has no role: mark its type with one")
        group = get_type_hints(node)[name]
        keys[name] = _key(kind, role, is_group=dataclasses.is_dataclass(group))
        if dataclasses.is_dataclass(group):
            for inner, inner_kind in get_type_hints(group, include_extras=True).items():
                if inner != "args":
                    keys[f"{name}.{inner}"] = _key(inner_kind, role)
    for (group_name, name), kind in arguments.items():
        keys[f"{group_name}.{name}"] = _key(kind, keys[group_name].role, is_argument=True)
    return keys


def _key(kind: Any, default: Role, *, is_group: bool = False, is_argument: bool = False) -> Key:
    return Key(
        _mark(kind, Role) or default,
        _mark(kind, Before),
        _mark(kind, IsPath) is not None,
        is_group,
        is_argument,
    )


def _mark(kind: Any, mark: type[_Mark]) -> _Mark | None:
    return next((found for found in marks(kind) if isinstance(found, mark)), None)


def is_choice(name: str, patterns: str) -> bool:
    """Tell whether a choice is among those that patterns, joined by ``|``, name."""
    return any(fnmatchcase(name, pattern) for pattern in patterns.split("|"))


def with_older_values(tree: Mapping[str, Any], keys: Mapping[str, Key]) -> dict[str, Any]:
    """Return a recorded config with the keys that came after it, as its run was without them.

    Args:
        tree: nested mappings, from a file: anything may be in it.
        keys: as ``read_keys`` returns them.
    """
    filled = dict(tree)
    for key, facts in keys.items():
        if facts.before is None:
            continue
        group, _, name = key.rpartition(".")
        node = filled.get(group) if group else filled
        if not isinstance(node, Mapping) or name in node:
            continue
        if is_choice(str(node.get("name")), facts.before.choices):
            later = {**node, name: facts.before.value}
            filled = {**filled, group: later} if group else later
    return filled
