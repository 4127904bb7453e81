"""Settings that others leave without effect: one table of when a key acts.

A key that cannot act is refused, where it was set to something else than its choice's YAML says. A
default is never refused, nor what a recorded run has.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cnnbench.config.run_config import RunConfig
from cnnbench.config.schema import Problem


@dataclass(frozen=True)
class Rule:
    """When a key acts.

    Attributes:
        key: dotted.
        acts: tells it from the whole config.
        reason: why it does not act otherwise, and what to do, as the end of a sentence that says
            that it has no effect; of a strict rule, all that is said.
        is_strict: whether the choice's own value is refused too.
    """

    key: str
    acts: Callable[[RunConfig], bool]
    reason: str
    is_strict: bool = False


def _mixes(config: RunConfig, key: str) -> bool:
    return not config.augment.args.get(key) or config.data.batch_size > 1


def _is_random(config: RunConfig) -> bool:
    return config.model.weights is None


def _has_targets(config: RunConfig) -> bool:
    return config.loss.teacher is None or config.loss.teacher_weight < 1


def _has_two_means(config: RunConfig) -> bool:
    """Whether a batch's examples count by their class in one half of the loss alone."""
    is_weighed = config.loss.args.get("class_weights", "none") != "none"
    return config.loss.teacher is not None and is_weighed and _has_targets(config)


def _has_hidden(config: RunConfig) -> bool:
    """Whether no argument takes the hidden linear layers away, where a network may have some."""
    args = config.model.args
    return args.get("head") not in ("gap", "conv1x1") and args.get("hidden") != ()


# Rows have no sides.
_TABLES = ("csv", "hours_to_pass", "breast_cancer", "diabetes")
_WITHOUT_FILES = ("digits", "synthetic", *_TABLES[1:])
_WEIGHTS = "model.weights says which weights training begins with; set one of them"

