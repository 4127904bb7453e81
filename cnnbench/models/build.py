"""From a name and arguments to a network, and what it measures, without a config."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from cnnbench.errors import UsageError
from cnnbench.geometry.trace import analyze
from cnnbench.models import create_model, is_plugin
from cnnbench.models.custom import code_sha256, load_custom


@dataclass(frozen=True)
class Network:
    """What a network is, without its weights.

    Attributes:
        name: a registered name, or ``custom``.
        args: its own arguments.
        in_channels: channels of its images.
        num_classes: logits it gives.
        image_size: pixels of a side.
        num_params: each shared parameter once.
        macs: multiply-accumulates for one image.
        activation_bytes: what training keeps of one image for the backward pass, in float32.
        receptive_field: the largest of its layers, in pixels of a side; None where it has none.
        file_sha256: of the file of a custom network.
    """

    name: str
    args: Mapping[str, Any]
    in_channels: int
    num_classes: int
    image_size: int
    num_params: int
    macs: int
    activation_bytes: int
    receptive_field: int | None
    file_sha256: str | None = None

    @property
    def sizes(self) -> dict[str, int]:
        """What its constructor must know of its images, by the name of the argument."""
        return {
            "in_channels": self.in_channels,
            "num_classes": self.num_classes,
            "image_size": self.image_size,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, for a checkpoint or ``run.json``."""
        return {**vars(self), "args": _plain(self.args)}


def _plain(value: Any) -> Any:
    """Return arguments as JSON has them: dicts and lists."""
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    return list(value) if isinstance(value, tuple) else value


def arguments_of(value: Any) -> Any:
    """Return arguments as constructors take them: lists as tuples."""
    if isinstance(value, Mapping):
        return {key: arguments_of(part) for key, part in value.items()}
    return tuple(value) if isinstance(value, list) else value


def measure_network(
    name: str, args: Mapping[str, Any], *, in_channels: int, num_classes: int, image_size: int
) -> Network:
    """Measure a network on the meta device, which takes no memory.

    Args:
        name: a registered name, or ``custom``.
        args: its own arguments.
        in_channels: channels of its images, at least 1.
        num_classes: logits it gives; 1 for two classes, or for a number.
        image_size: pixels of a side.

    Raises:
        UsageError: an argument is impossible, or the images are too small.
    """
    digest = code_sha256(args["path"]) if name == "custom" else None
    return _measure(name, json.dumps(_plain(args)), digest, in_channels, num_classes, image_size)


@lru_cache(maxsize=256)
def _measure(
    name: str,
    args_json: str,
    file_sha256: str | None,
    in_channels: int,
    num_classes: int,
    image_size: int,
) -> Network:
    """Measure one network; a sweep asks for the same one again and again."""
    args = arguments_of(json.loads(args_json))
    module = build_meta(
        name, args, in_channels=in_channels, num_classes=num_classes, image_size=image_size
    )
    shape = (in_channels, image_size, image_size)
    try:
        geometry = analyze(module, shape)
    except Exception as error:
        if not _is_foreign(name):
            raise
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(f"model={name}: fails on an image of shape {shape}: {reason}") from error
    logits_shape = geometry.module_shapes[""]
    if logits_shape != (num_classes,):
        raise UsageError(
            f"model={name}: gives {logits_shape} for one image, expected ({num_classes},): one "
            "logit for each class"
        )
    return Network(
        name=name,
        args=args,
        in_channels=in_channels,
        num_classes=num_classes,
        image_size=image_size,
        num_params=geometry.num_params,
        macs=geometry.macs,
        activation_bytes=geometry.activation_bytes,
        receptive_field=max(
            (layer.receptive_field for layer in geometry.layers if layer.receptive_field),
            default=None,
        ),
        file_sha256=file_sha256,
    )


def _is_foreign(name: str) -> bool:
    return name == "custom" or is_plugin(name)


def build_meta(
    name: str, args: Mapping[str, Any], *, in_channels: int, num_classes: int, image_size: int
) -> nn.Module:
    """Build a network without memory; one that another package or a user wrote may need some.

    Args:
        name: a registered name, or ``custom``.
        args: its own arguments; for ``custom``, its file is run.
        in_channels: channels of its images.
        num_classes: logits it gives.
        image_size: pixels of a side.

    Raises:
        UsageError: as its constructor does.
    """
    sizes = {"in_channels": in_channels, "num_classes": num_classes, "image_size": image_size}
    if _is_foreign(name):
        # A foreign constructor may compute with values, which meta tensors do not have.
        with torch.random.fork_rng(devices=[]):
            return create(name, args, sizes)
    with torch.device("meta"):
        return create(name, args, sizes)


def create(name: str, args: Mapping[str, Any], sizes: Mapping[str, int]) -> nn.Module:
    """Build a network with PyTorch's initial weights; for ``custom``, its file is run."""
    if name == "custom":
        return load_custom(args["path"]).constructor(**sizes, args=args["args"])
    return create_model(name, **sizes, args=args)
