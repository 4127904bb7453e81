"""A warmed process that forks commands for each line it reads, and says how they ended.

It imports everything and runs no operation of torch before it forks, so that a child is what a
new process would be, without the seconds of imports. A child that is to be killed shows its phase
in shared memory; the parent kills it and reads there what was hit. Its saves are slowed down a
little, before and after each system call, for they last microseconds and a kill would hardly ever
fall into them. A child may also kill itself at a named point of a save.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import mmap
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

PHASES = (
    "start",
    "train",
    "evaluate",
    "serialise",
    "write",
    "fsync",
    "rename",
    "manifest",
    "prune",
    "event flush",
)
# What other phases run inside of; these keep their name.
_WIDE = ("manifest", "prune")
_PAUSE_SECONDS = 0.002
# The parent may be late where the machine is busy.
_UNTIL_KILLED_SECONDS = 60


class Shown:
    """The phase of the child and how often each was entered, where the parent sees them."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, 1 + len(PHASES))

    @property
    def phase(self) -> str:
        return PHASES[self.memory[0]]

    def enter(self, phase: str) -> None:
        place = PHASES.index(phase)
        self.memory[0] = place
        self.memory[1 + place] = min(255, self.memory[1 + place] + 1)

    def back(self, phase: str) -> None:
        self.memory[0] = PHASES.index(phase)

    def count(self, phase: str) -> int:
        return self.memory[1 + PHASES.index(phase)]


class InHalves:
    """A file whose bytes come in two parts, with something to happen at each point.

    Args:
        path: of the file.
        mode: as ``open`` takes it.
        happened: is told the file's name and what was just done: ``open``, ``half a write`` or
            ``write``.
    """

    def __init__(self, path: Path, mode: str, happened: Callable[[str, str], None]) -> None:
        self.file, self.name = open(path, mode), path.name  # noqa: SIM115
        self.happened = happened
        happened(self.name, "open")

    def __enter__(self) -> InHalves:
        return self

    def __exit__(self, *exc: object) -> None:
        self.file.close()

    def write(self, content: bytes) -> None:
        half = len(content) // 2
        self.file.write(content[:half])
        self.file.flush()
        self.happened(self.name, "half a write")
        self.file.write(content[half:])
        self.file.flush()
        self.happened(self.name, "write")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def watch(shown: Shown, order: dict[str, Any]) -> None:
    """Wrap what a run does, so that it shows its phases, and waits in the one it is to die in."""
    import torch

    from cnnbench import files
    from cnnbench.runs import checkpoint
    from cnnbench.runs.checkpoint import Checkpoints
    from cnnbench.tracking import TensorBoard
    from cnnbench.training import trainer as training

    def wrap(owner: Any, name: str, choose: Callable[..., str]) -> None:
        original = getattr(owner, name)

        def wrapped(*args: Any, **keywords: Any) -> Any:
            before, phase = shown.phase, choose(*args)
            if before in _WIDE:
                return original(*args, **keywords)
            shown.enter(phase)
            is_due = phase == order.get("phase") and shown.count(phase) >= order["count"]
            time.sleep(_UNTIL_KILLED_SECONDS if is_due else _PAUSE_SECONDS)
            try:
                return original(*args, **keywords)
            finally:
                time.sleep(_PAUSE_SECONDS)
                shown.back(before)

        setattr(owner, name, wrapped)

    def file_phase(path: Path, content: bytes) -> str:
        return "manifest" if path.name == "manifest.json" else "write"

    def pause(name: str, what: str) -> None:
        if what == "half a write":
            time.sleep(_PAUSE_SECONDS)

    files.open = functools.partial(InHalves, happened=pause)  # type: ignore[attr-defined]
    wrap(checkpoint, "atomic_write", file_phase)
    wrap(torch, "save", lambda *args, **keywords: "serialise")
    wrap(os, "fsync", lambda *args: "fsync")
    wrap(os, "replace", lambda *args: "rename")
    wrap(Checkpoints, "_prune", lambda *args: "prune")
    wrap(TensorBoard, "flush", lambda *args: "event flush")
    wrap(training.Training, "_evaluate", lambda *args: "evaluate")
    wrap(training, "log_step", lambda *args: "train")


