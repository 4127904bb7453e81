"""Forks the processes of jobs: a program that ``local`` talks to in lines of JSON.

It loads what training imports, and begins neither threads nor CUDA, which a fork would break. It
ends with whoever started it; the jobs do not.

Orders: ``{"start", "command", "log", "environment"}``, ``{"load": modules}`` and ``{"signal"}``.
Answers: ``{name: exit code}``, negative where a signal killed it.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# What a job imports sooner or later, so that each need not.
PRELOADED = (
    "torch",
    "tensorboard.compat.proto.event_pb2",
    "tensorboard.summary.writer.record_writer",
    "tensorboard.plugins.hparams.plugin_data_pb2",
    "tensorboard.plugins.pr_curve.metadata",
    "PIL.Image",
    *(f"PIL.{name}ImagePlugin" for name in ("Bmp", "Gif", "Jpeg", "Png", "Ppm")),
    "filelock",
    "numpy.random",
    "yaml",
    "cnnbench.tracking.graph",
    "cnnbench.sweeps.job",
    "cnnbench.training.launch",
)
_POOLS = ("OPENBLAS_NUM_THREADS",)


def main() -> None:
    """Serve until the input ends."""
    answers = os.dup(1)
    os.dup2(2, 1)  # what a library prints is no answer
    preload()
    wake, wakened = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.signal(signal.SIGCHLD, lambda signum, frame: None)
    signal.set_wakeup_fd(wakened)
    running: dict[int, str] = {}
    unread = b""

    def become_job() -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for descriptor in (answers, wake, wakened):
            os.close(descriptor)

    while True:
        ready, _, _ = select.select([0, wake], [], [])
        if wake in ready:
            os.read(wake, 1 << 16)
        if 0 in ready:
            received = os.read(0, 1 << 16)
            if not received:
                os._exit(0)
            *lines, unread = (unread + received).split(b"\n")
            for line in lines:
                _obey(json.loads(line), running, become_job)
        for pid, code in _ended(running):
            os.write(answers, json.dumps({running.pop(pid): code}).encode() + b"\n")


def preload(names: Sequence[str] = PRELOADED) -> None:
    """Load what jobs import. Libraries whose import begins threads are told to begin none."""
    gc.disable()  # imports leave little garbage, and looking for it takes a tenth of the time
    before = {name: os.environ.get(name) for name in _POOLS}
    os.environ.update(dict.fromkeys(_POOLS, "1"))
    for name in names:
        importlib.import_module(name)
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value
    gc.enable()
    gc.freeze()  # pages that no collection touches stay shared


def _obey(
    order: Mapping[str, Any], running: dict[int, str], become_job: Callable[[], None]
) -> None:
    if "signal" in order:
        # None of them was waited for, so that each number is still its own.
        for pid in running:
            os.kill(pid, order["signal"])
        return
    if "load" in order:
        preload(order["load"])
        return
    pid = os.fork()
    if pid:
        running[pid] = order["start"]
        return
    code = 70
    try:
        become_job()
        code = _run(order)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _run(order: Mapping[str, Any]) -> int:
    """Be the job of an order, in the process that was forked for it."""
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    sys.stdout = open(1, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
    os.environ.update(order["environment"])
    _python, _flag, module, *arguments = order["command"]
    sys.argv = [module, *arguments]
    return int(importlib.import_module(module).main(arguments))


def _ended(running: Mapping[int, str]) -> list[tuple[int, int]]:
    found = []
    for pid in running:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            found.append((pid, os.waitstatus_to_exitcode(status)))
    return found


if __name__ == "__main__":
    main()
