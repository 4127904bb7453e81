"""Tables from names to things: our own rows, and those of other installed packages.

A package announces a network or a data set in its ``pyproject.toml``; nothing of it is loaded
before it is asked for by name::

    [project.entry-points."cnnbench.models"]
    mynet = "mypackage.nets:MyNet"
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Generic, TypeVar

from cnnbench.errors import (
    UsageError,
    error_text,
    expected_names,
    mark_user_code,
    user_code_error,
)

T = TypeVar("T")

# Of a network or a data set: it is part of the names of files.
NAME = re.compile(r"\w[\w.+-]*")
# The entry-point group behind each group of choices.
ENTRY_POINTS = {"model": "cnnbench.models", "data": "cnnbench.datasets"}


class Registry(Mapping[str, T], Generic[T]):
    """Map names to values of one kind.

    Args:
        kind: what a value is, in the singular, for messages ("model", "data set").
        rows: the built-in names and values.
    """

    def __init__(self, kind: str, rows: Mapping[str, T]) -> None:
        self.kind = kind
        self._rows = dict(rows)

    def __getitem__(self, name: str) -> T:
        """Return the value.

        Raises:
            UsageError: the name is not registered; the message has the nearest one.
        """
        try:
            return self._rows[name]
        except KeyError:
            raise UsageError(
                f"unknown {self.kind} '{name}'{expected_names(name, sorted(self._rows))}"
            ) from None

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


@cache
def _found(group: str) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=group))


def plugins(group: str, shipped: Collection[str]) -> dict[str, str]:
    """Return the names that other packages add to a group, each with where it comes from.

    Args:
        group: ``model`` or ``data``; other groups have none.
        shipped: names that are taken.

    Raises:
        UsageError: two packages give the same name, one repeats a shipped name, or a name cannot
            be part of a file's.
    """
    names: dict[str, str] = {}
    for point in _found(ENTRY_POINTS[group]) if group in ENTRY_POINTS else ():
        package = point.dist.name if point.dist is not None else "an unnamed package"
        where = f"from the package {package} ({point.value})"
        if not NAME.fullmatch(point.name):
            raise UsageError(
                f"{group}={point.name}: {where}: a name has letters, digits and ._+- alone, and "
                "begins with one of the former"
            )
        if point.name in names or point.name in shipped:
            other = names.get(point.name, "cnnbench's own")
            raise UsageError(
                f"{group}={point.name} is there twice: {where}, and {other}; remove one"
            )
        names[point.name] = where
    return names


def load_plugin(group: str, name: str) -> Any:
    """Import what an entry point names.

    Raises:
        UsageError: there is none of that name, or it cannot be imported.
    """
    point = next((point for point in _found(ENTRY_POINTS[group]) if point.name == name), None)
    if point is None:
        raise UsageError(f"no installed package gives {group}={name}")
    try:
        _mark_package(point)
        return point.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever a stranger's module raises at import
        raise UsageError(
            f"{group}={name}: {point.value} cannot be imported: "
            f"{user_code_error(error) or error_text(error)}"
        ) from error


def _mark_package(point: EntryPoint) -> None:
    """Remember whose code this is before it runs; nothing of a top-level package is imported."""
    found = find_spec(point.module.partition(".")[0])
    for folder in (found and found.submodule_search_locations) or ():
        mark_user_code(Path(folder))
    if found is not None and found.origin and not found.submodule_search_locations:
        mark_user_code(Path(found.origin))
