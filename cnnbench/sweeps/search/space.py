"""What a search draws from: dimensions, the seeds of each point, and the settings of all."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cnnbench.config.command import text_of
from cnnbench.config.compose import Composer
from cnnbench.config.groups import ALL_GROUPS
from cnnbench.config.run_config import RunConfig, role_of, to_tree
from cnnbench.config.schema import ConfigError, Problem, read_value
from cnnbench.config.settings import Interval, Setting, leaves, unknown_choice
from cnnbench.config.sweeper import SweeperConfig
from cnnbench.errors import UsageError
from cnnbench.losses import LOSSES
from cnnbench.sweeps.jobs import default_name

# Below, the test of the pruner cannot say anything: at p = .1 not before the fourth seed.
MIN_WILCOXON_SEEDS = 5
# Enough to tell trials apart, and few enough to type.
_DIGITS = 4
_MAX_COMBINATIONS = 200
# Trials are judged on the same images.
_PARTS = ("data.fold", "data.num_folds", "data.split_seed", "data.val_fraction", "data.limit")
_NO_DIMENSION = (
    "nothing to search: give a key as interval(a,b), tag(log,interval(a,b)), int(interval(a,b)) "
    "or choice(a,b), or search=NAME"
)


@dataclass(frozen=True)
class Dimension:
    """One key of the space.

    Attributes:
        key: dotted, or a group.
        values: to choose among, at least two; the ends of an interval.
        interval: that numbers are drawn from; None where it is a choice.
    """

    key: str
    values: tuple[Any, ...]
    interval: Interval | None

    def __str__(self) -> str:
        text = str(self.interval or f"choice({','.join(map(text_of, self.values))})")
        return f"{self.key}={text}"

    def value(self, drawn: Any) -> Any:
        """Return what is trained with: a number of few digits, or the choice of a text.

        Example:
            >>> Dimension("optimizer.lr", (0.0, 1.0), Interval(0, 1)).value(0.123456)
            0.1235
        """
        interval = self.interval
        if interval is None:
            return next(value for value in self.values if text_of(value) == drawn)
        if interval.is_int:
            return int(drawn)
        return min(max(float(f"{drawn:.{_DIGITS}g}"), interval.low), interval.high)

    def samples(self) -> tuple[Any, ...]:
        """Return values by which a check finds what is wrong with it: all choices, or the ends."""
        if self.interval is None or self.interval.is_int:
            return self.values
        # Between the ends of numbers is a fraction, which a whole number does not take.
        return (*map(float, self.values), (self.values[0] + self.values[1]) / 2)


@dataclass(frozen=True)
class Space:
    """A space with all that its trials have in common.

    Attributes:
        dimensions: at least one.
        seeds: of each point, at least one.
        common: values by key that all trials share.
        typed: the same as a person writes them, without what only a search needs.
        name: the directory below ``outputs/sweeps``.
    """

    dimensions: tuple[Dimension, ...]
    seeds: tuple[int, ...]
    common: Mapping[str, Any]
    typed: tuple[str, ...]
    name: str

    def overrides(self, values: Mapping[str, Any], seed: int | None = None) -> tuple[str, ...]:
        """Return the settings in which one trial's run, or without a seed a trial, differs."""
        is_told = seed is not None and len(self.seeds) > 1
        own = {**values, **({"seed": seed} if is_told else {})}
        return tuple(f"{key}={text_of(value)}" for key, value in own.items())

    def compose(self, composer: Composer, values: Mapping[str, Any], seed: int) -> RunConfig:
        """Return the config of one trial's run.

        Raises:
            ConfigError: these values do not go together.
        """
        return composer.compose({**self.common, **values, "seed": seed})


def read_space(composer: Composer, settings: Sequence[Setting]) -> Space:
    """Return the space that settings name; a key of the command line wins over the YAML's.

    Raises:
        ConfigError: a setting cannot be searched, or trials would read the test images.
        UsageError: there is nothing to search, or the YAML of a space cannot be read.
    """
    named = next((str(s.values[0]) for s in settings if s.key == "search"), None)
    merged = {s.key: s for s in _from_yaml(composer, named)} if named not in (None, "None") else {}
    for setting in settings:
        if setting.key != "search":
            merged.pop(setting.key, None)
            merged[setting.key] = setting
    problems, dimensions, seeds = [], [], (0,)
    common: dict[str, Any] = {}
    for key, setting in merged.items():
        is_axis = key == "seed"
        if key in ("study", "resume") and setting.values[0] is not None:
            problems.append(Problem(key, ": does not go with a search"))
        elif key in ("tuning.trials", "tuning.seconds") and setting.values[0] is not None:
            problems.append(Problem(key, ": a search counts its own; leave it out"))
        elif key in _PARTS and setting.is_sweep and len(setting.values) > 1:
            text = ": decides which images validate, on which trials are judged; give one value"
            problems.append(Problem(key, text))
        elif is_axis and setting.interval:
            text = f"={setting.interval}: is repeated at each point, never searched; expected "
            problems.append(Problem(key, f"{text}{key}=range(0,5)"))
        elif is_axis:
            seeds = tuple(setting.values)
        elif setting.is_sweep and len(setting.values) > 1:
            dimensions.append(Dimension(key, setting.values, setting.interval))
        else:
            common[key] = setting.values[0]
    if common.pop("evaluate_test", False):
        text = "=true: the trials of a search never read the test images; leave it out, and read "
        problems.append(Problem("evaluate_test", f"{text}them with the settings that were found"))
    if problems:
        raise ConfigError(problems)
    if not dimensions:
        raise UsageError(_NO_DIMENSION)
    kept = {key: value for key, value in common.items() if key not in ("output_root", "sweep.name")}
    # Of the many runs of a search hardly one is looked at again.
    common = {"checkpoint.keep_last": 1, **common, "evaluate_test": False}
    typed = tuple(f"{key}={text_of(value)}" for key, value in kept.items())
    name = default_name(kept, ["search", *(dimension.key for dimension in dimensions)])
    return Space(tuple(dimensions), seeds, common, typed, str(common.get("sweep.name") or name))


