"""Being asked to stop: by Ctrl-C, by SIGTERM, or by a clock."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType

_NAMES = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


class StopRequest:
    """While entered, the first signal is a request, and the second ends the process at once.

    Args:
        max_seconds: ask to stop so long after entering; ``None`` never does.

    Attributes:
        signum: the signal that came, 0 before.
    """

    def __init__(self, max_seconds: float | None = None) -> None:
        self.signum = 0
        self._max_seconds = max_seconds

    def __enter__(self) -> StopRequest:
        self._started = time.monotonic()
        # Python delivers signals to the main thread only; elsewhere the caller's handlers stand.
        self._catches = threading.current_thread() is threading.main_thread()
        if self._catches:
            self._before = {number: signal.signal(number, self._receive) for number in _NAMES}
        return self

    def __exit__(self, *exc: object) -> None:
        if self._catches:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        if self.signum:
            os._exit(128 + signum)
        self.signum = signum

    def reason(self) -> str | None:
        """Return why to stop now, or ``None``."""
        if self.signum:
            return _NAMES[signal.Signals(self.signum)]
        if self._max_seconds is not None and self._is_over():
            return f"max_seconds={self._max_seconds:g} are over"
        return None

    def _is_over(self) -> bool:
        assert self._max_seconds is not None
        return time.monotonic() - self._started > self._max_seconds
