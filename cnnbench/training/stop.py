"""Being asked to stop: by Ctrl-C, SIGTERM, a terminal that hangs up, or a clock."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import FrameType

from cnnbench.signals import received, second_signal_ends

_NAMES = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
if hasattr(signal, "SIGHUP"):
    _NAMES[signal.SIGHUP] = "hung up"
STOP_SIGNALS = tuple(_NAMES)
# What a process ends with that one of them stopped.
STOPPED_CODES = tuple(128 + number for number in STOP_SIGNALS)


class StopRequest:
    """While entered, the first signal is a request, and the second ends the process at once.

    Signals are received as ``cnnbench.signals.received`` says.

    Args:
        max_seconds: ask to stop so long after ``since``; ``None`` never does.
        since: a reading of ``time.monotonic``; by default now.

    Attributes:
        signum: the signal that was received, 0 before.
        num_continued: how often the process was continued after it had been stopped, as by Ctrl-Z.
        agree: what all processes of the run make of the numbers that each has.
    """

    agree: Callable[[Sequence[int]], Sequence[int]] = staticmethod(lambda numbers: numbers)

    def __init__(self, max_seconds: float | None = None, since: float | None = None) -> None:
        self.signum = self.num_continued = 0
        self._max_seconds = max_seconds
        self._since = time.monotonic() if since is None else since

    def __enter__(self) -> StopRequest:
        self._watch = ExitStack()
        self._watch.enter_context(received(STOP_SIGNALS, self._receive))
        if hasattr(signal, "SIGCONT"):
            self._watch.enter_context(received((signal.SIGCONT,), self._count_continued))
        self._watch.enter_context(second_signal_ends())
        return self

    def __exit__(self, *exc: object) -> None:
        self._watch.close()

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        self.signum = self.signum or signum

    def _count_continued(self, signum: int, frame: FrameType | None) -> None:
        self.num_continued += 1

    def reason(self) -> str | None:
        """Return why to stop now, or ``None``."""
        signum, is_over = self.agree((self.signum, self._is_over()))
        self.signum = signum or self.signum  # one may have come in the meantime
        if signum:
            return _NAMES[signal.Signals(self.signum)]
        if is_over:
            return f"max_seconds={self._max_seconds:g} are over"
        return None

    def _is_over(self) -> bool:
        seconds = self._max_seconds
        return seconds is not None and time.monotonic() - self._since > seconds


def ignore_dead_children() -> None:
    """Let no further signal of a dead child process interrupt this process.

    torch answers a loader worker's death with an error in whatever code runs just then, which may
    be the code that writes down why the run failed.
    """
    if hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
