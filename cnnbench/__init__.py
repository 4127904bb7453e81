"""Train, evaluate and compare classic convolutional networks on small images.

Every function here does what the command of the same name does. They load torch when they are
first used, so that ``import cnnbench`` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from cnnbench.version import __version__

if TYPE_CHECKING:
    from cnnbench.cli.bench import bench
    from cnnbench.cli.compare import compare
    from cnnbench.cli.evaluate import evaluate
    from cnnbench.cli.export import export
    from cnnbench.cli.features import features
    from cnnbench.cli.predict import load, predict
    from cnnbench.cli.summary import summary
    from cnnbench.cli.train import create_model, train

_HOMES = {
    "train": "train",
    "create_model": "train",
    "evaluate": "evaluate",
    "predict": "predict",
    "load": "predict",
    "summary": "summary",
    "bench": "bench",
    "compare": "compare",
    "features": "features",
    "export": "export",
}
__all__ = [
    "train",
    "load",
    "evaluate",
    "predict",
    "summary",
    "bench",
    "compare",
    "features",
    "export",
    "create_model",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cnnbench' has no attribute '{name}'")
    return getattr(importlib.import_module(f"cnnbench.cli.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
