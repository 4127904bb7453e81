"""Who runs a job: a lease in files, for commands that share a sweep on one machine or on many.

A job's directory holds ``lease-<generation>.json``: its owner, a heartbeat that the owner counts
up, and at the end the outcome. Making the file of the next generation is how a job is taken, which
the file system lets one process do; the largest generation counts. Clocks of machines are never
compared: whoever watches times, by its own clock, how long a heartbeat stands still.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from cnnbench.errors import DiskError
from cnnbench.files import atomic_write, fence, read_regular, writing

_FILE = re.compile(r"lease-(\d{1,9})\.json")
_MAX_BYTES = 65_536
# How many heartbeats are in the time after which a lease is taken over.
BEATS = 6
# A watcher that was stopped itself must not take what it did not see for standing still.
_LONGEST_LOOK_SECONDS = 2.0


@dataclass(frozen=True)
class Lease:
    """What the newest lease of a job says.

    Attributes:
        generation: from 1; each taker's is one more.
        owner: ``machine``, ``pid`` and ``started`` of the process that holds it; ``queued`` where
            it is the one that took the job for another to run.
        heartbeat: counted up by the owner.
        code: exit code of the job once its process ended; None while the lease is held.
        message: why it failed, or what else its process said at the end.
    """

    generation: int
    owner: Mapping[str, Any] = field(default_factory=dict)
    heartbeat: int = 0
    code: int | None = None
    message: str = ""

    @property
    def is_held(self) -> bool:
        """Whether nobody released it yet, though its owner may be dead."""
        return self.code is None

    @property
    def is_queued(self) -> bool:
        """Whether who took the job has not begun it yet."""
        return self.is_held and bool(self.owner.get("queued"))

    def is_owner_dead(self) -> bool:
        """Tell whether the owner is known to be gone: a process of this machine that is not there.

        Of other machines only the heartbeat tells.
        """
        machine, _ = _this_machine()
        if not machine or self.owner.get("machine") != machine:
            return False
        pid = self.owner.get("pid")
        return type(pid) is int and _start_of(pid) != self.owner.get("started")


def read_lease(directory: Path) -> Lease | None:
    """Return a job's newest lease; None where nobody ever took the job.

    What cannot be read yet counts as held, by nobody known.
    """
    newest = _newest(directory)
    if newest == 0:
        return None
    try:
        tree = json.loads(read_regular(_file(directory, newest), _MAX_BYTES))
        owner, beat, code = tree["owner"], tree["heartbeat"], tree["code"]
        if isinstance(owner, dict) and type(beat) is int and isinstance(code, int | None):
            return Lease(newest, owner, beat, code, str(tree["message"]))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        pass
    return Lease(newest)


def claim(directory: Path, generation: int) -> bool:
    """Take a job by making its lease of the next generation; tell whether this process was first.

    Args:
        directory: of the job; it exists.
        generation: one more than that of ``read_lease``, 1 for the first.

    Raises:
        DiskError: the directory cannot be written.
    """
    with writing(directory):
        try:
            with _file(directory, generation).open("x") as file:
                file.write(_text(Lease(generation, {**owner(), "queued": True})))
        except FileExistsError:
            return False
        for older in _generations(directory):
            if older < generation:
                _file(directory, older).unlink(missing_ok=True)
    return _newest(directory) == generation


def release(directory: Path, lease: Lease, code: int, message: str) -> None:
    """Write how a job ended, so that anyone may take it at once.

    Args:
        directory: of the job.
        lease: of this process, or of one that is known to be dead.
        code: exit code of the job.
        message: one sentence where it is not 0.
    """
    if _newest(directory) == lease.generation:
        ended = replace(lease, code=code, message=message[:4000])
        with suppress(DiskError):  # then its owner's end tells, or its heartbeat
            atomic_write(_file(directory, lease.generation), _text(ended).encode())


def keep_queued(directory: Path, generation: int) -> None:
    """Count up the heartbeat of a job that this process took and that no other began yet.

    Args:
        directory: of the job.
        generation: that this process claimed.
    """
    lease = read_lease(directory)
    if lease is not None and lease.generation == generation and lease.is_queued:
        with suppress(DiskError):
            beaten = replace(lease, heartbeat=lease.heartbeat + 1)
            atomic_write(_file(directory, generation), _text(beaten).encode())


@contextmanager
def held(
    directory: Path, generation: int, seconds: float, stop: Callable[[], None]
) -> Iterator[Callable[[int, str], None]]:
    """Own a job: count the heartbeat up, and ask before each write whether it is still ours.

    Args:
        directory: of the job.
        generation: that was claimed for this process.
        seconds: after which others take over a heartbeat that stands still.
        stop: called, in any thread, where another process took the job; it does not return.

    Yields:
        What says, with exit code and message, how the job ended.
    """
    lease = Lease(generation, owner())
    is_over = threading.Event()

    def check() -> None:
        if _newest(directory) != generation:
            stop()

    def beat() -> None:
        nonlocal lease
        check()
        lease = replace(lease, heartbeat=lease.heartbeat + 1)
        with suppress(DiskError):  # a disk that is full for a while ends no job
            atomic_write(_file(directory, generation), _text(lease).encode())

    def beat_on() -> None:
        while not is_over.wait(seconds / BEATS):
            beat()

    def end(code: int, message: str) -> None:
        is_over.set()
        thread.join()
        check()
        release(directory, lease, code, message)

    thread = threading.Thread(target=beat_on, name="heartbeat", daemon=True)
    with fence(check):
        beat()
        thread.start()
        try:
            yield end
        finally:
            is_over.set()


class Watcher:
    """Times how long the heartbeats of others stand still.

    Args:
        seconds: after which a lease may be taken over; may be changed.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._seen: dict[Path, tuple[tuple[int, int], float, float]] = {}

    def is_stale(self, directory: Path, lease: Lease) -> bool:
        """Look at a held lease; tell whether its owner is dead, or silent for too long."""
        if lease.is_owner_dead():
            return True
        now, beat = time.monotonic(), (lease.generation, lease.heartbeat)
        seen, looked, still = self._seen.get(directory, (beat, now, 0.0))
        still = still + min(now - looked, _LONGEST_LOOK_SECONDS) if seen == beat else 0.0
        self._seen[directory] = (beat, now, still)
        return still > self.seconds


