"""From settings (``key=value``) to run configs. The only file that imports Hydra and OmegaConf.

Hydra parses the settings and composes the YAML groups, nothing else: it never starts a run, reads
no flags, and instantiates nothing.
"""

from __future__ import annotations

import copy
import os
import threading
import typing
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, lru_cache, partial
from io import StringIO
from pathlib import Path
from typing import Any

from cnnbench.config.effects import without_effect
from cnnbench.config.groups import ALL_GROUPS, Groups, conf_dir
from cnnbench.config.launcher import is_launcher_key
from cnnbench.config.run_config import GROUPS, RunConfig, all_keys, read_config
from cnnbench.config.schema import ConfigError, Problem
from cnnbench.config.settings import (
    Setting,
    assign,
    fold_open,
    interval_setting,
    is_interpolated,
    keyword_setting,
    leaves,
    settings_of,
    unknown_choice,
    unknown_key,
    words,
)
from cnnbench.config.sweeper import is_sweeper_key
from cnnbench.errors import UsageError, did_you_mean
from cnnbench.files import expand_path, read_regular
from cnnbench.notices import notice
from cnnbench.registry import ENTRY_POINTS, plugins

_MAX_CONFIG_BYTES = 65_536
# Hydra has one state for the process.
_composing = threading.Lock()
# What a user of Hydra may try, and the key that does it here.
_HYDRA_KEYS = {
    "hydra.run.dir": "output_root",
    "hydra.sweep.dir": "output_root",
    "hydra.sweep.subdir": "sweep.name",
    "hydra.job.name": "sweep.name",
}


class Composer:
    """Read settings, and compose run configs from them and the groups.

    Args:
        config_dir: a directory of groups of the user's own, as ``Groups`` takes it.

    Attributes:
        groups: the choices that there are.

    Raises:
        UsageError: as ``Groups``.

    Example:
        >>> composer = Composer()
        >>> settings = composer.parse(["model=mlp", "seed=3"])
        >>> composer.compose({s.key: s.values[0] for s in settings}).seed
        3
    """

    def __init__(self, config_dir: str | Path | None = None) -> None:
        self.groups = Groups(config_dir)
        self._typed: set[str] = set()
        self._told: set[str] = set()

    def parse(
        self,
        settings: str | Sequence[str],
        *,
        sweeps: bool = False,
        keys: Mapping[str, Any] | None = None,
    ) -> list[Setting]:
        """Read settings by Hydra's grammar, sweeps included. A key given twice: the last wins.

        Args:
            settings: each ``key=value``, or one text of them.
            sweeps: whether commas in a path separate several, as after ``-m``; not in a path
                that exists, or that is quoted.
            keys: further ones as Python writes them, see ``keyword_setting``.

        Raises:
            ConfigError: all settings that cannot be read.
        """
        from hydra.core.override_parser.overrides_parser import OverridesParser

        parser = OverridesParser.create()
        problems: list[Problem] = []
        parsed: dict[str, Setting] = {}
        read = [
            *(partial(_parse_one, parser, self.groups, t, sweeps=sweeps) for t in words(settings)),
            *(partial(keyword_setting, name, value) for name, value in (keys or {}).items()),
        ]
        for read_one in read:
            try:
                setting = read_one()
            except ConfigError as error:
                problems.extend(error.problems)
            else:
                parsed.pop(setting.key, None)
                parsed[setting.key] = setting
        if problems:
            raise ConfigError(problems)
        self._typed |= {str(value) for setting in parsed.values() for value in setting.values}
        return list(parsed.values())

    def compose(self, assignments: Mapping[str, Any]) -> RunConfig:
        """Compose and check one run config.

        Args:
            assignments: values by dotted key, and choices by group.

        Raises:
            ConfigError: every unknown key or choice, wrong type, value out of range, and missing
                value, all together.
        """
        problems: list[Problem] = []
        chosen: dict[str, str] = {}
        for group in ALL_GROUPS:
            if assignments.get(group) is not None:
                choice, known = str(assignments[group]), self.groups.choices(group)
                if choice in known:
                    chosen[group] = choice
                else:
                    problems.append(Problem(group, unknown_choice(choice, known)))
        # Even with an unknown choice the other mistakes are found, against the default choice.
        base = self._base(chosen)
        known_keys = dict(leaves(base.tree))
        values: dict[str, Any] = {}
        for key, value in fold_open(assignments, known_keys).items():
            if key in ALL_GROUPS:
                if value is None and key in GROUPS:
                    problems.append(Problem(key, "=null: expected a choice"))
                continue
            group, _, rest = key.partition(".")
            if group in GROUPS and group in assignments and group not in chosen:
                continue
            if group in GROUPS and rest == "name":
                problems.append(Problem(key, f": expected {group}={value}, which brings its keys"))
                continue
            if key in known_keys:
                values[key] = value
            elif is_launcher_key(key) or is_sweeper_key(key):
                what = "launches the jobs of a sweep" if is_launcher_key(key) else "is of a search"
                problems.append(Problem(key, f": {what}; add train -m"))
            else:
                problems.append(Problem(key, unknown_key(key, list(known_keys))))
        try:
            config = read_config(base.resolve(values))
            problems += without_effect(config, values, lambda: dict(leaves(base.resolve({}))))
        except ConfigError as error:
            problems.extend(error.problems)
        if problems:
            raise ConfigError(problems)
        self._tell_named_code(config)
        return config

    def _tell_named_code(self, config: RunConfig) -> None:
        """Say which YAML of the user's directory names code that nobody typed."""
        for group in ENTRY_POINTS if self.groups.own is not None else ():
            node = getattr(config, group)
            code = str(node.args["path"]) if node.name == "custom" else node.name
            is_code = node.name == "custom" or code in plugins(group, ())
            if is_code and code not in self._typed | self._told:
                self._told.add(code)
                file = self.groups.naming(Path(code).name)
                notice(f"{file or self.groups.own}: names code, which is run: {group} {code}")

    def _base(self, chosen: Mapping[str, str]) -> _Base:
        """Return the composition of the chosen groups, from memory after the first time."""
        return _composed(tuple(sorted(chosen.items())), self.groups.own, self._files)

    @cached_property
    def _files(self) -> frozenset[tuple[str, int, int]]:
        """What tells whether a YAML has changed since an earlier composition of this process."""
        return self.groups.file_stats()