def die_at(file: str, call: str, count: int) -> None:
    """Make this process kill itself once a call of a save has returned.

    Args:
        file: name of what is written or removed; of a directory's fsync, what changed in it.
        call: one of ``CALLS``.
        count: die at so manieth of them, from 1.
    """
    from cnnbench import files

    seen = 0
    renamed = ""

    def done(name: str, what: str) -> None:
        nonlocal seen
        if (name.partition(".tmp-")[0], what) == (file, call):
            seen += 1
            if seen == count:
                os.kill(os.getpid(), signal.SIGKILL)

    fsync, replace, unlink = os.fsync, os.replace, Path.unlink

    def dying_fsync(descriptor: int) -> None:
        nonlocal renamed
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)
        if path.is_dir():
            name, renamed = renamed, ""
            done(name, "directory fsync")
        else:
            done(path.name, "fsync")

    def dying_replace(source: Path, target: Path) -> None:
        nonlocal renamed
        replace(source, target)
        renamed = target.name
        done(target.name, "rename")

    def dying_unlink(self: Path, missing_ok: bool = False) -> None:
        nonlocal renamed
        unlink(self, missing_ok)
        renamed = self.name
        done(self.name, "unlink")

    files.open = functools.partial(InHalves, happened=done)  # type: ignore[attr-defined]
    os.fsync, os.replace, Path.unlink = dying_fsync, dying_replace, dying_unlink  # type: ignore


CALLS = ("open", "half a write", "write", "fsync", "rename", "directory fsync", "unlink")


class Child:
    """A forked command."""

    def __init__(self, order: dict[str, Any], copy: int = 0) -> None:
        self.copy = copy
        self.order, self.shown, self.since = order, Shown(), time.monotonic()
        self.phase = "ended"
        self.out, self.err, self.names = (tempfile.TemporaryFile() for _ in range(3))  # noqa: SIM115
        self.pid = os.fork()
        if not self.pid:
            self._work()

    def _work(self) -> NoReturn:
        """Run the command as the real one does, and end without what the parent has at exit."""
        code, known = 70, set(sys.modules)
        try:
            os.dup2(self.out.fileno(), 1)
            os.dup2(self.err.fileno(), 2)
            if "phase" in self.order or "after_seconds" in self.order:
                watch(self.shown, self.order)
            if "die_at" in self.order:
                die_at(*self.order["die_at"])
            exec(self.order.get("preamble", ""), {"__name__": "preamble", "COPY": self.copy})
            from cnnbench.__main__ import main

            sys.argv = ["cnnbench", *self.order["argv"]]
            try:
                code = main()
            except SystemExit as error:
                code = error.code if isinstance(error.code, int) else 70
            sys.stdout.flush()
            self.names.write("\n".join(sys.modules.keys() - known).encode())
            self.names.flush()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)

    def wait(self) -> dict[str, Any]:
        """Kill the child where that is ordered, wait for it, and say how it ended."""
        status = self._kill_when_due()
        out, err, names = map(content_of, (self.out, self.err, self.names))
        warm(names.splitlines())
        return {
            "phase": self.phase,
            "code": os.waitstatus_to_exitcode(status),
            "out": out,
            "err": err,
            "seconds": time.monotonic() - self.since,
        }

    def _kill_when_due(self) -> int:
        order, shown = self.order, self.shown
        if "phase" not in order and "after_seconds" not in order:
            return os.waitpid(self.pid, 0)[1]
        until = self.since + order.get("after_seconds", 300.0)
        while time.monotonic() < until:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                return status
            if "phase" in order and (
                shown.phase == order["phase"] and shown.count(order["phase"]) >= order["count"]
            ):
                break
            time.sleep(0.0001)
        os.kill(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        if os.WIFSIGNALED(status):
            self.phase = shown.phase
        return status


def content_of(file: Any) -> str:
    """Return what a child wrote."""
    with file:
        file.seek(0)
        return file.read().decode()


def warm(names: list[str]) -> None:
    """Import what a child needed, so that the next ones need not."""
    # TensorFlow, which torch's writer imports where it finds it, begins threads that no fork has.
    sys.modules.setdefault("tensorflow", None)  # type: ignore[arg-type]
    for name in names:
        if name not in sys.modules:
            with contextlib.suppress(Exception):
                importlib.import_module(name)


def main() -> None:
    """Answer each order, a JSON object a line, with how each copy of it ended."""
    from cnnbench.cli import main as cli
    from cnnbench.config.command import single_config
    from cnnbench.config.compose import Composer
    from cnnbench.training import launch as run

    composer = Composer()
    assert cli
    assert run
    assert single_config(composer, composer.parse([]))
    for line in sys.stdin:
        order = json.loads(line)
        children = [Child(order, copy) for copy in range(order.get("copies", 1))]
        print(json.dumps([child.wait() for child in children]), flush=True)


if __name__ == "__main__":
    main()
