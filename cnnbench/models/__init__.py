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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from cnnbench.errors import UsageError, expected_names
from cnnbench.layers import SmallestImage, check_image_size
from cnnbench.models.alexnet import AlexNet
from cnnbench.models.basic_cnn import BasicCNN, InceptionCNN
from cnnbench.models.custom import open_constructor
from cnnbench.models.densenet import DenseNet
from cnnbench.models.googlenet import GoogLeNet
from cnnbench.models.init import INITS, initialize
from cnnbench.models.lenet import CIFARQuick, LeNet5
from cnnbench.models.mlp import MLP, SoftmaxRegression
from cnnbench.models.mobilenet import MobileNetV1, MobileNetV2
from cnnbench.models.nin import NiN, NiNCifar
from cnnbench.models.resnet import NUM_BLOCKS, ResNet
from cnnbench.models.small_resnet import SmallResNet
from cnnbench.models.torchvision_models import TorchvisionModel
from cnnbench.models.vgg import NUM_CONVS, VGG
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


@dataclass(frozen=True)
class ModelRow:
    """A network as it is registered.

    Attributes:
        constructor: a class with keyword arguments only.
        fixed: constructor arguments that the name sets; they are not the user's.
    """

    constructor: Callable[..., nn.Module]
    fixed: Mapping[str, Any] = field(default_factory=dict)


def _resnet(name: str, block: str, groups: int = 1, width_per_group: int = 64) -> ModelRow:
    fixed: dict[str, Any] = {
        "block": block,
        "num_blocks": NUM_BLOCKS[name],
        "groups": groups,
        "width_per_group": width_per_group,
    }
    if block == "basic":
        # A basic block has no 1x1 that could hold the stride.
        fixed["stride_in_1x1"] = False
    return ModelRow(ResNet, fixed)


MODELS: Registry[ModelRow] = Registry(
    "model",
    {
        "softmax": ModelRow(SoftmaxRegression),
        "mlp": ModelRow(MLP),
        "basic_cnn": ModelRow(BasicCNN),
        "inception_cnn": ModelRow(InceptionCNN),
        "cifar_quick": ModelRow(CIFARQuick),
        "lenet": ModelRow(LeNet5),
        "alexnet": ModelRow(AlexNet),
        "alexnet_small": ModelRow(
            AlexNet, {"conv_channels": (96, 256, 384, 256), "hidden": (4096,)}
        ),
        **{name: ModelRow(VGG, {"num_convs": rows}) for name, rows in NUM_CONVS.items()},
        "nin": ModelRow(NiN),
        "nin_cifar": ModelRow(NiNCifar),
        "googlenet": ModelRow(GoogLeNet),
        "small_resnet": ModelRow(SmallResNet),
        "resnet18": _resnet("resnet18", "basic"),
        "resnet34": _resnet("resnet34", "basic"),
        "resnet50": _resnet("resnet50", "bottleneck"),
        "resnet101": _resnet("resnet101", "bottleneck"),
        "resnet152": _resnet("resnet152", "bottleneck"),
        "resnext50_32x4d": _resnet("resnext50_32x4d", "bottleneck", 32, 4),
        "wide_resnet50_2": _resnet("wide_resnet50_2", "bottleneck", 1, 128),
        "densenet121": ModelRow(DenseNet, {"num_layers": (6, 12, 24, 16)}),
        "mobilenet_v1": ModelRow(MobileNetV1),
        "mobilenet_v2": ModelRow(MobileNetV2),
        "torchvision": ModelRow(TorchvisionModel),
    },
)

_GIVEN = ("in_channels", "num_classes", "image_size")


def is_plugin(name: str) -> bool:
    """Tell whether a network comes from another installed package."""
    return name not in MODELS and name in plugins("model", MODELS)


def known_models() -> list[str]:
    """Return the names of all networks, those of other installed packages included.

    Raises:
        UsageError: a name is there twice.
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
        if parameter.name not in _GIVEN and parameter.name not in row.fixed
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
        num_classes: logits to give, at least 2.
        image_size: side of the square images in pixels.
        args: the network's own arguments; `model_arguments` lists them.

    Raises:
        UsageError: a name is unknown, a value is out of range, or the images are too small.
    """
    row = _row(name)
    known = model_arguments(name)
    kwargs = {**row.fixed, "in_channels": in_channels, "num_classes": num_classes}
    for key, value in (args or {}).items():
        if key not in known:
            raise UsageError(f"{name}: unknown argument '{key}'{expected_names(key, known)}")
        kwargs[key] = value
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
