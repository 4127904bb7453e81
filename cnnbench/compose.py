"""From settings (``key=value``) to run configs. The only file that imports Hydra and OmegaConf.

Hydra parses the settings and composes the YAML groups, nothing else: it never starts a run, reads
no flags, and instantiates nothing.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnbench.config import (
    GROUPS,
    PATH_KEYS,
    PRESET_GROUPS,
    RunConfig,
    expand_path,
    read_config,
)
from cnnbench.errors import UsageError, did_you_mean
from cnnbench.schema import ConfigError, Problem

_MAX_CONFIG_BYTES = 65_536
# What a user of Hydra may try, and the key that does it here.
_HYDRA_KEYS = {
    "hydra.run.dir": "output_root",
    "hydra.sweep.dir": "output_root",
    "hydra.sweep.subdir": "sweep.name",
    "hydra.job.name": "sweep.name",
}


def conf_dir() -> Path:
    """Return the directory of the shipped YAML: in the package when installed, beside it else."""
    package = Path(__file__).parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


@dataclass(frozen=True)
class Setting:
    """One ``key=value`` of the command line.

    Args:
        key: dotted key, or the name of a group.
        values: one value, or those of a sweep in order.
    """

    key: str
    values: tuple[Any, ...]
    is_sweep: bool = False


class Composer:
    """Compose run configs from the shipped groups and, optionally, a directory of the user's own.

    Args:
        config_dir: a directory with groups of its own, laid out like ``conf/``; its choices add
            to the shipped ones.

    Raises:
        UsageError: there is no such directory, or it repeats a shipped choice.
    """

    def __init__(self, config_dir: str | Path | None = None) -> None:
        self._own = expand_path(str(config_dir)) if config_dir is not None else None
        if self._own is not None and not self._own.is_dir():
            raise UsageError(f"--config-dir {config_dir}: there is no such directory")
        self._bases: dict[tuple[tuple[str, str], ...], Any] = {}

    def choices(self, group: str) -> dict[str, str]:
        """Return the choices of a group, each with its one-line description.

        Raises:
            UsageError: there is no such group, or the user's directory repeats a shipped choice.
        """
        if group not in (*GROUPS, *PRESET_GROUPS):
            known = (*GROUPS, *PRESET_GROUPS)
            raise UsageError(
                f"unknown group '{group}'{did_you_mean(group, known)} Known: {', '.join(known)}."
            )
        found: dict[str, str] = {}
        for root in filter(None, (conf_dir(), self._own)):
            for path in sorted((root / group).glob("*.yaml")):
                if path.stem in found:
                    raise UsageError(f"{path}: {group}={path.stem} is a shipped choice; rename it")
                found[path.stem] = _describe(path)
        return dict(sorted(found.items()))

    def parse(self, settings: Sequence[str]) -> list[Setting]:
        """Read settings by Hydra's grammar, sweeps included. A key given twice: the last wins.

        Raises:
            ConfigError: all settings that cannot be read.
        """
        from hydra.core.override_parser.overrides_parser import OverridesParser

        parser = OverridesParser.create()
        problems: list[Problem] = []
        parsed: dict[str, Setting] = {}
        for text in settings:
            try:
                setting = self._parse_one(parser, text)
            except ConfigError as error:
                problems.extend(error.problems)
            else:
                parsed.pop(setting.key, None)
                parsed[setting.key] = setting
        if problems:
            raise ConfigError(problems)
        return list(parsed.values())

    def _parse_one(self, parser: Any, text: str) -> Setting:
        from hydra.core.override_parser.types import Glob, OverrideType
        from hydra.errors import HydraException

        def fail(key: str, why: str) -> ConfigError:
            return ConfigError([Problem(key, why)])

        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals:
            raise fail(text, ": expected key=value" + did_you_mean(text, ("-m", "--help")))
        if key in PATH_KEYS:
            # A path is taken as it stands: commas, spaces and brackets in it are no grammar.
            return Setting(key, (None if value == "null" else str(expand_path(value)),))
        try:
            override = parser.parse_override(text)
        except HydraException as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise fail(key, f"={value}: cannot be read ({reason}); quote it: {key}='...'") from None
        key = override.key_or_group
        if key.startswith("hydra"):
            instead = _HYDRA_KEYS.get(key)
            hint = f"; use {instead}" if instead else ""
            raise fail(key, f": Hydra's own settings have no effect here{hint}")
        if override.type is OverrideType.DEL:
            raise fail(key, ": a key cannot be removed; give it a value")
        if override.package is not None:
            raise fail(f"{key}@{override.package}", f": expected {key}=NAME")
        if not override.is_sweep_override():
            return Setting(key, (override.value(),))
        if isinstance(override.value(), Glob):
            if key not in (*GROUPS, *PRESET_GROUPS):
                raise fail(key, f"={value}: glob() chooses among a group's names, {key} is none")
            names = override.value().filter(list(self.choices(key)))
            if not names:
                raise fail(key, f"={value}: matches none of {', '.join(self.choices(key))}")
            return Setting(key, tuple(names), is_sweep=True)
        if not override.is_discrete_sweep():
            raise fail(key, f"={value}: interval() needs a sampler; use range() or choice()")
        texts = override.sweep_string_iterator()
        values = tuple(parser.parse_override(f"{key}={part}").value() for part in texts)
        return Setting(key, values, is_sweep=True)

    @staticmethod
    def read_file(path: str | Path) -> list[Setting]:
        """Return the settings that repeat a saved ``config.yaml``.

        Raises:
            UsageError: the file is missing, too large, or no mapping of plain values.
        """
        import yaml
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException

        file = expand_path(str(path))
        try:
            if file.stat().st_size > _MAX_CONFIG_BYTES:
                raise UsageError(f"{path}: larger than any run config")
            tree: Any = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror or error}") from None
        except (
            yaml.YAMLError,
            OmegaConfBaseException,
            UnicodeDecodeError,
            RecursionError,
        ) as error:
            raise UsageError(f"{path}: not readable as YAML ({error})") from None
        if not isinstance(tree, dict):
            raise UsageError(f"{path}: expected the keys of a run config")
        for key, value in _leaves(tree):
            if isinstance(value, str) and "${" in value:
                raise UsageError(f"{path}: {key} holds an interpolation; a saved config has none")
        return settings_of(tree)

    def study_jobs(self, name: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Return a study's jobs: the settings all jobs share, and each job's own.

        Raises:
            ConfigError: there is no such study, or its settings cannot be read.
            UsageError: its YAML has not the keys ``settings`` and ``jobs``.
        """
        import yaml

        known = self.choices("study")
        if name not in known:
            raise ConfigError([Problem("study", _unknown_choice(name, known))])
        path = next(
            path
            for root in filter(None, (conf_dir(), self._own))
            if (path := root / "study" / f"{name}.yaml").is_file()
        )
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(tree, dict) or tree.keys() != {"settings", "jobs"}:
            raise UsageError(f"{path}: expected the keys settings and jobs")

        def assignments(settings: Sequence[str]) -> dict[str, Any]:
            return {s.key: s.values[0] for s in self.parse(settings)}

        common = assignments(tree["settings"])
        return [(common, assignments(job)) for job in tree["jobs"]]

    def compose(self, assignments: Mapping[str, Any]) -> RunConfig:
        """Compose and check one run config.

        Args:
            assignments: values by dotted key, and choices by group.

        Raises:
            ConfigError: every unknown key or choice, wrong type, value out of range, and missing
                value, all together.
        """
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException

        problems: list[Problem] = []
        chosen: dict[str, str] = {}
        for group in (*GROUPS, *PRESET_GROUPS):
            if assignments.get(group) is not None:
                choice, known = str(assignments[group]), self.choices(group)
                if choice in known:
                    chosen[group] = choice
                else:
                    problems.append(Problem(group, _unknown_choice(choice, known)))
        # Even with an unknown choice the other mistakes are found, against the default choice.
        tree = copy.deepcopy(self._base(chosen))
        known_keys = [key for key, _ in _leaves(OmegaConf.to_container(tree, resolve=False))]
        for key, value in assignments.items():
            if key in (*GROUPS, *PRESET_GROUPS):
                if assignments[key] is None and key in GROUPS:
                    problems.append(Problem(key, "=null: expected a choice"))
                continue
            group, _, rest = key.partition(".")
            if group in GROUPS and group in assignments and group not in chosen:
                continue
            if group in GROUPS and rest == "name":
                problems.append(Problem(key, f": expected {group}={value}, which brings its keys"))
                continue
            if key in known_keys:
                OmegaConf.update(tree, key, value, force_add=True)
            else:
                problems.append(Problem(key, _unknown_key(key, known_keys)))
        try:
            plain = OmegaConf.to_container(tree, resolve=True)
        except OmegaConfBaseException as error:
            raise ConfigError([*problems, Problem("config", f": {error}")]) from None
        try:
            config = read_config(plain)  # type: ignore[arg-type]
        except ConfigError as error:
            problems.extend(error.problems)
        if problems:
            raise ConfigError(problems)
        return config

    def _base(self, chosen: Mapping[str, str]) -> Any:
        """Return the composition of the chosen groups; one per distinct choice, then from memory.

        Composing takes Hydra about .1 s, which a sweep of a thousand jobs cannot pay each time.
        """
        key = tuple(sorted(chosen.items()))
        if key not in self._bases:
            from hydra import compose, initialize_config_dir
            from hydra.core.global_hydra import GlobalHydra
            from hydra.errors import HydraException
            from omegaconf import OmegaConf
            from omegaconf.errors import OmegaConfBaseException

            overrides = [f"{group}='{choice}'" for group, choice in chosen.items()]
            if self._own is not None:
                quoted = f"file://{self._own}".replace("\\", "\\\\").replace("'", "\\'")
                overrides.append(f"hydra.searchpath=['{quoted}']")
            before = copy.copy(GlobalHydra.instance().hydra)
            try:
                with initialize_config_dir(str(conf_dir()), version_base="1.3"):
                    tree = compose("train", overrides=overrides)
            except (HydraException, OmegaConfBaseException, ValueError) as error:
                raise UsageError(f"the YAML of {dict(chosen)} does not compose: {error}") from None
            finally:
                # A notebook may have a Hydra of its own running.
                GlobalHydra.instance().hydra = before
            OmegaConf.set_struct(tree, False)
            self._bases[key] = tree
        return self._bases[key]


