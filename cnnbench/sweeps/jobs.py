"""From settings with sweeps, or a study, to jobs that were all checked before the first starts."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnbench.config.command import text_of
from cnnbench.config.compose import Composer
from cnnbench.config.run_config import RunConfig, to_tree
from cnnbench.config.schema import ConfigError, Problem
from cnnbench.config.settings import Setting
from cnnbench.config.sweeper import split_sweeper
from cnnbench.errors import UsageError
from cnnbench.files import expand_path
from cnnbench.notices import notice
from cnnbench.runs.directory import RunDir
from cnnbench.runs.provenance import code_version, model_files, run_key
from cnnbench.sweeps.study import StudyJob, study_jobs

# Digits of the run key in a directory's name: more only where fewer are another run's.
_KEY_DIGITS = (6, 16, 64)


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
        overrides: the settings in which the jobs differ, as ``key=value``.
        config: its checked config.
        is_baseline: whether the table of the sweep compares the other rows with its row.
    """

    overrides: tuple[str, ...]
    config: RunConfig
    is_baseline: bool = False


@dataclass
class SweepJob:
    """One job as this command sees it.

    Attributes:
        number: from 1.
        name: the settings in which it differs.
        job: its settings and config.
        run: where it trains.
        status: ``elsewhere`` is running under another command.
        generation: of the newest lease before this command, then of its own.
        slot: that it takes while it runs.
        reason: why it failed.
        num_lost: how often its process was lost under this command.
    """

    number: int
    name: str
    job: Job
    run: RunDir
    status: str = "waiting"
    generation: int = 0
    slot: int = 0
    reason: str = ""
    num_lost: int = 0

    @property
    def is_done(self) -> bool:
        """Whether its run is finished."""
        return self.run.has_record and self.run.record.status == "done"


@dataclass(frozen=True)
class Sweep:
    """The jobs of one command.

    Attributes:
        name: the directory below ``outputs/sweeps``.
        jobs: in the order they run, at least one.
    """

    name: str
    jobs: tuple[Job, ...]


def expand(composer: Composer, settings: Sequence[Setting]) -> Sweep:
    """Compose and check every job of a sweep, in the order of the settings, the last one fastest.

    Of equal jobs there is one, and a notice says so.

    Raises:
        ConfigError: mistakes, each with the jobs that have it.
        UsageError: the sweep resumes a run.
    """
    plain = {s.key: s.values[0] for s in settings if not s.is_sweep}
    if any(s.key == "resume" and s.values != (None,) for s in settings):
        raise UsageError("resume: resumes one run; to resume a sweep, repeat its command")
    sweeper, settings = split_sweeper(settings)
    if sweeper is not None:
        raise UsageError("hydra/sweeper: only train -m searches, without --dry-run")
    axes = {s.key: s.values for s in settings if s.is_sweep}
    studies = axes.pop("study", (plain.pop("study", None),))
    jobs: list[Job] = []
    mistakes: dict[Problem, int] = {}
    is_debug = plain.get("debug") == "study"
    for study in studies:
        listed = [StudyJob({}, {})]
        if study is not None:
            listed = study_jobs(composer, study, is_debug=is_debug)
        for job in listed:
            for combination in itertools.product(*axes.values()):
                swept = dict(zip(axes, combination, strict=True))
                # What the command line says wins, so that a job is named by it.
                own = {key: plain.get(key, value) for key, value in job.own.items()}
                differing = {**({"study": study} if len(studies) > 1 else {}), **own, **swept}
                try:
                    config = composer.compose({**job.common, **job.own, **plain, **swept})
                except ConfigError as error:
                    for problem in error.problems:
                        mistakes[problem] = mistakes.get(problem, 0) + 1
                else:
                    shown = tuple(f"{key}={text_of(value)}" for key, value in differing.items())
                    jobs.append(Job(shown, config, job.is_baseline and len(studies) == 1))
    if mistakes:
        raise ConfigError(
            Problem(problem.key, f"{problem.text} ({count} of the jobs)")
            for problem, count in mistakes.items()
        )
    jobs = _each_once(jobs, has_rows=studies != (None,))
    named = jobs[0].config.sweep.name
    if named is not None and named != file_name(named):
        expected = "expected a directory's name of letters, digits and =,._+-"
        example = file_name(named) or "mine"
        raise ConfigError([Problem("sweep.name", f"={named}: {expected}, such as {example}")])
    fixed = {key: value for key, value in plain.items() if key not in ("output_root", "sweep.name")}
    return Sweep(named or default_name(fixed, [*axes, *filter(None, studies)]), tuple(jobs))


def _each_once(jobs: Sequence[Job], *, has_rows: bool) -> list[Job]:
    """Leave out jobs that are as an earlier one, and say so.

    Args:
        jobs: in order.
        has_rows: whether they are rows of studies, which are told apart by their settings too.
    """
    kept: dict[str, Job] = {}
    for job in jobs:
        row = job.overrides if has_rows else ()
        kept.setdefault(json.dumps([row, to_tree(job.config)], sort_keys=True), job)
    if len(kept) < len(jobs):
        equal = len(jobs) - len(kept)
        notice(f"{equal} of the {len(jobs)} jobs equal an earlier one: each job runs once")
    return list(kept.values())


def default_name(fixed: Mapping[str, Any], axes: Sequence[str]) -> str:
    """Name a sweep by what does not change when its axes grow, so that it is found again.

    Args:
        fixed: the settings of all jobs.
        axes: the keys in which they differ.
    """
    digest = hashlib.sha256(json.dumps([fixed, list(axes)], sort_keys=True).encode()).hexdigest()
    return f"{file_name('-'.join(axes)) or 'sweep'}-{digest[:6]}"


def file_name(text: str) -> str:
    """Return a text with nothing in it that is special in a path, at most 100 characters."""
    return re.sub(r"[^A-Za-z0-9=,._+-]+", "_", text).strip("._")[:100]


def run_directories(root: Path, jobs: Sequence[Job]) -> list[RunDir]:
    """Return each job's directory: its overrides and as much of its run key as tells it apart.

    A name is cut and few digits of a key can be another run's, so that the whole recorded key
    decides whether a directory is this job's.
    """
    runs: list[RunDir] = []
    taken: set[Path] = set()
    for job in jobs:
        stem, key = file_name(",".join(job.overrides)) or job.config.model.name, _run_key(job)
        # A search may draw the same trial any number of times.
        numbered = (f"{key}-{number}" for number in itertools.count(2))
        endings = itertools.chain((key[:digits] for digits in _KEY_DIGITS), numbered)
        run = next(
            run
            for run in (RunDir(root / f"{stem}-{ending}") for ending in endings)
            if run.path not in taken
            and (not run.has_record or run.record.provenance.run_key == key)
        )
        taken.add(run.path)
        runs.append(run)
    return runs


def _run_key(job: Job) -> str:
    from cnnbench.data import fingerprint

    data = job.config.data
    root = expand_path(data.root)
    return run_key(
        job.config,
        data_fingerprint=fingerprint(data.name, root=root, args=data.args),
        code_version=code_version(),
        model_files=model_files(job.config),
    )
