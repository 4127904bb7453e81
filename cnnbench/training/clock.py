"""How long training took, without the time in which its process was stopped."""

from __future__ import annotations

import time

from cnnbench.training.stop import StopRequest


class Clock:
    """Seconds of training; a step in which the process was stopped counts as its CPU time.

    A stopped process (Ctrl-Z, SIGSTOP, a batch system that suspends it) does not know when it was,
    but hears that it is continued. While the machine sleeps, Python's clock stands still anyway.

    Args:
        stop: hears the signals.

    Example:
        >>> clock = Clock(stop)
        >>> for step in steps:
        ...     clock.step()
        >>> clock.read()
        12.3
    """

    def __init__(self, stop: StopRequest) -> None:
        self._stop = stop
        self.restart()

    def restart(self) -> None:
        """Count from now on."""
        self._now = time.perf_counter()
        self._cpu = time.process_time()
        self._num_continued = self._stop.num_continued
        self._seconds = 0.0

    def step(self) -> None:
        """Count what passed since the last step."""
        now, cpu = time.perf_counter(), time.process_time()
        seconds = now - self._now
        if self._stop.num_continued != self._num_continued:
            self._num_continued = self._stop.num_continued
            seconds = min(seconds, cpu - self._cpu)
        self._seconds += seconds
        self._now, self._cpu = now, cpu

    def read(self) -> float:
        """Return the seconds since the last reading, and count anew."""
        self.step()
        seconds, self._seconds = self._seconds, 0.0
        return seconds
