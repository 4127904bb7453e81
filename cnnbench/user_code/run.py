"""Running a file under a module name of its own, once for each content."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

from cnnbench.errors import UsageError, error_text, mark_user_code, user_code_error
from cnnbench.user_code.beside import open_folder, tell_others
from cnnbench.user_code.import_time import check_import


def run_user_file(path: Path, content: bytes) -> tuple[ModuleType, str]:
    """Run a file, once in a process for each content; return its module and its SHA-256.

    It may import what lies beside it, where Python finds nothing else of that name.

    Args:
        path: of the file, for messages and for what it imports from beside it.
        content: its bytes.

    Raises:
        UsageError: it would train, or fails when it is run.
    """
    digest = hashlib.sha256(content).hexdigest()
    return _run_file(path, content, digest), digest


@cache
def _run_file(path: Path, content: bytes, digest: str) -> ModuleType:
    """Run a file once per content, under a module name of its own."""
    name = f"cnnbench_custom_{digest[:16]}"
    spec = importlib.util.spec_from_loader(name, loader=None, origin=str(path))
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    module.__file__ = str(path)
    check_import(content, path)
    # Dataclasses and pickling of loader workers look a module up by its name.
    sys.modules[name] = module
    mark_user_code(path.parent)
    open_folder(path.parent)
    try:
        exec(compile(content, str(path), "exec"), vars(module))  # noqa: S102 - the user's own file
    except KeyboardInterrupt:
        del sys.modules[name]
        raise
    except BaseException as error:  # whatever the user's own file raises
        del sys.modules[name]
        raise UsageError(
            f"{path} cannot be run: {user_code_error(error) or error_text(error)}"
        ) from error
    tell_others(path, content)
    return module
