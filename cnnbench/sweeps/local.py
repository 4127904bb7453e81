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
from typing import Any

from cnnbench.config.run_config import read_config, to_tree
from cnnbench.errors import CnnbenchError, Interrupted
from cnnbench.files import atomic_write, expand_path, writing
from cnnbench.notices import guard_streams, notice
from cnnbench.rendering.text import render_table
from cnnbench.runs.directory import RunDir
from cnnbench.runs.provenance import code_version, model_files, run_key
from cnnbench.sweeps.jobs import Job, Sweep, file_name

# Digits of the run key in a directory's name: more only where fewer are another run's.
_KEY_DIGITS = (6, 16, 64)
_POLL_SECONDS = 0.1
_SCORES = ("val/accuracy", "test/accuracy", "val/r2", "test/r2")
_COLUMNS = ("job", "status", "best_epoch", *_SCORES, "train_seconds", "run")


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
    rows: list[dict[str, Any]] = []
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
            rows.append(_row(name, run, code))
            if worker.received:
                raise Interrupted(
                    f"the sweep stopped at job {number} of {len(runs)}; "
                    "the same command resumes it",
                    worker.received,
                )
    absent = {name for name in _SCORES[2:] if all(row.get(name) is None for row in rows)}
    columns = [name for name in _COLUMNS if name not in absent]
    print(f"\n{render_table(rows, columns, 'text')}", flush=True)
    return root, sum(row["status"] == "failed" for row in rows)


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


def _row(name: str, run: RunDir, code: int) -> dict[str, Any]:
    if code:
        return {"job": name, "status": "failed", "run": run.path.name}
    record = run.record
    return {"job": name, "status": record.status, "run": run.path.name, **record.results}


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
