"""Optimizers and learning-rate schedules by name."""

from __future__ import annotations

from cnnbench.optim.optimizers import OPTIMIZERS, build_optimizer, supports_found_inf
from cnnbench.optim.schedules import SCHEDULES, Schedule, build_schedule

__all__ = [
    "OPTIMIZERS",
    "build_optimizer",
    "supports_found_inf",
    "SCHEDULES",
    "Schedule",
    "build_schedule",
]
