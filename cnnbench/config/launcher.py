"""How a sweep's jobs are launched: ``hydra/launcher=NAME`` and ``hydra.launcher.KEY=VALUE``.

These words decide nothing about a job's result, so they are no part of a run's config.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cnnbench.config.schema import ConfigError, Count, Positive, Problem, read_node
from cnnbench.config.settings import Setting

LAUNCHER_GROUP = "hydra/launcher"
_PREFIX = "hydra.launcher."


@dataclass(frozen=True)
class LauncherConfig:
    """What ``hydra.launcher.*`` says.

    Attributes:
        slots: jobs that run at once, >= 1; ``auto`` takes as many as ``sweeps/slots.py`` says.
        fail_fast: stop at the first failed job; the running ones save their state.
        max_failures: likewise after so many, >= 1; None never stops.
        lease_seconds: > 0, how long the heartbeat of a job may stand still until another command
            takes the job over.
    """

    slots: Count | Literal["auto"]
    fail_fast: bool
    max_failures: Count | None
    lease_seconds: Positive

    @property
    def most_failures(self) -> int | None:
        """How many failed jobs end the sweep; None: none do."""
        return 1 if self.fail_fast else self.max_failures


_DEFAULTS: dict[str, Any] = {"slots": "auto", "fail_fast": False, "lease_seconds": 60.0}


def is_launcher_key(key: str) -> bool:
    """Tell whether a setting is about launching jobs."""
    return key == LAUNCHER_GROUP or key.startswith(_PREFIX)


def split_launcher(settings: Sequence[Setting]) -> tuple[str, LauncherConfig, list[Setting]]:
    """Return the launcher's name, how it launches, and the settings of the jobs.

    Raises:
        ConfigError: a key is unknown, a value wrong, or a list of choices.
    """
    ours = [setting for setting in settings if is_launcher_key(setting.key)]
    problems = [
        Problem(setting.key, ": is one for the whole sweep, no axis of it; give one value")
        for setting in ours
        if setting.is_sweep
    ]
    values = {setting.key: setting.values[0] for setting in ours}
    name = str(values.pop(LAUNCHER_GROUP, "local"))
    tree = {**_DEFAULTS, **{key.removeprefix(_PREFIX): value for key, value in values.items()}}
    config = read_node(LauncherConfig, tree, {}, problems, _PREFIX)
    if problems:
        raise ConfigError(problems)
    return name, config, [setting for setting in settings if setting not in ours]
