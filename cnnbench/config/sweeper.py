"""How a search draws its trials: ``hydra/sweeper=NAME`` and ``hydra.sweeper.KEY=VALUE``.

These words decide which trials there are, and nothing about the result of one, so they are no part
of a run's config.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from cnnbench.config.schema import ConfigError, Count, Problem, Seed, read_node
from cnnbench.config.settings import Setting
from cnnbench.errors import did_you_mean

SWEEPER_GROUP = "hydra/sweeper"
ENGINES = ("optuna",)
Objective = Literal["val/accuracy", "val/loss", "val/r2", "val/mae"]
_PREFIX = "hydra.sweeper."


@dataclass(frozen=True)
class SweeperConfig:
    """What ``hydra.sweeper.*`` says.

    Attributes:
        num_trials: points of the space that are tried, those of earlier commands included, >= 1.
        objective: what is searched for, on the validation images; None takes what selects the
            epoch where that is such a metric, else the accuracy or loss.
        sampler: ``tpe`` (Bergstra et al., 2011) learns from the trials before, ``random`` does not.
        pruner: gives trials up: ``median`` where the first seed is below the median of the earlier
            trials at the same epoch, ``wilcoxon`` where a test over seeds says that a point is
            worse than the best, ``none`` never.
        seed: of the sampler, >= 0.
    """

    num_trials: Count
    objective: Objective | None
    sampler: Literal["tpe", "random"]
    pruner: Literal["median", "wilcoxon", "none"]
    seed: Seed


_DEFAULTS: dict[str, Any] = {"sampler": "tpe", "pruner": "median", "seed": 0}


def is_sweeper_key(key: str) -> bool:
    """Tell whether a setting is about a search."""
    return key == SWEEPER_GROUP or key.startswith(_PREFIX)


def split_sweeper(settings: Sequence[Setting]) -> tuple[SweeperConfig | None, list[Setting]]:
    """Return how to search, and the settings of the runs; None where nothing is searched.

    Raises:
        ConfigError: the engine or a key is unknown, a value is missing, wrong or a list; or there
            are words of a search, and no engine.
    """
    ours = [setting for setting in settings if is_sweeper_key(setting.key)]
    others = [setting for setting in settings if setting not in ours]
    values = {setting.key: setting.values[0] for setting in ours}
    engine = values.pop(SWEEPER_GROUP, None)
    if engine is None:
        return None, _without_engine(ours, others)
    problems = [
        Problem(setting.key, ": is one for the whole search, no axis of it; give one value")
        for setting in ours
        if setting.is_sweep
    ]
    if engine not in ENGINES:
        hint = did_you_mean(str(engine), ENGINES) or "."
        expected = ", ".join(ENGINES)
        problems.append(
            Problem(SWEEPER_GROUP, f"={engine}: unknown choice{hint} Expected {expected}.")
        )
    tree = {**_DEFAULTS, **{key.removeprefix(_PREFIX): value for key, value in values.items()}}
    if str(tree.get("objective")).startswith("test"):
        problems.append(
            Problem(
                f"{_PREFIX}objective",
                f"={tree.pop('objective')}: the test images are for the network that was found; "
                f"expected one of {', '.join(get_args(Objective))}",
            )
        )
    config = read_node(SweeperConfig, tree, {}, problems, _PREFIX)
    if problems:
        raise ConfigError(problems)
    return config, others


def _without_engine(ours: Sequence[Setting], others: list[Setting]) -> list[Setting]:
    searched = [s for s in others if s.interval or (s.key == "search" and s.values[0] is not None)]
    problems = [
        *(Problem(s.key, f": belongs to a search; add {SWEEPER_GROUP}=optuna") for s in ours),
        *(Problem(s.key, f"{_shown(s)}; add {SWEEPER_GROUP}=optuna") for s in searched),
    ]
    if problems:
        raise ConfigError(problems)
    return others


def _shown(setting: Setting) -> str:
    if setting.interval is None:
        return f"={setting.values[0]}: is a space to search"
    return f"={setting.interval}: is searched; use range() or choice()"
