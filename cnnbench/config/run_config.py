"""The run config: its keys, their types and ranges, and the reader that checks them all at once.

Defaults live in ``conf/`` alone; a field here has none. A group's choices share the fields of one
dataclass, and each choice's own keys are its ``args``, whose types are the rows of ``ARGUMENTS``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from cnnbench.config.schema import ConfigError, OpenArgs, Problem, Range, Ratio, read_node
from cnnbench.errors import UsageError

GROUPS = ("model", "data", "augment", "optimizer", "scheduler", "device")
# Values that are paths of the user's: nothing in them is grammar.
PATH_KEYS = ("resume", "data.root", "model.path", "model.weights", "output_root")
# Groups whose YAML sets keys anywhere in the config, so that they leave no node of their own.
PRESET_GROUPS = ("experiment", "study", "debug")


Count = Annotated[int, Range(ge=1)]
Size = Annotated[int, Range(ge=0)]
Positive = Annotated[float, Range(gt=0)]
RatioNumber = Annotated[float, Range(gt=0), Ratio()]
Fraction = Annotated[float, Range(ge=0, le=1)]
Probability = Annotated[float, Range(ge=0, lt=1)]
Seed = Annotated[int, Range(ge=0, lt=2**63)]

# The types of the arguments that only some choices of a group have. One name has one meaning
# throughout a group; a test holds the choices' YAML and constructors to these rows.
ARGUMENTS: dict[tuple[str, str], Any] = {
    ("augment", "crop_padding"): Size,
    ("augment", "cutmix_alpha"): Annotated[float, Range(ge=0)],
    ("augment", "erase_fraction"): Annotated[float, Range(ge=0.02, le=1)],
    ("augment", "erase_probability"): Fraction,
    ("augment", "flip"): bool,
    ("augment", "mixup_alpha"): Annotated[float, Range(ge=0)],
    ("augment", "rotate_degrees"): Annotated[float, Range(ge=0, le=180)],
    ("data", "args"): OpenArgs,
    ("data", "data_seed"): Seed,
    ("data", "in_channels"): Count,
    ("data", "native_size"): Count,
    ("data", "num_classes"): Annotated[int, Range(ge=2)],
    ("data", "num_test"): Count,
    ("data", "num_train"): Count,
    ("data", "split_by"): Literal["path", "position"],
    ("model", "activation"): Literal["relu", "tanh", "sigmoid", "none"],
    ("model", "arch"): str,
    ("model", "args"): OpenArgs,
    ("model", "aux"): bool,
    ("model", "conv_channels"): tuple[Count, ...],
    ("model", "dropout"): Probability,
    ("model", "factorize"): Literal["none", "3x3", "asymmetric"],
    ("model", "factorize_stages"): tuple[Annotated[int, Range(ge=3, le=5)], ...],
    ("model", "final_relu"): bool,
    ("model", "freeze"): Literal["none", "backbone"],
    ("model", "groups"): Literal[1, 2],
    ("model", "growth_rate"): Count,
    ("model", "head"): Literal["linear", "gap", "replace", "append"],
    ("model", "head_size"): Count,
    ("model", "hidden"): tuple[Count, ...],
    ("model", "norm"): Literal["none", "conv", "block"],
    ("model", "padding"): Size,
    ("model", "path"): str,
    ("model", "pool"): Literal["max", "avg"],
    ("model", "pool_ceil_mode"): bool,
    ("model", "pretrained"): str,
    ("model", "residual"): bool,
    ("model", "residual_scale"): Positive,
    ("model", "stem"): Literal["imagenet", "small"],
    ("model", "stem_stride"): Count,
    ("model", "stride_in_1x1"): bool,
    ("model", "width_multiplier"): RatioNumber,
    ("model", "widths"): tuple[Count, ...],
    ("model", "zero_init"): bool,
    ("optimizer", "alpha"): Probability,
    ("optimizer", "betas"): tuple[Probability, ...],
    ("optimizer", "centered"): bool,
    ("optimizer", "eps"): Positive,
    ("optimizer", "momentum"): Probability,
    ("scheduler", "final_factor"): Fraction,
    ("scheduler", "gamma"): Fraction,
    ("scheduler", "milestones"): tuple[Fraction, ...],
    ("scheduler", "peak_fraction"): Fraction,
    ("scheduler", "start_factor"): Fraction,
}


@dataclass(frozen=True)
class ModelConfig:
    """Which network, and how it starts."""

    name: str
    image_size: Count | None
    adam_lr: Positive | None
    init: Literal["default", "normal", "constant", "xavier_uniform", "kaiming_normal"]
    init_layers: Literal["all", "linear"]
    weights: str | None
    args: Mapping[str, Any]


@dataclass(frozen=True)
class DataConfig:
    """Which data set, how it is split, and how its batches are made."""

    name: str
    root: str | None
    batch_size: Count
    image_size: Count
    val_fraction: Probability
    split_seed: Seed
    limit: Count | None
    num_workers: Size
    shuffle: bool
    drop_last: bool
    normalize: Literal["dataset", "none"]
    args: Mapping[str, Any]


@dataclass(frozen=True)
class AugmentConfig:
    """What is done to training images, each image by its own draw."""

    name: str
    args: Mapping[str, Any]


@dataclass(frozen=True)
class OptimizerConfig:
    """How the weights are updated."""

    name: str
    lr: Positive
    weight_decay: Annotated[float, Range(ge=0)]
    decay_norms_and_biases: bool
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

    name: str
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    num_threads: Count | None
    channels_last: bool | Literal["auto"]
    compile: bool
    args: Mapping[str, Any]


@dataclass(frozen=True)
class CheckpointConfig:
    """What is kept."""

    keep_last: Count | None


@dataclass(frozen=True)
class SweepConfig:
    """Where a sweep is kept."""

    name: str | None


@dataclass(frozen=True)
class RunConfig:
    """Everything one training run depends on, checked and frozen."""

    model: ModelConfig
    data: DataConfig
    augment: AugmentConfig
    optimizer: OptimizerConfig
    scheduler: SchedulerConfig
    device: DeviceConfig
    checkpoint: CheckpointConfig
    sweep: SweepConfig
    seed: Seed
    num_epochs: Count
    selection: Literal["val/accuracy", "last", "test"]
    max_seconds: Positive | None
    output_root: str
    resume: str | None
    extend_epochs: Count | None
    log_every_steps: Count
    eval_every_epochs: Count
    save_every_steps: Count | None
    profile_steps: Count | None
    histograms_every_epochs: Count | None


# Keys that may change when a run goes on: they alter how it is computed or kept, not what it is.
RESUMABLE = (
    "device",
    "log_every_steps",
    "save_every_steps",
    "profile_steps",
    "histograms_every_epochs",
    "checkpoint",
    "max_seconds",
    "extend_epochs",
)


def read_config(tree: Mapping[str, Any]) -> RunConfig:
    """Turn a resolved tree of plain values into a run config.

    Args:
        tree: nested mappings of strings, numbers, booleans, lists and None.

    Raises:
        ConfigError: all unknown keys, wrong types, values out of range and missing values.
    """
    problems: list[Problem] = []
    config = read_node(RunConfig, tree, ARGUMENTS, problems)
    if not problems:
        problems = _contradictions(config)
    if problems:
        raise ConfigError(problems)
    return typing.cast(RunConfig, config)


def _contradictions(config: RunConfig) -> list[Problem]:
    """Return what no single key shows: settings that cannot go together."""
    problems = []
    if config.data.val_fraction == 0 and config.selection == "val/accuracy":
        problems.append(
            Problem(
                "selection",
                "=val/accuracy: data.val_fraction=0 leaves no validation images; "
                "expected selection=last",
            )
        )
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
    if config.extend_epochs is not None and config.resume is None:
        problems.append(Problem("extend_epochs", ": only goes with resume=RUN"))
    return problems


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
    for key in ("image_size", "adam_lr"):
        if tree["model"][key] is None:
            # Absent is what lets another group's own value stand in place of the network's wish.
            del tree["model"][key]
    return typing.cast(dict[str, Any], tree)


def run_key(
    config: RunConfig,
    *,
    data_fingerprint: str,
    code_version: str,
    model_files: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Return the SHA-256 of all that decides a run's result.

    Paths, logging, the device's name and what is kept are left out: the same run under another
    output root, with other log lines, is the same run. The contents of files that the network is
    made from count, by their hashes, not their paths.
    """
    tree = to_tree(config)
    device = tree.pop("device")
    kept = {key: device[key] for key in ("precision", "num_threads", "compile")}
    tree["data"].pop("root")
    tree["model"].pop("path", None)
    tree["model"]["weights"] = None
    tree["model"] |= model_files
    for name in (
        "checkpoint",
        "sweep",
        "max_seconds",
        "output_root",
        "resume",
        "extend_epochs",
        "log_every_steps",
        "save_every_steps",
        "profile_steps",
        "histograms_every_epochs",
    ):
        tree.pop(name)
    parts = {"config": tree, "device": kept, "data": data_fingerprint, "code": code_version}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def expand_path(text: str) -> Path:
    """Return a user's path with ``~`` expanded, absolute.

    Raises:
        UsageError: nobody knows the home directory that ``~`` stands for.
    """
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError:
        raise UsageError(f"{text}: no home directory is known for ~; write it out") from None