@lru_cache(maxsize=512)
def _composed(
    chosen: tuple[tuple[str, str], ...], own: Path | None, files: frozenset[tuple[str, int, int]]
) -> _Base:
    """Compose groups, which takes Hydra .1 s or more, too much for each of a thousand jobs.

    Args:
        chosen: each group with its choice.
        own: the user's directory of YAML, if any.
        files: what is composed, so that a changed file is composed anew.
    """
    import yaml
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    overrides = [f"{group}='{choice}'" for group, choice in chosen]
    if own is not None:
        quoted = f"file://{own}".replace("\\", "\\\\").replace("'", "\\'")
        overrides.append(f"hydra.searchpath=['{quoted}']")
    with _composing:
        # A notebook may have a Hydra of its own running, which two cannot.
        before = GlobalHydra.instance().hydra
        GlobalHydra.instance().clear()
        try:
            _store_plugins(dict(chosen))
            with initialize_config_dir(str(conf_dir()), version_base="1.3"):
                tree = compose("train", overrides=overrides)
        except RecursionError:
            why = "a list of defaults leads back to itself"
            raise UsageError(f"the YAML of {dict(chosen)} does not compose: {why}") from None
        except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
            raise UsageError(f"the YAML of {dict(chosen)} does not compose: {error}") from None
        finally:
            GlobalHydra.instance().hydra = before
    OmegaConf.set_struct(tree, False)
    return _Base(tree)


def _parse_one(parser: Any, groups: Groups, text: str, *, sweeps: bool) -> Setting:
    """Read one setting."""
    from hydra.core.override_parser.types import Glob
    from hydra.errors import HydraException

    def fail(key: str, why: str) -> ConfigError:
        return ConfigError([Problem(key, why)])

    key, equals, value = text.partition("=")
    key = key.strip().lstrip("+")
    if text.startswith("~") and (equals or key[1:].replace(".", "").isidentifier()):
        raise fail(key[1:], ": a key cannot be removed; give it a value")
    if not (key and equals):
        group = next((group for group in ALL_GROUPS if text in groups.choices(group)), None)
        hint = f": {group}={text}" if group else did_you_mean(text, ("-m", "--help"))
        raise fail(text, f": expected key=value{hint}")
    if key in all_keys() and all_keys()[key].is_path:
        # A path is taken literally: commas, spaces and brackets in it are no grammar.
        if is_interpolated(value):
            raise fail(key, f"={value}: '${{' cannot stand in a path")
        return _path_setting(key, value, sweeps=sweeps)
    try:
        override = parser.parse_override(text)
    except HydraException as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise fail(key, f"={value}: cannot be read ({reason}); quote it: {key}='...'") from None
    key = override.key_or_group
    if key.startswith("hydra") and not (is_launcher_key(key) or is_sweeper_key(key)):
        hint = f"; use {_HYDRA_KEYS[key]}" if key in _HYDRA_KEYS else ""
        raise fail(key, f": Hydra's own settings have no effect here{hint}")
    if override.package is not None:
        raise fail(f"{key}@{override.package}", f": expected {key}=NAME")
    if not override.is_sweep_override():
        return Setting(key, (override.value(),))
    if isinstance(override.value(), Glob):
        if key not in ALL_GROUPS:
            raise fail(key, f"={value}: glob() chooses among a group's names, {key} is none")
        names = override.value().filter(list(groups.choices(key)))
        if not names:
            raise fail(key, f"={value}: matches none of {', '.join(groups.choices(key))}")
        return Setting(key, tuple(names), is_sweep=True)
    if not override.is_discrete_sweep():
        return interval_setting(key, value, override.value())
    texts = override.sweep_string_iterator()
    values = tuple(parser.parse_override(f"{key}={part}").value() for part in texts)
    if not values:
        raise fail(key, f"={value}: sweeps over no value; expected at least one, as in range(0,3)")
    return Setting(key, values, is_sweep=True)


