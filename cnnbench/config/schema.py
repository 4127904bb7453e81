"""A small typed schema: types with ranges, and a reader that finds every mistake.

It reads trees of plain values into dataclasses, and keyword arguments into what a constructor's
annotations say. It knows nothing of the keys themselves, so that models may use it too.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import types
import typing
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from cnnbench.errors import UsageError, did_you_mean


@dataclass(frozen=True)
class Range:
    """Bounds of a number: ``ge`` and ``le`` include the bound, ``gt`` and ``lt`` do not."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def __contains__(self, value: float) -> bool:
        return (
            (self.ge is None or value >= self.ge)
            and (self.gt is None or value > self.gt)
            and (self.le is None or value <= self.le)
            and (self.lt is None or value < self.lt)
        )

    def __str__(self) -> str:
        signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
        bounds = dataclasses.asdict(self).items()
        return " and ".join(f"{signs[k]} {v:g}" for k, v in bounds if v is not None)


# Keys that the config does not know; whoever takes them checks them.
OpenArgs = Mapping[str, Any]


class Ratio:
    """Marks a float that may also be written as a fraction, such as ``1/16``."""


@dataclass(frozen=True)
class IsPath:
    """Marks text that is a path of the user's: nothing in it is grammar.

    Args:
        form: what it looks like, for messages.
    """

    form: str = "a path"


Count = Annotated[int, Range(ge=1)]
Size = Annotated[int, Range(ge=0)]
Positive = Annotated[float, Range(gt=0)]
RatioNumber = Annotated[float, Range(gt=0), Ratio()]
Fraction = Annotated[float, Range(ge=0, le=1)]
Probability = Annotated[float, Range(ge=0, lt=1)]
Seed = Annotated[int, Range(ge=0, lt=2**63)]
PathText = Annotated[str, IsPath()]
_SIMPLE = (int, float, bool, str, type(None))


@dataclass(frozen=True)
class Problem:
    """One mistake in a config: its key, the value, what is expected, and the nearest valid name."""

    key: str
    text: str

    def __str__(self) -> str:
        return f"{self.key}{self.text}"


