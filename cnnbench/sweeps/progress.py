"""How a sweep stands, read from its directory alone: by its own command and by ``runs watch``."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cnnbench.errors import CheckpointError, UsageError
from cnnbench.files import expand_path, read_regular
from cnnbench.runs.columns import finite_number
from cnnbench.runs.directory import RunDir
from cnnbench.sweeps.job import lease_seconds
from cnnbench.sweeps.lease import Lease, Watcher, read_lease
from cnnbench.tracking.console import format_seconds
from cnnbench.training.stop import STOPPED_CODES

if TYPE_CHECKING:
    from rich.table import Table

Status = Literal["waiting", "running", "silent", "done", "failed", "interrupted"]
SWEEP_FILE = "sweep.json"
# Seconds.
_LONG_LOOK = 0.1
_MAX_SWEEP_BYTES = 256 << 20
_MAX_ROWS = 20
_FINISHED = ("done", "failed", "interrupted")


@dataclass
class JobState:
    """How one job stands.

    Attributes:
        name: the settings in which it differs from the others.
        run: the name of its directory.
        work: multiply-accumulates of its training, or any measure of what it costs; > 0.
        status: ``silent`` is running, but its heartbeat stands still or its process is gone.
        fraction: of its training that is done, 0 to 1.
        epochs: finished, and of the run; as far as they are known.
        accuracy: of the newest validation, or the test where it is done.
        seconds: that its finished epochs took.
        other_seconds: of its process, where it is done: the start, the data and the test.
        reason: why it failed or was interrupted.
    """

    name: str
    run: str
    work: float = 1.0
    status: Status = "waiting"
    fraction: float = 0.0
    epochs: tuple[int, int] = (0, 0)
    accuracy: float | None = None
    seconds: float = 0.0
    other_seconds: float | None = None
    reason: str = ""
    _offset: int = field(default=0, repr=False)

    def row(self) -> dict[str, Any]:
        """Return what tables and JSON show of it."""
        return {
            "job": self.name,
            "status": self.status,
            "fraction": round(self.fraction, 4),
            "epoch": self.epochs[0],
            "accuracy": self.accuracy,
            "seconds": self.seconds,
            "reason": self.reason,
            "run": self.run,
        }


class SweepView:
    """Reads how a sweep's jobs stand; what was read once is not read again.

    Args:
        root: directory of the sweep.

    Raises:
        UsageError: it holds no sweep of ours.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        # A heartbeat that stands still for as long as its lease is called silent.
        self._watcher = Watcher(math.inf)
        self._fresh_until = 0.0
        self._written = _written(root)
        self.jobs = _jobs_of(root)

    def refresh(self, runs: Collection[str] | None = None) -> list[JobState]:
        """Return the jobs as they stand now; a search has more of them from time to time.

        Looking at all of very many takes long, and is done so seldom that it takes a tenth of the
        time.

        Args:
            runs: the names of those that are looked at; None for all.
        """
        started = time.monotonic()
        if runs is None and started < self._fresh_until:
            return self.jobs
        if (written := _written(self.root)) not in (self._written, None):
            known = {job.run for job in self.jobs}
            self._written = written
            self.jobs += [job for job in _jobs_of(self.root) if job.run not in known]
        for job in self.jobs:
            if job.status != "done" and (runs is None or job.run in runs):
                self._refresh(job)
        if runs is None:
            now = time.monotonic()
            self._fresh_until = now + 9 * (now - started) if now - started > _LONG_LOOK else now
        return self.jobs

    def _refresh(self, job: JobState) -> None:
        run, directory = RunDir(self.root / job.run), self.root / "jobs" / job.run
        lease = read_lease(directory)
        try:
            record = run.record if run.has_record else None
        except CheckpointError:
            record = None
        if record is None and lease is None:
            return
        if self._watcher.seconds == math.inf:
            self._watcher.seconds = lease_seconds(directory)
        if record is not None and record.status == "done":
            job.status, job.fraction = "done", 1.0
            accuracy = record.results.get("test/accuracy", record.results.get("val/accuracy"))
            job.accuracy = finite_number(accuracy)
            job.seconds = finite_number(record.results.get("train_seconds")) or 0.0
            job.other_seconds = _other_seconds(directory, lease, job.seconds)
            return
        if lease is not None and lease.is_held:
            job.status = "silent" if self._watcher.is_stale(directory, lease) else "running"
        elif lease is not None and lease.code:
            job.status = "interrupted" if lease.code in STOPPED_CODES else "failed"
        elif record is not None:
            job.status = "interrupted" if record.status == "running" else record.status
        job.reason = lease.message if lease is not None else ""
        if record is not None:
            self._follow(job, run, record.config, record.data.num_train)

    def _follow(
        self, job: JobState, run: RunDir, config: Mapping[str, Any], num_train: int | None
    ) -> None:
        """Read the lines of ``metrics.jsonl`` that came since the last look."""
        try:
            content = read_regular(run.metrics)
        except OSError:
            return
        if len(content) < job._offset:  # it was cut back where the run was resumed
            job._offset, job.seconds = 0, 0.0
        end = content.rfind(b"\n") + 1
        lines = content[job._offset : end].splitlines()
        job._offset = max(job._offset, end)
        try:
            num_epochs, batch = int(config["num_epochs"]), int(config["data"]["batch_size"])
            steps = num_epochs * math.ceil((num_train or 0) / batch)
        except (KeyError, TypeError, ValueError, ZeroDivisionError):
            return
        budget = config.get("budget")
        if isinstance(budget, dict) and any(value is not None for value in budget.values()):
            num_epochs = steps = 0  # its length is known to the run alone
        for line in lines:
            try:
                values = json.loads(line)
                epoch, step = int(values["epoch"]), int(values["global_step"])
            except (ValueError, KeyError, TypeError):
                continue
            job.fraction = min(1.0, step / steps) if steps else 0.0
            if "train/loss" in values:
                job.epochs = (epoch, num_epochs)
                job.seconds += finite_number(values.get("perf/epoch_seconds")) or 0.0
                job.accuracy = finite_number(values.get("val/accuracy"))


