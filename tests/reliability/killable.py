"""A warmed process that forks one training run for each line it reads, and says where it stood.

It imports everything and runs no operation of torch before it forks, so that a child is what a
new process would be, without the seconds of imports. Each child shows its phase in shared memory;
the parent kills it and reads there what was hit. Saves are slowed down a little, before and after
each system call, for they last microseconds and a kill would hardly ever fall into them.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib
import json
import mmap
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def watch(shown: Shown) -> None:
    """Wrap what a run does, so that it shows its phases."""
    import torch

    from cnnbench import checkpoint, files, training
    from cnnbench.checkpoint import Checkpoints
    from cnnbench.tracking import TensorBoard

    def wrap(owner: Any, name: str, choose: Callable[..., str]) -> None:
        original = getattr(owner, name)

        def wrapped(*args: Any, **keywords: Any) -> Any:
            before, phase = shown.phase, choose(*args)
            if before in _WIDE:
                return original(*args, **keywords)
            shown.enter(phase)
            time.sleep(_PAUSE_SECONDS)
            try:
                return original(*args, **keywords)
            finally:
                time.sleep(_PAUSE_SECONDS)
                shown.back(before)

        setattr(owner, name, wrapped)

    class InHalves:
        """A file whose bytes come in two parts with time to die between them."""

        def __init__(self, path: Path, mode: str) -> None:
            self.file = builtins.open(path, mode)  # noqa: SIM115

        def __enter__(self) -> InHalves:
            return self

        def __exit__(self, *exc: object) -> None:
            self.file.close()

        def write(self, content: bytes) -> None:
            half = len(content) // 2
            self.file.write(content[:half])
            self.file.flush()
            time.sleep(_PAUSE_SECONDS)
            self.file.write(content[half:])

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    def file_phase(path: Path, content: bytes) -> str:
        return "manifest" if path.name == "manifest.json" else "write"

    files.open = InHalves  # type: ignore[attr-defined]
    wrap(checkpoint, "atomic_write", file_phase)
    wrap(torch, "save", lambda *args, **keywords: "serialise")
    wrap(os, "fsync", lambda *args: "fsync")
    wrap(os, "replace", lambda *args: "rename")
    wrap(Checkpoints, "_prune", lambda *args: "prune")
    wrap(TensorBoard, "flush", lambda *args: "event flush")
    wrap(training.Training, "_evaluate", lambda *args: "evaluate")
    wrap(training.Training, "_log_step", lambda *args: "train")


def kill_when_due(child: int, order: dict[str, Any], shown: Shown) -> tuple[str, int]:
    """Kill the child as ordered; return its phase then and its wait status."""
    until = time.monotonic() + order.get("after_seconds", 60.0)
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return "ended", status
        if "phase" in order and (
            shown.phase == order["phase"] and shown.count(order["phase"]) >= order["count"]
        ):
            break
        time.sleep(0.0001)
    if order.get("kill", True):
        time.sleep(random.Random(str(order)).random() * _PAUSE_SECONDS * 0.5)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return shown.phase, status


def warm(names: list[str]) -> None:
    """Import what a child needed, so that the next ones need not."""
    for name in names:
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def main() -> None:
    """Answer each order, a JSON object a line, with the phase, the wait status and the time."""
    import cnnbench
    from cnnbench import run
    from cnnbench.compose import Composer
    from cnnbench.sweeps.expand import single_config

    composer = Composer()
    assert run
    assert single_config(composer, composer.parse([]))
    for line in sys.stdin:
        order = json.loads(line)
        shown = Shown()
        learned, told = os.pipe()
        since = time.monotonic()
        child = os.fork()
        if not child:
            os.close(learned)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            if order.get("kill", True):
                watch(shown)
            try:
                cnnbench.train(order["settings"])
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
                os._exit(1)
            if order.get("learn"):
                with os.fdopen(told, "w") as file:
                    file.write("\n".join(sys.modules))
            os._exit(0)
        os.close(told)
        with os.fdopen(learned) as file:
            names = file.read().splitlines() if order.get("learn") else []
        phase, status = kill_when_due(child, order, shown)
        warm(names)
        answer = {"phase": phase, "status": status, "seconds": time.monotonic() - since}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