def neighbours(jobs: Path, own: str) -> dict[str, tuple[int, int, bool]]:
    """Return state of the leases that processes of this machine have of a sweep's other jobs.

    Args:
        jobs: the directory with a directory for each job.
        own: the name of the job that asks.

    Returns:
        By name generation, heartbeat and whether it is held by a process that may be alive.
    """
    machine, _ = _this_machine()
    found = {}
    for directory in jobs.iterdir():
        lease = read_lease(directory) if directory.name != own else None
        if lease is not None and lease.owner.get("machine") == machine:
            is_alive = lease.is_held and not lease.is_owner_dead()
            found[directory.name] = (lease.generation, lease.heartbeat, is_alive)
    return found


def owner() -> dict[str, Any]:
    """Return what tells this process from all others, on any machine and after any restart."""
    machine, pid = _this_machine()
    return {"machine": machine, "pid": pid, "started": _start_of(pid)}


def _this_machine() -> tuple[str, int]:
    """Return the boot and the process namespace, empty where the system does not tell; and us."""
    return _machine(), os.getpid()


@cache
def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _start_of(pid: int) -> str | None:
    """Return when a process of this machine started, in the kernel's ticks; None if it is gone."""
    try:
        # The name, in brackets, may hold anything.
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return None if state in "ZX" else rest[18]


def _file(directory: Path, generation: int) -> Path:
    return directory / f"lease-{generation}.json"


def _generations(directory: Path) -> list[int]:
    try:
        names = os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [int(match[1]) for name in names if (match := _FILE.fullmatch(name))]


def _newest(directory: Path) -> int:
    return max(_generations(directory), default=0)


def _text(lease: Lease) -> str:
    return json.dumps(
        {
            "owner": dict(lease.owner),
            "heartbeat": lease.heartbeat,
            "code": lease.code,
            "message": lease.message,
        }
    )
