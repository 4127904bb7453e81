"""The run config: its keys, their types and ranges, and the reader that checks them all at once.

Defaults live in ``conf/`` alone; a field here has none. A group's choices share the fields of one
dataclass, and each choice's own keys are its ``args``, whose types are the rows of ``ARGUMENTS``.

Each key's role is a mark on its type; ``config/roles.py`` says what the roles mean. A new key says
its role, where it is not its group's, and the value that runs recorded before it had.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal

from cnnbench.config.arguments import ARGUMENTS, Only
from cnnbench.config.roles import (
    COMPUTATION,
    CONTENT,
    FALLBACK,
    LOCATION,
    MACHINE,
    MOVABLE_CONTENT,
    RECORDING,
    REPETITION,
    RESULT,
    Before,
    Key,
    Role,
    is_choice,
    read_keys,
)
from cnnbench.config.schema import (
    ConfigError,
    Count,
    Fraction,
    PathText,
    Positive,
    Probability,
    Problem,
    Range,
    Seed,
    Size,
    marks,
    read_node,
)

GROUPS = ("model", "data", "augment", "loss", "optimizer", "scheduler", "device")
# Groups whose YAML sets keys anywhere in the config, so that they leave no node of their own.
PRESET_GROUPS = ("experiment", "study", "search", "debug")


@dataclass(frozen=True)
class ModelConfig:
    """Which network, and how it starts."""

    name: str
    image_size: Annotated[Count | None, FALLBACK]  # of data.image_size
    adam_lr: Annotated[Positive | None, FALLBACK]  # of optimizer.lr
    init: Literal["default", "normal", "constant", "xavier_uniform", "kaiming_normal", "dirac"]
    init_layers: Literal["all", "linear"]
    whiten: Annotated[bool, Before(False)]
    weights: Annotated[PathText | None, CONTENT]
    args: Mapping[str, Any]


@dataclass(frozen=True)
class DataConfig:
    """Which data set, how it is split, and how its batches are made."""

    name: str
    root: Annotated[PathText | None, MOVABLE_CONTENT]
    batch_size: Count
    image_size: Count
    val_fraction: Probability
    split_seed: Seed
    num_folds: Annotated[int, Range(ge=2)] | None
    fold: Annotated[Size | None, REPETITION]
    limit: Count | None
    num_workers: Annotated[Size, COMPUTATION]
    shuffle: bool
    drop_last: bool
    normalize: Literal["dataset", "none"]
    progressive_sizes: Annotated[tuple[Count, ...], Before([])]
    progressive_fraction: Annotated[float, Range(gt=0, le=1), Before(0.5)]
    args: Mapping[str, Any]


@dataclass(frozen=True)
class AugmentConfig:
    """What is done to training images, each image by its own draw."""

    name: str
    args: Mapping[str, Any]


Selection = Literal["val/accuracy", "val/loss", "last", "test"]


@dataclass(frozen=True)
class LossConfig:
    """What training makes smaller, and with it what the network's outputs mean."""

    name: str
    selection: Annotated[Selection | None, FALLBACK]  # of selection
    teacher: Annotated[PathText | None, CONTENT]
    teacher_weight: Annotated[float, Range(gt=0, le=1), Before(0.9)]
    teacher_temperature: Annotated[Positive, Before(4.0)]
    args: Mapping[str, Any]


_NO_REFERENCE = dict.fromkeys(
    ("source", "test_accuracy", "train_accuracy", "num_epochs", "epoch_seconds")
)
# What every run did before there was a choice.
_CROSS_ENTROPY = {"name": "cross_entropy", "label_smoothing": 0.0, "class_weights": "none"}


@dataclass(frozen=True)
class OptimizerConfig:
    """How the weights are updated."""

    name: str
    lr: Positive
    weight_decay: Annotated[float, Range(ge=0)]
    decay_norms_and_biases: bool
    bias_lr_factor: Annotated[Positive, Before(1.0)]
    clip_norm: Positive | None
    accumulate_steps: Annotated[Count, Before(1)]
    ema_decay: Annotated[float, Range(gt=0, lt=1)] | None
    args: Mapping[str, Any]


