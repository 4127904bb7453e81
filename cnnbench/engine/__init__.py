"""The loops, given ready objects: nothing here knows a config, a network family or a data set.

``loop`` trains and evaluates as generators, ``state`` is what a checkpoint holds, ``finite`` stops
at numbers that are not, ``profile`` traces steps, ``compile`` compiles their loss and ``world``
divides it among processes. Where the objects come from belongs to ``training``; logging and saving
to whoever drives the loop. Imports ``device``, ``data.shards``, ``geometry``, ``optim`` and the
ground.
"""

from __future__ import annotations

from cnnbench.engine.loop import Step, evaluate, fit
from cnnbench.engine.profile import profiled
from cnnbench.engine.state import Progress, TrainState

__all__ = ["Progress", "Step", "TrainState", "evaluate", "fit", "profiled"]
