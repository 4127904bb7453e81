"""The graph of a network as TensorBoard draws it."""

from __future__ import annotations

import importlib
import sys
import warnings
from types import ModuleType
from typing import Any

import torch
from torch import nn


def trace(module: nn.Module, example: torch.Tensor) -> bytes:
    """Return a module's traced graph, as an event file holds it.

    Args:
        module: in evaluation mode.
        example: its input.
    """
    graphs, versions = (
        importlib.import_module(f"tensorboard.compat.proto.{name}_pb2")
        for name in ("graph", "versions")
    )
    # torch would trace once more to compare, for which it imports its distributed tensors.
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(module, example, check_trace=False)
        torch._C._jit_pass_inline(traced.graph)
        nodes = _parser.parse(traced.graph, traced, (example,))
    definition = graphs.GraphDef(node=nodes, versions=versions.VersionDef(producer=22))
    serialized: bytes = definition.SerializeToString()
    return serialized


def _load_parser() -> Any:
    """Return torch's module that turns a trace into TensorBoard's nodes."""
    # Importing torch's writer loads TensorFlow where it is installed: seconds, for one function
    # that TensorBoard has too. Its build without TensorFlow is known by this module.
    sys.modules["tensorboard.compat.notf"] = ModuleType("tensorboard.compat.notf")
    try:
        return importlib.import_module("torch.utils.tensorboard._pytorch_graph")
    finally:
        del sys.modules["tensorboard.compat.notf"]


_parser = _load_parser()
