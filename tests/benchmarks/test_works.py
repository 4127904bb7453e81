"""The scripts of ``benchmarks/`` as files: they import one another without a circle."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_no_circle_of_imports() -> None:
    graph: dict[str, set[str]] = {}
    for path in BENCHMARKS.glob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        names = {n.module or "" for n in nodes if isinstance(n, ast.ImportFrom)}
        names |= {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}
        graph[path.stem] = {name for name in names if (BENCHMARKS / f"{name}.py").exists()}
    assert "works" in graph["keras_networks"]
    tuple(graphlib.TopologicalSorter(graph).static_order())


def test_who_starts_the_contenders_loads_no_torch() -> None:
    """Each contender is a process of its own; the one that waits for them stays small."""
    code = "import sys, peers; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=BENCHMARKS, check=False)
    assert done.returncode == 0