def _path_setting(key: str, value: str, *, sweeps: bool) -> Setting:
    """Return one path, or with ``sweeps`` several that commas separate."""
    is_quoted = sweeps and len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    if is_quoted:
        value = value[1:-1]
    # The code of a network is a path and a class.
    whole = (value, value.rpartition(":")[0])
    exists = any(os.path.exists(os.path.expanduser(text)) for text in whole)
    is_list = sweeps and not is_quoted and not exists
    parts = [part for part in value.split(",") if part] if is_list else []
    values = tuple(None if part == "null" else str(expand_path(part)) for part in parts or [value])
    return Setting(key, values, is_sweep=len(values) > 1)


def read_file(path: str | Path) -> list[Setting]:
    """Return the settings that repeat a saved ``config.yaml``.

    Raises:
        UsageError: the file is missing, too large, or no mapping of plain values.
        ConfigError: a value is an interpolation.
    """
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    file = expand_path(path)
    try:
        text = read_regular(file, _MAX_CONFIG_BYTES).decode()
        # A few lines of aliases to aliases would fill the memory; a saved config has none.
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise UsageError(f"{path}: YAML aliases are not read; write the values out")
        tree: Any = OmegaConf.to_container(OmegaConf.load(StringIO(text)), resolve=False)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None
    except (
        yaml.YAMLError,
        OmegaConfBaseException,
        UnicodeDecodeError,
        RecursionError,
    ) as error:
        raise UsageError(f"{path}: not readable as YAML ({error})") from None
    if not isinstance(tree, dict) or not tree:
        raise UsageError(f"{path}: expected the keys of a run config")
    return settings_of(tree)


class _Base:
    """One composition of groups, on which many jobs set their values.

    OmegaConf's own copies would take most of a large sweep's time: values are set on plain dicts,
    and OmegaConf resolves the few interpolations that are left.
    """

    def __init__(self, nodes: Any) -> None:
        from omegaconf import OmegaConf

        self._nodes = nodes
        self._lock = threading.Lock()  # two threads may train in one process
        self._selected: dict[str, dict[str, Any]] = {}
        self.tree = typing.cast(dict[str, Any], OmegaConf.to_container(nodes, resolve=False))

    def resolve(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the composition with other values of some of its keys.

        Raises:
            ConfigError: an interpolation cannot be resolved.
        """
        tree = copy.deepcopy(self.tree)
        for key, value in values.items():
            assign(tree, key, value)
        left = {key: str(value) for key, value in leaves(tree) if is_interpolated(value)}
        # What no interpolation can read makes no case of its own.
        read = {k: str(v) for k, v in values.items() if k.split(".")[0] in str(left)}
        case = str((left, read))
        if left and case not in self._selected:
            with self._lock:
                self._selected[case] = self._select(left, values)
        for key in left:
            assign(tree, key, copy.deepcopy(self._selected[case][key]))
        return tree

    def _select(self, keys: Iterable[str], values: Mapping[str, Any]) -> dict[str, Any]:
        """Return what OmegaConf makes of interpolated keys."""
        from omegaconf import OmegaConf, errors

        found, before = {}, dict(leaves(self.tree))
        try:
            for key, value in values.items():
                OmegaConf.update(self._nodes, key, value, merge=False, force_add=True)
            for key in keys:
                value = OmegaConf.select(self._nodes, key)
                if OmegaConf.is_config(value):
                    value = OmegaConf.to_container(value, resolve=True)
                found[key] = value
        except errors.OmegaConfBaseException as error:
            raise ConfigError([Problem(key, f": {str(error).splitlines()[0]}")]) from None
        finally:
            for key in values:
                OmegaConf.update(self._nodes, key, before[key], merge=False, force_add=True)
        return found


def _store_plugins(chosen: Mapping[str, str]) -> None:
    """Give Hydra the YAML that another package's network or data set has not."""
    import yaml
    from hydra.core.config_store import ConfigStore

    for group in ENTRY_POINTS:
        name = chosen.get(group)
        if name is None or name not in plugins(group, ()):
            continue
        node: dict[str, Any] = {"name": name, "args": {}}
        if group == "data":
            # The keys that every data set has, with the defaults of the shipped ones.
            text = (conf_dir() / "data" / "digits.yaml").read_text(encoding="utf-8")
            node = {**yaml.safe_load(text), **node}
        ConfigStore.instance().store(group=group, name=name, node=node)
