"""How a sweep's jobs are launched: ``hydra/launcher=NAME`` and ``hydra.launcher.KEY=VALUE``.

These words decide nothing about a job's result, so they are no part of a run's config.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from cnnbench.config.schema import ConfigError, Count, Positive, Problem, Range, Size, read_node
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
        max_retries: >= 0, how often a job is started again whose machine or process was lost.
        address: of a Ray cluster, HOST:PORT; ``auto`` is the one that runs on this machine or that
            ``RAY_ADDRESS`` names, ``local`` starts one that ends with the sweep.
        gpus: >= 0, of each job; None: one where a job computes on CUDA.
        partition: of Slurm; None is the cluster's own default.
        minutes: >= 2, Slurm's time limit of a job, at which it saves its state and is put back into
            the queue.
        max_requeues: >= 0, how often it is put back.
        memory_gb: > 0, of a job under Slurm; None is the cluster's own default.
    """

    slots: Count | Literal["auto"]
    fail_fast: bool
    max_failures: Count | None
    lease_seconds: Positive
    max_retries: Size
    address: str
    gpus: Size | None
    partition: str | None
    minutes: Annotated[int, Range(ge=2)]
    max_requeues: Size
    memory_gb: Positive | None

    @property
    def most_failures(self) -> int | None:
        """How many failed jobs end the sweep; None: none do."""
        return 1 if self.fail_fast else self.max_failures


_DEFAULTS: dict[str, Any] = {
    "slots": "auto",
    "fail_fast": False,
    "lease_seconds": 60.0,
    "max_retries": 3,
    "address": "auto",
    "minutes": 60,
    "max_requeues": 100,
}
# The launchers that a key is for, where it is not for all.
_ONLY_FOR = {
    "max_retries": ("ray", "slurm"),
    "address": ("ray",),
    "gpus": ("ray", "slurm"),
    "partition": ("slurm",),
    "minutes": ("slurm",),
    "max_requeues": ("slurm",),
    "memory_gb": ("slurm",),
}


def is_launcher_key(key: str) -> bool:
    """Tell whether a setting is about launching jobs."""
    return key == LAUNCHER_GROUP or key.startswith(_PREFIX)


def split_launcher(settings: Sequence[Setting]) -> tuple[str, LauncherConfig, list[Setting]]:
    """Return the launcher's name, how it launches, and the settings of the jobs.

    Raises:
        ConfigError: a key is unknown, a value wrong, or a list of choices.
    """
    ours = [setting for setting in settings if is_launcher_key(setting.key)]
    # Its directory is one, too.
    problems = [
        Problem(setting.key, ": is one for the whole sweep, no axis of it; give one value")
        for setting in settings
        if setting.is_sweep and (setting in ours or setting.key in ("sweep.name", "output_root"))
    ]
    values = {setting.key: setting.values[0] for setting in ours}
    name = str(values.pop(LAUNCHER_GROUP, "local"))
    problems += [
        Problem(key, f": acts with hydra/launcher={' or '.join(fitting)}, not with {name}")
        for key in values
        if name not in (fitting := _ONLY_FOR.get(key.removeprefix(_PREFIX), (name,)))
    ]
    tree = {**_DEFAULTS, **{key.removeprefix(_PREFIX): value for key, value in values.items()}}
    config = read_node(LauncherConfig, tree, {}, problems, _PREFIX)
    if problems:
        raise ConfigError(problems)
    return name, config, [setting for setting in settings if setting not in ours]
