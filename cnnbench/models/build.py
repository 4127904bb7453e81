"""From a name and arguments to a network, and what it measures, without a config."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from cnnbench.errors import UsageError, error_text, user_code_error
from cnnbench.files import code_sha256
from cnnbench.geometry.summary import largest_field
from cnnbench.geometry.trace import Geometry, analyze
from cnnbench.models import create_model, is_plugin
from cnnbench.models.custom import load_custom
from cnnbench.models.foreign import AUX_WEIGHT, forward_line, images_that_fit, try_step


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
        receptive_field: the largest of its layers, in pixels of a side; None where none is known.
        file_sha256: of the file of a custom network.
        takes_channels_last: whether it trains on images that lie in memory channels last; all
            networks of ours do.
        linear_share: the fraction of the parameters that linear layers hold.
        notes: what the user should know of how it is built and trained.
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
    takes_channels_last: bool = True
    linear_share: float | None = None
    notes: tuple[str, ...] = ()

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
        return {**vars(self), "args": _plain(self.args), "notes": list(self.notes)}


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
    digest = code_sha256("model.path", args["path"]) if name == "custom" else None
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
    sizes = {"in_channels": in_channels, "num_classes": num_classes, "image_size": image_size}
    shape = (in_channels, image_size, image_size)
    module = build_meta(name, args, **sizes)
    takes_channels_last, notes = True, tuple[str, ...]()
    if is_foreign(name):
        geometry, takes_channels_last, notes = _try_foreign(module, name, args, sizes)
    else:
        geometry = analyze(module, shape)
    logits_shape = geometry.module_shapes.get("")
    if logits_shape != (num_classes,):
        gives = "no tensor" if logits_shape is None else logits_shape
        squeezed = "; x.squeeze() takes a batch of one image away, x.flatten(1) does not"
        lost = squeezed if logits_shape == () else ""
        raise UsageError(
            f"model={name}: gives {gives} for one image, expected ({num_classes},): one "
            f"logit for each class ({forward_line(module)}){lost}"
        )
    return Network(
        name=name,
        args=args,
        **sizes,
        num_params=geometry.num_params,
        macs=geometry.macs,
        activation_bytes=geometry.activation_bytes,
        receptive_field=largest_field(geometry),
        file_sha256=file_sha256,
        takes_channels_last=takes_channels_last,
        linear_share=geometry.linear_share,
        notes=notes,
    )


def _reason(error: BaseException, module: nn.Module) -> str:
    """Return what a network's own code raised, and where."""
    return user_code_error(error) or f"{forward_line(module)}: {error_text(error)}"


def _try_foreign(
    module: nn.Module, name: str, args: Mapping[str, Any], sizes: Mapping[str, int]
) -> tuple[Geometry, bool, tuple[str, ...]]:
    """Measure a network that was not written here, and let it train on two images.

    Returns:
        What it costs, whether it trains channels last, and what to tell the user.
    """
    shape = (sizes["in_channels"], sizes["image_size"], sizes["image_size"])
    label = f"model={name}"
    try:
        with torch.random.fork_rng(devices=[]):
            takes_channels_last, has_aux = try_step(module, shape, sizes["num_classes"])
    except UsageError as error:
        hint = _how_to_take("num_classes", name, args) if "logit for each" in str(error) else ""
        raise UsageError(f"{label}: {error}{hint}") from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever the user's own network raises
        with torch.random.fork_rng(devices=[]):
            fits = images_that_fit(create(name, args, sizes), shape)
        reason = _reason(error, module)
        hint = fits + _how_to_take("in_channels", name, args) if fits else ""
        raise UsageError(
            f"{label}: fails on images of shape {shape}: {reason}{hint}; expected forward(x) to "
            f"give logits for images (N, C, H, W){_rows_hint(shape)}"
        ) from error
    try:
        geometry = analyze(module, shape)
    except UsageError as error:
        raise UsageError(f"{label}: {error}") from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever its forward raises
        raise UsageError(
            f"{label}: cannot be measured, which takes one image without its values: "
            f"{_reason(error, module)}; expected a forward that does not ask for the values of "
            "tensors, as .item(), .numpy() or an if on a tensor do"
        ) from error
    if args.get("aux_weight", AUX_WEIGHT) != AUX_WEIGHT and not has_aux:
        raise UsageError(
            f"model.aux_weight={args['aux_weight']:g}: has no effect: forward returns the logits "
            "alone, without those of auxiliary heads"
        )
    notes = [load_custom(args["path"]).note] if name == "custom" else []
    if not takes_channels_last:
        notes.append(
            f"{label}: images are laid out channels first, because forward takes them apart in "
            "memory order; x.flatten(1) or x.reshape(...) in place of x.view(...) trains faster"
        )
    return geometry, takes_channels_last, tuple(filter(None, notes))


def _rows_hint(shape: tuple[int, int, int]) -> str:
    """Return the end of a sentence where the images may be the rows of a table."""
    channels, *sides = shape
    if sides != [1, 1]:
        return ""
    return f"; rows of numbers come as (N, {channels}, 1, 1): begin it with x = x.flatten(1)"


def _how_to_take(key: str, name: str, args: Mapping[str, Any]) -> str:
    """Return the end of a sentence where a custom network is made for one number of something."""
    if name != "custom" or key not in load_custom(args["path"]).lacking:
        return ""
    return f". To fit any data, write it with {key} as an argument of its constructor"


def is_foreign(name: str) -> bool:
    """Tell whether a network was not written here, so that anything may be in it."""
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
    if is_foreign(name):
        # A foreign constructor may compute with values, which meta tensors do not have.
        with torch.random.fork_rng(devices=[]):
            return create(name, args, sizes)
    with torch.device("meta"):
        return create(name, args, sizes)


def create(name: str, args: Mapping[str, Any], sizes: Mapping[str, int]) -> nn.Module:
    """Build a network with PyTorch's initial weights; for ``custom``, its file is run."""
    if name == "custom":
        constructor = load_custom(args["path"]).constructor
        return constructor(**sizes, args=args["args"], aux_weight=args.get("aux_weight"))
    return create_model(name, **sizes, args=args)
