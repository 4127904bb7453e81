"""Which network a summary is of: one that settings compose, or a run's."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from cnnbench.analysis.blocks import compare_blocks
from cnnbench.config.command import over, single_config
from cnnbench.config.compose import Composer
from cnnbench.config.settings import Setting
from cnnbench.errors import UsageError, whole_argument
from cnnbench.geometry.summary import compare_summaries, summarize, tensor_rows
from cnnbench.models.build import build_meta
from cnnbench.runs import network as recorded
from cnnbench.runs.directory import RunDir, named_run
from cnnbench.training.data import describe_data
from cnnbench.training.network import network_sizes


@dataclass(frozen=True)
class Subject:
    """A network to look at.

    Attributes:
        label: for people.
        module: nothing in it runs; those of settings and runs are on the meta device.
        input_shape: (C, H, W).
    """

    label: str
    module: nn.Module
    input_shape: tuple[int, int, int]


def subject_of(
    composer: Composer, words: Sequence[str], model_path: str | None = None
) -> tuple[Subject, list[Setting]]:
    """Return the network that words name, and the settings among them.

    Args:
        composer: knows the groups.
        words: settings, or one run directory.
        model_path: ``FILE:CLASS`` of a custom network of a run.

    Raises:
        UsageError: it is no run, a setting is wrong, or ``model_path`` is missing or wrong.
        CheckpointError: the run is damaged or foreign.
    """
    run = named_run(words)
    if run is not None:
        return _of_run(run, model_path), []
    settings = composer.parse(words)
    return _of_settings(composer, settings), settings


def subject_of_module(module: nn.Module, input_shape: Sequence[int]) -> Subject:
    """Return any module that takes images of this shape, (C, H, W).

    Raises:
        UsageError: it is no such shape.
    """
    sides = list(input_shape) if isinstance(input_shape, Iterable) else []
    if len(sides) != 3:
        raise UsageError(
            f"input_shape={input_shape!r}: expected (C, H, W), without the batch dimension"
        )
    channels, height, width = (whole_argument("input_shape: ", side) for side in sides)
    return Subject(type(module).__name__, module, (channels, height, width))


def other_subject(
    composer: Composer, text: str, settings: Sequence[Setting], model_path: str | None = None
) -> Subject:
    """Return the network that ``--against`` names; what it does not say is as in the settings.

    Args:
        composer: knows the groups.
        text: a network's name, a run directory, or settings in one text.
        settings: of the first network.
        model_path: as ``subject_of`` takes it.

    Raises:
        CnnbenchError: as ``subject_of``.
    """
    words = shlex.split(text)
    if len(words) == 1 and Path(words[0]).is_dir():
        return subject_of(composer, words, model_path)[0]
    if len(words) == 1 and "=" not in words[0]:
        words = [f"model={words[0]}"]
    return _of_settings(composer, over(settings, composer.parse(words)))


def side_by_side(first: Subject, second: Subject, depth: int | None) -> dict[str, Any]:
    """Return both summaries and what their totals differ by."""
    summaries = [summarize(s.module, s.input_shape, depth=depth) for s in (first, second)]
    return {
        "networks": [first.label, second.label],
        "totals": compare_summaries(*summaries),
        "summaries": summaries,
    }


def side_by_side_blocks(texts: str | Sequence[str]) -> dict[str, Any]:
    """Return what blocks cost and see; ``compare_blocks`` says what they may be."""
    return {"blocks": compare_blocks([texts] if isinstance(texts, str) else texts)}


def run_tensors(run: RunDir, pattern: str, model_path: str | None) -> list[dict[str, Any]]:
    """Return the tensors of a run's selected weights; `cnnbench.tensors` says what comes back."""
    weights, _ = recorded.read_weights(run.path)
    trainable = None
    try:
        module, _ = recorded.load_meta(run.record.model, run.record_file, model_path)
        trainable = {name for name, p in module.named_parameters() if p.requires_grad}
    except recorded.CodeNeededError:
        # The tensors of a stranger's network can be looked at without its code.
        if model_path is not None:
            raise
    return tensor_rows(weights["model"], pattern, trainable)


def _of_run(run: RunDir, model_path: str | None) -> Subject:
    facts = run.record.model
    module, shape = recorded.load_meta(facts, run.path / "run.json", model_path)
    return Subject(f"{facts['name']}, {run.path}", module, shape)


def _of_settings(composer: Composer, settings: Sequence[Setting]) -> Subject:
    config = single_config(composer, settings)
    facts = describe_data(config)
    size = config.data.image_size
    module = build_meta(config.model.name, config.model.args, **network_sizes(config, facts))
    label = f"{config.model.name} on {config.data.name}"
    return Subject(label, module, (facts.in_channels, size, size))
