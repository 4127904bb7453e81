"""Jobs as tasks of a Ray cluster: each task starts the process of one job on its machine.

The sweep's directory has to be at the same path on all machines.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cnnbench.config.launcher import LauncherConfig
from cnnbench.errors import UsageError
from cnnbench.sweeps.launchers import GONE, Capacity, Launch

_POLL_SECONDS = 0.1
_ANSWER_SECONDS = 10.0
_CANCELLED = 143


def create(config: LauncherConfig) -> RayLauncher:
    """Return what submits to the cluster at ``hydra.launcher.address``.

    Raises:
        UsageError: it cannot be reached.
    """
    return RayLauncher(config.address)


class RayLauncher:
    """Has a cluster run each process.

    Args:
        address: as ``LauncherConfig`` has it.
    """

    def __init__(self, address: str) -> None:
        import ray

        self._ray: Any = ray
        self._is_ours = not ray.is_initialized()
        self._names: dict[Any, str] = {}
        if self._is_ours:
            _connect(ray, address)
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        cores = [int(node.get("CPU", 0)) for node in nodes]
        self.capacity = Capacity(
            cores=sum(cores),
            cores_of_one=max(cores, default=0),
            gpus=int(sum(node.get("GPU", 0) for node in nodes)),
            memory_bytes=int(sum(node.get("memory", 0) for node in nodes)),
        )

    def submit(self, launch: Launch) -> None:
        """Give a process to the cluster, which starts it where cores are free."""
        # Ray retries no task itself: a second process of a job has to be of the next generation,
        # which only who claims it can give it.
        task = self._ray.remote(run_process).options(
            name=launch.name,
            num_cpus=launch.num_threads,
            num_gpus=launch.num_gpus,
            max_retries=0,
            scheduling_strategy="SPREAD",
        )
        reference = task.remote(
            list(launch.command), str(launch.directory), dict(launch.environment)
        )
        self._names[reference] = launch.name

    def ended(self, seconds: float) -> dict[str, int | None]:
        """Return those that ended."""
        if not self._names:
            time.sleep(seconds)
            return {}
        ready, _ = self._ray.wait(list(self._names), timeout=seconds)
        return {self._names.pop(reference): self._code(reference) for reference in ready}

    def signal(self, signum: int) -> None:
        """Have each process told to stop, whatever the signal; those that wait do not start."""
        for reference in self._names:
            with suppress(self._ray.exceptions.RayError):
                self._ray.cancel(reference)

    def close(self) -> None:
        """Leave the cluster; one of our own ends."""
        if self._is_ours:
            self._ray.shutdown()

    def _code(self, reference: Any) -> int:
        try:
            return int(self._ray.get(reference))
        except self._ray.exceptions.TaskCancelledError:
            return _CANCELLED
        except self._ray.exceptions.RayError:
            return GONE


def run_process(
    command: Sequence[str], directory: str, environment: Mapping[str, str]
) -> int:  # pragma: no cover - in a worker of Ray
    """Run a job's process on this machine and return its exit code; a task of Ray.

    Args:
        command: its command line; of Python it has the one that runs here.
        directory: of the job.
        environment: variables that it has beside those of this process.
    """
    import ray

    node = ray.get_runtime_context().get_node_id()
    with (Path(directory) / "log.txt").open("ab") as log:
        log.write(f"on Ray's node {node}\n".encode())
        log.flush()
        process = subprocess.Popen(
            [sys.executable, *command[1:]],
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        while process.poll() is None:
            time.sleep(_POLL_SECONDS)
    except KeyboardInterrupt:  # how Ray cancels
        process.terminate()
        process.wait()
    return process.returncode


def _connect(ray: Any, address: str) -> None:
    """Join a cluster.

    Raises:
        UsageError: it cannot be reached.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address == "local":
        options |= {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    elif address.startswith("127."):  # a cluster that is on this machine alone
        options["_node_ip_address"] = address.partition(":")[0]
    try:
        _check_answers(os.environ.get("RAY_ADDRESS", "") if address == "auto" else address)
        ray.init(address=address, **options)
    except (ConnectionError, RuntimeError, ValueError, OverflowError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UsageError(
            f"hydra.launcher.address={address}: no Ray cluster can be reached ({reason}); start "
            "one with 'ray start --head', name another, or take hydra.launcher.address=local"
        ) from None


def _check_answers(address: str) -> None:
    """Refuse soon what Ray would wait minutes for.

    Raises:
        OSError: HOST:PORT does not answer.
    """
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER_SECONDS).close()
