"""Two processes of one thread against one process of two threads, training the same batches.

    python benchmarks/ranks.py [NETWORK ...] [--rounds 7] [--steps 3] [--format text|...]

torchrun starts two processes. In turns both take some steps together, and the first one takes as
many alone with two threads while the other one waits; images per second are the medians over the
turns. The ratio is what the processes reach of the threads; at least .85 is to be reached. On a
machine that does other work, turns of both kinds meet the same of it, and only the ratio counts.
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
COLUMNS = ("network", "processes", "threads", "ratio", "turns", "load")
_BATCH = 64


def measure(names: list[str], *, rounds: int, steps: int) -> list[dict[str, Any]]:
    """Measure in each of two processes that torchrun started; return a row for each network."""
    from cnnbench.engine.world import World
    from cnnbench.training.distributed import meeting

    with meeting("cpu") as place:
        world = place.world
        rows = []
        for name in names:
            together, alone = _steps(name, world), _steps(name, World())
            rates: dict[str, list[float]] = {"processes": [], "threads": []}
            for number in range(rounds + 1):
                done = {"processes": _take(together, 1, steps)}
                world.largest([0])
                if world.is_first:
                    done["threads"] = _take(alone, 2, steps)
                world.largest([0])
                if number:  # the first turn warms up
                    for kind, rate in done.items():
                        rates[kind].append(rate)
            if world.is_first:
                medians = {kind: statistics.median(found) for kind, found in rates.items()}
                ratios = [
                    many / one
                    for many, one in zip(rates["processes"], rates["threads"], strict=True)
                ]
                rows.append(
                    {
                        "network": name,
                        **{kind: round(rate, 1) for kind, rate in medians.items()},
                        "ratio": round(statistics.median(ratios), 3),
                        "turns": rounds,
                        "load": round(os.getloadavg()[0], 1),
                    }
                )
        return rows


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


def _take(steps: Iterator[Any], num_threads: int, count: int) -> float:
    """Take steps, and return the images of whole batches per second."""
    import torch

    torch.set_num_threads(num_threads)
    started = time.perf_counter()
    for _ in range(count):
        next(steps)
    return count * _BATCH / (time.perf_counter() - started)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=", ".join(NETWORKS))
    parser.add_argument("--rounds", type=int, default=7, help="turns of each kind; 7 by default")
    parser.add_argument("--steps", type=int, default=3, help="of a turn; 3 by default")
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
