"""Mistakes that can be found in a moment, before torch is imported, which takes seconds."""

from __future__ import annotations

import ast
import os
import sys
from pathlib import Path

from cnnbench.config.run_config import RunConfig
from cnnbench.errors import UsageError, expected_names
from cnnbench.files import read_code, split_code_path

# One of these is there wherever torch could find a GPU: NVIDIA's, its Jetson's, WSL's, AMD's.
_GPU_FILES = tuple(
    f"/dev/{name}"
    for name in ("nvidiactl", "nvidia0", "nvmap", "nvhost-ctrl-gpu", "nvgpu", "dxg", "kfd")
)


def check_early(config: RunConfig) -> None:
    """Refuse what surely cannot be; all else is found by whoever uses it.

    Raises:
        UsageError: this machine has no such device, or a file of the user's own has no such name.
    """
    name = config.device.name
    is_linux = sys.platform == "linux"
    has_no_gpu = is_linux and not any(Path(file).exists() for file in _GPU_FILES)
    if name == "cuda" and (has_no_gpu or sys.platform == "darwin"):
        raise UsageError("device=cuda: this machine has no CUDA device; use device=cpu")
    if name == "mps" and sys.platform != "darwin":
        raise UsageError("device=mps: this machine has no MPS device, only Macs do; use device=cpu")
    for key, node in (("model.path", config.model), ("data.path", config.data)):
        if node.name == "custom":
            _check_name(key, str(node.args["path"]))


def _check_name(key: str, text: str) -> None:
    path, name = split_code_path(key, text)
    try:
        statements = ast.parse(read_code(path)).body
    except (SyntaxError, ValueError):
        return  # said where it is run
    names: list[str] = []
    imported: set[str] = set()
    for part in statements:
        if isinstance(part, ast.ImportFrom):
            imported |= {alias.asname or alias.name for alias in part.names}
            continue
        if isinstance(part, (ast.FunctionDef, ast.ClassDef)):
            names.append(part.name)
        elif isinstance(part, ast.Assign) and all(isinstance(t, ast.Name) for t in part.targets):
            names += [target.id for target in part.targets if isinstance(target, ast.Name)]
        elif not isinstance(part, (ast.Expr, ast.Import)):
            return  # a branch or a star may bring any name
    if name not in {*names, *imported} and "*" not in imported:
        what = "class " if key == "model.path" else ""
        raise UsageError(f"{key}={text}: the file has no {what}{name}{expected_names(name, names)}")


def num_processes() -> int:
    """Return how many processes torchrun started; 1 without it."""
    return int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def check_alone(what: str, instead: str) -> None:
    """Refuse what is not for several processes.

    Args:
        what: the command.
        instead: what to write, without torchrun.

    Raises:
        UsageError: torchrun started several.
    """
    if (number := num_processes()) > 1:
        raise UsageError(
            f"{what}: torchrun started {number} processes, which train one run together; write "
            f"'{instead}' without torchrun"
        )
