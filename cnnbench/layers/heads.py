"""From the last feature maps to the logits."""

from __future__ import annotations

from typing import Any, Literal, cast

from torch import Tensor, nn

from cnnbench.errors import UsageError
from cnnbench.layers.conv import ACTIVATIONS, ActivationName

HeadName = Literal["linear", "gap", "conv1x1"]
DropoutPosition = Literal["after", "before"]

# Where the class of a network that was not written here has the weight, beside names of its own.
AUX_WEIGHT_NAME = "cnnbench_aux_weight"


def hidden_layers(
    in_features: int,
    hidden: tuple[int, ...],
    activation: ActivationName,
    *,
    norm: bool = False,
    dropout: float = 0.0,
    dropout_position: DropoutPosition = "after",
) -> list[nn.Module]:
    """Build linear layers, each with its activation.

    Args:
        in_features: what the first layer takes.
        hidden: width of each layer.
        activation: name of the activation after each layer.
        norm: whether a batch norm is between each layer, which keeps its bias, and its activation.
        dropout: probability; 0 builds no dropout.
        dropout_position: `after` each layer's activation, or `before` each layer.
    """
    layers: list[nn.Module] = []
    for width in hidden:
        if dropout > 0 and dropout_position == "before":
            layers.append(nn.Dropout(dropout))
        layers.append(nn.Linear(in_features, width))
        if norm:
            layers.append(nn.BatchNorm1d(width))
        layers.append(ACTIVATIONS[activation]())
        if dropout > 0 and dropout_position == "after":
            layers.append(nn.Dropout(dropout))
        in_features = width
    return layers


def build_head(
    head: HeadName, in_channels: int, side: int, hidden: list[nn.Module], num_classes: int
) -> nn.Sequential:
    """Build the layers from feature maps to logits, which `run_head` runs.

    Args:
        head: `linear`, `gap` or `conv1x1`.
        in_channels: channels of the feature maps.
        side: their side in pixels; only `linear` needs it to be known.
        hidden: layers before the last one; only `linear` has them.
        num_classes: logits to give.
    """
    if head == "conv1x1":
        return nn.Sequential(nn.Conv2d(in_channels, num_classes, 1))
    if head == "gap":
        return nn.Sequential(nn.Linear(in_channels, num_classes))
    widths = [layer.out_features for layer in hidden if isinstance(layer, nn.Linear)]
    in_features = widths[-1] if widths else in_channels * side**2
    return nn.Sequential(*hidden, nn.Linear(in_features, num_classes))


def run_head(head: HeadName, layers: nn.Module, x: Tensor) -> Tensor:
    """Return logits (N, num_classes) for feature maps x (N, C, H, W).

    `linear` flattens the feature maps, `gap` averages them before its linear layer, and `conv1x1`
    averages the feature map of each class behind its convolution.
    """
    if head == "linear":
        x = x.flatten(1)
    elif head == "gap":
        x = x.mean((2, 3))
    logits: Tensor = layers(x)
    return logits.mean((2, 3)) if head == "conv1x1" else logits


def aux_outputs(module: nn.Module, given: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return what a network's ``forward_with_aux`` gave.

    Args:
        module: the network, for the message.
        given: logits, and a tuple of the auxiliary heads' logits.

    Raises:
        UsageError: it is something else.
    """
    if not isinstance(given, tuple) or len(given) != 2:
        raise UsageError(
            f"{type(module).__name__}.forward_with_aux: gives {type(given).__name__}, expected "
            "logits, and a tuple of the auxiliary heads' logits"
        )
    return cast("tuple[Tensor, tuple[Tensor, ...]]", given)


def aux_weight(module: nn.Module) -> float:
    """Return how much the loss of each auxiliary head of a network counts in training."""
    given = getattr(type(module), AUX_WEIGHT_NAME, None)
    return cast("float", module.aux_weight if given is None else given)
