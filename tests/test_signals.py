"""The second signal ends a process whose main thread is in C and comes back to no handler."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from cnnbench.signals import second_signal_ends

# A main thread that waits in C for what never comes, as in a kernel that hangs: Python runs no
# handler there, and a mutex that is taken twice is not let go by a signal.
STUCK = """
import ctypes, signal, sys
from cnnbench.signals import second_signal_ends
{preamble}
class Deaf(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_char * 128)]

library = ctypes.CDLL(None)
lock = Deaf()
assert library.pthread_mutex_init(ctypes.byref(lock), None) == 0
with {context}:
    print("stuck", flush=True)
    library.pthread_mutex_lock(ctypes.byref(lock))
    library.pthread_mutex_lock(ctypes.byref(lock))
"""
HANDLED = "for number in (2, 15): signal.signal(number, lambda *_: None)"
TRAINING = "from cnnbench.training.stop import StopRequest"
CONTEXTS = {
    "the command line": (HANDLED, "second_signal_ends()"),
    "training": (TRAINING, "StopRequest()"),
    "both": (f"{HANDLED}\n{TRAINING}", "second_signal_ends(), StopRequest()"),
}


@contextlib.contextmanager
def stuck(name: str) -> Iterator[subprocess.Popen[str]]:
    preamble, context = CONTEXTS[name]
    code = STUCK.format(preamble=preamble, context=context)
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "stuck\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("name", CONTEXTS)
@pytest.mark.parametrize(("first", "second"), [(15, 15), (2, 2), (2, 15)])
def test_it_ends_though_it_is_stuck(first: int, second: int, name: str) -> None:
    with stuck(name) as process:
        process.send_signal(first)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.4)
        process.send_signal(second)
        assert process.wait(20) == 128 + second


def test_a_signal_sent_twice_at_once_is_one() -> None:
    """timeout(1) sends it to the process and to its group."""
    with stuck("training") as process:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)


FORKING = """
import os, signal, time
from cnnbench.signals import second_signal_ends
with second_signal_ends():
    signal.signal(signal.SIGTERM, lambda *_: None)
    child = os.fork()
    if not child:
        time.sleep(0.5)
        os._exit(0)
    time.sleep(0.2)
    os.kill(child, signal.SIGTERM)
    time.sleep(0.3)
    os.kill(child, signal.SIGTERM)
    os.waitpid(child, 0)
    time.sleep(0.1)
    print("lives")
"""


def test_the_signals_of_a_forked_child_are_its_own() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKING], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout) == (0, "lives\n"), done.stderr


def test_whose_descriptor_was_there_still_gets_the_signals() -> None:
    """asyncio has one."""
    code = """
import os, signal
from cnnbench.signals import second_signal_ends
read, write = os.pipe()
os.set_blocking(write, False)
signal.set_wakeup_fd(write)
signal.signal(signal.SIGTERM, lambda *_: None)
with second_signal_ends():
    os.kill(os.getpid(), signal.SIGTERM)
    print(os.read(read, 10)[0], end=" ")
print(signal.set_wakeup_fd(-1) == write)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout) == (0, "15 True\n"), done.stderr


def test_in_another_thread_it_does_nothing() -> None:
    entered = []

    def enter() -> None:
        with second_signal_ends():
            entered.append(os.getpid())

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert entered