class ConfigError(UsageError):
    """All mistakes of a config together."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(dict.fromkeys(problems))
        super().__init__("\n".join(map(str, self.problems)))


# Text that looks like a value of another type, for it was quoted or came from the environment.
_LITERAL = re.compile(r"[-+]?[\d.]+(e[-+]?\d+)?|true|false|null", re.IGNORECASE)


def _show(value: Any) -> str:
    # YAML also knows dates and bytes.
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    if isinstance(value, str) and _LITERAL.fullmatch(value):
        text = f"'{value}'"  # else nobody sees what is wrong with it
    return text if len(text) <= 80 else f"{text[:77]}..."


def expectation(kind: Any) -> str:
    """Return in words what values of a type are accepted."""
    origin = get_origin(kind)
    if origin is Annotated:
        base, *marks = get_args(kind)
        if (path := next((mark for mark in marks if isinstance(mark, IsPath)), None)) is not None:
            return path.form
        ranges = [str(mark) for mark in marks if isinstance(mark, Range)]
        ratio = " or a fraction such as 1/16" if any(isinstance(m, Ratio) for m in marks) else ""
        return " ".join([expectation(base) + ratio, *ranges])
    if origin is Literal:
        return "one of " + ", ".join(_choices(kind))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(expectation(part) for part in get_args(kind))
    if kind == OpenArgs:
        return "keys with plain values"
    if origin is tuple:
        return f"a list of values, each {expectation(get_args(kind)[0])}"
    names = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
        type(None): "null",
    }
    return names[kind]


def read_value(kind: Any, value: Any) -> Any:
    """Return a value as its type has it: an int where a float is meant, a list as a tuple.

    Raises:
        ValueError: the value is not of that type or out of range.
    """
    origin = get_origin(kind)
    if origin is Annotated:
        base, *marks = get_args(kind)
        if isinstance(value, str) and any(isinstance(mark, Ratio) for mark in marks):
            above, slash, below = value.partition("/")
            if slash and above.strip().isdigit() and below.strip().isdigit() and int(below):
                value = _quotient(int(above), int(below))
        value = read_value(base, value)
        if all(value in mark for mark in marks if isinstance(mark, Range)):
            return value
    elif origin is Literal:
        if any(value == choice and type(value) is type(choice) for choice in get_args(kind)):
            return value
    elif origin in (typing.Union, types.UnionType):
        for part in get_args(kind):
            try:
                return read_value(part, value)
            except ValueError:
                continue
    elif kind == OpenArgs:
        return _read_open(value)
    elif origin is tuple:
        if isinstance(value, (list, tuple)):
            return tuple(read_value(get_args(kind)[0], part) for part in value)
    elif kind is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return _quotient(value, 1)
    elif type(value) is kind:
        return value
    raise ValueError


def _read_open(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError
    read: dict[str, Any] = {}
    for name, part in value.items():
        parts = part if isinstance(part, (list, tuple)) else [part]
        if not all(isinstance(p, (str, int, float, bool, type(None))) for p in parts):
            raise ValueError
        read[str(name)] = tuple(part) if isinstance(part, (list, tuple)) else part
    return types.MappingProxyType(read)


def _without_null(kind: Any) -> str:
    return expectation(kind).removesuffix(" or null")


def _quotient(above: float, below: float) -> float:
    try:
        value = above / below
    except OverflowError:
        raise ValueError from None
    if not math.isfinite(value):
        raise ValueError
    return value


def read_node(
    node: type[Any],
    tree: Any,
    arguments: Mapping[tuple[str, str], Any],
    problems: list[Problem],
    prefix: str = "",
) -> Any:
    """Turn a tree of plain values into a dataclass, nested ones included.

    Args:
        node: the dataclass; a field ``args`` takes the keys that are no fields.
        tree: nested mappings of strings, numbers, booleans, lists and None.
        arguments: the types of those other keys, by (name of the nested field, key).
        problems: every mistake found is appended here.
        prefix: the key of the tree, with a final dot.

    Returns:
        The dataclass, or ``None`` where there are problems. An absent optional value is ``None``.
    """
    if not isinstance(tree, Mapping):
        problems.append(Problem(prefix.rstrip("."), f"={_show(tree)}: expected a group of keys"))
        return None
    hints = _hints(typing.cast(Hashable, node))
    kinds = {name: kind for name, kind in hints.items() if name != "args"}
    own = {name: kind for (group, name), kind in arguments.items() if f"{group}." == prefix}
    args: dict[str, Any] = {}
    values: dict[str, Any] = {"args": types.MappingProxyType(args)} if "args" in hints else {}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if name in kinds and dataclasses.is_dataclass(kinds[name]):
            values[name] = read_node(
                typing.cast(Any, kinds[name]), value, arguments, problems, f"{key}."
            )
            continue
        kind = kinds.get(name, own.get(name) if "args" in hints else None)
        if kind is None:
            problems.append(Problem(key, f": unknown key{did_you_mean(name, [*kinds, *own])}"))
        elif value == "???":
            problems.append(Problem(key, f": missing; expected {_without_null(kind)}"))
        else:
            (values if name in kinds else args)[name] = _read(kind, value, key, problems)
    for name, kind in kinds.items():
        if name not in tree and type(None) in get_args(kind):
            values[name] = None
        elif name not in tree:
            wanted = "a group of keys" if dataclasses.is_dataclass(kind) else expectation(kind)
            problems.append(Problem(f"{prefix}{name}", f": missing; expected {wanted}"))
    return None if problems else node(**values)


def _read(kind: Any, value: Any, key: str, problems: list[Problem]) -> Any:
    """Return a value as its type has it; ``None``, and a problem more, where it does not fit."""
    try:
        return read_value(kind, value)
    except ValueError:
        near = did_you_mean(str(value), _choices(kind)) or _as_text(kind, value, key)
        problems.append(Problem(key, f"={_show(value)}: expected {expectation(kind)}{near}"))
        return None


def _as_text(kind: Any, value: Any, key: str) -> str:
    """Return how a number or the like is written where text is meant; nothing where none is."""
    if not isinstance(value, (bool, int, float)):
        return ""
    try:
        read_value(kind, _show(value))
    except ValueError:
        return ""
    typed = key.rpartition(": ")[2]  # a network of one's own stands before it
    return f"; in quotes it is text: \"{typed}='...'\""


def read_arguments(
    constructor: Callable[..., Any], args: Mapping[str, Any], prefix: str = ""
) -> dict[str, Any]:
    """Return keyword arguments as a constructor's annotations have them.

    Whether the constructor takes and needs an argument is not checked here. Values pass as they
    are where the annotation is missing, cannot be resolved, or is no type of plain values.

    Args:
        constructor: a class or function, annotated with such types as ``Count``, ``Probability``
            or ``Literal["relu", "tanh"]``.
        args: values by name.
        prefix: of the keys in messages, such as ``model.args.``.

    Raises:
        ConfigError: every value of another type or out of range, together.

    Example:
        >>> def network(*, dropout: Probability = 0.5, widths: tuple[Count, ...] = (8,)): ...
        >>> read_arguments(network, {"dropout": 0, "widths": [16, 32]})
        {'dropout': 0.0, 'widths': (16, 32)}
    """
    called = (
        typing.cast(Any, constructor).__init__ if isinstance(constructor, type) else constructor
    )
    try:
        hints = get_type_hints(called, include_extras=True)
    except Exception:  # a stranger's annotations may name anything
        return dict(args)
    problems: list[Problem] = []
    read = {
        name: _read(hints[name], value, f"{prefix}{name}", problems)
        if _is_readable(hints.get(name))
        else value
        for name, value in args.items()
    }
    if problems:
        raise ConfigError(problems)
    return read


def _is_readable(kind: Any) -> bool:
    """Tell whether ``read_value`` knows a type."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _is_readable(parts[0])
    if origin in (typing.Union, types.UnionType):
        return all(map(_is_readable, parts))
    if origin is tuple:
        return len({*parts} - {...}) == 1 and _is_readable(parts[0])
    return origin is Literal or kind in _SIMPLE


def marks(kind: Any) -> Iterator[Any]:
    """Yield the marks of a type, the outer ones first, those of a union's members included."""
    if get_origin(kind) is Annotated:
        base, *found = get_args(kind)
        # Where one Annotated is in another, Python lists the marks of the inner one first.
        yield from reversed(found)
        yield from marks(base)
    elif get_origin(kind) in (typing.Union, types.UnionType):
        for part in get_args(kind):
            yield from marks(part)


@cache
def _hints(node: Hashable) -> dict[str, Any]:
    """Return the types of a dataclass's fields, with those marks alone that a value must meet."""
    hints = get_type_hints(node, include_extras=True)
    return {name: _with_bounds_alone(kind) for name, kind in hints.items()}


def _with_bounds_alone(kind: Any) -> Any:
    if get_origin(kind) is not Annotated:
        return kind
    base, *found = get_args(kind)
    bounds = [mark for mark in found if isinstance(mark, (Range, Ratio))]
    return Annotated[(base, *bounds)] if bounds else base


def _choices(kind: Any) -> list[str]:
    if get_origin(kind) is Literal:
        return ["false" if choice is False else str(choice) for choice in get_args(kind)]
    return [choice for part in get_args(kind) for choice in _choices(part)]