def settings_of(tree: Mapping[str, Any]) -> list[Setting]:
    """Return the settings that compose to a resolved config."""
    settings = []
    for key, value in _leaves(tree):
        group, _, rest = key.partition(".")
        settings.append(Setting(group if rest == "name" and group in GROUPS else key, (value,)))
    return settings


def _unknown_choice(choice: str, known: Iterable[str]) -> str:
    names = list(known)
    expected = ", ".join(names) or "nothing: there is none yet"
    return f"={choice}: unknown choice{did_you_mean(choice, names)} Expected {expected}."


def _unknown_key(key: str, known: Sequence[str]) -> str:
    """Say what was probably meant: the same key elsewhere, or the nearest name."""
    if any(name.startswith(f"{key}.") for name in known):
        inside = sorted(name for name in known if name.startswith(f"{key}."))
        return f": is a group of keys; expected one of {', '.join(inside)}"
    last = key.rpartition(".")[2]
    same = [name for name in known if name.rpartition(".")[2] == last]
    siblings = [name for name in known if name.rpartition(".")[0] == key.rpartition(".")[0]]
    near = (
        same
        or difflib.get_close_matches(key, siblings, n=1)
        or (difflib.get_close_matches(key, known, n=1))
    )
    return f": unknown key; did you mean '{near[0]}'?" if near else ": unknown key"


def _leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _describe(path: Path) -> str:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") and "@package" not in line:
            return line.lstrip("# ").strip()
    return ""
