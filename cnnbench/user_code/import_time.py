"""What a Python file would do at import, read from its source and never run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from cnnbench.errors import UsageError

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def check_import(content: bytes, path: Path) -> None:
    """Refuse a file that would train while it is imported: it would do so in every process.

    Args:
        content: of the file; what is no Python passes, and fails where it is run.
        path: for the message.

    Raises:
        UsageError: a ``backward()`` runs at import, directly or through the file's own functions.
    """
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError):
        return
    training = _training_names(tree)
    for node in _at_import(tree.body):
        if isinstance(node, ast.Call) and (_is_backward(node) or _called(node) in training):
            raise UsageError(
                f"{path}, line {node.lineno}: the file trains when it is imported "
                f"({ast.unparse(node.func)}), and it is imported for its network or "
                'data alone; put what trains below  if __name__ == "__main__":'
            )


def _training_names(tree: ast.Module) -> set[str]:
    """Return the functions of a file, and methods of its classes, that come to ``backward()``."""
    calls = {
        node.name: [call for call in ast.walk(node) if isinstance(call, ast.Call)]
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    found = {name for name, made in calls.items() if any(map(_is_backward, made))}
    while True:
        more = {
            name for name, made in calls.items() if any(_called(call) in found for call in made)
        }
        if more <= found:
            return found
        found |= more


def _is_backward(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Attribute) and call.func.attr == "backward"


def _called(call: ast.Call) -> str:
    """Return the last name of what is called; of a method, any object's."""
    func = call.func
    if isinstance(func, ast.Attribute):
        return func.attr
    return func.id if isinstance(func, ast.Name) else ""


def _at_import(statements: list[ast.stmt]) -> Iterator[ast.AST]:
    """Yield the nodes that run at import, without the bodies of functions and of guarded ifs."""
    waiting: list[ast.AST] = list(statements)
    while waiting:
        node = waiting.pop(0)
        if isinstance(node, _FUNCTIONS):
            continue
        if isinstance(node, ast.If) and _is_main_guard(node.test):
            waiting = [*node.orelse, *waiting]
            continue
        yield node
        waiting = [*ast.iter_child_nodes(node), *waiting]


def _is_main_guard(test: ast.expr) -> bool:
    names = {node.id for node in ast.walk(test) if isinstance(node, ast.Name)}
    texts = {node.value for node in ast.walk(test) if isinstance(node, ast.Constant)}
    return "__name__" in names and "__main__" in texts
