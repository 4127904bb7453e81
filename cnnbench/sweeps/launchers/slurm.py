"""Jobs of a Slurm cluster, submitted by submitit in arrays.

The sweep's directory has to be at the same path on all machines. What submitit writes lies in its
folder ``slurm``. How a job ended is read from its lease, and whether it is still there from
``squeue``: accounting is not needed.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from cnnbench.config.launcher import LauncherConfig
from cnnbench.errors import ResourceError, UsageError
from cnnbench.notices import warn
from cnnbench.sweeps.launchers import GONE, Capacity, Launch

# Between two looks at the queue, which all users of a cluster ask.
_LOOK_SECONDS = 2.0
_ASK_SECONDS = 60.0
_POLL_SECONDS = 0.1
# So long before its time is over a job is told to save its state, and so long it may take.
_SIGNAL_SECONDS = 90
_SAVE_SECONDS = 75.0
# Ids on one command line.
_MAX_WORDS = 500
_Item = TypeVar("_Item")
_MAX_ARRAY = re.compile(r"^MaxArraySize\s*=\s*(\d+)", re.MULTILINE)


def create(config: LauncherConfig) -> SlurmLauncher:
    """Return what submits to the cluster of this machine.

    Raises:
        UsageError: there is none, or it does not answer.
    """
    if shutil.which("sbatch") is None:
        raise UsageError(
            "hydra/launcher=slurm: this machine has no sbatch; run the command on one from which "
            "jobs are submitted, or take hydra/launcher=local"
        )
    try:
        found = _MAX_ARRAY.search(_ask("scontrol", "show", "config"))
    except (OSError, subprocess.SubprocessError) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip().partition("\n")[0]
        raise UsageError(
            f"hydra/launcher=slurm: the cluster cannot be reached ({reason}); "
            "'sinfo' has to answer on this machine"
        ) from None
    return SlurmLauncher(config, max_array=int(found[1]) if found else 1)


class SlurmLauncher:
    """Has a cluster run each process.

    Args:
        config: how to launch.
        max_array: jobs in an array at most; >= 1.
        make_executor: makes the executor of submitit that submits, given its folder.
        queue: returns the ids of those of our jobs that are waiting or running; None where the
            cluster does not answer.
    """

    def __init__(
        self,
        config: LauncherConfig,
        max_array: int,
        make_executor: Callable[[Path], Any] | None = None,
        queue: Callable[[], set[str] | None] | None = None,
    ) -> None:
        self.capacity = Capacity(
            job_bytes=None if config.memory_gb is None else int(config.memory_gb * 1e9)
        )
        self._config, self._max_array = config, max_array
        self._make_executor = make_executor or self._slurm_executor
        self._queue = queue or queued_jobs
        self._executor: Any = None
        self._unsent: list[Launch] = []
        self._dropped: list[Launch] = []
        self._names: dict[str, str] = {}
        self._looked = 0.0
        self._has_warned = False

    def submit(self, launch: Launch) -> None:
        """Take a process; all that were taken are submitted together by ``ended``."""
        self._unsent.append(launch)

    def ended(self, seconds: float) -> dict[str, int | None]:
        """Return those that are gone from the queue."""
        if self._dropped:
            dropped, self._dropped = self._dropped, []
            return {launch.name: GONE for launch in dropped}
        self._send()
        if time.monotonic() < self._looked + _LOOK_SECONDS:
            time.sleep(seconds)
            return {}
        queue = self._queue() if self._names else set()
        self._looked = time.monotonic()
        if queue is None:
            if not self._has_warned:
                warn("squeue does not answer; the jobs are taken to be where they were")
            self._has_warned = True
            return {}
        gone = [job for job in self._names if job not in queue]
        return {self._names.pop(job): GONE for job in gone}

    def signal(self, signum: int) -> None:
        """Have each process told to stop, whatever the signal; those that wait do not start."""
        self._dropped, self._unsent = self._unsent, []
        for jobs in _chunks(list(self._names), _MAX_WORDS):
            for how in ("--state=PENDING", "--signal=TERM"):
                with suppress(OSError, subprocess.SubprocessError):
                    _ask("scancel", "--quiet", how, *jobs)

    def close(self) -> None:
        """Nothing is to be let go of: what runs is the cluster's."""

    def _send(self) -> None:
        """Submit what was taken.

        Raises:
            ResourceError: the cluster does not take it.
        """
        for launches in _chunks(self._unsent, self._max_array):
            if self._executor is None:
                self._executor = self._make_executor(launches[0].directory.parents[1] / "slurm")
            commands = [
                JobCommand(launch.command, str(launch.directory), launch.environment)
                for launch in launches
            ]
            try:
                jobs = self._executor.submit_array(commands)
            except Exception as error:  # submitit's own, and those of what it calls
                said = str(error).strip().splitlines()
                raise ResourceError(
                    f"Slurm takes no further job: {said[-1] if said else type(error).__name__}; "
                    "lower hydra.launcher.slots, or see its keys gpus, minutes, memory_gb"
                ) from error
            for job, launch in zip(jobs, launches, strict=True):
                self._names[str(job.job_id)] = launch.name
        self._unsent = []

    def _slurm_executor(self, folder: Path) -> Any:
        import submitit

        executor = submitit.SlurmExecutor(folder, max_num_timeout=self._config.max_requeues)
        launch, gigabytes = self._unsent[0], self._config.memory_gb
        wanted: dict[str, Any] = {
            "job_name": "cnnbench",
            "partition": self._config.partition,
            "time": self._config.minutes,
            "signal_delay_s": _SIGNAL_SECONDS,
            "cpus_per_task": launch.num_threads,
            "gpus_per_node": launch.num_gpus or None,
            "mem": None if gigabytes is None else f"{int(gigabytes * 1e9) >> 20}M",
            "array_parallelism": self._max_array,
            "stderr_to_stdout": True,
        }
        executor.update_parameters(**{k: v for k, v in wanted.items() if v is not None})
        return executor


