"""Which run a command resumes, and what may change when it does."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from cnnbench.config.command import over, single_config
from cnnbench.config.compose import Composer
from cnnbench.config.run_config import RunConfig, resumable_keys, role_of, to_tree
from cnnbench.config.settings import Setting, settings_of
from cnnbench.errors import UsageError
from cnnbench.runs.code import check_code
from cnnbench.runs.directory import RunDir, open_run


def run_and_config(
    composer: Composer, settings: Sequence[Setting]
) -> tuple[RunDir | None, RunConfig]:
    """Return the run that ``resume=RUN`` names, None without it, and the config to train.

    Args:
        composer: knows the groups.
        settings: of the command; over a run's recorded config where it is resumed.

    Raises:
        ConfigError: the config has mistakes.
        UsageError: it is no run, a setting may not change when a run is resumed, or the run is of
            a network or data of one's own whose file the settings do not name; or without
            ``resume``, the settings name a sweep.
        CheckpointError: the run is damaged or foreign, or that file is not the recorded one.
    """
    path = next((s.values[0] for s in settings if s.key == "resume"), None)
    if path is None:
        name = next((s.values[0] for s in settings if s.key == "sweep.name"), None)
        if name is not None:
            raise UsageError(f"sweep.name={name}: has no effect on one run; add -m")
        return None, single_config(composer, settings)
    run = open_run(path)
    others = [setting for setting in settings if setting.key != "resume"]
    allowed = _check_code(run, others)
    for setting in others:
        if setting.key not in allowed and not role_of(setting.key).may_change:
            raise UsageError(
                f"{setting.key}: a run is resumed with its recorded config; "
                f"only {', '.join(resumable_keys())} may change"
            )
    recorded = settings_of(to_tree(run.config))
    resume = Setting("resume", (str(run.path),))
    return run, single_config(composer, over(recorded, [*others, resume]))


def how_to_train_longer(run: RunDir) -> str:
    """Return what to type to train a finished run, or one like it, for more epochs."""
    path, config = shlex.quote(str(run.path)), run.config
    if config.scheduler.name == "constant" and not config.scheduler.warmup_fraction:
        return f"to train it longer:\ncnnbench train resume={path} extend_epochs=5"
    return (
        "its learning rates end with it, so to train longer is another run:\ncnnbench "
        f"train --config {path}/config.yaml num_epochs={2 * config.num_epochs}"
    )


def _check_code(run: RunDir, settings: Sequence[Setting]) -> tuple[str, ...]:
    """Return the keys by which code of the user's own is named again, checked to be the same."""
    keys = []
    for key, node, what in (
        ("model.path", run.config.model, "a network"),
        ("data.path", run.config.data, "data"),
    ):
        if node.name != "custom":
            continue
        named = next((s.values[0] for s in settings if s.key == key), None)
        if named is None:
            raise UsageError(
                f"{run.path}: {what} of someone's own ({node.args['path']}). Code that a run "
                f"names is not run; name it yourself: {key}=FILE:CLASS"
            )
        check_code(run, key, str(named))
        keys.append(key)
    return tuple(keys)
