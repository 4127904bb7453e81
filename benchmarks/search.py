"""Whether a search by Optuna finds better settings than random draws, at equal numbers of trials.

    python benchmarks/search.py [--trials 50] [--repeats 5] [--epochs 2] [--format text|...]

LeNet on digits, its learning rate, weight decay and batch size from ``conf/search/lenet.yaml``.
Each trial trains with the same seed and is judged by its accuracy on the validation images, on one
thread and in this process; nothing is pruned. A repeat has a sampler's seed of its own. Then the
best settings of each repeat are trained on five other seeds and tested, since the best of many
validation accuracies is in part luck. The medians' intervals are bootstrapped over the repeats.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from cnnbench.config.compose import Composer
from cnnbench.config.sweeper import SweeperConfig
from cnnbench.errors import NonFiniteError
from cnnbench.rendering.text import FORMATS, render_table
from cnnbench.sweeps.search.space import Space, read_space
from cnnbench.sweeps.search.study import Study
from cnnbench.training.launch import check, read
from cnnbench.training.network import build_model
from cnnbench.training.setup import set_up

_BESIDE = ("data=digits", "device=cpu", "device.num_threads=1", "device.precision=fp32")
_TEST_SEEDS = range(1, 6)
_RESAMPLES = 10_000
_COLUMNS = ("sampler", "what", "median", "low", "high", "each")


def accuracy(space: Space, composer: Composer, values: Mapping[str, Any], seed: int, split: str):
    """Train, and return the last epoch's accuracy on a split; None where training diverged."""
    config = space.compose(composer, values, seed)
    plan = check(config)
    setup = set_up(plan, read(plan), build_model(config, plan.network))
    try:
        for _ in setup.steps():
            pass
    except NonFiniteError:
        return None
    sums = setup.sums()
    for _ in setup.evaluate(split, sums):
        pass
    return sums.read().accuracy


def search(space: Space, composer: Composer, sampler: str, trials: int, seed: int) -> list[Any]:
    """Return the trials of one search, each with its accuracy and values."""
    config = SweeperConfig(trials, None, sampler, "none", seed)  # type: ignore[arg-type]
    found = []
    with tempfile.TemporaryDirectory() as directory:
        study = Study(Path(directory) / "journal.log", space.dimensions, config, is_maximized=True)
        for _ in range(trials):
            asked = study.ask()
            value = accuracy(space, composer, asked.values, 0, "val")
            study.tell(asked.number, "pruned" if value is None else "complete", value)
            found.append((value if value is not None else 0.0, asked.values))
    return found


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % percentile interval of a median, bootstrapped."""
    drawn = np.random.default_rng(0).choice(values, (_RESAMPLES, len(values)))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return float(low), float(high)


def main() -> None:
    """Search in turns, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--format", choices=FORMATS, default="text")
    args = parser.parse_args()
    torch.set_num_threads(1)
    composer, started = Composer(), time.perf_counter()
    words = ["search=lenet", *_BESIDE, f"num_epochs={args.epochs}"]
    space = read_space(composer, composer.parse(words))
    bests: dict[str, list[float]] = {"tpe": [], "random": []}
    tested: dict[str, list[float]] = {"tpe": [], "random": []}
    for repeat in range(args.repeats):
        for sampler in bests:
            value, values = max(
                search(space, composer, sampler, args.trials, repeat), key=lambda pair: pair[0]
            )
            scores = [accuracy(space, composer, values, seed, "test") for seed in _TEST_SEEDS]
            bests[sampler].append(value)
            tested[sampler].append(float(np.mean([score or 0.0 for score in scores])))
            print(
                f"{sampler} {repeat}: val {value:.4f} test {tested[sampler][-1]:.4f} {values}; "
                f"{time.perf_counter() - started:.0f} s",
                flush=True,
            )
    rows = []
    for what, found in (("best validation accuracy", bests), ("its test accuracy", tested)):
        for sampler, values in found.items():
            low, high = interval(values)
            each = " ".join(f"{value:.4f}" for value in values)
            numbers = (f"{median(values):.4f}", f"{low:.4f}", f"{high:.4f}")
            rows.append(dict(zip(_COLUMNS, (sampler, what, *numbers, each), strict=True)))
    print(render_table(rows, _COLUMNS, args.format), end="")


if __name__ == "__main__":
    main()
