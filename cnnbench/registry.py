"""A closed table from names to things, which refuses duplicates and helps with typos."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

from cnnbench.errors import UsageError, expected_names

T = TypeVar("T")


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

    def add(self, name: str, value: T) -> None:
        """Register one more.

        Raises:
            UsageError: the name is taken.
        """
        if name in self._rows:
            raise UsageError(f"the {self.kind} '{name}' is registered twice")
        self._rows[name] = value