@dataclass(frozen=True)
class SchedulerConfig:
    """How the learning rate moves over the run."""

    name: str
    warmup_fraction: Fraction
    args: Mapping[str, Any]


@dataclass(frozen=True)
class DeviceConfig:
    """What computes, and in which precision."""

    name: Annotated[str, MACHINE]
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    num_threads: Count | None
    channels_last: bool | Literal["auto"]
    compile: Annotated[bool, Before(False)]
    winograd: Annotated[Literal["auto", False], Before(False)]
    args: Mapping[str, Any]


@dataclass(frozen=True)
class BudgetConfig:
    """How long a run trains, in place of a number of epochs."""

    tflop: Positive | None
    seconds: Positive | None

    @property
    def is_set(self) -> bool:
        """Whether it, and not a number of epochs, says how long."""
        return self.tflop is not None or self.seconds is not None


@dataclass(frozen=True)
class ReferenceConfig:
    """A recorded result of others, which ``compare`` shows beside the run's own."""

    source: str | None
    test_accuracy: Fraction | None
    train_accuracy: Fraction | None
    num_epochs: Count | None
    epoch_seconds: Positive | None


@dataclass(frozen=True)
class CheckpointConfig:
    """What is kept."""

    keep_last: Count | None


@dataclass(frozen=True)
class SweepConfig:
    """Where a sweep is kept."""

    name: str | None


@dataclass(frozen=True)
class TuningConfig:
    """How much search there was before these settings were chosen."""

    trials: Count | None
    seconds: Positive | None


@dataclass(frozen=True)
class RunConfig:
    """Everything one training run depends on, checked and frozen."""

    model: Annotated[ModelConfig, RESULT]
    data: Annotated[DataConfig, RESULT]
    augment: Annotated[AugmentConfig, RESULT]
    loss: Annotated[LossConfig, RESULT, Before(_CROSS_ENTROPY)]
    optimizer: Annotated[OptimizerConfig, RESULT]
    scheduler: Annotated[SchedulerConfig, RESULT]
    device: Annotated[DeviceConfig, COMPUTATION]
    checkpoint: Annotated[CheckpointConfig, RECORDING]
    sweep: Annotated[SweepConfig, LOCATION]
    seed: Annotated[Seed, REPETITION]
    num_epochs: Annotated[Count, RESULT]
    budget: Annotated[BudgetConfig, RESULT, Before({"tflop": None, "seconds": None})]
    patience: Annotated[Count | None, RESULT]
    selection: Annotated[Selection, RESULT]
    evaluate_test: Annotated[bool, RESULT, Before(True)]
    tuning: Annotated[TuningConfig, RECORDING, Before({"trials": None, "seconds": None})]
    max_seconds: Annotated[Positive | None, RECORDING]
    output_root: Annotated[PathText, LOCATION]
    resume: Annotated[PathText | None, LOCATION]
    # A run that was extended has other num_epochs, which decide.
    extend_epochs: Annotated[Count | None, RECORDING]
    log_every_steps: Annotated[Count, RECORDING]
    # It says which epochs can be selected.
    eval_every_epochs: Annotated[Count, RESULT]
    save_every_steps: Annotated[Count | None, RECORDING]
    profile_steps: Annotated[Count | None, RECORDING]
    reference: Annotated[ReferenceConfig, RECORDING, Before(_NO_REFERENCE)]
    histograms_every_epochs: Annotated[Count | None, RECORDING]


@cache
def all_keys() -> dict[str, Key]:
    """Return what is said of each key and group, by dotted name."""
    return read_keys(RunConfig, ARGUMENTS)


def role_of(key: str) -> Role:
    """Return the role of a key or group; a key below an open node, as ``data.args``, has its."""
    keys = all_keys()
    while key not in keys:
        key, _, _ = key.rpartition(".")
        if not key:
            # What only a later version or a stranger's file knows may decide the result.
            return RESULT
    return keys[key].role


@cache
def resumable_keys() -> tuple[str, ...]:
    """Return the keys that may change when a run is resumed; a group stands for its keys."""
    keys = all_keys()
    return tuple(
        key
        for key, facts in keys.items()
        if facts.role.may_change
        and not ("." in key and keys[key.partition(".")[0]].role.may_change)
    )


