"""How long training took, without the time in which its process was stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import ParamSpec, TypeVar

from cnnbench.training.stop import StopRequest

_Args = ParamSpec("_Args")
_Value = TypeVar("_Value")


class DataClock:
    """Seconds in which training waits for its batches: fetching them, and preparing them.

    On a GPU, preparing is only begun in this time. Measuring costs about .3 us a step.

    Example:
        >>> clock = DataClock()
        >>> for batch in clock.iterating(lambda: iter([1, 2]))():
        ...     pass
        >>> 0 < clock.read() < 1
        True
    """

    def __init__(self) -> None:
        self._seconds = 0.0

    def iterating(
        self, batches: Callable[_Args, Iterable[_Value]]
    ) -> Callable[_Args, Iterator[_Value]]:
        """Return what yields an epoch's batches, and counts anew the time until each is there."""

        def timed(*args: _Args.args, **kwargs: _Args.kwargs) -> Iterator[_Value]:
            self._seconds = 0.0  # what was only tried before, as for a budget of seconds
            started = time.perf_counter()
            for batch in batches(*args, **kwargs):
                self._seconds += time.perf_counter() - started
                yield batch
                started = time.perf_counter()
            self._seconds += time.perf_counter() - started

        return timed

    def calling(self, prepare: Callable[_Args, _Value]) -> Callable[_Args, _Value]:
        """Return a function that does the same, and counts its time."""

        def timed(*args: _Args.args, **kwargs: _Args.kwargs) -> _Value:
            started = time.perf_counter()
            value = prepare(*args, **kwargs)
            self._seconds += time.perf_counter() - started
            return value

        return timed

    def read(self) -> float:
        """Return the seconds since the last reading, and count anew."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds


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
