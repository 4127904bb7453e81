from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from cnnbench.training.clock import Clock
from cnnbench.training.stop import StopRequest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_a_request_and_the_handler_comes_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert stop.reason() is None
        os.kill(os.getpid(), number)
        assert stop.reason() == {2: "interrupted", 15: "terminated", 1: "hung up"}[number]
        assert stop.signum == number
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_is_ignored_stays_so(number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            assert signal.getsignal(number) == signal.SIG_IGN
            os.kill(os.getpid(), number)
            assert stop.reason() is None
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.reason() == "terminated"
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_the_clock_counts_from_where_it_is_told() -> None:
    now = time.monotonic()
    with StopRequest(60, since=now - 61) as stop:
        assert stop.reason() == "max_seconds=60 are over"
    with StopRequest(60, since=now - 30) as stop:
        assert stop.reason() is None
    late = StopRequest(0.05)
    time.sleep(0.06)
    with late as stop:
        assert stop.reason() == "max_seconds=0.05 are over"


def stop_and_continue(seconds: float) -> None:
    code = f"import os, time; time.sleep({seconds}); os.kill({os.getpid()}, {signal.SIGCONT:d})"
    with subprocess.Popen([sys.executable, "-c", code]):
        os.kill(os.getpid(), signal.SIGSTOP)


def test_time_in_which_the_process_was_stopped_does_not_count() -> None:
    before = signal.getsignal(signal.SIGCONT)
    with StopRequest() as stop:
        clock = Clock(stop)
        time.sleep(0.2)
        clock.step()
        started = time.perf_counter()
        stop_and_continue(1)
        clock.step()
        assert time.perf_counter() - started > 1
        # Waiting is work too, unless the process was stopped.
        assert 0.2 <= clock.read() < 0.8
        time.sleep(0.1)
        assert 0.1 <= clock.read() < 0.7
        time.sleep(0.5)
        clock.restart()
        assert clock.read() < 0.4
    assert signal.getsignal(signal.SIGCONT) == before
