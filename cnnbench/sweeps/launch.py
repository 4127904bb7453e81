"""The way from the settings of ``train -m`` to runs: as a sweep's jobs, or a search's trials."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cnnbench.config.compose import Composer
from cnnbench.config.early import check_early
from cnnbench.config.launcher import split_launcher
from cnnbench.config.settings import Setting
from cnnbench.config.sweeper import split_sweeper
from cnnbench.notices import say_torch_loads
from cnnbench.rendering.text import counted
from cnnbench.sweeps.jobs import expand
from cnnbench.sweeps.launchers import check_launcher
from cnnbench.sweeps.run import launch_sweep


def launch(
    composer: Composer, settings: Sequence[Setting], command: Sequence[str]
) -> tuple[Path, int]:
    """Check all runs that settings mean, and train those that are not done.

    Args:
        composer: knows the groups.
        settings: of the runs, of the launcher, and of a search where there is one.
        command: the command line, for the record.

    Returns:
        The directory of the sweep or search, and how many jobs failed.

    Raises:
        CnnbenchError: as ``launch_sweep`` and ``launch_search``.
    """
    launcher, how, ours = split_launcher(settings)
    check_launcher(launcher)
    sweeper, ours = split_sweeper(ours)
    if sweeper is None:
        sweep = expand(composer, ours)
        for job in sweep.jobs:
            check_early(job.config)
        say_torch_loads(counted(len(sweep.jobs), "job"))
        return launch_sweep(sweep, command, launcher, how)
    from cnnbench.sweeps.search.run import launch_search
    from cnnbench.sweeps.search.space import read_space

    return launch_search(composer, read_space(composer, ours), sweeper, command, launcher, how)
