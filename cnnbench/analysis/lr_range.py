"""The learning rate range test: the loss while the rate rises (Smith, 2017, arXiv:1506.01186)."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnbench.config.run_config import RunConfig
from cnnbench.errors import NonFiniteError, UsageError, real_argument, whole_argument
from cnnbench.files import atomic_write
from cnnbench.notices import show_status
from cnnbench.optim.schedules import Schedule
from cnnbench.rendering import figures
from cnnbench.training import launch
from cnnbench.training.network import build_model, first_weights
from cnnbench.training.setup import Setup, set_up

# Of the moving average of the losses, whose start is corrected as Adam corrects its averages.
_SMOOTHING = 0.95
# The test ends where the smoothed loss is so many times its least.
_DIVERGED = 4.0
# It has fallen where it is below this share of the mean of the first batches, an eighth of the
# steps, and by more than chance makes of such means: so many of their standard deviations.
_FALLEN, _FIRST, _CHANCE = 0.95, 8, 3.0
# At the least loss training is already about to diverge: a rate well below it is copied.
_BELOW_LEAST = 10.0
_MIN_STEPS = 20


@dataclass(frozen=True)
class Point:
    """One step of the test.

    Attributes:
        lr: learning rate of the step.
        loss: of its batch.
        smoothed: moving average of the losses so far.
    """

    lr: float
    loss: float
    smoothed: float


def find_rate(config: RunConfig, *, low: float, high: float, num_steps: int) -> dict[str, Any]:
    """Train for some steps with a rising rate; what is trained is thrown away.

    The rate grows by the same factor each step. Only training images are looked at. The rate to
    copy is a tenth of that at which the smoothed loss is least.

    Args:
        config: checked; its schedule and length have no effect.
        low: first rate, > 0.
        high: last rate, > low.
        num_steps: at least 20.

    Returns:
        ``lr`` (the rate to copy), ``least_loss_lr``, ``diverged_lr`` (None where the loss never
        did), and ``points`` with ``lr``, ``loss`` and ``smoothed``.

    Raises:
        UsageError: the range or the number of steps makes no sense, the loss never fell, or the
            config does not fit this machine.
        DataError: the data is missing or damaged.
    """
    low, high = (
        real_argument(f"--{name} ", rate, "a learning rate")
        for name, rate in (("low", low), ("high", high))
    )
    if not 0 < low < high < math.inf:
        raise UsageError(f"--low {low:g} --high {high:g}: expected 0 < low < high")
    num_steps = whole_argument("--steps ", num_steps, _MIN_STEPS)
    if config.resume is not None:
        raise UsageError("resume: find-lr tests a config; give its settings")
    try:
        points, has_diverged = _measure(config, low, high, num_steps)
    except Exception as error:
        plain = launch.plain_error(error, config)
        if plain is None or plain is error:
            raise
        raise plain from error
    least = _least(points, num_steps)
    if least is None:
        raise UsageError(
            f"the loss did not fall from a learning rate of {low:g} on, or by no more than it "
            "differs from batch to batch; give a lower --low, more --steps or a larger "
            "data.batch_size, or look at the data and the network"
        )
    return {
        "model": config.model.name,
        "data": config.data.name,
        "optimizer": config.optimizer.name,
        "lr": float(f"{least.lr / _BELOW_LEAST:.2g}"),
        "least_loss_lr": least.lr,
        "diverged_lr": points[-1].lr if has_diverged else None,
        "points": [dataclasses.asdict(point) for point in points],
    }


def _least(points: Sequence[Point], num_steps: int) -> Point | None:
    """Return the point of the least smoothed loss; None where the loss never fell.

    Of the first points, whose averages are of few batches, none is it.
    """
    first, later = points[: _num_first(num_steps)], points[_num_first(num_steps) :]
    if not later:
        return None
    least = min(later, key=lambda point: point.smoothed)
    losses = [point.loss for point in first]
    mean, left = statistics.fmean(losses), _SMOOTHING ** (points.index(least) + 1)
    # Of the weights of the corrected average.
    squares = (1 - _SMOOTHING) / (1 + _SMOOTHING) * (1 + left) / (1 - left)
    chance = statistics.stdev(losses) * math.sqrt(1 / len(losses) + squares)
    limit = min(_FALLEN * mean, mean - _CHANCE * chance)
    return least if least.smoothed < limit else None


def _num_first(num_steps: int) -> int:
    return max(_FIRST, num_steps // _FIRST)


def _measure(
    config: RunConfig, low: float, high: float, num_steps: int
) -> tuple[list[Point], bool]:
    """Return the steps until the loss diverges, and whether it did."""
    plan = launch.check_all([config])[0]
    growth = math.log(high / low)
    base = config.optimizer.lr

    def factor(progress: float) -> float:
        # The last step's progress is just below 1, and its rate the highest.
        return low / base * math.exp(growth * progress * num_steps / (num_steps - 1))

    work = dataclasses.replace(plan.work, sizes=(), early_macs=())
    plan = dataclasses.replace(plan, schedule=Schedule(factor), work=work)
    data = launch.read(plan)
    model = build_model(config, plan.network)
    first_weights(model, config, plan.network, data)
    setup = set_up(plan, data, model)
    points: list[Point] = []
    for point in _steps(setup, num_steps):
        least = min((p.smoothed for p in points[_num_first(num_steps) :]), default=point.smoothed)
        if not math.isfinite(point.loss) or point.smoothed > _DIVERGED * least:
            return points, True
        points.append(point)
    return points, len(points) < num_steps


def _steps(setup: Setup, num_steps: int) -> Iterator[Point]:
    """Yield each step's rate and losses; a loss that is not finite ends it."""
    average = 0.0
    steps = setup.steps(num_steps)
    for number in range(1, num_steps + 1):
        try:
            step = next(steps)
        except NonFiniteError:
            return
        loss = step.loss.item()
        average = _SMOOTHING * average + (1 - _SMOOTHING) * loss
        if number % 10 == 0:
            show_status(f"\rstep {number} of {num_steps}, learning rate {step.lr:.2e} ")
        yield Point(step.lr, loss, average / (1 - _SMOOTHING**number))