def argument_type(group: str, key: str, choice: str) -> Any:
    """Return the type of an argument as one choice of a group takes it.

    Example:
        >>> argument_type("model", "norm", "vgg11")
        typing.Literal['none', 'conv']
    """
    kind = ARGUMENTS[group, key]
    kinds = (
        mark.kind
        for mark in marks(kind)
        if isinstance(mark, Only) and is_choice(choice, mark.choices)
    )
    return next(kinds, kind)


def read_config(tree: Mapping[str, Any]) -> RunConfig:
    """Turn a resolved tree of plain values into a run config.

    Args:
        tree: nested mappings of strings, numbers, booleans, lists and None.

    Raises:
        ConfigError: all unknown keys, wrong types, values out of range and missing values.
    """
    problems: list[Problem] = []
    choices = {
        group: str(node.get("name")) for group, node in tree.items() if isinstance(node, Mapping)
    }
    kinds = {
        (group, key): argument_type(group, key, choices.get(group, "")) for group, key in ARGUMENTS
    }
    config = read_node(RunConfig, tree, kinds, problems)
    if not problems:
        problems = _contradictions(config)
    if problems:
        raise ConfigError(problems)
    return typing.cast(RunConfig, config)


def _contradictions(config: RunConfig) -> list[Problem]:
    """Return what no single key shows: settings that cannot go together."""
    problems = []
    selection, why = config.selection, ""
    if config.data.val_fraction == 0 and selection.startswith("val/"):
        why = "data.val_fraction=0 leaves no validation images; expected selection=last"
    elif config.loss.name == "mse" and selection == "val/accuracy":
        why = "loss=mse predicts numbers, which have no accuracy; expected selection=val/loss"
    elif selection == "test" and not config.evaluate_test:
        why = "reads the test images, which evaluate_test=false leaves unread; set one of them"
    if why:
        problems.append(Problem("selection", f"={selection}: {why}"))
    model = config.model
    is_random = model.args.get("pretrained") == "none" and model.weights is None
    if model.args.get("freeze") == "backbone" and is_random:
        problems.append(
            Problem(
                "model.freeze",
                "=backbone: would keep random weights; expected model.pretrained=DEFAULT or "
                "model.weights=RUN beside it",
            )
        )
    problems += _fold_problems(config.data)
    if config.budget.tflop is not None and config.budget.seconds is not None:
        problems.append(Problem("budget", ".tflop and budget.seconds: set one of them"))
    if config.extend_epochs is not None and config.resume is None:
        problems.append(Problem("extend_epochs", ": only goes with resume=RUN"))
    return problems


def _fold_problems(data: DataConfig) -> list[Problem]:
    """Return what is wrong with the folds of k-fold cross-validation."""
    if data.num_folds is None and data.fold is not None:
        return [Problem("data.fold", f"={data.fold}: of how many? set data.num_folds=5, say")]
    if data.num_folds is not None and data.fold is None:
        what = f"-m 'data.fold=range({data.num_folds})' trains all"
        return [Problem("data.num_folds", f"={data.num_folds}: data.fold is not set; {what}")]
    if data.num_folds is not None and data.fold is not None and data.fold >= data.num_folds:
        expected = f"expected 0 to {data.num_folds - 1}, below data.num_folds"
        return [Problem("data.fold", f"={data.fold}: {expected}")]
    return []


def to_tree(config: RunConfig) -> dict[str, Any]:
    """Return the config as nested dicts of plain values, as ``config.yaml`` shows it."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            tree = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
            args = tree.pop("args", {})
            return {**tree, **args}
        if isinstance(value, Mapping):
            return {name: plain(part) for name, part in value.items()}
        return [plain(part) for part in value] if isinstance(value, tuple) else value

    tree = plain(config)
    for key, facts in all_keys().items():
        group, _, name = key.rpartition(".")
        if facts.role == FALLBACK and tree[group][name] is None:
            # Absent is what lets the other key's own default count.
            del tree[group][name]
    return typing.cast(dict[str, Any], tree)
