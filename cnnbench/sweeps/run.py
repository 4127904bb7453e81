"""Run the jobs of a sweep beside each other, whoever else runs some of them.

What becomes of a job stands in its directory: its lease says who runs it and how that ended, its
run whether it is done. This process only starts what is missing, so that it may die at any moment,
and two commands on one sweep share the work.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, Self

from cnnbench.config.early import check_alone
from cnnbench.config.launcher import LauncherConfig
from cnnbench.errors import Interrupted
from cnnbench.files import atomic_write, expand_path, writing
from cnnbench.notices import notice
from cnnbench.rendering.text import counted
from cnnbench.runs.directory import RunDir, find_runs
from cnnbench.runs.record import PRUNED, RunRecord
from cnnbench.signals import received
from cnnbench.sweeps.check import Slots, check_jobs
from cnnbench.sweeps.job import write_job
from cnnbench.sweeps.jobs import Sweep, SweepJob, file_name, run_directories
from cnnbench.sweeps.launchers import GONE, Launch, Launcher, create_launcher
from cnnbench.sweeps.lease import BEATS, Lease, Watcher, claim, keep_queued, read_lease, release
from cnnbench.sweeps.progress import SWEEP_FILE, JobState, Screen, SweepView, summary_line
from cnnbench.sweeps.results import load_results, show_results
from cnnbench.training.stop import STOP_SIGNALS, STOPPED_CODES

_POLL_SECONDS = 0.1
_LOOK_SECONDS = 1.0


def launch_sweep(
    sweep: Sweep, command: Sequence[str], launcher: str, config: LauncherConfig
) -> tuple[Path, int]:
    """Check the jobs of a sweep, and run those that are not done.

    Args:
        sweep: composed jobs.
        command: the command line, for the record.
        launcher: its name.
        config: how to launch.

    Returns:
        The sweep's directory and how many jobs failed.

    Raises:
        CnnbenchError: as ``run_sweep``, or a job does not fit this machine.
        UsageError: torchrun started this process and others.
    """
    check_alone("train -m", "cnnbench train -m ...")
    with contextlib.closing(create_launcher(launcher, config)) as created:
        checked = check_jobs([job.config for job in sweep.jobs], config, created)
        return run_sweep(sweep, command, config, checked.slots, created, checked.work)


def run_sweep(
    sweep: Sweep,
    command: Sequence[str],
    config: LauncherConfig,
    slots: Slots,
    launcher: Launcher,
    work: Sequence[float] | None = None,
) -> tuple[Path, int]:
    """Run every job that is not done yet, whatever becomes of the others.

    Args:
        sweep: checked jobs.
        command: the command line, for the record.
        config: how to launch.
        slots: how many run at once, and with what.
        launcher: closed by the caller.
        work: what each job costs beside the others, for the time that is left.

    Returns:
        The sweep's directory and how many jobs failed.

    Raises:
        Interrupted: a signal came; the running jobs have saved their state.
        ResourceError: the system starts no process.
        DiskError: the sweep's directory cannot be written.
    """
    root = expand_path(sweep.jobs[0].config.output_root) / "sweeps" / file_name(sweep.name)
    runs = run_directories(root, sweep.jobs)
    _tell_of_others(root, runs)
    with writing(root):
        (root / "jobs").mkdir(parents=True, exist_ok=True)
    costs = work or [1.0] * len(runs)
    write_sweep(
        root,
        command,
        [
            {"overrides": list(job.overrides), "run": run.path.name, "work": cost}
            for job, run, cost in zip(sweep.jobs, runs, costs, strict=True)
        ],
    )
    jobs = [
        SweepJob(number, " ".join(job.overrides) or job.config.model.name, job, run)
        for number, (job, run) in enumerate(zip(sweep.jobs, runs, strict=True), start=1)
    ]
    with Sweeping(root, jobs, command, config, slots, launcher) as sweeping:
        sweeping.run()
    done = [job for job in jobs if job.run.has_record]
    base = next((str(job.run.path) for job in done if job.job.is_baseline and job.is_done), None)
    show_results(root, [job.run.path for job in done], baseline=base, launcher=launcher)
    return root, sum(job.status == "failed" for job in jobs)


def _tell_of_others(root: Path, runs: Sequence[RunDir]) -> None:
    """Say that a directory has runs of other jobs, of which this command shows nothing."""
    others = {run.path for run in find_runs(root)} - {run.path for run in runs}
    if others:
        notice(
            f"{root} also holds {counted(len(others), 'run')} of other jobs, which are not in this "
            f"command's table and page: 'cnnbench compare {root}' shows all, and sweep.name=NAME "
            "gives these jobs a directory of their own"
        )


def write_sweep(root: Path, command: Sequence[str], jobs: Sequence[Mapping[str, Any]]) -> None:
    """Write which jobs a sweep has: of each ``overrides``, ``run``, and ``work`` where known."""
    record = {"format": 1, "command": list(command), "jobs": list(jobs)}
    atomic_write(root / SWEEP_FILE, f"{json.dumps(record, indent=2)}\n".encode())


def _outcome(record: RunRecord) -> str:
    """Return in words what a finished job gave."""
    word = "pruned" if record.reason == PRUNED else "done"
    for split in ("test", "val"):
        accuracy = record.results.get(f"{split}/accuracy")
        if isinstance(accuracy, float):
            return f"{word}, {split} accuracy {accuracy:.4f}"
    return word


class Sweeping:
    """Starts jobs, and takes note of how they end."""

    def __init__(
        self,
        root: Path,
        jobs: Sequence[SweepJob],
        command: Sequence[str],
        config: LauncherConfig,
        slots: Slots,
        launcher: Launcher,
    ) -> None:
        self.root, self.jobs, self.command = root, list(jobs), command
        self.config, self.slots, self.launcher = config, slots, launcher
        self.running: dict[str, SweepJob] = {}
        self.waiting = list(jobs)
        self.watcher = Watcher(config.lease_seconds)
        self.signals: list[int] = []
        self.num_failed = 0
        self.is_stopping = False
        self.view = SweepView(root)
        self.screen = Screen()
        self._looked, self._beaten = -_LOOK_SECONDS, time.monotonic()
        self._told: set[str] = set()
        for job in jobs:
            lease = read_lease(self._directory(job))
            job.generation = lease.generation if lease else 0

    def __enter__(self) -> Self:
        self._open = contextlib.ExitStack()
        self._open.enter_context(received(STOP_SIGNALS, self._receive))
        self._open.enter_context(self.screen)
        return self

    def __exit__(self, *exc: object) -> None:
        self._open.close()

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        self.signals.append(signum)

    def run(self) -> None:
        """Run until every job ended, or was told to stop."""
        sent = 0
        threading.Thread(target=load_results, daemon=True).start()
        while True:
            now = time.monotonic()
            is_look_due = now - self._looked >= _LOOK_SECONDS
            if not self.is_stopping and len(self.running) < self.slots.number and is_look_due:
                self._fill()
            if is_look_due:
                self._looked = now
                self._show()
            if now - self._beaten > self.config.lease_seconds / BEATS:
                self._beaten = now
                for job in self.running.values():
                    keep_queued(self._directory(job), job.generation)
            if not self.running and (self.is_stopping or not self.waiting):
                break
            for name, code in self.launcher.ended(_POLL_SECONDS).items():
                self._end(self.running.pop(name), code)
                self._looked = -_LOOK_SECONDS  # a slot is free
            for signum in self.signals[sent:]:
                self._stop(signum)
            sent = len(self.signals)
        if self.signals:
            text = f"the {self._progress()}; the same command resumes it"
            raise Interrupted(text, self.signals[0])

    def _progress(self) -> str:
        """Say how far it came before it was stopped."""
        done = sum(job.status.startswith("done") for job in self.jobs)
        return f"sweep stopped with {done} of {counted(len(self.jobs), 'job')} done"

    def _stop(self, signum: int) -> None:
        self.is_stopping = True
        self.launcher.signal(signum)

    def _fill(self) -> None:
        """Start jobs until no slot is free, in their order."""
        for job in list(self.waiting):
            if len(self.running) >= self.slots.number or self.is_stopping:
                return
            if self._is_settled(job):
                self.waiting.remove(job)
            elif self._take(job):
                self.waiting.remove(job)
                self.running[job.run.path.name] = job

    def _is_settled(self, job: SweepJob) -> bool:
        """Tell whether a job needs no process of ours, and take note of why."""
        lease = read_lease(self._directory(job))
        if job.is_done:
            where = " by another command" if job.status == "elsewhere" else " before"
            job.status = "done"
            self._line(f"{self._shown(job)}: done{where}")
            return True
        if lease is None or lease.generation <= job.generation or lease.is_held:
            return False
        if not lease.code or lease.code in STOPPED_CODES:
            return False
        self._fail(job, f"under another command: {lease.message}")
        return True

    def _take(self, job: SweepJob) -> bool:
        """Start a job that nobody else runs; tell whether that was so."""
        directory = self._directory(job)
        lease = read_lease(directory)
        if lease is not None and lease.is_held and not self.watcher.is_stale(directory, lease):
            if job.status != "elsewhere":
                self._line(f"{self._shown(job)}: another command runs it")
                job.status = "elsewhere"
            return False
        with writing(directory):
            directory.mkdir(exist_ok=True)
        generation = (lease.generation if lease else 0) + 1
        if not claim(directory, generation):
            return False
        name = job.run.path.name
        write_job(directory, job.job.config, self.command, self.config.lease_seconds)
        used = {other.slot for other in self.running.values()}
        job.slot = next(slot for slot in range(self.slots.number) if slot not in used)
        job.generation, job.status = generation, "running"
        command = (
            sys.executable,
            "-m",
            "cnnbench.sweeps.job",
            str(self.root),
            name,
            str(generation),
        )
        self._line(self._shown(job))
        self.launcher.submit(
            Launch(
                name,
                command,
                directory,
                self.slots.environment(job.slot),
                self.slots.num_threads or 1,
                self.slots.num_gpus,
            )
        )
        return True

    def _end(self, job: SweepJob, code: int | None) -> None:
        """Take note of a process that ended; what it left in its directory decides."""
        directory = self._directory(job)
        lease = read_lease(directory)
        if code is None or lease is None or lease.generation != job.generation:
            # Another command has it, or a process that nobody waits for any more.
            job.status = "waiting"
            self.waiting.append(job)
            return
        if lease.is_held and code == GONE and self._retries(job, lease):
            return
        if lease.is_held:
            lease = self._bury(job, lease, code)
        self._repeat_warnings(job)
        if job.is_done:
            job.status = "done"
            begun = {other.run.path.name for other in self.jobs if other.status != "waiting"}
            left = summary_line(self._states(begun), self.slots.number)
            self._line(f"{self._shown(job)}: {_outcome(job.run.record)}; {left}")
        elif not lease.code:  # max_seconds are over, as planned
            job.status = "interrupted"
            self._line(f"{self._shown(job)}: {lease.message or 'interrupted'}")
        elif self.is_stopping and lease.code in STOPPED_CODES:
            job.status = "interrupted"
        else:
            self._fail(job, lease.message)

    def _retries(self, job: SweepJob, lease: Lease) -> bool:
        """Let a job that was lost be started again, where it may; tell whether that is so."""
        if self.is_stopping or job.num_lost >= self.config.max_retries:
            return False
        job.num_lost += 1
        # The next generation stops the lost process at its next write, should it still be there.
        release(self._directory(job), lease, STOPPED_CODES[-1], "its machine or process was lost")
        self._line(
            f"{self._shown(job)}: its machine or process was lost; it is started again "
            f"({job.num_lost} of {self.config.max_retries})"
        )
        job.status = "waiting"
        self.waiting.insert(0, job)
        return True

    def _bury(self, job: SweepJob, lease: Lease, code: int) -> Lease:
        """Write for a process that died how it ended, in its lease and its run."""
        message = (
            f"its process was killed by signal {-code}; most often for want of memory: "
            "lower data.batch_size"
            if code < 0
            else f"its process ended with exit code {code}"
        )
        if code == GONE:
            code = -signal.SIGTERM if self.is_stopping else 1
            message = "its machine or process was lost, or it was cancelled; or it had no memory"
        if code < 0 and (-code in self.signals or self.is_stopping):
            code, message = 128 - code, "interrupted"
        elif job.run.has_record and not job.is_done:
            record = replace(job.run.record, status="failed", reason=message)
            record.write(job.run.record_file)
        ended = replace(lease, code=75 if code < 0 else code, message=message)
        release(self._directory(job), lease, ended.code or 75, message)
        return ended

    def _fail(self, job: SweepJob, reason: str) -> None:
        """Tell of a failure at once, and end the sweep where there were enough."""
        job.status, job.reason = "failed", reason
        log = self._directory(job) / "log.txt"
        notice(f"{self._shown(job)}: failed: {reason} ({job.run.path}; its log: {log})")
        self.num_failed += 1
        most = self.config.most_failures
        if most is not None and self.num_failed >= most and not self.is_stopping:
            notice(
                f"the sweep stops after {counted(self.num_failed, 'failed job')}; "
                "the same command resumes it"
            )
            self._stop(signal.SIGTERM)

    def _repeat_warnings(self, job: SweepJob) -> None:
        """Show what the log warns of, each sentence once in a sweep."""
        try:
            text = (self._directory(job) / "log.txt").read_text(errors="replace")
        except OSError:
            return
        for line in text.splitlines():
            if line.startswith("cnnbench: warning: ") and line not in self._told:
                self._told.add(line)
                notice(f"{line.removeprefix('cnnbench: ')} ({self._shown(job)})")

    def _show(self) -> None:
        if self.screen.is_live:
            self.screen.show(self._states(), self.slots.number)

    def _states(self, runs: Collection[str] | None = None) -> list[JobState]:
        """Return how all jobs stand, those to come included; only ``runs`` are looked at anew."""
        return self.view.refresh(runs)

    def _line(self, text: str) -> None:
        if not self.screen.is_live:
            self.screen.line(text)

    def _shown(self, job: SweepJob) -> str:
        return f"[{job.number}/{len(self.jobs)}] {job.name}"

    def _directory(self, job: SweepJob) -> Path:
        return self.root / "jobs" / job.run.path.name