RULES = (
    Rule(
        "model.image_size",
        lambda c: c.model.image_size == c.data.image_size,
        "data.image_size was set too, and wins; set one of them",
    ),
    Rule(
        "model.adam_lr",
        lambda c: c.optimizer.name in ("adam", "adamw") and c.optimizer.lr == c.model.adam_lr,
        "it is the default of optimizer.lr for adam and adamw alone; set optimizer.lr",
    ),
    Rule(
        "loss.selection",
        lambda c: c.loss.selection == c.selection,
        "selection was set too, and wins; set one of them",
    ),
    Rule("model.init", _is_random, _WEIGHTS),
    Rule(
        "model.whiten",
        lambda c: _is_random(c) and c.model.args.get("pretrained", "none") == "none",
        "training begins with weights of its own; set one of them",
    ),
    Rule("model.zero_init", _is_random, _WEIGHTS),
    Rule("model.pretrained", _is_random, _WEIGHTS),
    Rule(
        "model.init_layers",
        lambda c: c.model.init != "default" and _is_random(c),
        "model.init sets no layer, being default or beside model.weights",
    ),
    Rule(
        "model.factorize",
        lambda c: c.model.args.get("factorize_stages") != (),
        "model.factorize_stages=[] names no stage",
    ),
    Rule(
        "model.factorize_stages",
        lambda c: c.model.args.get("factorize") != "none",
        "model.factorize=none factorizes no stage; set model.factorize too",
    ),
    Rule(
        "model.residual_scale",
        lambda c: c.model.args.get("residual") is not False,
        "model.residual=false adds no shortcut; set model.residual=true too",
    ),
    Rule(
        "model.hidden",
        lambda c: c.model.args.get("head") == "linear" or c.model.name == "mlp",
        "model.head has no hidden layers; set model.head=linear",
    ),
    Rule(
        "model.head_size",
        lambda c: c.model.args.get("head") == "linear",
        "model.head averages feature maps of any size; set model.head=linear",
    ),
    Rule(
        "model.dropout",
        _has_hidden,
        "it acts on hidden layers, and the network has none; set model.head=linear and "
        "model.hidden",
    ),
    Rule(
        "model.dropout_position",
        lambda c: _has_hidden(c) and c.model.args.get("dropout") != 0,
        "the network has no dropout; set model.head=linear, model.hidden and model.dropout",
    ),
    Rule(
        "model.norm",
        lambda c: c.model.name != "mlp" or _has_hidden(c),
        "it follows hidden layers, and model.hidden=[] has none",
    ),
    Rule(
        "model.aux_weight",
        lambda c: c.model.args.get("aux") is not False,
        "model.aux=false builds no auxiliary heads; set model.aux=true too",
    ),
    Rule(
        "model.activation",
        lambda c: c.model.name != "mlp" or _has_hidden(c),
        "it follows hidden layers, and model.hidden=[] has none",
    ),
    Rule(
        "data.image_size",
        lambda c: c.data.name not in _TABLES or c.data.image_size == 1,
        "rows of numbers have no sides",
        is_strict=True,
    ),
    Rule(
        "data.root",
        lambda c: c.data.name not in _WITHOUT_FILES,
        "this data set has no files to look for; did you mean data=folder?",
    ),
    Rule(
        "data.split_seed",
        lambda c: c.data.val_fraction > 0 or c.data.limit is not None or c.data.fold is not None,
        "data.val_fraction=0 draws no validation images",
    ),
    Rule(
        "augment.crop_padding",
        lambda c: (
            c.augment.args.get("crop_padding", 0) < c.data.image_size or c.data.name in _TABLES
        ),
        "a crop could miss the whole image; expected less than data.image_size",
        is_strict=True,
    ),
    Rule(
        "augment.randaugment_magnitude",
        lambda c: c.augment.args.get("randaugment_ops") != 0,
        "augment.randaugment_ops=0 draws no change; set it too",
    ),
    Rule(
        "augment.erase_fraction",
        lambda c: c.augment.args.get("erase_probability") != 0,
        "augment.erase_probability=0 erases nothing; set it too",
    ),
    *(
        Rule(
            f"augment.{key}",
            lambda c, key=key: _mixes(c, key),  # type: ignore[misc]
            "it mixes the images of a batch, and data.batch_size=1 has one; set one of them",
            is_strict=True,
        )
        for key in ("mixup_alpha", "cutmix_alpha")
    ),
    Rule(
        "data.progressive_sizes",
        lambda c: c.data.name not in _TABLES or not c.data.progressive_sizes,
        "rows of numbers have no sides",
    ),
    Rule(
        "data.progressive_fraction",
        lambda c: bool(c.data.progressive_sizes),
        "data.progressive_sizes=[] trains on one size; set it too",
    ),
    Rule(
        "loss.label_smoothing",
        _has_targets,
        "loss.teacher_weight=1 leaves the targets out; lower it",
    ),
    Rule(
        "loss.class_weights",
        _has_targets,
        "loss.teacher_weight=1 leaves the targets out; lower it",
    ),
    *(
        Rule(
            f"loss.{key}",
            lambda c: c.loss.teacher is not None,
            "there is no teacher; set loss.teacher=RUN",
        )
        for key in ("teacher_weight", "teacher_temperature")
    ),
    *(
        Rule(
            f"optimizer.{key}",
            lambda c: c.optimizer.weight_decay > 0,
            "optimizer.weight_decay=0 decays nothing; set it too",
        )
        for key in ("decay_norms_and_biases", "decoupled_weight_decay")
    ),
    Rule(
        "optimizer.accumulate_steps",
        lambda c: c.optimizer.accumulate_steps <= c.data.batch_size,
        "a batch has fewer images; expected at most data.batch_size",
        is_strict=True,
    ),
    Rule(
        "optimizer.accumulate_steps",
        lambda c: c.optimizer.accumulate_steps == 1 or not _has_two_means(c),
        "the parts of a batch add up to its mean over class weights or to that of a teacher; "
        "leave loss.class_weights or loss.teacher out",
        is_strict=True,
    ),
    Rule(
        "scheduler.gamma",
        lambda c: any(at < 1 for at in c.scheduler.args.get("milestones", ())),
        "scheduler.milestones has none within the run",
    ),
    Rule(
        "scheduler.milestones",
        lambda c: c.scheduler.args.get("gamma") != 1,
        "scheduler.gamma=1 leaves the learning rate as it is",
    ),
    Rule(
        "scheduler.peak_fraction",
        lambda c: c.scheduler.warmup_fraction < 1,
        "scheduler.warmup_fraction=1 leaves no time for the cycle",
    ),
    Rule(
        "scheduler.start_factor",
        lambda c: c.scheduler.args.get("peak_fraction") != 0,
        "scheduler.peak_fraction=0 starts at the peak",
    ),
    Rule(
        "scheduler.final_factor",
        lambda c: c.scheduler.warmup_fraction < 1 and c.scheduler.args.get("peak_fraction") != 1,
        "the learning rate rises to the end (scheduler.warmup_fraction or peak_fraction is 1)",
    ),
    Rule(
        "eval_every_epochs",
        lambda c: c.data.val_fraction > 0 or c.selection == "test" or c.data.fold is not None,
        "data.val_fraction=0 leaves no validation images to evaluate",
    ),
    Rule("num_epochs", lambda c: not c.budget.is_set, "budget says how long; set one of them"),
    Rule(
        "patience",
        lambda c: c.selection != "last" and (c.budget.is_set or (c.patience or 0) < c.num_epochs),
        "it needs a selection but last, and fewer epochs than num_epochs",
    ),
    Rule(
        "histograms_every_epochs",
        lambda c: c.budget.is_set or (c.histograms_every_epochs or 1) <= c.num_epochs,
        "the run has fewer epochs; lower it, or raise num_epochs",
    ),
)


def without_effect(
    config: RunConfig, assigned: Iterable[str], defaults: Callable[[], Mapping[str, Any]]
) -> list[Problem]:
    """Return the settings of a new run that cannot act, each with the reason.

    Args:
        config: checked. One that resumes a run is recorded, and passes.
        assigned: the keys that were set, with the defaults' values or others.
        defaults: gives the value of each key before any was set.

    Example:
        >>> without_effect(config, ["data.root"], lambda: {"data.root": None})
        [Problem(key='data.root', text='=x: has no effect: ...')]
    """
    if config.resume is not None:
        return []
    idle = [rule for rule in RULES if not rule.acts(config)]
    keys = set(assigned)
    problems = []
    for rule in idle:
        value = _value(config, rule.key)
        if rule.is_strict or (rule.key in keys and value != defaults().get(rule.key)):
            shown = value if isinstance(value, str) else json.dumps(value)
            why = rule.reason if rule.is_strict else f"has no effect: {rule.reason}"
            problems.append(Problem(rule.key, f"={shown}: {why}"))
    return problems


def _value(config: RunConfig, key: str) -> Any:
    """Return the value of a key as YAML has it, lists for tuples."""
    node: Any = config
    for name in key.split("."):
        node = getattr(node, name) if hasattr(node, name) else node.args.get(name)
    return list(node) if isinstance(node, tuple) else node
