from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from cnnbench.errors import UsageError
from cnnbench.optim import SCHEDULES, Schedule, build_schedule

STEPS = 240


def build(name: str, *, warmup_fraction: float = 0.0, **args: Any) -> Schedule:
    return build_schedule(name, warmup_fraction=warmup_fraction, args=args)


def torch_factors(
    make: Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler], steps: int
) -> list[float]:
    """Return the learning rate of each step of torch's own scheduler on a base rate of 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    factors = []
    for _ in range(steps):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return factors


def our_factors(schedule: Schedule, steps: int, last: int | None = None) -> list[float]:
    return [schedule(step / (last or steps)) for step in range(steps)]


def test_step_is_torchs_multisteplr() -> None:
    expected = torch_factors(
        lambda o: lr_scheduler.MultiStepLR(o, milestones=[24, 120, 180], gamma=0.3), STEPS
    )
    schedule = build("step", milestones=(0.1, 0.5, 0.75), gamma=0.3)
    assert our_factors(schedule, STEPS) == pytest.approx(expected, rel=1e-12)


def test_evenly_spaced_milestones_are_torchs_steplr() -> None:
    expected = torch_factors(lambda o: lr_scheduler.StepLR(o, step_size=80, gamma=0.1), STEPS)
    schedule = build("step", milestones=(1 / 3, 2 / 3), gamma=0.1)
    assert our_factors(schedule, STEPS) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("final_factor", [0.0, 0.1])
def test_cosine_is_torchs_cosineannealinglr(final_factor: float) -> None:
    expected = torch_factors(
        lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=STEPS, eta_min=final_factor), STEPS
    )
    ours = our_factors(build("cosine", final_factor=final_factor), STEPS)
    assert ours == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("final_factor", [0.0, 0.25])
def test_linear_is_torchs_linearlr(final_factor: float) -> None:
    expected = torch_factors(
        lambda o: lr_scheduler.LinearLR(
            o, start_factor=1.0, end_factor=final_factor, total_iters=STEPS
        ),
        STEPS,
    )
    ours = our_factors(build("linear", final_factor=final_factor), STEPS)
    assert ours == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("pct_start", [0.25, 0.5])
def test_onecycle_is_torchs_onecyclelr(pct_start: float) -> None:
    # torch's cycle ends on the last step, not after it, and its peak lies one step earlier.
    steps = STEPS + 1
    expected = torch_factors(
        lambda o: lr_scheduler.OneCycleLR(
            o,
            max_lr=1.0,
            total_steps=steps,
            pct_start=pct_start,
            div_factor=20,
            final_div_factor=50,
            anneal_strategy="cos",
            three_phase=False,
            cycle_momentum=False,
        ),
        steps - 1,
    )
    schedule = build(
        "onecycle",
        peak_fraction=(pct_start * steps - 1) / (steps - 1),
        start_factor=1 / 20,
        final_factor=1 / 1000,
    )
    assert our_factors(schedule, steps - 1, steps - 1) == pytest.approx(expected, rel=1e-9)
    assert schedule(1.0) == pytest.approx(1 / 1000)


def test_onecycle_defaults_are_torchs() -> None:
    expected = torch_factors(
        lambda o: lr_scheduler.OneCycleLR(o, max_lr=1.0, total_steps=100_001, cycle_momentum=False),
        1000,
    )
    ours = our_factors(build("onecycle"), 1000, 100_000)
    assert ours == pytest.approx(expected, rel=1e-3)
    assert build("onecycle")(1.0) == pytest.approx(1 / 25 / 1e4)


def test_constant_is_one() -> None:
    assert our_factors(build("constant"), 10) == [1.0] * 10


@pytest.mark.parametrize("name", SCHEDULES)
def test_warmup_rises_linearly_to_the_schedules_own_start(name: str) -> None:
    plain, warm = build(name), build(name, warmup_fraction=0.2)
    expected = torch_factors(
        lambda o: lr_scheduler.LinearLR(o, start_factor=0.01, end_factor=1.0, total_iters=48), 48
    )
    ours = [factor / plain(0.0) for factor in our_factors(warm, STEPS)[:48]]
    assert ours == pytest.approx(expected, rel=1e-9)
    assert warm(0.2) == pytest.approx(plain(0.2 if name == "step" else 0.0))
    assert warm(1.0) == pytest.approx(plain(1.0))


def test_milestones_stay_where_they_are_with_a_warmup() -> None:
    schedule = build("step", warmup_fraction=0.1, milestones=(0.5,), gamma=0.1)
    assert schedule(0.499) == 1.0
    assert schedule(0.5) == pytest.approx(0.1)


@pytest.mark.parametrize("warmup_fraction", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("edge", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", SCHEDULES)
def test_factors_stay_in_range_at_extreme_arguments(
    name: str, edge: float, warmup_fraction: float
) -> None:
    args = {"onecycle": {"peak_fraction": edge}, "step": {"milestones": (edge,)}}.get(name, {})
    schedule = build(name, warmup_fraction=warmup_fraction, **args)
    factors = our_factors(schedule, 101, 100)
    assert all(math.isfinite(factor) and 0 <= factor <= 1 for factor in factors)


def test_only_a_plain_constant_lets_a_run_be_extended() -> None:
    assert not build("constant").depends_on_length
    assert build("constant", warmup_fraction=0.1).depends_on_length
    assert all(build(name).depends_on_length for name in SCHEDULES.keys() - {"constant"})


def test_bad_values_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="did you mean 'cosine'"):
        build("cosin")
    with pytest.raises(UsageError, match="rising fractions"):
        build("step", milestones=(0.7, 0.5))
