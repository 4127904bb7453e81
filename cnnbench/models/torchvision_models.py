"""Any classification network of torchvision by name, with or without its published weights.

https://docs.pytorch.org/vision/stable/models.html. Departures are in the card below.
"""

from __future__ import annotations

import hashlib
import inspect
import pickle
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cnnbench.config.schema import Count, read_arguments
from cnnbench.errors import DataError, UsageError, did_you_mean, expected_names
from cnnbench.models.row import Card, Departure, ModelRow, NumClasses

_PUBLISHED_CLASSES = 1000
_LARGEST_TRIED = 512
# Arguments of torchvision's classes that are not the user's: cnnbench sets them.
_OURS = ("self", "num_classes", "aux_logits", "init_weights", "image_size", "input_size")
_NORMS = (nn.modules.batchnorm._BatchNorm,)


class TorchvisionModel(nn.Module):
    """A torchvision classifier, fitted to other channels and classes.

    Args:
        in_channels: channels of the images.
        num_classes: logits to give.
        image_size: side of the images in pixels; the smallest depends on the network.
        arch: name of the network, as `torchvision.models.list_models` gives it.
        pretrained: `none`, `DEFAULT`, or a name of the network's weights. Only recorded here;
            `load_pretrained` reads the file.
        head: `replace` makes the last layer anew; `append` keeps its 1000 classes and adds a
            layer after it.
        freeze: `backbone` leaves all but the new layer as it is; `none` trains everything.
        args: arguments of torchvision's own class.
    """

    def __init__(
        self,
        *,
        in_channels: Count,
        num_classes: NumClasses,
        image_size: int = 224,
        arch: str = "resnet18",
        pretrained: str = "none",
        head: Literal["replace", "append"] = "replace",
        freeze: Literal["none", "backbone"] = "none",
        args: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        self.arch, self.pretrained, self.freeze = arch, pretrained, freeze
        if pretrained != "none":
            _weights_of(arch, pretrained)
        is_appended = head == "append"
        inner_classes = _PUBLISHED_CLASSES if is_appended else num_classes
        _check_size(arch, in_channels, image_size, args)
        self.network = _build(arch, in_channels, inner_classes, image_size, args)
        self.appended = nn.Linear(inner_classes, num_classes) if is_appended else nn.Identity()
        self._head_keys: set[str] = set()
        if not is_appended and (freeze == "backbone" or pretrained != "none"):
            self._head_keys = _head_keys(arch, inner_classes, image_size, args)
        if freeze == "backbone":
            for name, parameter in self.network.named_parameters():
                parameter.requires_grad = name in self._head_keys

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, num_classes) for x (N, in_channels, image_size, image_size)."""
        logits: Tensor = self.appended(self.network(x))
        return logits

    def train(self, mode: bool = True) -> TorchvisionModel:
        """Set training mode, but leave running statistics of a frozen backbone as they are."""
        super().train(mode)
        if self.freeze == "backbone":
            for layer in self.network.modules():
                if isinstance(layer, _NORMS):
                    layer.eval()
        return self

    def load_pretrained(self) -> None:
        """Take over the published weights, all but those of a new head.

        Raises:
            CnnbenchError: as `pretrained_state`.
        """
        self.network.load_state_dict(self.pretrained_state())

    def pretrained_state(self) -> dict[str, Tensor]:
        """Return the published weights fitted to this network; a new head keeps its own.

        Raises:
            DataError: the file is neither in the cache nor to be had, or it is damaged.
            UsageError: the weights do not fit the network's arguments or image size.
        """
        state = _read_weights(_weights_of(self.arch, self.pretrained))
        own = self.network.state_dict()
        first = next((name for name, tensor in own.items() if tensor.dim() == 4), None)
        if first in state and own[first].shape[1] != state[first].shape[1]:
            state[first] = fit_channels(state[first], own[first].shape[1])
        state = {name: value for name, value in state.items() if name in own}
        state |= {name: own[name] for name in self._head_keys}
        wrong = [name for name in own if name not in state or state[name].shape != own[name].shape]
        if wrong:
            raise UsageError(
                f"model.pretrained={self.pretrained}: the weights of {self.arch} do not fit "
                f"{', '.join(wrong[:3])}; leave out model.args, and use the image size they were "
                "trained at"
            )
        return state


class _EmptyOnMeta(TorchFunctionMode):
    """Give layers weights without memory, while networks compute their widths on the CPU."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def _build(
    arch: str, in_channels: int, num_classes: int, image_size: int, args: Mapping[str, Any]
) -> nn.Module:
    """Build a network with random weights, on the meta device where that is the default."""
    builder = _builder(arch)
    known = _parameters(arch)
    for name in args:
        if name not in known:
            raise UsageError(
                f"model.args.{name}: {arch} has no such argument{expected_names(name, known)}"
            )
    args = read_arguments(_class_of(arch), args, "model.args.")
    kwargs = {**_own_arguments(arch, image_size), **args}
    try:
        if torch.empty(0).is_meta:
            with torch.device("cpu"), _EmptyOnMeta():
                network = builder(weights=None, num_classes=num_classes, **kwargs)
            network = network.to("meta")
        else:
            network = builder(weights=None, num_classes=num_classes, **kwargs)
    except (TypeError, ValueError, RuntimeError, AssertionError, ZeroDivisionError) as error:
        shown = f" with model.args {dict(args)}" if args else ""
        raise UsageError(
            f"{arch} cannot be built for images of {image_size} x {image_size}{shown}: {error}"
        ) from None
    _fit_first_conv(network, in_channels)
    return network


