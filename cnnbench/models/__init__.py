"""The networks, by name: one file for each family, and what builds and names them.

Here belongs what a network is: its layers, its arguments with their types and defaults, its card.
A new network is a file like the others with a ``MODELS`` mapping, which is imported here,
``conf/model/<name>.yaml``, and a row in ``tests/goldens/models.json``. What a network is trained
on, and where its weights are kept, belongs elsewhere. Files here import ``config.schema`` for the
types of arguments, ``layers``, ``geometry`` and the ground floors, and never see a configuration.

`create_model` checks every argument against the annotations of the constructor. Who calls a
constructor directly relies on a type checker: it takes values as they are.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from cnnbench.config.schema import read_arguments
from cnnbench.errors import UsageError, expected_names, whole_argument
from cnnbench.layers import SmallestImage, check_image_size
from cnnbench.models import (
    alexnet,
    basic_cnn,
    densenet,
    googlenet,
    lenet,
    mlp,
    mobilenet,
    nin,
    resnet,
    small_resnet,
    torchvision_models,
    vgg,
)
from cnnbench.models.custom import open_constructor
from cnnbench.models.init import INITS, initialize
from cnnbench.models.row import ModelRow
from cnnbench.registry import Registry, load_plugin, plugins

__all__ = [
    "MODELS",
    "ModelRow",
    "create_model",
    "is_plugin",
    "known_models",
    "model_arguments",
    "INITS",
    "initialize",
]

# In the order in which they are listed.
_FAMILIES = (
    mlp,
    basic_cnn,
    lenet,
    alexnet,
    vgg,
    nin,
    googlenet,
    small_resnet,
    resnet,
    densenet,
    mobilenet,
    torchvision_models,
)
MODELS: Registry[ModelRow] = Registry(
    "model", {name: row for family in _FAMILIES for name, row in family.MODELS.items()}
)

_FROM_DATA = ("in_channels", "num_classes", "image_size")


def is_plugin(name: str) -> bool:
    """Tell whether a network comes from another installed package."""
    return name not in MODELS and name in plugins("model", MODELS)


def known_models() -> list[str]:
    """Return the names of all networks, those of other installed packages included.

    Raises:
        UsageError: two networks have the same name.
    """
    return [*MODELS, *plugins("model", MODELS)]


def _row(name: str) -> ModelRow:
    if is_plugin(name):
        return ModelRow(open_constructor(load_plugin("model", name), f"model={name}"))
    return MODELS[name]


def model_arguments(name: str) -> dict[str, Any]:
    """Return a network's own arguments with their defaults.

    Raises:
        UsageError: the name is unknown.
    """
    row = _row(name)
    return {
        parameter.name: parameter.default
        for parameter in inspect.signature(row.constructor).parameters.values()
        if parameter.name not in _FROM_DATA and parameter.name not in row.fixed
    }


def create_model(
    name: str,
    *,
    in_channels: int,
    num_classes: int,
    image_size: int,
    args: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build a network with PyTorch's initial weights, in training mode.

    Args:
        name: one of `known_models`.
        in_channels: channels of the images, at least 1.
        num_classes: logits to give; 1 for two classes, or for a number.
        image_size: side of the square images in pixels.
        args: the network's own arguments; `model_arguments` lists them.

    Raises:
        UsageError: a name is unknown, the images are too small, or values are of another type or
            out of range, all of which the message lists.

    Example:
        >>> network = create_model("lenet", in_channels=1, num_classes=10, image_size=28)
        >>> sum(parameter.numel() for parameter in network.parameters())
        61706
    """
    row = _row(name)
    known = model_arguments(name)
    kwargs = {**row.fixed, "in_channels": in_channels, "num_classes": num_classes}
    for key, value in (args or {}).items():
        if key not in known:
            raise UsageError(f"{name}: unknown argument '{key}'{expected_names(key, known)}")
        kwargs[key] = value
    kwargs = read_arguments(row.constructor, kwargs, f"{name}: ")
    image_size = whole_argument(f"{name}: image_size=", image_size, None)
    if "image_size" in inspect.signature(row.constructor).parameters:
        kwargs["image_size"] = image_size
    try:
        module = row.constructor(**kwargs)
        # A network registered by someone else may state no smallest size.
        size = getattr(module, "min_image_size", 1)
        layer = getattr(module, "min_image_layer", "the network")
        check_image_size(image_size, SmallestImage(size, layer))
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from None
    return module