def write_range(result: dict[str, Any], directory: Path) -> list[Path]:
    """Write the test as ``<data>-<model>.csv``, PNG and SVG, and return the files.

    Args:
        result: as ``find_rate`` returned it.
        directory: made where it is missing; files of the same names are replaced.

    Raises:
        DiskError: a file cannot be written.
    """
    stem = directory / f"{result['data']}-{result['model']}"
    files = _plot(result, stem)
    table = stem.with_name(f"{stem.name}.csv")
    atomic_write(table, _csv(result["points"]).encode())
    return [table, *files]


def _csv(points: Sequence[dict[str, float]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, ("lr", "loss", "smoothed"), lineterminator="\n")
    writer.writeheader()
    writer.writerows(points)
    return text.getvalue()


def _plot(result: dict[str, Any], stem: Path) -> list[Path]:
    from matplotlib.figure import Figure

    points = result["points"]
    rates = [point["lr"] for point in points]
    with figures.style():
        figure = Figure(figsize=(6, 3.6), layout="constrained")
        ax = figure.add_subplot()
        ax.plot(rates, [p["loss"] for p in points], color="#bbbbbb", linewidth=0.8, label="a batch")
        ax.plot(rates, [p["smoothed"] for p in points], color="black", label="smoothed")
        for key, name, line in (("lr", "to copy", "--"), ("least_loss_lr", "least loss", ":")):
            label = f"{name}: {result[key]:.2g}"
            ax.axvline(result[key], color="#d55e00", linestyle=line, label=label)
        ax.set_xscale("log")
        # A batch's loss may be far above what the test is about.
        highest = max(point["smoothed"] for point in points)
        ax.set_ylim(0, 1.1 * highest)
        ax.set_xlabel("learning rate")
        ax.set_ylabel("training loss")
        title = f"{result['model']} on {result['data']}, {result['optimizer']}"
        ax.set_title(figures.plain(title))
        figures.legend_below(figure, ax)
        return figures.save(figure, stem)
