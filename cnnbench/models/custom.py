"""A network of the user's own, from a file or another package: a class, a module or a function.

Whatever is called here runs someone's code, so a name or path may only come from the person at the
keyboard: a settings argument or a flag, never a checkpoint or a recorded config.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from cnnbench.config.schema import read_arguments
from cnnbench.errors import (
    UsageError,
    error_text,
    expected_names,
    user_code_error,
)
from cnnbench.files import read_code, split_code_path
from cnnbench.models.foreign import (
    check_plain,
    check_rows,
    forward_line,
    output_tensors,
    with_first_output,
)
from cnnbench.user_code import run_user_file

_FROM_DATA = ("in_channels", "num_classes", "image_size")


@dataclass(frozen=True)
class CustomNetwork:
    """What a file has under a name.

    Attributes:
        constructor: takes `in_channels`, `num_classes`, `image_size`, `args` and `aux_weight`.
        sha256: of the file.
        note: what the user should know of how it is built; empty where there is nothing.
        lacking: those of `in_channels` and `num_classes` that it does not ask for, so that it is
            made for one number of them.
    """

    constructor: Callable[..., nn.Module]
    sha256: str
    note: str = ""
    lacking: tuple[str, ...] = ()


def load_custom(text: str) -> CustomNetwork:
    """Run a file, once in a process, and return the network in it.

    Args:
        text: `FILE:NAME`, from the person at the keyboard.

    Raises:
        UsageError: the file is missing, trains or fails when it is run, or has no such network.
    """
    path, name = split_code_path("model.path", text)
    module, digest = run_user_file(path, read_code(path))
    network = getattr(module, name, None)
    label = f"model.path={text}"
    if network is None:
        classes = [key for key, value in vars(module).items() if _is_network(value)]
        raise UsageError(f"{label}: the file has no class {name}{expected_names(name, classes)}")
    constructor = open_constructor(network, label)
    lacking = tuple(key for key in _FROM_DATA[:2] if key not in _parameters(network))
    note = (
        f"{name} is a module, not a class: each run draws its layers' weights anew from the seed, "
        "so that what the file set them to is lost"
    )
    return CustomNetwork(
        constructor, digest, note if isinstance(network, nn.Module) else "", lacking
    )


def open_constructor(network: Any, label: str) -> Callable[..., nn.Module]:
    """Return a constructor whose own arguments come as one mapping `args`.

    Args:
        network: what a file or package has under the name.
        label: how the user named it, for messages.

    Raises:
        UsageError: it is no network class, no module, and no function that may return one.
    """
    is_factory = callable(network) and not isinstance(network, type)
    if not (_is_network(network) or is_factory):
        raise UsageError(
            f"{label}: is no class of torch.nn.Module; expected one, a module such as "
            "nn.Sequential(...), or a function that returns a module"
        )
    return partial(_construct, network, label)


def _parameters(network: Any) -> Mapping[str, inspect.Parameter]:
    """Return what a class or function takes; a module takes nothing any more."""
    if isinstance(network, nn.Module):
        return {}
    try:
        return inspect.signature(network).parameters
    except ValueError:  # what is written in C may not say
        return {}


def _construct(
    network: Any,
    label: str,
    *,
    in_channels: int,
    num_classes: int,
    image_size: int,
    args: Mapping[str, Any] = MappingProxyType({}),
    aux_weight: float | None = None,
) -> nn.Module:
    """Build a network from code that was not written here."""
    if isinstance(network, nn.Module):
        if args:
            raise UsageError(f"{label}: is a module, which takes no model.args.{next(iter(args))}")
        fresh = _drawn_anew(network)
        _give_shapes(fresh, label, (in_channels, image_size, image_size))
        return _checked(fresh, label, num_classes, aux_weight)
    parameters = _parameters(network)
    _check_arguments(parameters, label, args)
    args = read_arguments(network, args, f"{label}: model.args.")
    offered = {
        "in_channels": in_channels,
        "num_classes": num_classes,
        "image_size": image_size,
    }
    sizes = {name: value for name, value in offered.items() if name in parameters}
    try:
        built = network(**{**sizes, **args})
    except (KeyboardInterrupt, UsageError):
        raise
    except BaseException as error:  # whatever the user's own constructor raises
        shown = ", ".join(f"{key}={value}" for key, value in {**sizes, **args}.items())
        raise UsageError(
            f"{label}: its constructor fails with {shown or 'no arguments'}: "
            f"{user_code_error(error) or error_text(error)}"
        ) from error
    if not isinstance(built, nn.Module):
        raise UsageError(
            f"{label}: returns {type(built).__name__}, expected a torch.nn.Module; write "
            "return nn.Sequential(...), or name a class"
        )
    _give_shapes(built, label, (in_channels, image_size, image_size))
    return _checked(built, label, num_classes, aux_weight)


def _give_shapes(module: nn.Module, label: str, shape: tuple[int, int, int]) -> None:
    """Run a module once where it has layers, as ``nn.LazyLinear``, that take their sizes from it.

    Args:
        module: in place; without such layers it is left alone.
        label: how the user named it, for messages.
        shape: of one image.

    Raises:
        UsageError: it fails on such images, or leaves a layer out.
    """
    if not _without_shape(module):
        return
    module.train()  # auxiliary heads take part
    try:
        with torch.no_grad():
            module(torch.zeros(2, *shape))
    except (KeyboardInterrupt, UsageError):
        raise
    except BaseException as error:  # whatever the user's own forward raises
        raise UsageError(
            f"{label}: fails on images of shape {shape}: "
            f"{user_code_error(error) or error_text(error)}"
        ) from error
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._NormBase):
            part.reset_running_stats()
    if lost := _without_shape(module):
        raise UsageError(
            f"{label}: forward never calls {lost[0]}, which takes its size from its first images; "
            "call it, or take it out"
        )


def _without_shape(module: nn.Module) -> list[str]:
    """Return the names of layers whose sizes no image has set yet."""
    return [
        name.rpartition(".")[0]
        for name, tensor in (*module.named_parameters(), *module.named_buffers())
        if nn.parameter.is_lazy(tensor)
    ]


def _checked(
    module: nn.Module, label: str, num_classes: int, aux_weight: float | None
) -> nn.Module:
    """Let a module give logits alone, and refuse at each call what is none."""
    check_plain(module, label)
    module.register_forward_hook(partial(_check_output, num_classes))
    return with_first_output(module, aux_weight)


def _check_arguments(
    parameters: Mapping[str, inspect.Parameter], label: str, args: Mapping[str, Any]
) -> None:
    """Hold ``model.args`` to the names that a constructor takes."""
    open_kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    own = {name: p for name, p in parameters.items() if p.kind not in open_kinds}
    takes_any = any(p.kind == inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    known = [name for name in own if name not in _FROM_DATA]
    for name in args:
        if name not in known and (name in own or not takes_any):
            raise UsageError(
                f"{label}: unknown argument model.args.{name}{expected_names(name, known)}"
            )
    for name in known:
        if own[name].default is inspect.Parameter.empty and name not in args:
            raise UsageError(f"{label}: give model.args.{name}=VALUE, which has no default")


def _drawn_anew(network: nn.Module) -> nn.Module:
    """Copy a module, and let each of its layers draw its weights from torch's generator.

    What the file drew when it was run depends on no seed of ours.
    """
    try:
        fresh = copy.deepcopy(network)
    except RuntimeError as error:  # a tensor that an earlier forward pass left in it
        raise UsageError(
            f"model.path: this module cannot be copied ({error}); name a class or a function that "
            "returns the module"
        ) from error
    for part in fresh.modules():
        reset = getattr(part, "reset_parameters", None)
        if callable(reset):
            reset()
    return fresh


def _check_output(num_classes: int, module: nn.Module, args: Sequence[Any], output: Any) -> None:
    """Refuse what is no logits: in training, a network may give something else than when measured.

    Raises:
        UsageError: the network's output is no tensor (N, num_classes).
    """
    # Who traces a network makes its shapes symbols, which a comparison would fix.
    if not args or torch.compiler.is_compiling():
        return
    logits = output_tensors(output, module)[0]
    try:
        check_rows(logits, len(args[0]), num_classes)
    except UsageError as error:
        mode = "training" if module.training else "evaluation"
        raise UsageError(f"{forward_line(module)}, in {mode} mode: {error}") from None


def _is_network(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, nn.Module)
