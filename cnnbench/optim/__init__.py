"""Optimizers and learning-rate schedules by name, each a row of a table.

``optimizers`` also decides which parameters decay; ``kernels`` calls torch's fused ones the short
way; ``muon`` is ours; ``schedules`` are functions of progress without
state. When an update is made, or skipped, belongs to ``engine``. Imports ``registry`` and
``errors``.
"""

from __future__ import annotations

from cnnbench.optim.kernels import supports_found_inf, update
from cnnbench.optim.optimizers import OPTIMIZERS, build_optimizer
from cnnbench.optim.schedules import SCHEDULES, Schedule, build_schedule

__all__ = [
    "OPTIMIZERS",
    "build_optimizer",
    "supports_found_inf",
    "update",
    "SCHEDULES",
    "Schedule",
    "build_schedule",
]
