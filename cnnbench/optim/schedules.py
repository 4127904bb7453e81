"""Learning-rate schedules as pure functions of how far the run is.

At global step ``s`` of ``S`` the learning rate is ``base * schedule(s / S)``: there is no state, so
that a resumed run has the rates of the uninterrupted one. A warm-up, where asked for, rises
linearly over the first ``warmup_fraction`` of the run; ``cosine``, ``linear`` and ``onecycle`` then
take place in what is left, while the milestones of ``step`` are fractions of the whole run.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cnnbench.errors import UsageError
from cnnbench.registry import Registry

# A warm-up from 0 would waste the first step.
WARMUP_START_FACTOR = 0.01


@dataclass(frozen=True)
class Schedule:
    """A learning-rate schedule.

    Attributes:
        factor: maps progress in [0, 1] to a factor >= 0 of the base learning rate.
        depends_on_length: whether a longer run would have had other rates so far, so that a
            finished run cannot be extended.
    """

    factor: Callable[[float], float]
    depends_on_length: bool = True

    def __call__(self, progress: float) -> float:
        """Return the factor of the base learning rate at a progress in [0, 1]."""
        return self.factor(progress)


def constant(*, warmup_fraction: float = 0.0) -> Schedule:
    """The base rate throughout.

    Args:
        warmup_fraction: length of the warm-up; in [0, 1].
    """
    return Schedule(
        lambda progress: _warmup(progress, warmup_fraction),
        # A warm-up is as long as a fraction of the run.
        depends_on_length=warmup_fraction > 0,
    )


def step(
    *,
    warmup_fraction: float = 0.0,
    milestones: tuple[float, ...] = (0.5, 0.75),
    gamma: float = 0.1,
) -> Schedule:
    """Multiply by ``gamma`` at each milestone.

    Args:
        warmup_fraction: length of the warm-up; in [0, 1].
        milestones: rising fractions of the run; each in [0, 1].
        gamma: in [0, 1].

    Raises:
        UsageError: the milestones do not rise.
    """
    if list(milestones) != sorted(set(milestones)):
        raise UsageError(
            f"scheduler.milestones={list(milestones)}: expected rising fractions of the run, "
            "such as [0.5, 0.75]"
        )
    return Schedule(
        lambda progress: (
            _warmup(progress, warmup_fraction) * gamma ** bisect.bisect_right(milestones, progress)
        )
    )


def cosine(*, warmup_fraction: float = 0.05, final_factor: float = 0.0) -> Schedule:
    """Half a cosine from 1 down to ``final_factor`` (Loshchilov and Hutter, 2017; no restarts).

    Args:
        warmup_fraction: length of the warm-up; in [0, 1].
        final_factor: in [0, 1].
    """
    return Schedule(
        lambda progress: (
            _warmup(progress, warmup_fraction)
            * _cosine_between(1.0, final_factor, _rest(progress, warmup_fraction))
        )
    )


def linear(*, warmup_fraction: float = 0.05, final_factor: float = 0.0) -> Schedule:
    """A straight line from 1 down to ``final_factor``.

    Args:
        warmup_fraction: length of the warm-up; in [0, 1].
        final_factor: in [0, 1].
    """
    return Schedule(
        lambda progress: (
            _warmup(progress, warmup_fraction)
            * (1 + (final_factor - 1) * _rest(progress, warmup_fraction))
        )
    )


def onecycle(
    *,
    warmup_fraction: float = 0.0,
    peak_fraction: float = 0.3,
    start_factor: float = 0.04,
    final_factor: float = 4e-6,
) -> Schedule:
    """Rise to 1 and fall far below the start, both as half a cosine (Smith and Topin, 2018).

    The base learning rate is the peak. Unlike in the paper the momentum is not cycled, so that
    every optimizer takes this schedule.

    Args:
        warmup_fraction: length of a linear warm-up before the cycle; in [0, 1]. The cycle's own
            rise makes it unneeded.
        peak_fraction: where in the cycle the peak is; in [0, 1].
        start_factor: in [0, 1].
        final_factor: in [0, 1].
    """

    def factor(progress: float) -> float:
        at = _rest(progress, warmup_fraction)
        if at < peak_fraction:
            shape = _cosine_between(start_factor, 1.0, at / peak_fraction)
        elif peak_fraction < 1:
            shape = _cosine_between(1.0, final_factor, (at - peak_fraction) / (1 - peak_fraction))
        else:
            shape = 1.0
        return _warmup(progress, warmup_fraction) * shape

    return Schedule(factor)


SCHEDULES: Registry[Callable[..., Schedule]] = Registry(
    "schedule",
    {
        "constant": constant,
        "step": step,
        "cosine": cosine,
        "onecycle": onecycle,
        "linear": linear,
    },
)


def build_schedule(name: str, *, warmup_fraction: float, args: Mapping[str, Any]) -> Schedule:
    """Return a schedule by name.

    Args:
        name: a key of ``SCHEDULES``.
        warmup_fraction: length of the warm-up as a fraction of the run; in [0, 1].
        args: the schedule's own arguments.

    Raises:
        UsageError: the name is unknown or an argument has a value that makes no sense.
    """
    return SCHEDULES[name](warmup_fraction=warmup_fraction, **args)


def _warmup(progress: float, warmup_fraction: float) -> float:
    if progress >= warmup_fraction:
        return 1.0
    return WARMUP_START_FACTOR + (1 - WARMUP_START_FACTOR) * progress / warmup_fraction


def _rest(progress: float, warmup_fraction: float) -> float:
    """Return how much of the time after the warm-up is over, in [0, 1]."""
    if progress <= warmup_fraction:
        return 0.0
    return (progress - warmup_fraction) / (1 - warmup_fraction)


def _cosine_between(start: float, end: float, at: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * at)) / 2