def _builder(arch: str) -> Callable[..., nn.Module]:
    from torchvision import models

    known = models.list_models(module=models)  # type: ignore[attr-defined]
    if arch not in known:
        near = did_you_mean(arch, known) or "; see torchvision.models.list_models()"
        raise UsageError(
            f"arch={arch}: torchvision has no classification network of that name{near}"
        )
    builder: Callable[..., nn.Module] = models.get_model_builder(arch)  # type: ignore[attr-defined]
    return builder


def _class_of(arch: str) -> type[nn.Module]:
    """Return what a builder makes, which torchvision says as its return type."""
    built: type[nn.Module] = typing.get_type_hints(_builder(arch))["return"]
    return built


def _parameters(arch: str) -> list[str]:
    names = inspect.signature(_class_of(arch)).parameters
    return [name for name in names if name not in _OURS]


def _own_arguments(arch: str, image_size: int) -> dict[str, Any]:
    """Return what cnnbench itself passes to a builder, where its class has such an argument."""
    names = inspect.signature(_class_of(arch)).parameters
    values = {
        "aux_logits": False,
        "init_weights": True,
        "image_size": image_size,
        "input_size": (image_size, image_size),
    }
    return {name: value for name, value in values.items() if name in names}


def _fit_first_conv(network: nn.Module, in_channels: int) -> None:
    """Replace the first convolution by one for other channels, if it has to be."""
    name, conv = next((n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d))
    if conv.in_channels == in_channels:
        return
    fitted = nn.Conv2d(
        in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        conv.dilation,  # type: ignore[arg-type]
        bias=conv.bias is not None,
    )
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, fitted)


def fit_channels(weight: Tensor, in_channels: int) -> Tensor:
    """Fit a convolution's weight (out, 3, h, w): grey sees the sum over colours.

    For other numbers of channels, each sees the mean over colours, scaled so that an image with
    equal channels gives what a grey one would.
    """
    total = weight.sum(1, keepdim=True)
    return total if in_channels == 1 else total.expand(-1, in_channels, -1, -1) / in_channels


def _head_keys(arch: str, num_classes: int, image_size: int, args: Mapping[str, Any]) -> set[str]:
    """Return the keys of the layer whose shape follows the classes."""
    with torch.device("meta"):
        states = [
            _build(arch, 3, count, image_size, args).state_dict()
            for count in (num_classes, num_classes + 1)
        ]
    return {name for name in states[0] if states[0][name].shape != states[1][name].shape}


