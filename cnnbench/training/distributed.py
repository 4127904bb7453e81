"""One run in several processes, as torchrun starts them: how they meet, and how they end.

The first process writes and speaks. The others compute their parts and keep quiet, unless one of
them is the first to fail. Importing this file loads no torch.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cnnbench.config.early import num_processes
from cnnbench.errors import CnnbenchError, Interrupted, ResourceError, UsageError
from cnnbench.notices import guarded, is_quiet, keep_quiet

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

    from cnnbench.data.splits import Splits
    from cnnbench.engine.world import World
    from cnnbench.runs.directory import RunDir
    from cnnbench.training.setup import Plan

# Several runs of one process, from Python, meet one after another.
_meetings = itertools.count()
_RUN = "run"


def resume_command(path: Path) -> str:
    """Return what to type to resume a run in as many processes as now.

    Args:
        path: of the run.
    """
    command = f"cnnbench train resume={shlex.quote(str(path))}"
    if num_processes() == 1:
        return command
    return f"torchrun --nproc-per-node {os.environ['LOCAL_WORLD_SIZE']} -m {command}"


class Meeting:
    """Where the processes of a run find one another.

    Args:
        world: of the processes.
        store: of torchrun, which outlives them; None without torchrun.
        attempt: how often torchrun has started them again.
    """

    def __init__(self, world: World, store: Store | None = None, attempt: int = 0) -> None:
        self.world, self._store, self._attempt = world, store, attempt

    def run(self, create: Callable[[], RunDir]) -> RunDir:
        """Return the run directory of all processes: the one from before a restart, or a new one.

        Args:
            create: called in the first process.

        Raises:
            DiskError: it cannot be written.
        """
        from cnnbench.runs.directory import RunDir

        if self._store is None:
            return create()
        store, is_resumed = self._store, self._attempt > 0 and self._store.check([_RUN])

        def path() -> bytes:
            if not is_resumed:
                store.set(_RUN, os.fsencode(create().path).hex())
            return bytes(store.get(_RUN))

        found = Path(os.fsdecode(bytes.fromhex(self.world.send(path).decode())))
        return RunDir(found, writes=self.world.is_first)

    def is_first_to_fail(self) -> bool:
        """Return whether no other process has said why the run ends, and leave it to this one."""
        if self._store is None:
            return True
        try:
            return bool(self._store.add(f"{self._attempt}/failed", 1) == 1)
        except RuntimeError:  # the store is gone
            return self.world.is_first


@contextlib.contextmanager
def meeting(device_name: str) -> Iterator[Meeting]:
    """Join the processes that torchrun started with this one, and leave them together.

    Args:
        device_name: as in the config.

    Raises:
        UsageError: the machine has too few devices.
        ResourceError: the others cannot be reached.
    """
    from cnnbench.engine.world import World

    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield Meeting(World())
        return
    import torch.distributed as dist
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]

    world = World(int(os.environ["RANK"]), num_processes())
    attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    backend = _backend(device_name)
    try:
        store = _store(world)
        # Addresses of before a restart are stale, and so are those of another number of processes.
        fresh = PrefixStore(f"{attempt}/{world.size}", store)
        dist.init_process_group(backend, store=fresh, rank=world.rank, world_size=world.size)
    except (RuntimeError, ValueError) as error:
        raise lost(error) or ResourceError(f"torchrun: {error}") from error
    was_quiet = is_quiet()
    place = Meeting(world, store, attempt)
    try:
        with contextlib.ExitStack() as stack:
            if not world.is_first:
                keep_quiet(True)
                stack.enter_context(contextlib.redirect_stdout(guarded(None)))
            yield place
            world.largest([0])
    except Interrupted:
        # The first one may still be writing, and torchrun ends all when one has ended.
        with contextlib.suppress(RuntimeError):
            world.largest([0])
        raise
    except BaseException:
        was_quiet = not place.is_first_to_fail()
        raise
    finally:
        keep_quiet(was_quiet)
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()


def _backend(device_name: str) -> str:
    """Return the ways in which the processes talk, and take this one's GPU.

    Raises:
        UsageError: there are fewer GPUs than processes, or the device knows no such way.
    """
    import torch

    from cnnbench.device.device import resolve_device

    kind = resolve_device(device_name).type
    number, index = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["LOCAL_RANK"])
    if kind == "cpu":
        return "gloo"
    if kind != "cuda":
        raise UsageError(
            f"device={device_name}: several processes train on cpu or cuda, not on {kind}; "
            "expected device=cpu"
        )
    if number > torch.cuda.device_count():
        raise UsageError(
            f"torchrun started {number} processes on a machine with {torch.cuda.device_count()} "
            f"GPUs; expected --nproc-per-node {torch.cuda.device_count()}, or device=cpu"
        )
    torch.cuda.set_device(index)
    return "cpu:gloo,cuda:nccl"


def _store(world: World) -> Store:
    """Return torchrun's store, with names of this run's own."""
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

    hosts = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" and world.is_first
    store = TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=hosts,
        multi_tenant=True,
        wait_for_workers=False,
    )
    name = f"cnnbench/{os.environ['TORCHELASTIC_RUN_ID']}/{next(_meetings)}"
    return PrefixStore(name, store)


def check(plan: Plan, has_batch_norm: Callable[[], bool]) -> None:
    """Refuse what several processes cannot do together.

    Args:
        plan: of the config.
        has_batch_norm: tells whether the network normalises over batches.

    Raises:
        UsageError: a setting is for one process, or a batch is too small to be divided.
    """
    config, size = plan.config, plan.world.size
    if size == 1:
        return
    alone = {
        "budget.seconds": config.budget.seconds,
        "device.compile": config.device.compile or None,
        "loss.teacher": config.loss.teacher,
        "optimizer.accumulate_steps": max(1, config.optimizer.accumulate_steps) - 1 or None,
    }
    for key, value in alone.items():
        if value is not None:
            raise UsageError(f"{key}: is for one process, and torchrun started {size}{_MORE[key]}")
    least = _smallest(plan, has_batch_norm)
    if config.data.batch_size < least:
        raise UsageError(
            f"data.batch_size={config.data.batch_size}: is divided among {size} processes; "
            f"expected at least {least}"
        )


_MORE = {
    "budget.seconds": "; set budget.tflop or num_epochs",
    "device.compile": "; set device.compile=false",
    "loss.teacher": "; leave torchrun out",
    "optimizer.accumulate_steps": ", each of which has its part of a batch; leave it at 1",
}


def _smallest(plan: Plan, has_batch_norm: Callable[[], bool]) -> int:
    """Return the fewest images of a batch: batch norm on a CPU needs two in each process."""
    is_apart = plan.device.type == "cpu" and has_batch_norm()
    return plan.world.size * (1 + is_apart)


def check_splits(plan: Plan, data: Splits, has_batch_norm: Callable[[], bool]) -> None:
    """Refuse splits that cannot be divided, and warn of batch norms that are not synchronised.

    Raises:
        UsageError: the last batch of an epoch, or a split, has too few images.
    """
    size = plan.world.size
    if size == 1:
        return
    least = _smallest(plan, has_batch_norm)
    if data.last_batch_size < least:
        raise UsageError(
            f"data.batch_size={data.batch_size}: the last batch of an epoch has "
            f"{data.last_batch_size} of the {data.num_train} training images, too few for {size} "
            f"processes; expected at least {least}: set data.drop_last=true or another batch size"
        )
    counts: Mapping[str, int] = {"validation": data.num_val, "test": data.num_test}
    for what, count in counts.items():
        if 0 < count < size:
            raise UsageError(
                f"data={data.name}: too few {what} images for {size} processes: {count}"
            )
    if least > size:
        data.warnings.append(
            f"batch norm is not synchronised on a CPU: each of the {size} processes normalises its "
            f"own part of a batch, about {data.batch_size // size} images, so the result is not "
            "that of one process"
        )


def lost(error: BaseException, run: RunDir | None = None) -> CnnbenchError | None:
    """Return what an error says of a process of the run that is gone; None where it says nothing.

    torch has words and classes of its own for each way in which it notices.

    Args:
        error: as it was caught.
        run: what is resumed, where it was begun.
    """
    import torch.distributed as dist

    is_networks = dist.is_available() and isinstance(error, dist.DistError)
    if not is_networks and not (isinstance(error, RuntimeError) and "gloo" in str(error)):
        return None
    saved = "nothing was saved yet"
    if run is not None and run.has_checkpoints:
        saved = f"the last save stands. Resume with:\n{resume_command(run.path)}"
    return ResourceError(
        f"another of the {num_processes()} processes of this run has ended or cannot be reached; "
        f"{saved}"
    )
