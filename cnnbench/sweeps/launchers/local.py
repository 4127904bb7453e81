"""Jobs as processes of this machine, each its own.

On Linux they are forked from a process that has loaded torch and begun nothing with it, which
spares each job seconds and shares the memory of the code. Elsewhere each is started anew.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from cnnbench.config.launcher import LauncherConfig
from cnnbench.errors import ResourceError
from cnnbench.sweeps.launchers import Capacity, Launch

_POLL_SECONDS = 0.05
# Servers that load for a launcher which is yet to be created.
_early: list[subprocess.Popen[bytes]] = []


@contextmanager
def started_early(settings: Sequence[str]) -> Iterator[None]:
    """Let the server of the next launcher load while this process reads what there is to do.

    Args:
        settings: as the user gave them; where they name a launcher, nothing is started.
    """
    is_ours = sys.platform == "linux" and not any("hydra/launcher" in word for word in settings)
    if is_ours:
        _early.append(_serve())
    try:
        yield
    finally:
        if _early:  # something was wrong
            _end(_early.pop())


def create(config: LauncherConfig) -> ForkLauncher | SpawnLauncher:
    """Return what this system can do."""
    return ForkLauncher() if sys.platform == "linux" else SpawnLauncher()


class SpawnLauncher:
    """Starts each process anew."""

    capacity: Capacity | None = None

    def __init__(self) -> None:
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def submit(self, launch: Launch) -> None:
        """Start a process."""
        try:
            with (launch.directory / "log.txt").open("ab") as log:
                self._processes[launch.name] = subprocess.Popen(
                    launch.command,
                    env={**os.environ, **launch.environment},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    # A terminal's signals come through the sweep alone, once each.
                    start_new_session=True,
                )
        except OSError as error:
            raise _not_started(error) from error

    def ended(self, seconds: float) -> dict[str, int | None]:
        """Return those that ended."""
        until = time.monotonic() + seconds
        while True:
            codes = {name: process.poll() for name, process in self._processes.items()}
            found = {name: code for name, code in codes.items() if code is not None}
            if found or time.monotonic() >= until:
                for name in found:
                    del self._processes[name]
                return dict(found)
            time.sleep(min(_POLL_SECONDS, seconds))

    def signal(self, signum: int) -> None:
        """Send a signal to each process that runs."""
        for process in self._processes.values():
            process.send_signal(signum)

    def close(self) -> None:
        """Nothing is to be let go of."""


class ForkLauncher:
    """Has a server of its own fork each process, see ``fork_server``."""

    capacity: Capacity | None = None

    def __init__(self) -> None:
        self._server: subprocess.Popen[bytes] | None = None
        self._running: set[str] = set()
        self._unread = b""
        self._start()

    def submit(self, launch: Launch) -> None:
        """Start a process."""
        order = {
            "start": launch.name,
            "command": launch.command,
            "log": str(launch.directory / "log.txt"),
            "environment": dict(launch.environment),
        }
        self._running.add(launch.name)
        if self._server is None:
            self._start()
        self._tell(order)

    def ended(self, seconds: float) -> dict[str, int | None]:
        """Return those that ended; all, with None, where the server itself died."""
        if self._server is None:
            time.sleep(seconds)
            return {}
        assert self._server.stdout is not None
        descriptor = self._server.stdout.fileno()
        found: dict[str, int | None] = {}
        while not found and select.select([descriptor], [], [], seconds)[0]:
            received = os.read(descriptor, 1 << 16)
            if not received:
                found = dict.fromkeys(self._running)
                self.close()
                break
            *lines, self._unread = (self._unread + received).split(b"\n")
            for line in lines:
                found |= json.loads(line)
        self._running -= found.keys()
        return found

    def load(self, names: Sequence[str]) -> None:
        """Have modules loaded that the next processes import."""
        self._tell({"load": list(names)})

    def signal(self, signum: int) -> None:
        """Send a signal to each process that runs."""
        self._tell({"signal": signum})

    def close(self) -> None:
        """End the server."""
        if self._server is not None:
            _end(self._server)
            self._server, self._unread = None, b""

    def _start(self) -> None:
        self._server = _early.pop() if _early else _serve()

    def _tell(self, order: Mapping[str, object]) -> None:
        # Where the server is dead, `ended` finds it so.
        with suppress(BrokenPipeError):
            if self._server is not None and self._server.stdin is not None:
                self._server.stdin.write(json.dumps(order).encode() + b"\n")


def _serve() -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "cnnbench.sweeps.launchers.fork_server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
    except OSError as error:
        raise _not_started(error) from error


def _end(server: subprocess.Popen[bytes]) -> None:
    for pipe in (server.stdin, server.stdout):
        assert pipe is not None
        with suppress(OSError):
            pipe.close()
    server.kill()  # it may still be loading
    # The system takes a tenth of a second to free its memory.
    threading.Thread(target=server.wait, daemon=True).start()


def _not_started(error: OSError) -> ResourceError:
    return ResourceError(f"the system starts no further process: {error.strerror or error}")
