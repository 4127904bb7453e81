"""Run a search: draw points, have them trained as the jobs of a sweep, tell what they gave.

This process alone draws and tells. It may die at any moment: what a trial gave stands in its run
directories, and a trial that was drawn and never told is resumed from there.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cnnbench.analysis.compare.records import read_curves
from cnnbench.config.compose import Composer
from cnnbench.config.early import check_alone
from cnnbench.config.launcher import LauncherConfig
from cnnbench.config.schema import ConfigError
from cnnbench.config.sweeper import SweeperConfig
from cnnbench.errors import CheckpointError, NonFiniteError
from cnnbench.files import expand_path, read_regular, writing
from cnnbench.notices import notice, say_torch_loads, warn
from cnnbench.runs.columns import COLUMNS, finite_number
from cnnbench.runs.directory import RunDir
from cnnbench.runs.provenance import code_version
from cnnbench.runs.record import PRUNED
from cnnbench.sweeps.check import check_jobs
from cnnbench.sweeps.job import PRUNE_FILE
from cnnbench.sweeps.jobs import Job, SweepJob, file_name, run_directories
from cnnbench.sweeps.launchers import create_launcher
from cnnbench.sweeps.lease import read_lease, release
from cnnbench.sweeps.progress import SWEEP_FILE, JobState
from cnnbench.sweeps.run import Sweeping, write_sweep
from cnnbench.sweeps.search.record import (
    SearchRecord,
    check_same_space,
    only_writer,
    read_record,
)
from cnnbench.sweeps.search.result import Trial, best_of, seconds_of, show_result
from cnnbench.sweeps.search.space import Space, check_space, objective_of, space_hash
from cnnbench.sweeps.search.study import Asked, Outcome, Study, check_engine

_JOURNAL = "journal.log"
# How often a trial's process may be killed until the trial is given up.
_MAX_DEATHS = 3
# What becomes of a job that a search ends with.
_SETTLED = ("done", "failed", "diverged", "skipped")


def launch_search(
    composer: Composer,
    space: Space,
    sweeper: SweeperConfig,
    command: Sequence[str],
    launcher: str,
    how: LauncherConfig,
) -> tuple[Path, int]:
    """Check a search, and run the trials that it lacks.

    Args:
        composer: knows the groups.
        space: what is drawn from.
        sweeper: how.
        command: the command line, for the record.
        launcher: its name.
        how: to launch.

    Returns:
        The search's directory, and how many trials failed under this command.

    Raises:
        UsageError: the engine is missing, the space changed, or another command runs the search.
        CnnbenchError: as ``run_sweep``, or a corner of the space does not fit this machine.
    """
    check_alone("train -m", "cnnbench train -m ...")
    check_engine()
    corners = check_space(composer, space)
    objective = objective_of(space, sweeper, corners)
    root = expand_path(corners[0].output_root) / "sweeps" / file_name(space.name)
    seeds = f"seed={','.join(map(str, space.seeds))}"
    record = SearchRecord(
        space_hash(space, corners[0], objective),
        (*map(str, space.dimensions), seeds),
        objective,
        code_version(),
    )
    if before := read_record(root):
        check_same_space(before, record, root)
        if before.code_version != record.code_version:
            warn(f"the code changed since this search began with {before.code_version}")
            record = replace(record, code_version=before.code_version)
    say_torch_loads(f"a search of {sweeper.num_trials} trials")
    with contextlib.closing(create_launcher(launcher, how)) as created:
        slots = check_jobs(corners, how, created).slots
        with writing(root):
            (root / "jobs").mkdir(parents=True, exist_ok=True)
        with only_writer(root):
            is_maximized = COLUMNS[objective].better == "higher"
            study = Study(root / _JOURNAL, space.dimensions, sweeper, is_maximized)
            record.write(root)
            search = Search(composer, space, sweeper, objective, study, record)
            with _Searching(root, search, command, how, slots, created) as searching:
                searching.begin()
                searching.run()
            trials = searching.trials()
            record, own = searching.search.record, composer.groups.own
            show_result(root, space, record, trials, study.importances(), own, created)
            return root, searching.num_failed


@dataclass
class Search:
    """What a search is made of.

    Attributes:
        composer: knows the groups.
        space: what is drawn from.
        sweeper: how.
        objective: what is searched for.
        study: remembers the trials.
        record: of the search, as it stands.
    """

    composer: Composer
    space: Space
    sweeper: SweeperConfig
    objective: str
    study: Study
    record: SearchRecord


@dataclass
class _Point:
    """One point of the space; several trials may have drawn it.

    Attributes:
        values: by key.
        numbers: of its trials.
        jobs: one for each seed; none where an earlier command finished it.
        runs: names of their directories.
        deaths: how often a process of it was killed.
        reported: the last epoch of its first seed that the study knows.
        outcome: None as long as it trains.
        value: of the objective, the mean of its seeds; None where it was not measured.
        seconds: of training that its runs took, once it has an outcome.
    """

    values: Mapping[str, Any]
    numbers: list[int]
    jobs: list[SweepJob] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    deaths: int = 0
    reported: int = 0
    outcome: Outcome | None = None
    value: float | None = None
    seconds: float = 0.0


class _Searching(Sweeping):
    """Starts the jobs of points, draws new ones, and tells the study how they ended."""

    def __init__(self, root: Path, search: Search, command: Sequence[str], *how: Any) -> None:
        self.search, self.points = search, dict[str, _Point]()
        self._listed = _listed_jobs(root)
        write_sweep(root, command, self._listed)
        super().__init__(root, [], command, *how)

    def begin(self) -> None:
        """Take over what earlier commands left: told trials, and those to be resumed."""
        runs: dict[int, list[str]] = {}
        for entry in self._listed:
            runs.setdefault(entry["trial"], []).append(entry["run"])
        for number, values, outcome, value in self.search.study.finished():
            point = self.points.setdefault(_key(values), _Point(values, []))
            point.numbers.append(number)
            point.outcome, point.value = outcome, value
            point.runs = point.runs or runs.get(number, [])
            point.seconds = self._seconds(point)
        self._record()
        for asked in self.search.study.unfinished():
            self._add(asked)

    def _fill(self) -> None:
        """Start jobs, and draw as many points as there are free slots."""
        study, most = self.search.study, self.search.sweeper.num_trials
        while True:
            super()._fill()
            is_full = len(self.running) + len(self.waiting) >= self.slots.number
            if self.is_stopping or is_full or len(study.trials) >= most:
                return
            self._add(study.ask())

    def _add(self, asked: Asked) -> None:
        """Have a trial's point trained, unless it was drawn before."""
        if (point := self.points.get(_key(asked.values))) is not None:
            point.numbers.append(asked.number)
            if point.outcome is not None:
                self.search.study.tell(asked.number, point.outcome, point.value)
                self._record()
            return
        space = self.search.space
        point = self.points[_key(asked.values)] = _Point(asked.values, [asked.number])
        try:
            jobs = [
                Job(
                    space.overrides(asked.values, seed),
                    space.compose(self.search.composer, asked.values, seed),
                )
                for seed in space.seeds
            ]
        except ConfigError as error:
            notice(f"trial {asked.number}: its settings do not go together: {error}")
            self._tell(point, "failed", None)
            return
        for job, run in zip(jobs, run_directories(self.root, jobs), strict=True):
            ours = SweepJob(asked.number, " ".join(job.overrides), job, run)
            lease = read_lease(self._directory(ours))
            ours.generation = lease.generation if lease else 0
            point.jobs.append(ours)
            point.runs.append(run.path.name)
        self.jobs += point.jobs
        self.waiting += point.jobs
        self._listed = [e for e in self._listed if e["trial"] != asked.number] + [
            {"overrides": list(job.job.overrides), "run": job.run.path.name, "trial": job.number}
            for job in point.jobs
        ]
        write_sweep(self.root, self.command, self._listed)

    def _is_settled(self, job: SweepJob) -> bool:
        if job.status == "skipped":
            return True
        is_settled = super()._is_settled(job)
        if is_settled:
            self._settle(job)
        return is_settled

    def _end(self, job: SweepJob, code: int | None) -> None:
        point = self._point(job)
        if code is not None and code < 0 and not self.is_stopping and point.deaths < _MAX_DEATHS:
            lease = read_lease(self._directory(job))
            if lease is not None and lease.generation == job.generation:
                point.deaths += 1
                release(self._directory(job), lease, 75, f"killed by signal {-code}")
                notice(f"{self._shown(job)}: killed by signal {-code}; it is resumed")
                job.status = "waiting"
                self.waiting.insert(0, job)
                return
        super()._end(job, code)
        if job.status in _SETTLED:
            self._settle(job)

    def _fail(self, job: SweepJob, reason: str) -> None:
        lease = read_lease(self._directory(job))
        if lease is not None and lease.code == NonFiniteError.exit_code:
            job.status, job.reason = "diverged", reason
            self._line(f"{self._shown(job)}: diverged: {reason}")
        else:
            super()._fail(job, reason)

    def _show(self) -> None:
        for point in self.points.values():
            if point.outcome is None and self.search.sweeper.pruner == "median":
                self._follow(point)
        super()._show()

    def _follow(self, point: _Point) -> None:
        """Report the epochs of a point's first seed; give the point up where that is bad."""
        curve = read_curves(point.jobs[0].run.metrics).get(self.search.objective, {})
        for epoch in sorted(epoch for epoch in curve if epoch > point.reported):
            point.reported = epoch
            if self.search.study.report(point.numbers[0], epoch, curve[epoch]):
                self._give_up(point)

    def _settle(self, job: SweepJob) -> None:
        """Take note of a job that ended, and tell its point's trials where that was the last."""
        point, study, pruner = self._point(job), self.search.study, self.search.sweeper.pruner
        if point.outcome is not None:
            return
        if pruner == "median":
            self._follow(point)
        elif pruner == "wilcoxon":
            value, instance = self._value(job), point.jobs.index(job)
            if value is not None and study.report(point.numbers[0], instance, value):
                self._give_up(point)
        if job.status != "done" or job.run.record.reason == PRUNED:
            self._give_up(point)
        if all(other.status in _SETTLED for other in point.jobs):
            self._conclude(point)

    def _give_up(self, point: _Point) -> None:
        """Have the jobs of a point end that are not done; those not begun never begin."""
        for job in point.jobs:
            directory = self._directory(job)
            if job.status in _SETTLED:
                continue
            if job in self.waiting and read_lease(directory) is None:
                job.status = "skipped"
            else:
                with writing(directory):
                    (directory / PRUNE_FILE).touch()

    def _conclude(self, point: _Point) -> None:
        """Tell a point's trials what its runs gave."""
        values = [self._value(job) for job in point.jobs]
        known = [value for value in values if value is not None]
        statuses = {job.status for job in point.jobs}
        if "failed" in statuses:
            outcome: Outcome = "failed"
        elif statuses == {"done"} and len(known) == len(values):
            outcome = "complete"
        else:
            outcome = "pruned"
        self._tell(point, outcome, sum(known) / len(known) if known else None)

    def _tell(self, point: _Point, outcome: Outcome, value: float | None) -> None:
        point.outcome, point.value = outcome, value
        point.seconds = self._seconds(point)
        for number in point.numbers:
            self.search.study.tell(number, outcome, value)
        best = self._record()
        if best is not None and best.number == point.numbers[0]:
            self._line(f"best so far: trial {best.number}, {self.search.objective} {best.text}")

    def _record(self) -> Trial | None:
        """Write how far the search came, and return the best trial."""
        trials = [trial for trial in self.trials() if trial.outcome is not None]
        best, space = best_of(trials, self.search.objective), self.search.space
        found = None
        if best is not None:
            settings = list(space.overrides(best.values))
            found = {"trial": best.number, "value": best.value, "settings": settings}
        seconds = sum(point.seconds for point in self.points.values())
        self.search.record = replace(
            self.search.record, trials=len(trials), seconds=seconds, best=found
        )
        self.search.record.write(self.root)
        return best

    def _seconds(self, point: _Point) -> float:
        return sum(seconds_of(RunDir(self.root / name)) for name in point.runs)

    def _value(self, job: SweepJob) -> float | None:
        """Return the objective of a finished run that was not given up."""
        if job.status != "done" or job.run.record.reason == PRUNED:
            return None
        return finite_number(job.run.record.results.get(self.search.objective))

    def trials(self) -> list[Trial]:
        """Return all trials by number; those that drew the same point share its runs."""
        found = [
            Trial(n, point.values, point.outcome, point.value, tuple(point.runs))
            for point in self.points.values()
            for n in point.numbers
        ]
        return sorted(found, key=lambda trial: trial.number)

    def _point(self, job: SweepJob) -> _Point:
        return next(point for point in self.points.values() if job in point.jobs)

    def _states(self, runs: Collection[str] | None = None) -> list[JobState]:
        """Return how all jobs stand, and one that waits for each that is to be drawn."""
        skipped = {job.run.path.name for job in self.jobs if job.status == "skipped"}
        told = {name for point in self.points.values() if point.outcome for name in point.runs}
        states = super()._states(runs if runs is None else {*runs, *told})
        known = [state for state in states if state.run not in skipped]
        missing = self.search.sweeper.num_trials - len(self.search.study.trials)
        work = len(self.search.space.seeds) * max(0, missing)
        return [*known, *(JobState("not drawn yet", "") for _ in range(work))]

    def _shown(self, job: SweepJob) -> str:
        return f"[trial {job.number} of {self.search.sweeper.num_trials}] {job.name}"

    def _progress(self) -> str:
        told = sum(trial.outcome is not None for trial in self.trials())
        return f"search stopped with {told} of {self.search.sweeper.num_trials} trials finished"


def _key(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True)


def _listed_jobs(root: Path) -> list[dict[str, Any]]:
    """Return the jobs that earlier commands of a search listed."""
    try:
        return [
            {"overrides": list(e["overrides"]), "run": str(e["run"]), "trial": int(e["trial"])}
            for e in json.loads(read_regular(root / SWEEP_FILE))["jobs"]
        ]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise CheckpointError(f"{root / SWEEP_FILE}: not the list of a search's jobs") from None
