"""Two processes of one thread against one process of two threads, training the same batches.

    python benchmarks/ranks.py [NETWORK ...] [--rounds 9] [--steps 2] [--format text|...]

torchrun starts two processes. In turns both take some steps together, and the first one takes as
many alone with two threads while the other one waits. `ratio` is the median over the turns of the
images per second of the processes against those of the threads; at least .85 is to be reached.
`cpu_ratio` is the same of the CPU time that an image takes, which says less, and more where other
programs keep the machine busy: with two threads, one that waits for its turn holds up the other.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from cnnbench.rendering.text import FORMATS, render_table

NETWORKS = {
    "lenet": ("model=lenet", "data.native_size=28"),
    "resnet18": ("model=resnet18", "data.native_size=32"),
    "googlenet": ("model=googlenet", "data.native_size=32"),
}
COLUMNS = ("network", "processes", "threads", "ratio", "cpu_ratio", "turns", "load")
_BATCH = 128


def measure(names: list[str], *, rounds: int, steps: int) -> list[dict[str, Any]]:
    """Measure in each of two processes that torchrun started; return a row for each network."""
    from cnnbench.engine.world import World
    from cnnbench.training.distributed import meeting

    with meeting("cpu") as place:
        world, rows = place.world, []
        for name in names:
            together, alone = _steps(name, world), _steps(name, World())
            turns = []
            for _ in range(rounds + 1):  # the first one warms up
                many = _take(together, 1, steps)
                one = _take(alone, 2, steps) if world.is_first else many
                world.largest([0])
                # Milliseconds of the slower process, and of the CPU for both.
                wall, cpu = world.largest([many[0]])[0], many[1] + _of_other(world, many[1])
                turns.append((wall, one[0], cpu, one[1]))
            if world.is_first:
                rows.append(_row(name, turns[1:], steps))
        return rows


def _of_other(world: Any, number: int) -> int:
    """Return what the second process has of a number, in both."""
    found: int = world.largest([0 if world.is_first else number])[0]
    return found


def _row(name: str, turns: list[tuple[int, int, int, int]], steps: int) -> dict[str, Any]:
    many, one, many_cpu, one_cpu = zip(*turns, strict=True)

    def rate(milliseconds: tuple[int, ...]) -> float:
        return round(steps * _BATCH * 1000 / statistics.median(milliseconds), 1)

    def ratio(ours: tuple[int, ...], theirs: tuple[int, ...]) -> float:
        return round(statistics.median(b / a for a, b in zip(ours, theirs, strict=True)), 2)

    return {
        "network": name,
        "processes": rate(many),
        "threads": rate(one),
        "ratio": ratio(many, one),
        "cpu_ratio": ratio(many_cpu, one_cpu),
        "turns": len(turns),
        "load": round(os.getloadavg()[0], 1),
    }


def _steps(name: str, world: Any) -> Iterator[Any]:
    from cnnbench.config.command import single_config
    from cnnbench.config.compose import Composer
    from cnnbench.training.launch import check, read
    from cnnbench.training.setup import set_up

    composer = Composer()
    settings = [*NETWORKS[name], "data=synthetic", "data.num_test=20", "device=cpu"]
    settings += [f"data.batch_size={_BATCH}", "data.num_train=4000", "num_epochs=1000"]
    config = single_config(composer, composer.parse(settings))
    plan = check(config, world)
    return set_up(plan, read(plan)).steps()


def _take(steps: Iterator[Any], num_threads: int, count: int) -> tuple[int, int]:
    """Take steps, and return the milliseconds, and those of the CPU."""
    import torch

    torch.set_num_threads(num_threads)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(count):
        next(steps)
    return (
        round(1000 * (time.perf_counter() - wall)),
        round(1000 * (time.process_time() - cpu)),
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=", ".join(NETWORKS))
    parser.add_argument("--rounds", type=int, default=9, help="turns of each kind; 9 by default")
    parser.add_argument("--steps", type=int, default=2, help="of a turn; 2 by default")
    parser.add_argument("--format", choices=FORMATS, default="text")
    args = parser.parse_args()
    names = args.networks or ["resnet18", "googlenet"]
    if unknown := set(names) - set(NETWORKS):
        parser.error(f"unknown {', '.join(sorted(unknown))}; expected {', '.join(NETWORKS)}")
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command = [*torchrun, "--nproc-per-node", "2", __file__, *sys.argv[1:]]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CNNBENCH_KERNEL_CHECK": "0"}
        with tempfile.TemporaryDirectory() as folder:
            sys.exit(subprocess.run(command, cwd=folder, env=environment, check=False).returncode)
    rows = measure(names, rounds=args.rounds, steps=args.steps)
    if os.environ["RANK"] == "0":
        print(render_table(rows, COLUMNS, args.format), end="")


if __name__ == "__main__":
    main()
