"""A network of the user's own, from a file or another package.

Whatever is called here runs someone's code, so a name or path may only come from the person at the
keyboard: a settings argument or a flag, never a checkpoint or a recorded config.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from torch import Tensor, nn

from cnnbench.config.schema import read_arguments
from cnnbench.errors import (
    UsageError,
    error_text,
    expected_names,
    mark_user_code,
    shape_text,
    user_code_error,
)
from cnnbench.files import expand_path, file_sha256, read_regular

_FROM_DATA = ("in_channels", "num_classes", "image_size")
_EXAMPLE = "model.path=./mynet.py:MyNet"


@dataclass(frozen=True)
class CustomNetwork:
    """A class in a file.

    Attributes:
        constructor: takes `in_channels`, `num_classes`, `image_size` and `args`.
        sha256: of the file.
    """

    constructor: Callable[..., nn.Module]
    sha256: str


def split_path(text: str) -> tuple[Path, str]:
    """Return file and class of `FILE:CLASS`.

    Raises:
        UsageError: it is not of that form, or there is no such file.
    """
    file, _, name = text.rpartition(":")
    if not (file and name.isidentifier()):
        raise UsageError(f"model.path={text}: expected FILE:CLASS, such as {_EXAMPLE}")
    path = expand_path(file)
    if not path.is_file():
        raise UsageError(f"model.path={text}: there is no file {path}")
    return path, name


def code_sha256(text: str) -> str:
    """Return the SHA-256 of the file of `FILE:CLASS`, without running it.

    Raises:
        UsageError: it is not of that form, or the file cannot be read.
    """
    path, _ = split_path(text)
    return file_sha256(path, "model.path")


def load_custom(text: str) -> CustomNetwork:
    """Run a file and return the class in it.

    Args:
        text: `FILE:CLASS`, from the person at the keyboard.

    Raises:
        UsageError: the file is missing or fails, or has no such class that is a network.
    """
    path, name = split_path(text)
    content = _read(path)
    digest = hashlib.sha256(content).hexdigest()
    module = _run_file(path, content, digest)
    network = getattr(module, name, None)
    label = f"model.path={text}"
    if network is None:
        classes = [key for key, value in vars(module).items() if _is_network(value)]
        raise UsageError(f"{label}: the file has no class {name}{expected_names(name, classes)}")
    return CustomNetwork(open_constructor(network, label), digest)


def open_constructor(network: Any, label: str) -> Callable[..., nn.Module]:
    """Return a constructor whose own arguments come as one mapping `args`.

    Args:
        network: what a file or package has under the name.
        label: how the user named it, for messages.

    Raises:
        UsageError: it is no network class, or lacks a parameter that each network has.
    """
    if not _is_network(network):
        raise UsageError(f"{label}: is no class of torch.nn.Module")
    parameters = inspect.signature(network).parameters
    lacking = [name for name in _FROM_DATA[:2] if name not in parameters]
    if lacking:
        raise UsageError(
            f"{label}: its constructor lacks {' and '.join(lacking)}; expected "
            f"def __init__(self, *, in_channels, num_classes, ...)"
        )
    return partial(_construct, network, label)


def _construct(
    network: type[nn.Module],
    label: str,
    *,
    in_channels: int,
    num_classes: int,
    image_size: int,
    args: Mapping[str, Any] = MappingProxyType({}),
) -> nn.Module:
    """Build a network from a class that was not written here."""
    parameters = inspect.signature(network).parameters
    known = [name for name in parameters if name not in _FROM_DATA]
    for name in args:
        if name not in known:
            raise UsageError(
                f"{label}: unknown argument model.args.{name}{expected_names(name, known)}"
            )
    missing = [
        name
        for name in known
        if parameters[name].default is inspect.Parameter.empty
        and parameters[name].kind is not inspect.Parameter.VAR_POSITIONAL
        and parameters[name].kind is not inspect.Parameter.VAR_KEYWORD
        and name not in args
    ]
    if missing:
        raise UsageError(f"{label}: give model.args.{missing[0]}=VALUE, which has no default")
    args = read_arguments(network, args, f"{label}: model.args.")
    sizes = {"in_channels": in_channels, "num_classes": num_classes}
    if "image_size" in parameters:
        sizes["image_size"] = image_size
    try:
        module = network(**sizes, **args)
    except (KeyboardInterrupt, UsageError):
        raise
    except BaseException as error:  # whatever the user's own constructor raises
        shown = ", ".join(f"{key}={value}" for key, value in {**sizes, **args}.items())
        raise UsageError(
            f"{label}: its constructor fails with {shown}: "
            f"{user_code_error(error) or error_text(error)}"
        ) from error
    module.register_forward_hook(partial(_check_output, label, num_classes))
    return module


def _check_output(
    label: str, num_classes: int, module: nn.Module, args: Sequence[Any], output: Any
) -> None:
    """Refuse what is no logits: in training, a network may give something else than when measured.

    Raises:
        UsageError: the network's output is no tensor (N, num_classes).
    """
    is_tensor = isinstance(output, Tensor)
    if not args or (is_tensor and output.shape == (len(args[0]), num_classes)):
        return
    came = f"a tensor of shape {shape_text(output.shape)}" if is_tensor else type(output).__name__
    mode = "training" if module.training else "evaluation"
    raise UsageError(
        f"{label}: {forward_line(module)} gives {came} in {mode} mode, expected logits: a tensor "
        f"of shape {len(args[0])} x {num_classes}, a row for each image and a column for each class"
    )


def forward_line(module: nn.Module) -> str:
    """Return where a module's forward stands: ``FILE, line 12, in forward``."""
    code = getattr(type(module).forward, "__code__", None)
    if code is None:
        return f"forward of {type(module).__name__}"
    return f"{code.co_filename}, line {code.co_firstlineno}, in forward"


def _is_network(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, nn.Module)


def _read(path: Path) -> bytes:
    try:
        return read_regular(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None


@cache
def _run_file(path: Path, content: bytes, digest: str) -> ModuleType:
    """Run a file once per content, under a module name of its own."""
    name = f"cnnbench_custom_{digest[:16]}"
    spec = importlib.util.spec_from_loader(name, loader=None, origin=str(path))
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    module.__file__ = str(path)
    # Dataclasses and pickling of loader workers look a module up by its name.
    sys.modules[name] = module
    mark_user_code(path.parent)
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
    return module
