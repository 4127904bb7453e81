"""Settings (``key=value``) and trees of plain values, and the way between them."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnbench.config.roles import with_older_values
from cnnbench.config.run_config import GROUPS, all_keys, role_of
from cnnbench.config.schema import ConfigError, Problem
from cnnbench.errors import did_you_mean, likeness
from cnnbench.files import expand_path

# What others call a choice of ours.
_OTHER_WORDS = {
    "gpu": "cuda",
    "metal": "mps",
    "ce": "cross_entropy",
    "l2": "mse",
    "fmnist": "fashion_mnist",
}


@dataclass(frozen=True)
class Interval:
    """Numbers that a search draws from.

    Attributes:
        low: the smallest.
        high: the largest, above ``low``.
        is_int: whether they are whole numbers.
        is_log: whether their logarithms are spread evenly; then ``low`` is above 0.
    """

    low: float
    high: float
    is_int: bool = False
    is_log: bool = False

    def __str__(self) -> str:
        text = f"interval({self.low:g},{self.high:g})"
        text = f"int({text})" if self.is_int else text
        return f"tag(log,{text})" if self.is_log else text


@dataclass(frozen=True)
class Setting:
    """One ``key=value`` of the command line.

    Args:
        key: dotted key, or the name of a group.
        values: one value, or those of a sweep in order; of an interval, its ends.
        is_sweep: whether there may be several.
        interval: where a search draws from one.
    """

    key: str
    values: tuple[Any, ...]
    is_sweep: bool = False
    interval: Interval | None = None


def words(settings: str | Sequence[str]) -> list[str]:
    """Return single settings; one text of several is split at blanks, as a shell does.

    Example:
        >>> words("model=lenet seed=1")
        ['model=lenet', 'seed=1']
    """
    if not isinstance(settings, str):
        return list(settings)
    try:
        return shlex.split(settings) if len(settings.split()) > 1 else [settings]
    except ValueError:  # a quote that is not closed: the grammar says so
        return [settings]


def keyword_setting(name: str, value: Any) -> Setting:
    """Return the setting that a keyword of Python is: ``optimizer__lr=.01``.

    Args:
        name: the key, with two underscores for a dot.
        value: a number, text, path, None, or a tuple or dict of these; a list, a range or a
            one-dimensional array sweeps over its values.

    Raises:
        ConfigError: it is anything else, or a list without values.

    Example:
        >>> keyword_setting("seed", range(2))
        Setting(key='seed', values=(0, 1), is_sweep=True)
    """
    key = name.replace("__", ".")
    if isinstance(value, range) or getattr(value, "ndim", 0) == 1:
        value = list(value)
    if not isinstance(value, list):
        return Setting(key, (_plain(key, value),))
    if not value:
        raise ConfigError([Problem(key, "=[]: a list sweeps over its values, and has none")])
    return Setting(key, tuple(_plain(key, part) for part in value), is_sweep=True)


def interval_setting(key: str, text: str, sweep: Any) -> Setting:
    """Return the interval that a search draws from.

    Args:
        key: dotted.
        text: as it was typed.
        sweep: ``start``, ``end`` and ``tags`` of Hydra's grammar; whole numbers are of type int.

    Raises:
        ConfigError: it is empty, or has no logarithms.
    """
    low, high, tags = sweep.start, sweep.end, set(sweep.tags)
    why = ""
    if unknown := tags - {"log"}:
        why = f"unknown tag {', '.join(sorted(unknown))}; expected log"
    elif not (math.isfinite(low) and math.isfinite(high) and low < high):
        why = "expected interval(LOW,HIGH) with LOW below HIGH"
    elif tags and low <= 0:
        why = "a logarithm needs numbers above 0; raise the lower end, or leave tag(log,...)"
    if why:
        raise ConfigError([Problem(key, f"={text}: {why}")])
    interval = Interval(low, high, is_int=type(low) is int, is_log=bool(tags))
    return Setting(key, (low, high), is_sweep=True, interval=interval)


def _plain(key: str, value: Any) -> Any:
    """Return a value of Python as the grammar of settings gives it."""
    if callable(getattr(value, "item", None)) and getattr(value, "ndim", 0) == 0:
        value = value.item()  # a number of NumPy's or torch's
    is_path = key in all_keys() and all_keys()[key].is_path
    if isinstance(value, Path) or (is_path and isinstance(value, str)):
        return str(expand_path(value))
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (tuple, list)):
        return [_plain(key, part) for part in value]
    if isinstance(value, dict):
        return {str(part): _plain(key, inner) for part, inner in value.items()}
    raise ConfigError(
        [
            Problem(
                key,
                f": a value of type {type(value).__name__}; expected a number, a text, a path, "
                "None, or a tuple of them; a list sweeps over its values",
            )
        ]
    )


def settings_of(tree: Mapping[str, Any]) -> list[Setting]:
    """Return the settings that compose to a resolved config.

    Raises:
        ConfigError: a value is an interpolation, which may come from a stranger's file.
    """
    settings = []
    for key, value in leaves(tree):
        if is_interpolated([key, value]):
            raise ConfigError([Problem(key, ": is an interpolation; a saved config has none")])
        settings.append(Setting(_typed(key), (value,)))
    return settings


def _typed(key: str) -> str:
    """Return the key that a person types: ``model``, not ``model.name``."""
    group, _, rest = key.partition(".")
    return group if rest == "name" and group in GROUPS else key


def row_settings(
    tree: Mapping[str, Any], *, effective: Mapping[str, Any], files: Mapping[str, str]
) -> dict[str, Any]:
    """Return the settings that make a run another row of a comparison, by the roles of the keys.

    Args:
        tree: the recorded config, from a file: a key that is unknown counts as one that decides.
        effective: what the process that trained computed with, by the last part of the key;
            ``device_name`` is the device that was used, ``world_size`` the number of processes.
        files: the hashes of what the network was made from (``path``, ``weights``, ``teacher``),
            and data of the user's own (``data_path``).

    Returns:
        Values by the key that a person types: ``model``, not ``model.name``.
    """
    recorded = dict(leaves(with_older_values(tree, all_keys())))
    for key, facts in all_keys().items():
        if not (facts.is_group or facts.is_argument):
            # What an older run lacks of the keys of every choice is null, as where it is read.
            recorded.setdefault(key, None)
    settings: dict[str, Any] = {}
    for key, value in recorded.items():
        row = role_of(key).row
        if row == "effective":
            settings[_typed(key)] = effective.get(key.rpartition(".")[2], value)
        elif row == "value":
            settings[_typed(key)] = value
    settings["device"] = effective.get("device_name", effective.get("device"))
    if settings["device.channels_last"] == "auto":  # older runs did not record the outcome
        settings["device.channels_last"] = effective.get("device") != "mps"
    if (world_size := effective.get("world_size", 1)) != 1:
        settings["world_size"] = world_size
    return settings | {_key_of_file(name): str(digest)[:12] for name, digest in files.items()}


def _key_of_file(name: str) -> str:
    """Return ``data.path`` for ``data_path``, and ``model.path`` for ``path``."""
    if name == "teacher":
        return "loss.teacher"
    return name.replace("_", ".", 1) if name.startswith("data_") else f"model.{name}"


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values; an empty mapping is a value."""
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def fold_open(assignments: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Put keys below an open node, such as ``model.args.width``, into one value of that node.

    Args:
        assignments: values by dotted key.
        known: the leaves of the config; an open node is one whose name is ``args``.
    """
    folded: dict[str, Any] = {}
    for key, value in assignments.items():
        node, _, name = key.rpartition(".")
        if node.endswith(".args") and node in known:
            folded[node] = {**folded.get(node, known[node]), name: value}
        else:
            folded[key] = value
    return folded


def assign(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set the value of a dotted key that is there."""
    *parents, name = key.split(".")
    for parent in parents:
        tree = tree[parent]
    tree[name] = value


def is_interpolated(value: Any) -> bool:
    """Tell whether OmegaConf would look for another value in this one, or in a part of it."""
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, (list, tuple)):
        return any(map(is_interpolated, value))
    return isinstance(value, str) and "${" in value


