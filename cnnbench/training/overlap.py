"""Runs that another one starts or learns from: which of its images they have seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cnnbench.config.run_config import DataConfig, RunConfig
from cnnbench.data.splits import Splits
from cnnbench.errors import UsageError
from cnnbench.notices import warn
from cnnbench.runs.directory import open_run, path_of

# What decides which images of a data set validate.
_SPLIT_KEYS = ("val_fraction", "split_seed", "limit")


def check_overlap(config: RunConfig, data: Splits) -> None:
    """Refuse to start or learn from a run that was trained on images that this run measures.

    Runs on the same data are looked at; of others, and of files that are in no run, it is not
    known what they have seen. Where only images that validate may have been seen, that is said.

    Args:
        config: whose ``model.weights`` and ``loss.teacher`` may be runs.
        data: that was read for it.

    Raises:
        UsageError: one of them holds out other images of the same data.
    """
    for key, text in (
        ("model.weights", config.model.weights),
        ("loss.teacher", config.loss.teacher),
    ):
        path = _run_of(text)
        if path is None:
            continue
        run = open_run(path)
        if run.record.data.sha256 != data.sha256:
            continue
        theirs, ours = run.config.data, config.data
        is_alike = _fold(theirs) == _fold(ours)
        # A fold that validates leaves the test part of the data to itself.
        has_seen_no_test = data.measured == "test" and run.record.data.measured == "val"
        if not is_alike and not has_seen_no_test:
            raise UsageError(
                f"{key}={text}: was trained on images that this run is measured on: it holds out "
                f"{_shown(theirs)}, and this run {_shown(ours)}; expected one that holds out the "
                "same"
            )
        is_other = any(getattr(theirs, name) != getattr(ours, name) for name in _SPLIT_KEYS)
        if data.num_val and (is_other or not is_alike):
            warn(
                f"{key}: was trained on another part of the images, so that it may have seen those "
                "that validate this run"
            )


def _run_of(text: str | None) -> Path | None:
    """Return the run that a key names, or that the file it names lies in; None: there is none."""
    if text is None:
        return None
    path = path_of(text)
    if path.is_file() and path.parent.name == "checkpoints":
        path = path.parent.parent
    return path if (path / "run.json").is_file() else None


def _fold(data: DataConfig) -> tuple[Any, ...]:
    return () if data.fold is None else (data.fold, data.num_folds, data.split_seed)


def _shown(data: DataConfig) -> str:
    if data.fold is None:
        return "no fold"
    return f"data.fold={data.fold} of {data.num_folds} (data.split_seed={data.split_seed})"
