"""From the settings of one command to its one config."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cnnbench.config.compose import Composer, read_file
from cnnbench.config.groups import Groups, with_comments
from cnnbench.config.run_config import GROUPS, PRESET_GROUPS, RunConfig, to_tree
from cnnbench.config.schema import ConfigError, Problem
from cnnbench.config.settings import Setting, keyword_setting
from cnnbench.errors import UsageError

# What names a file of the user's own to be run, which a saved config may not do.
CODE_KEYS = ("model.path", "data.path")


def read_settings(
    composer: Composer,
    words: str | Sequence[str],
    file: str | Path | None = None,
    *,
    sweeps: bool = False,
    keys: Mapping[str, Any] | None = None,
) -> list[Setting]:
    """Read the settings of a command.

    Args:
        composer: knows the groups.
        words: each ``key=value``, or one text of them.
        file: a saved ``config.yaml`` below them, whose author may be a stranger.
        sweeps: as ``Composer.parse`` takes it, and the next.
        keys: settings as Python writes them.

    Raises:
        ConfigError: settings that cannot be read.
        UsageError: the file cannot be read, or names code to run that the words do not; or the
            words name a preset, which would come below the file's values and do nothing.
    """
    settings = composer.parse(words, sweeps=sweeps, keys=keys)
    return settings if file is None else _over_file(file, settings)


def _over_file(file: str | Path, settings: Sequence[Setting]) -> list[Setting]:
    preset = next((s.key for s in settings if s.key in PRESET_GROUPS), None)
    if preset is not None:
        raise UsageError(
            f"{preset}: a saved config has a value for every key already, which a preset would "
            "not change; give the keys instead"
        )
    # The sweep that a run belonged to is not one that it is repeated in.
    below = [setting for setting in read_file(file) if setting.key != "sweep.name"]
    merged = over(below, settings)
    code = next((s for s in merged if s.key in CODE_KEYS and s in below), None)
    if code is not None:
        raise UsageError(
            f"{file}: names code to run, {code.values[0]}; where you trust it, give it yourself: "
            f"{code.key}={code.values[0]}"
        )
    return merged


def over(below: Sequence[Setting], above: Sequence[Setting]) -> list[Setting]:
    """Return the settings together; where a group is chosen anew, its old keys do not count."""
    keys = {setting.key for setting in above}
    kept = [
        setting
        for setting in below
        if setting.key not in keys and setting.key.partition(".")[0] not in keys
    ]
    return [*kept, *above]


def is_sweep(settings: Sequence[Setting]) -> bool:
    """Tell whether settings are of several runs."""
    return any(
        s.is_sweep or (s.key in ("study", "search") and s.values[0] is not None) for s in settings
    )


def single_config(composer: Composer, settings: Sequence[Setting]) -> RunConfig:
    """Compose the one run of a command without ``-m``.

    Raises:
        ConfigError: a setting is a sweep, or the config has mistakes.
    """
    problems = [
        Problem(s.key, f"={s.interval}: an interval is searched; add -m hydra/sweeper=optuna")
        if s.interval
        else Problem(
            s.key,
            f"={','.join(map(text_of, s.values))}: a list of choices sweeps over them; add -m"
            + ("" if s.key in GROUPS else f" (a list as one value is written {s.key}=[...])"),
        )
        for s in settings
        if s.is_sweep
    ]
    assignments = {s.key: s.values[0] for s in settings}
    if assignments.get("study") is not None:
        problems.append(Problem("study", f"={assignments['study']}: is a list of jobs; add -m"))
    if assignments.get("search") is not None:
        text = f"={assignments['search']}: is a space to search; add -m hydra/sweeper=optuna"
        problems.append(Problem("search", text))
    if problems:
        raise ConfigError(problems)
    return composer.compose(assignments)


def data_config(
    composer: Composer, name: str, words: str | Sequence[str], keys: Mapping[str, Any]
) -> RunConfig:
    """Compose the config of a data set that is loaded, and not trained on.

    Args:
        composer: knows the groups.
        name: of the data set.
        words: as ``read_settings`` takes them.
        keys: of the data set, as Python writes them; a list is one value.

    Raises:
        ConfigError: as ``single_config``, or the words name a data set or a run too.
    """
    settings = composer.parse(words)
    problems = [
        Problem(s.key, f"={s.values[0]}: has no effect: what is loaded is {name!r}")
        for s in settings
        if s.key in ("data", "resume")
    ]
    if problems:
        raise ConfigError(problems)
    own = [
        keyword_setting(f"data.{key}", tuple(value) if isinstance(value, list) else value)
        for key, value in keys.items()
    ]
    # No epoch is selected, so that there may be no validation part.
    first, named = Setting("selection", ("last",)), Setting("data", (name,))
    return single_config(composer, [first, *settings, named, *own])


_LIST = "tag:yaml.org,2002:seq"


def text_of(value: Any) -> str:
    """Return a value as it is written in a setting."""
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(text_of, value))}]"
    return json.dumps(value)


def config_text(config: RunConfig, groups: Groups) -> str:
    """Return a config as YAML, which ``--cfg`` prints and ``--config`` reads.

    Beside each key stands what the YAML of its choice says of it: meaning and range.
    """
    import yaml

    class Dumper(yaml.SafeDumper):
        """Writes lists in one line, so that each key has one for its comment."""

    Dumper.add_representer(  # type: ignore[no-untyped-call]
        list, lambda dumper, value: dumper.represent_sequence(_LIST, value, flow_style=True)
    )
    tree = to_tree(config)
    text = yaml.dump(tree, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=10**6)
    chosen = {group: str(tree[group]["name"]) for group in GROUPS}
    return with_comments(str(text), groups.comments(chosen))
