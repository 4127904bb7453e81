"""A study: a whole comparison as a list of jobs, from ``conf/study/<name>.yaml``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cnnbench.config.compose import Composer
from cnnbench.config.schema import ConfigError, Problem, read_value
from cnnbench.config.settings import unknown_choice
from cnnbench.errors import UsageError

_Settings = tuple[str, ...]


@dataclass(frozen=True)
class StudyJob:
    """One job of a study, as values by key.

    Attributes:
        common: the settings that all jobs share, and those of the small form.
        own: the job's own, which win.
        is_baseline: whether the study compares the others with it.
    """

    common: Mapping[str, Any]
    own: Mapping[str, Any]
    is_baseline: bool = False


def study_jobs(composer: Composer, name: str, *, is_debug: bool = False) -> list[StudyJob]:
    """Return a study's jobs, in the order of its file.

    Args:
        composer: knows the studies, and reads their settings.
        name: of the study.
        is_debug: take the study's ``debug`` too: ``settings`` for all jobs, and under the names of
            networks those for theirs. What a job itself says wins.

    Raises:
        ConfigError: there is no such study, or its settings cannot be read.
        UsageError: its YAML has not the keys ``settings`` and ``jobs``, a setting is a sweep, its
            ``debug`` names a network that no job has, or its ``baseline`` is none of its jobs.
    """
    known = composer.groups.choices("study")
    if name not in known:
        raise ConfigError([Problem("study", unknown_choice(name, known))])

    path = composer.groups.file("study", name)

    def assignments(settings: Sequence[str]) -> dict[str, Any]:
        found = composer.parse(settings)
        if swept := next((setting.key for setting in found if setting.is_sweep), None):
            raise UsageError(
                f"{path}: {swept} has several values, and a job of a study has one; list a job for "
                f"each, or sweep all jobs on the command line: {swept}=..."
            )
        return {setting.key: setting.values[0] for setting in found}

    study = _read(path)
    common = assignments(study.settings)
    jobs = [assignments(job) for job in study.jobs]
    debug = {key: assignments(settings) for key, settings in study.debug.items()}
    debug_of_all = debug.pop("settings", {})
    networks = [str(job.get("model", common.get("model"))) for job in jobs]
    if unused := debug.keys() - set(networks):
        raise UsageError(f"{path}: debug names {', '.join(sorted(unused))}, which no job has")
    if study.baseline and study.baseline not in study.jobs:
        raise UsageError(
            f"{path}: baseline: [{', '.join(study.baseline)}] is none of its jobs; expected one "
            "of them, written as it is there"
        )
    found = []
    for network, listed, job in zip(networks, study.jobs, jobs, strict=True):
        small = {**debug_of_all, **debug.get(network, {})} if is_debug else {}
        is_baseline = bool(study.baseline) and listed == study.baseline
        found.append(StudyJob({**common, **small}, job, is_baseline))
    return found


@dataclass(frozen=True)
class _Study:
    """What the file of a study holds: each setting as ``key=value``."""

    settings: _Settings
    jobs: tuple[_Settings, ...]
    debug: Mapping[str, _Settings]
    baseline: _Settings


def _read(path: Path) -> _Study:
    expected = (
        "expected the keys settings and jobs, and perhaps debug and baseline, with lists of "
        "key=value"
    )
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not readable as YAML ({error})") from None
    if not isinstance(tree, dict) or (tree.keys() - {"debug", "baseline"} != {"settings", "jobs"}):
        raise UsageError(f"{path}: {expected}")
    debug = tree.get("debug", {})
    if not (isinstance(debug, dict) and tree["jobs"]):
        raise UsageError(f"{path}: {expected}")
    try:
        return _Study(
            read_value(_Settings, tree["settings"]),
            read_value(tuple[_Settings, ...], tree["jobs"]),
            {str(name): read_value(_Settings, part) for name, part in debug.items()},
            read_value(_Settings, tree.get("baseline", [])),
        )
    except ValueError:
        raise UsageError(f"{path}: {expected}") from None
