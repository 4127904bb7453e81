"""The layers of a run's network, as the page shows them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

# With more, layers are folded into the modules that hold them.
_MAX_LAYERS = 60


def layers_of(network: Mapping[str, Any], path: str) -> tuple[dict[str, Any], int | None] | str:
    """Return a network's summary with the depth it is folded to, or why there is none.

    Args:
        network: as the run recorded it.
        path: of the run.
    """
    from cnnbench.errors import CnnbenchError
    from cnnbench.geometry.summary import summarize
    from cnnbench.runs.network import load_meta

    try:
        module, shape = load_meta(network, Path(path), None)
        for depth in (None, 3, 2, 1):
            found = summarize(module, shape, depth=depth)
            if len(found["layers"]) <= _MAX_LAYERS:
                break
    except (CnnbenchError, RuntimeError, ArithmeticError, AssertionError) as error:
        return str(error).partition("\n")[0]
    return found, depth