def _other_seconds(directory: Path, lease: Lease | None, seconds: float) -> float | None:
    """Return what a job's process took beside training, by the file system's clock.

    None where it was no one process, or its files are gone.
    """
    if lease is None or lease.generation > 1:
        return None
    try:
        started, ended = (
            (directory / name).stat().st_mtime for name in ("job.json", "lease-1.json")
        )
    except OSError:
        return None
    return max(0.0, ended - started - seconds)


def _written(root: Path) -> int | None:
    """Return when a sweep's list of jobs was written, by the file system's clock."""
    try:
        return (root / SWEEP_FILE).stat().st_mtime_ns
    except OSError:
        return None


def _jobs_of(root: Path) -> list[JobState]:
    """Return the jobs of a sweep, none of them looked at yet."""
    return [
        JobState(" ".join(job["overrides"]) or job["run"], job["run"], job.get("work") or 1.0)
        for job in _read_sweep(root / SWEEP_FILE)
    ]


def _read_sweep(file: Path) -> list[dict[str, Any]]:
    """Return the jobs that a ``sweep.json`` lists.

    Raises:
        UsageError: there is none, or it is none of ours.
    """
    try:
        tree = json.loads(read_regular(file, _MAX_SWEEP_BYTES))
        jobs = [
            {
                "overrides": [str(text) for text in job["overrides"]],
                "run": job["run"],
                "work": finite_number(job.get("work")),
            }
            for job in tree["jobs"]
        ]
        if all(isinstance(job["run"], str) and Path(job["run"]).name == job["run"] for job in jobs):
            return jobs
    except FileNotFoundError:
        raise UsageError(f"{file.parent}: holds no sweep.json, so it is no sweep") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise UsageError(f"{file}: not a sweep that this version can read")


def newest_sweep(path: str) -> Path:
    """Return a sweep's directory: the path itself, or the one below that was begun last.

    Raises:
        UsageError: there is none.
    """
    root = expand_path(path)
    if (root / SWEEP_FILE).is_file():
        return root
    found = [*root.glob(f"*/{SWEEP_FILE}"), *root.glob(f"sweeps/*/{SWEEP_FILE}")]
    if not found:
        raise UsageError(f"{path}: no sweep, and none right below; 'train -m' makes one")
    return max(found, key=lambda file: file.stat().st_mtime).parent


def seconds_left(jobs: Sequence[JobState], slots: int) -> float | None:
    """Estimate how long the jobs that are left take, from what the finished ones took.

    Args:
        jobs: as they stand.
        slots: how many run at once, >= 1.

    Returns:
        None as long as no epoch was finished.
    """
    measured = [job for job in jobs if job.seconds and job.fraction]
    if not measured:
        return None
    rate = sum(job.seconds for job in measured) / sum(job.work * job.fraction for job in measured)
    others = [job.other_seconds for job in jobs if job.other_seconds is not None]
    beside = statistics.median(others) if others else 0.0
    left = [
        rate * job.work * (1 - job.fraction) + (beside if job.status == "waiting" else 0.0)
        for job in jobs
        if job.status not in _FINISHED
    ]
    return max(sum(left) / slots, max(left, default=0.0))