def _from_yaml(composer: Composer, name: str) -> list[Setting]:
    """Return settings and space of ``conf/search/<name>.yaml``, or of the user's directory."""
    known = composer.groups.choices("search")
    if name not in known:
        raise ConfigError([Problem("search", unknown_choice(name, known))])
    path: Path = composer.groups.file("search", name)
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(tree, dict) or tree.keys() - {"settings"} != {"space"}:
            raise ValueError
        words = read_value(tuple[str, ...], tree.get("settings", []))
        space = {str(key): read_value(str, text) for key, text in tree["space"].items()}
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, AttributeError):
        raise UsageError(
            f"{path}: expected the keys settings, a list of key=value, and space, with "
            "interval(a,b), tag(log,interval(a,b)), int(interval(a,b)) or choice(a,b) by key"
        ) from None
    try:
        return composer.parse([*words, *(f"{key}={text}" for key, text in space.items())])
    except ConfigError as error:
        raise UsageError(f"{path}:\n{error}") from None


def check_space(composer: Composer, space: Space) -> list[RunConfig]:
    """Compose the corners of a space, so that keys, types and ranges are known to be right.

    Every choice of a group is composed with every other group's, and each of the other dimensions
    takes each of its ends and choices once.

    Returns:
        Their configs, at least one.

    Raises:
        ConfigError: all mistakes together.
    """
    groups = [d for d in space.dimensions if d.key in ALL_GROUPS]
    others = [d for d in space.dimensions if d.key not in ALL_GROUPS]
    chosen = itertools.product(*(d.values for d in groups))
    first = {d.key: d.samples()[0] for d in others}
    corners: list[dict[str, Any]] = []
    for combination in itertools.islice(chosen, _MAX_COMBINATIONS):
        base = {**dict(zip((d.key for d in groups), combination, strict=True)), **first}
        corners += [base, *({**base, d.key: v} for d in others for v in d.samples()[1:])]
    intervals = {d.key: d.interval for d in others if d.interval and not d.interval.is_int}
    configs, problems = [], []
    for corner in corners:
        try:
            configs.append(space.compose(composer, corner, space.seeds[0]))
        except ConfigError as error:
            problems += [_with_hint(problem, intervals) for problem in error.problems]
    for seed in space.seeds[1:]:
        try:
            space.compose(composer, corners[0], seed)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return configs


def _with_hint(problem: Problem, intervals: Mapping[str, Interval]) -> Problem:
    interval = intervals.get(problem.key)
    if interval is None or "a whole number" not in problem.text:
        return problem
    return Problem(
        problem.key,
        f"={interval}: expected whole numbers; write int(interval({interval.low:g},"
        f"{interval.high:g}))",
    )


def objective_of(space: Space, sweeper: SweeperConfig, corners: Sequence[RunConfig]) -> str:
    """Return what is searched for: by default what selects the epoch, where it is of validation.

    Args:
        space: whose seeds the pruner needs.
        sweeper: names the objective and the pruner.
        corners: as ``check_space`` returns them.

    Raises:
        ConfigError: runs have no such metric, or the pruner cannot act.
    """
    problems = []
    first = corners[0]
    metrics = ("loss", *LOSSES[first.loss.name].metrics)
    chosen = first.selection if first.selection.startswith("val/") else f"val/{metrics[1]}"
    objective = sweeper.objective or chosen
    if objective.removeprefix("val/") not in metrics:
        expected = ", ".join(f"val/{name}" for name in metrics)
        text = f"={objective}: loss={first.loss.name} has no such metric; expected {expected}"
        problems.append(Problem("hydra.sweeper.objective", text))
    if any(config.data.val_fraction == 0 for config in corners):
        text = f"=0: leaves no validation images, on which a search judges its trials ({objective})"
        problems.append(Problem("data.val_fraction", text))
    if sweeper.pruner == "wilcoxon" and len(space.seeds) < MIN_WILCOXON_SEEDS:
        problems.append(
            Problem(
                "hydra.sweeper.pruner",
                f"=wilcoxon: tests the seeds of a point against those of the best one, and at "
                f"p = .1 cannot act before the fourth; expected {MIN_WILCOXON_SEEDS} seeds or more "
                f"(seed=range(0,{MIN_WILCOXON_SEEDS})), not {len(space.seeds)}; or pruner=median",
            )
        )
    if problems:
        raise ConfigError(problems)
    return objective


def space_hash(space: Space, config: RunConfig, objective: str) -> str:
    """Return the SHA-256 of what makes trials comparable: another one is another search.

    Args:
        space: whose dimensions, seeds and common settings count.
        config: of any of its trials.
        objective: what is searched for.
    """
    searched = {d.key for d in space.dimensions} | {"seed"}

    def is_fixed(key: str) -> bool:
        return role_of(key).in_run_key and not searched & {key, key.partition(".")[0]}

    values = {key: value for key, value in leaves(to_tree(config)) if is_fixed(key)}
    # Of a group that is searched, what was said of all its choices.
    said = [text for text in space.typed if text.partition(".")[0] in searched]
    parts = [sorted(map(str, space.dimensions)), list(space.seeds), objective, values, said]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
