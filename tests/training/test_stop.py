from __future__ import annotations

import os
import signal
import time

import pytest

from cnnbench.training.stop import StopRequest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_a_request_and_the_handler_comes_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert stop.reason() is None
        os.kill(os.getpid(), number)
        assert stop.reason() == {2: "interrupted", 15: "terminated"}[number]
        assert stop.signum == number
    assert signal.getsignal(number) == before


def test_a_signal_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.reason() is None
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.reason() == "terminated"
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


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
