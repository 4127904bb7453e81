"""What a user's file imports from the folder that it lies in."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from types import ModuleType

from cnnbench.notices import warn

# Of files that were run, on the import path; the newest first.
_folders: list[str] = []


def open_folder(folder: Path) -> None:
    """Let Python import what lies in a folder, behind all that it finds without it.

    It stays on the import path, for what a function imports when it is called. Modules of the same
    names that came from the folders of other files are forgotten, so that each file gets its own.

    Args:
        folder: of a file that is about to be run.
    """
    here = str(folder)
    others = [other for other in _folders if other != here]
    lent = {
        name
        for name, module in sys.modules.items()
        if "." not in name and _source(folder, name) and _folder_of(module) in others
    }
    for name in list(sys.modules):
        if name.partition(".")[0] in lent:
            del sys.modules[name]
    if here not in _folders and here in sys.path:
        return  # where somebody else put it
    _folders[:] = [here, *others]
    sys.path[:] = [*(path for path in sys.path if path not in _folders), *_folders]


def tell_others(file: Path, content: bytes) -> None:
    """Say where a file that was run got a module from elsewhere, though one lies beside it.

    Args:
        file: that was run.
        content: its source.
    """
    for name in _imported(content):
        source, module = _source(file.parent, name), sys.modules.get(name)
        came = getattr(module, "__file__", None)
        if source is None or came is None or Path(came).resolve() == source.resolve():
            continue
        warn(
            f"{file}: import {name} gives {came}, which Python finds first, and not {source} "
            "beside the file; rename that one if it is meant"
        )


def _source(folder: Path, name: str) -> Path | None:
    """Return the file in a folder that a module's name would stand for."""
    if name in sys.stdlib_module_names:
        return None
    files = (folder / name / "__init__.py", folder / f"{name}.py")
    return next((file for file in files if file.is_file()), None)


def _folder_of(module: ModuleType) -> str | None:
    """Return the folder that a module was found in; of a package, the one above its own."""
    file = getattr(module, "__file__", None)
    if file is None:
        return None
    return str(Path(file).parents[1 if hasattr(module, "__path__") else 0])


def _imported(content: bytes) -> set[str]:
    """Return the first parts of the names that a source imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(content)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names