def _check_size(arch: str, in_channels: int, image_size: int, args: Mapping[str, Any]) -> None:
    """Send an image through, on the meta device.

    Raises:
        UsageError: it is too small; the message has the smallest size.
    """
    reason = _failure(arch, in_channels, image_size, args)
    if reason is None:
        return
    shown = f"{arch} does not take images of {image_size} x {image_size}: {reason}"
    if _failure(arch, in_channels, _LARGEST_TRIED, args) is not None:
        raise UsageError(shown)
    fails, works = image_size, _LARGEST_TRIED
    while works - fails > 1:
        middle = (fails + works) // 2
        if _failure(arch, in_channels, middle, args) is None:
            works = middle
        else:
            fails = middle
    raise UsageError(
        f"images of {image_size} x {image_size} are too small: {arch} needs at least "
        f"{works} x {works}; set data.image_size={works} or more"
    )


def _failure(arch: str, in_channels: int, image_size: int, args: Mapping[str, Any]) -> str | None:
    """Return why a network refuses images of a size, or None."""
    with torch.device("meta"), torch.no_grad():
        network = _build(arch, in_channels, 2, image_size, args).eval()
        try:
            network(torch.empty(1, in_channels, image_size, image_size))
        except (RuntimeError, ValueError, AssertionError) as error:
            return str(error).splitlines()[0]
    return None


def published_names(name: str) -> list[list[str]]:
    """Return the names of the tensors of torchvision's networks that may be one of ours.

    Args:
        name: of our network.

    Returns:
        For each of them, plain and with batch norm, the names in their order.
    """
    from torchvision import models

    known = models.list_models(module=models)  # type: ignore[attr-defined]
    found = []
    for arch in (name, f"{name}_bn"):
        # Its GoogLeNet has 3x3 convolutions where the paper and ours have 5x5.
        if arch in known and arch != "googlenet":
            with torch.device("meta"):
                network = models.get_model(arch, weights=None)  # type: ignore[attr-defined]
            found.append(list(network.state_dict()))
    return found


def _weights_of(arch: str, name: str) -> Any:
    """Return a row of torchvision's table of published weights.

    Raises:
        UsageError: the network has no weights of that name.
    """
    from torchvision import models

    _builder(arch)
    known = models.get_model_weights(arch)  # type: ignore[attr-defined]
    names = ["DEFAULT", *known.__members__]
    if name not in names:
        raise UsageError(
            f"pretrained={name}: {arch} has no such weights{expected_names(name, ['none', *names])}"
        )
    return known[name]


def _read_weights(weights: Any) -> dict[str, Tensor]:
    """Return published weights from torch's cache, downloaded before where they are not there.

    Raises:
        DataError: the file is neither there nor to be had, or it is not what is published.
    """
    file = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]
    was_there = file.exists()
    try:
        # torch looks at the hash of what it downloads, but not of what it finds in its cache.
        if was_there and not _has_published_hash(file):
            raise ValueError("its hash is not the one in its name")
        state = weights.get_state_dict(
            progress=False, check_hash=True, weights_only=True, map_location="cpu"
        )
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        if was_there:
            raise DataError(
                f"{file}: damaged, or not the weights that torchvision publishes; delete it"
            ) from None
        raise DataError(
            f"the weights {weights} are not on this machine and cannot be fetched ({error}); "
            f"fetch {weights.url} elsewhere and put it at {file}"
        ) from None
    return dict(state)


def _has_published_hash(file: Path) -> bool:
    """Tell whether a file's SHA-256 starts as its name ends."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return digest.startswith(file.stem.rpartition("-")[2])


MODELS = {
    "torchvision": ModelRow(
        TorchvisionModel,
        Card(
            "Any classifier of torchvision, by `model.arch`",
            "torchvision; each network's own page names its paper",
            link="https://docs.pytorch.org/vision/stable/models.html",
            args={"arch": "resnet18"},
            departures=(
                Departure("the first convolution and the last layer are fitted to the data"),
                Departure("GoogLeNet and Inception v3 have no auxiliary heads"),
            ),
        ),
    )
}
