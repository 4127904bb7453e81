"""What the process of one job does: ``python -m cnnbench.sweeps.job SWEEP NAME GENERATION``.

All that it needs lies in the sweep's directory: ``jobs/NAME/job.json`` says what to train, the run
is ``NAME``, and the lease of that generation was claimed for it.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from cnnbench.config.run_config import RunConfig, read_config, to_tree
from cnnbench.data.shared import sharing
from cnnbench.errors import CheckpointError, CnnbenchError, Interrupted
from cnnbench.files import atomic_write, read_regular
from cnnbench.notices import guard_streams, notice
from cnnbench.runs.directory import RunDir
from cnnbench.sweeps.lease import held, neighbours, owner, read_lease
from cnnbench.training.stop import STOP_SIGNALS

# In a job's directory: a search gave the job up.
PRUNE_FILE = "prune"
# What the process ends with where another one took its job.
_LOST = 1
_FORMAT = 1
_MAX_BYTES = 4 << 20


def write_job(
    directory: Path, config: RunConfig, command: Sequence[str], lease_seconds: float
) -> None:
    """Write what ``main`` reads.

    Args:
        directory: of the job, which exists; not that of its run.
        config: of the run.
        command: the sweep's command line, for the record.
        lease_seconds: as ``lease.held`` takes it.

    Raises:
        DiskError: it cannot be written.
    """
    tree = {
        "format": _FORMAT,
        "command": list(command),
        "lease_seconds": lease_seconds,
        "config": to_tree(config),
    }
    atomic_write(directory / "job.json", f"{json.dumps(tree, indent=1)}\n".encode())


def main(argv: Sequence[str]) -> int:
    """Run a job and say in its lease how it ended.

    Args:
        argv: directory of the sweep, name of the job, generation of its lease.

    Returns:
        The exit code, which the lease has too.
    """
    guard_streams()
    root, name, generation = Path(argv[0]), argv[1], int(argv[2])
    for number in STOP_SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _leave)
    directory = root / "jobs" / name
    try:
        job = _read(directory / "job.json")
        if _is_begun(directory, generation):
            notice(f"{name}: another process began it under this lease; whoever started it retries")
            return _LOST
        lease = held(directory, generation, job["lease_seconds"], lambda: _lose(name))
        with sharing(), lease as end:
            code, message = _train(root, name, generation, job)
            end(code, message)
    except CnnbenchError as error:
        notice(str(error))
        code = error.exit_code
    return code


def _is_begun(directory: Path, generation: int) -> bool:
    """Tell whether another process began a lease and did not end it.

    A cluster that starts a job again after its machine failed cannot know that the first process
    is gone; whoever started it takes the next generation, which stops that one.
    """
    lease = read_lease(directory)
    if lease is None or lease.generation != generation or not lease.owner:
        return False
    return lease.is_held and not lease.is_queued and lease.owner != owner()


def _train(root: Path, name: str, generation: int, job: dict[str, Any]) -> tuple[int, str]:
    """Train, and return the exit code with one sentence where it is not 0."""
    try:
        before = neighbours(root / "jobs", name)

        def beside() -> list[str]:
            now = neighbours(root / "jobs", name)
            ran = {other for other, state in now.items() if state[2] or state != before.get(other)}
            return sorted(ran | {other for other, state in before.items() if state[2]})

        from cnnbench.training.launch import resume

        run = RunDir(root / name, generation)
        given_up = (root / "jobs" / name / PRUNE_FILE).exists
        config = read_config(job["config"])
        resume(config, run, job["command"], beside=beside, is_pruned=given_up)
    except Interrupted as error:
        return error.exit_code, str(error)
    except CnnbenchError as error:
        notice(str(error))
        return error.exit_code, str(error)
    except SystemExit as error:  # a signal before training could answer it
        return int(error.code or 0), "stopped before it trained"
    except Exception as error:
        traceback.print_exc()
        return 70, f"a bug in cnnbench, {type(error).__name__}: {error}"
    return 0, ""


def _read(file: Path) -> dict[str, Any]:
    try:
        job = json.loads(read_regular(file, _MAX_BYTES))
        if job["format"] == _FORMAT and isinstance(job["config"], dict):
            return {
                "config": job["config"],
                "command": [str(word) for word in job["command"]],
                "lease_seconds": float(job["lease_seconds"]),
            }
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        pass
    raise CheckpointError(f"{file}: not a job that this version can read")


def lease_seconds(directory: Path) -> float:
    """Return how long a job's heartbeat may stand still; infinity where it does not say.

    Args:
        directory: of the job.
    """
    try:
        return float(_read(directory / "job.json")["lease_seconds"])
    except CheckpointError:
        return math.inf


def _leave(signum: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + signum)


def _lose(name: str) -> NoReturn:
    notice(f"{name}: another process took this job over while this one stood still; it stops here")
    # At once: what is still in buffers must not reach the run, which is the other one's.
    os._exit(_LOST)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