def unknown_choice(choice: str, known: Iterable[str]) -> str:
    """Say which choices a group has, the nearest one first."""
    names = sorted(known, key=_by_number)
    expected = ", ".join(names) or "nothing: there is none yet"
    plain = choice.lower()
    longer = [name for name in names if name.lower().startswith(plain)]
    meant = _OTHER_WORDS.get(plain)
    hint = f"; did you mean '{meant}'?" if meant in names else did_you_mean(choice, names) or "."
    if choice and len(longer) > 1 and plain not in map(str.lower, names):
        hint = f"; did you mean one of {', '.join(longer)}?"
    return f"={choice}: unknown choice{hint} Expected {expected}."


def _by_number(name: str) -> list[tuple[int, str]]:
    """Order resnet18 before resnet101."""
    return [(int(p), "") if p.isdecimal() else (-1, p) for p in re.split(r"(\d+)", name)]


def nearest_key(key: str, known: Iterable[str]) -> str | None:
    """Return the key or group of the same or nearest name; None where none is near."""
    parent, _, last = key.rpartition(".")

    def nearness(name: str) -> float:
        its_parent, _, its_last = name.rpartition(".")
        return likeness(last, its_last) + 0.1 * (parent == its_parent)

    # A group's name is chosen by the group, not by its key.
    named = {f"{group}.name" for group in GROUPS}
    near = max((name for name in (*known, *GROUPS) if name not in named), key=nearness)
    return near if nearness(near) >= 0.7 else None


def unknown_key(key: str, known: Sequence[str]) -> str:
    """Say what was probably meant: the same or nearest name, or what the group has."""
    parent = key.rpartition(".")[0]
    inside = sorted(name for name in known if name.startswith(f"{key}."))
    if inside:
        return f": is a group of keys; expected one of {', '.join(inside)}"

    near = nearest_key(key, known)
    if near is not None:
        return f": unknown key; did you mean '{near}'?"
    named = {f"{group}.name" for group in GROUPS}
    siblings = sorted(name for name in known if parent and name.startswith(f"{parent}."))
    listed = ", ".join(name for name in siblings if name not in named)
    return f": unknown key; expected one of {listed}" if listed else ": unknown key"
