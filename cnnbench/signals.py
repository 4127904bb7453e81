"""Who receives a signal, and what the second Ctrl-C or SIGTERM does while no Python runs."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import FrameType

_ENDING = (signal.SIGINT, signal.SIGTERM)
# timeout(1) sends its signal to the process and at once again to its group.
_SAME_SECONDS = 0.2
_watched: set[int] = set()


@contextlib.contextmanager
def received(
    numbers: Iterable[signal.Signals], handler: Callable[[int, FrameType | None], None]
) -> Iterator[None]:
    """While entered, hand signals to a handler, and afterwards to whoever had them before.

    A signal that whoever started the process told it to ignore, as a shell does with Ctrl-C for
    what runs in the background or ``nohup`` with a terminal's end, stays ignored. In other threads
    than the main one, where Python lets no signal be caught, this does nothing.
    """
    catches = threading.current_thread() is threading.main_thread()
    before = {
        number: signal.signal(number, handler)
        for number in numbers
        if catches and signal.getsignal(number) != signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, theirs in before.items():
            signal.signal(number, theirs)


@contextlib.contextmanager
def second_signal_ends() -> Iterator[None]:
    """While entered, end the process with exit code 128 + signal when a second one comes.

    What the first one does is up to its handler. Python calls a handler between two steps of its
    own, and never while its main thread is inside a kernel that hangs. The number of a signal,
    though, is written to a descriptor at once, where a thread reads it.

    In other threads than the main one, where Python lets no signal be caught, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    _watched.add(writer.fileno())
    threading.Thread(target=_watch, args=(reader, before), daemon=True).start()
    try:
        yield
    finally:
        _watched.discard(writer.fileno())
        signal.set_wakeup_fd(before)
        writer.close()  # ends the thread


def _watch(reader: socket.socket, before: int) -> None:
    first, received_at = 0, 0.0
    with reader:
        while numbers := reader.recv(64):
            if before >= 0:
                with contextlib.suppress(OSError):
                    os.write(before, numbers)
            for number in filter(_ENDING.__contains__, numbers):
                is_same = number == first and time.monotonic() - received_at < _SAME_SECONDS
                if first and not is_same:
                    _end(number)
                first, received_at = number, time.monotonic()


def _end(number: int) -> None:
    """End this process, and tell those that it started, such as the worker of a sweep."""
    if "multiprocessing" in sys.modules:
        for child in sys.modules["multiprocessing"].active_children():
            with contextlib.suppress(OSError):
                os.kill(child.pid, number)
    os._exit(128 + number)


def _leave_to_parent() -> None:
    """Keep the signals of a forked child from the parent's thread."""
    if _watched:
        _watched.clear()
        signal.set_wakeup_fd(-1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)
