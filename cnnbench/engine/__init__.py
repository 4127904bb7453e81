"""The loops, given ready objects: nothing here knows a config, a network family or a data set."""

from __future__ import annotations

from cnnbench.engine.loop import Step, evaluate, fit
from cnnbench.engine.profile import profiled
from cnnbench.engine.state import TrainState

__all__ = ["Step", "TrainState", "evaluate", "fit", "profiled"]
