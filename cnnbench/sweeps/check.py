"""Whether the jobs of a sweep fit this machine, and how many of them run at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Literal

from cnnbench.config.launcher import LauncherConfig
from cnnbench.config.run_config import RunConfig, read_config, to_tree
from cnnbench.sweeps.ask import Question
from cnnbench.sweeps.launchers import Launcher
from cnnbench.sweeps.launchers.local import ForkLauncher
from cnnbench.sweeps.results import load_results

_VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Slots:
    """What the jobs of a sweep share.

    Attributes:
        number: of jobs that run at once, >= 1.
        num_threads: of each, where its config names no number; None leaves what a run alone has.
        gpus: a slot's GPU is that of its number, counted round; empty where none computes, or
            where a cluster gives them out.
        num_gpus: that a cluster gives each job.
    """

    number: int
    num_threads: int | None = None
    gpus: tuple[str, ...] = ()
    num_gpus: int = 0

    def environment(self, slot: int) -> dict[str, str]:
        """Return the variables by which a job gets its share.

        Args:
            slot: from 0, that no other running job has.
        """
        variables = {}
        if self.num_threads is not None:
            variables["OMP_NUM_THREADS"] = str(self.num_threads)
        if self.gpus:
            variables[_VISIBLE] = self.gpus[slot % len(self.gpus)]
        return variables


@dataclass(frozen=True)
class Checked:
    """What the check of a sweep's jobs found.

    Attributes:
        slots: how many run at once, and with what.
        work: about how many multiply-accumulates each job's training takes.
    """

    slots: Slots
    work: tuple[float, ...]


def check_jobs(configs: Sequence[RunConfig], config: LauncherConfig, launcher: Launcher) -> Checked:
    """Check the jobs of a sweep before the first one starts.

    Args:
        configs: of all jobs.
        config: how to launch.
        launcher: that will start them.

    Raises:
        CnnbenchError: a job does not fit this machine, or so many at once do not.
    """
    if isinstance(launcher, ForkLauncher):
        # Without an answer it is found here, and said here what is wrong.
        with suppress(OSError):
            if (checked := _ask(configs, config, launcher)) is not None:
                return checked
    from cnnbench.sweeps.slots import slots_of, training_macs
    from cnnbench.training.launch import check_all

    plans = check_all(configs)
    return Checked(slots_of(plans, config, launcher), tuple(training_macs(plans)))


def _ask(
    configs: Sequence[RunConfig], config: LauncherConfig, launcher: ForkLauncher
) -> Checked | None:
    """Have a process of the launcher check the jobs; None where it could not tell.

    Raises:
        CnnbenchError: what it found wrong.
    """
    launcher.load(_further_modules(configs))
    tree = {"configs": [to_tree(each) for each in configs], "slots": config.slots}
    question = Question(launcher, "jobs", tree)
    load_results()  # it waits for torch as long
    found = question.answer()
    if found is None:
        return None
    slots = {**found["slots"], "gpus": tuple(found["slots"]["gpus"])}
    return Checked(Slots(**slots), tuple(found["work"]))


def _further_modules(configs: Sequence[RunConfig]) -> list[str]:
    """Return what some jobs import that most others do without."""
    has_torchvision = any(config.model.name == "torchvision" for config in configs)
    is_compiled = any(config.device.compile for config in configs)
    return ["torchvision"] * has_torchvision + ["torch._dynamo"] * is_compiled


def find(configs: Sequence[Mapping[str, Any]], slots: int | Literal["auto"]) -> dict[str, Any]:
    """Return as plain values what ``check_jobs`` finds out for this machine.

    Args:
        configs: of all jobs, as ``to_tree`` gives them.
        slots: ``hydra.launcher.slots``.

    Raises:
        CnnbenchError: as ``check_jobs``.
    """
    from cnnbench.sweeps.slots import choose_slots, training_macs
    from cnnbench.training.launch import check_all

    plans = check_all([read_config(tree) for tree in configs])
    return {"slots": asdict(choose_slots(plans, slots)), "work": training_macs(plans)}