class JobCommand:
    """What submitit pickles: strings alone. It is called in a job of the cluster.

    Args:
        command: the command line of the process; of Python it has the one that runs there.
        directory: of the job.
        environment: variables that the process has beside those of Slurm's.
    """

    def __init__(
        self, command: Sequence[str], directory: str, environment: Mapping[str, str]
    ) -> None:
        self.command, self.directory = list(command), directory
        self.environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """Run the process and return its exit code; what it says is in its lease and its run."""
        # What Slurm sends to all processes of a job at its time limit is answered by `checkpoint`;
        # by default it would end the process without a save. Blocked here, it stays so in there.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
        try:
            with (Path(self.directory) / "log.txt").open("ab") as log:
                log.write(f"job {_slurm_id()} on {os.uname().nodename}\n".encode())
                log.flush()
                self._process = subprocess.Popen(
                    [sys.executable, *self.command[1:]],
                    env={**os.environ, **self.environment},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})
        # Not wait(), whose lock `checkpoint` would find taken: it runs in a signal's handler here.
        while self._process.poll() is None:
            time.sleep(_POLL_SECONDS)
        return self._process.returncode

    def checkpoint(self) -> Any:
        """Have the process save its state, and return what continues it; submitit calls it."""
        import submitit

        process = self._process
        if process is not None:
            process.terminate()
            until = time.monotonic() + _SAVE_SECONDS
            while _is_running(process.pid) and time.monotonic() < until:
                time.sleep(_POLL_SECONDS)
            process.kill()
        again = JobCommand(self.command, self.directory, self.environment)
        return submitit.helpers.DelayedSubmission(again)


def queued_jobs() -> set[str] | None:
    """Return the ids of this user's jobs that wait or run; None where Slurm does not answer."""
    try:
        # Without `-t` it lists those that are not over; `-r` lists an array's jobs one by one.
        return set(_ask("squeue", "--me", "-h", "-r", "-o", "%i").split())
    except (OSError, subprocess.SubprocessError):
        return None


def _chunks(items: Sequence[_Item], size: int) -> list[Sequence[_Item]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _is_running(pid: int) -> bool:
    """Tell whether a child runs, without taking note of its end, which ``poll`` does."""
    try:
        options = os.WEXITED | os.WNOWAIT | os.WNOHANG
        return os.waitid(os.P_PID, pid, options) is None
    except ChildProcessError:
        return False


def _slurm_id() -> str:
    return os.environ.get("SLURM_JOB_ID", "of no cluster")


def _ask(*words: str) -> str:
    """Return what a command of Slurm prints.

    Raises:
        OSError: there is no such command.
        SubprocessError: it fails, or does not answer in time.
    """
    done = subprocess.run(words, capture_output=True, text=True, timeout=_ASK_SECONDS, check=True)
    return done.stdout