def summary_line(jobs: Sequence[JobState], slots: int) -> str:
    """Return counts by status, and the time that is left for the whole."""
    counts = Counter(job.status for job in jobs)
    order: tuple[Status, ...] = (
        "done",
        "running",
        "silent",
        "waiting",
        "interrupted",
        "failed",
    )
    parts = [f"{counts[status]} {status}" for status in order if counts[status]]
    left = seconds_left(jobs, slots)
    if left is not None and (counts["running"] or counts["waiting"]):
        parts.append(f"about {format_seconds(left)} left")
    return ", ".join(parts)


def live_table(jobs: Sequence[JobState], slots: int) -> Table:
    """Return the table of a terminal: what runs, what failed, and as many others as there is room.

    Args:
        jobs: as they stand.
        slots: how many run at once.
    """
    from rich.table import Table
    from rich.text import Text

    order = ("running", "silent", "failed", "interrupted", "waiting", "done")
    shown = sorted(jobs, key=lambda job: order.index(job.status))[:_MAX_ROWS]
    table = Table(caption=Text(summary_line(jobs, slots)), caption_justify="left", box=None)
    # What is measured keeps its place beside a long name.
    for head, width in (("job", 3), ("status", 12), ("epoch", 7), ("accuracy", 8), ("seconds", 7)):
        table.add_column(head, overflow="ellipsis", no_wrap=True, min_width=width)
    for job in (job for job in jobs if job in shown):
        epoch = f"{job.epochs[0]}/{job.epochs[1]}" if job.epochs[1] else str(job.epochs[0] or "")
        status = f"running {job.fraction:.0%}" if job.status == "running" else job.status
        accuracy = "" if job.accuracy is None else f"{job.accuracy:.4f}"
        seconds = f"{job.seconds:.1f}" if job.seconds else ""
        # Text, so that brackets in a name are no markup.
        table.add_row(*map(Text, (job.name, status, epoch, accuracy, seconds)))
    if len(jobs) > len(shown):
        table.add_row(Text(f"and {len(jobs) - len(shown)} more"))
    return table


def watch(root: Path, refresh_seconds: float = 1.0) -> list[JobState]:
    """Show a sweep that other processes run until none of its jobs runs any more.

    Args:
        root: directory of the sweep.
        refresh_seconds: between two looks; > 0.

    Returns:
        The jobs as they stand at the end.

    Raises:
        UsageError: it is no sweep.
    """
    view = SweepView(root)
    with Screen() as screen:
        before: dict[str, Status] = {}
        while True:
            jobs = view.refresh()
            running = sum(job.status == "running" for job in jobs)
            screen.show(jobs, max(1, running))
            for job in jobs if not screen.is_live else ():
                if before.get(job.run) != job.status != "waiting":
                    screen.line(f"{job.name}: {job.status}{job.reason and f' ({job.reason})'}")
                    before[job.run] = job.status
            if not running:
                screen.line(summary_line(jobs, 1))
                return jobs
            time.sleep(refresh_seconds)


class Screen:
    """A table that is drawn anew in a terminal or a notebook; plain lines elsewhere."""

    def __init__(self) -> None:
        import sys

        from rich.console import Console
        from rich.live import Live

        from cnnbench.notices import guarded
        from cnnbench.tracking.console import Cell

        self._console = Console(file=guarded(sys.stdout))
        self._cell = Cell.of(self._console)
        self.is_live = self._console.is_interactive or self._cell is not None
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stderr=sys.stderr is not None and sys.stderr.isatty(),
        )

    def __enter__(self) -> Screen:
        if self.is_live and self._cell is None:
            self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._cell is not None:
            self._cell.clear()
        elif self.is_live:
            self._live.stop()

    def show(self, jobs: Sequence[JobState], slots: int) -> None:
        """Draw the table, in a terminal or a notebook."""
        if self._cell is not None:
            self._cell.show(live_table(jobs, slots))
        elif self.is_live:
            self._live.update(live_table(jobs, slots), refresh=True)

    def line(self, text: str) -> None:
        """Print a line, above the table where there is one."""
        self._console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)
