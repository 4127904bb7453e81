"""Train, evaluate and compare classic convolutional networks on small images.

The public functions are those of `cnnbench.api`, under the same names; each but a few does what
the command of its name does. They load torch when they are first called, so that
``import cnnbench`` is quick.
"""

from __future__ import annotations

from cnnbench import api
from cnnbench.analysis.results import Run, Sweep
from cnnbench.api import *  # noqa: F403
from cnnbench.version import __version__

__all__ = [*api.__all__, "Run", "Sweep", "__version__"]
