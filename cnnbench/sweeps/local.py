"""Run the jobs of a sweep one after another in a process of their own.

The process keeps torch loaded between jobs, and takes only its job with it when it dies: killed
for memory, say. The sweep then continues in a fresh one.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType

from cnnbench.config.run_config import read_config, to_tree
from cnnbench.errors import CnnbenchError, DiskError, Interrupted
from cnnbench.files import atomic_write, expand_path, writing
from cnnbench.notices import guard_streams, notice, warn
from cnnbench.rendering.text import terminal_width
from cnnbench.runs.directory import RunDir
from cnnbench.runs.provenance import code_version, model_files, run_key
from cnnbench.sweeps.jobs import Job, Sweep, file_name

# Digits of the run key in a directory's name: more only where fewer are another run's.
_KEY_DIGITS = (6, 16, 64)
_POLL_SECONDS = 0.1
REPORT = "report.html"


def run_sweep(sweep: Sweep, command: Sequence[str]) -> tuple[Path, int]:
    """Run every job that is not done yet, whatever becomes of the others.

    Args:
        sweep: checked jobs.
        command: the command line, for the record.

    Returns:
        The sweep's directory and how many jobs failed.

    Raises:
        Interrupted: a signal came; the running job has saved its state.
    """
    root = expand_path(sweep.jobs[0].config.output_root) / "sweeps" / file_name(sweep.name)
    runs = _run_directories(root, sweep.jobs)
    with writing(root):
        root.mkdir(parents=True, exist_ok=True)
    record = {
        "format": 1,
        "command": list(command),
        "jobs": [
            {"overrides": list(job.overrides), "run": run.path.name}
            for job, run in zip(sweep.jobs, runs, strict=True)
        ],
    }
    atomic_write(root / "sweep.json", f"{json.dumps(record, indent=2)}\n".encode())
    num_failed = 0
    with _Worker() as worker:
        for number, (job, run) in enumerate(zip(sweep.jobs, runs, strict=True), start=1):
            name = " ".join(job.overrides) or job.config.model.name
            shown = f"[{number}/{len(runs)}] {name}"
            if _is_done(run):
                print(f"{shown}: done before", flush=True)
                code, message = 0, ""
            else:
                print(shown, flush=True)
                code, message = worker.run(job, run, command)
            if code:
                notice(f"{shown}: failed: {message} ({run.path})")
                num_failed += 1
            if worker.received:
                raise Interrupted(
                    f"the sweep stopped at job {number} of {len(runs)}; "
                    "the same command resumes it",
                    worker.received,
                )
    _show_results(root, [run.path for run in runs if run.has_record])
    return root, num_failed


def _show_results(root: Path, runs: Sequence[Path]) -> None:
    """Print the table of a sweep's runs with its verdict, and leave it as a page in the sweep."""
    from cnnbench.analysis.compare.formats import comparison_text
    from cnnbench.analysis.compare.report import write_report
    from cnnbench.analysis.compare.tables import compare_runs

    if not runs:
        return
    found = compare_runs(runs)
    print(f"\n{comparison_text(found, 'text', terminal_width())}", flush=True)
    try:
        write_report(found, root / REPORT)
        print(f"report: {root / REPORT}", flush=True)
    except DiskError as error:
        warn(f"the sweep has no page: {error}")


def _run_directories(root: Path, jobs: Sequence[Job]) -> list[RunDir]:
    """Return each job's directory: its overrides and as much of its run key as tells it apart.

    A name is cut and few digits of a key can be another run's, so that the whole recorded key
    decides whether a directory is this job's.
    """
    runs: list[RunDir] = []
    for job in jobs:
        stem, key = file_name(",".join(job.overrides)) or job.config.model.name, _run_key(job)
        candidates = (RunDir(root / f"{stem}-{key[:digits]}") for digits in _KEY_DIGITS)
        taken = {run.path for run in runs}
        runs.append(
            next(
                run
                for run in candidates
                if run.path not in taken
                and (not run.has_record or run.record.provenance.run_key == key)
            )
        )
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


def _is_done(run: RunDir) -> bool:
    return run.has_record and run.record.status == "done"


class _Worker:
    """The process in which jobs run, started when the first one needs it.

    It has a process group of its own, so that each signal reaches it once: through here.
    """

    def __init__(self) -> None:
        self.received = 0
        self._process: multiprocessing.process.BaseProcess | None = None
        self._connection: Connection | None = None

    def __enter__(self) -> _Worker:
        self._before = {
            number: signal.signal(number, self._forward)
            for number in (signal.SIGINT, signal.SIGTERM)
            if signal.getsignal(number) != signal.SIG_IGN
        }
        return self

    def __exit__(self, *exc: object) -> None:
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._process.join()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _forward(self, signum: int, frame: FrameType | None) -> None:
        self.received = signum
        if self._process is not None and self._process.pid and self._process.is_alive():
            os.kill(self._process.pid, signum)

    def run(self, job: Job, run: RunDir, command: Sequence[str]) -> tuple[int, str]:
        """Run one job and return its exit code and message."""
        if self._process is None or not self._process.is_alive():
            context = multiprocessing.get_context("spawn")
            self._connection, theirs = context.Pipe()
            self._process = context.Process(target=_work, args=(theirs,))
            self._process.start()
            theirs.close()
        assert self._connection is not None
        try:
            self._connection.send((to_tree(job.config), str(run.path), list(command)))
            while not self._connection.poll(_POLL_SECONDS):
                pass
            code, message = self._connection.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            died = self._process.exitcode or 0
            if self.received:
                return 128 + self.received, "interrupted"
            reason = (
                f"its process was killed by signal {-died}; most often for want of memory: "
                "lower data.batch_size"
                if died < 0
                else f"its process ended with exit code {died}"
            )
            _mark_failed(run, reason)
            return 75, reason
        return int(code), str(message)


def _mark_failed(run: RunDir, reason: str) -> None:
    """Write into a dead job's run what it could not write itself."""
    if run.has_record:
        replace(run.record, status="failed", reason=reason).write(run.record_file)


def _work(connection: Connection) -> None:
    guard_streams()
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    # No traceback when the sweep is over, or a signal comes between jobs.
    with suppress(EOFError, KeyboardInterrupt, ConnectionError):
        from cnnbench.training.launch import resume

        while True:
            tree, path, command = connection.recv()
            reply = (0, "")
            try:
                resume(read_config(tree), RunDir(Path(path)), command)
            except CnnbenchError as error:
                reply = (error.exit_code, str(error))
            except Exception as error:
                traceback.print_exc()
                reply = (70, f"a bug in cnnbench, {type(error).__name__}: {error}")
            connection.send(reply)
