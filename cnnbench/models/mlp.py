"""Networks without convolutions: softmax regression and the multilayer perceptron.

Softmax regression is a generalised linear model (Nelder and Wedderburn, 1972,
https://doi.org/10.2307/2344614); the perceptron with hidden layers is that of Rumelhart et al.,
https://doi.org/10.1038/323533a0. Here the hidden units are ReLU by default, not sigmoid, because
sigmoids of this depth start too flat to train.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from cnnbench.config.schema import Count
from cnnbench.layers import (
    ActivationName,
    Step,
    check_image_size,
    hidden_layers,
    smallest_image,
)
from cnnbench.models.row import Card, ModelRow, NumClasses

_SMALLEST = smallest_image([Step("linear", 1)])


class SoftmaxRegression(nn.Module):
    """One linear layer: with a logit for each class softmax regression, with a number linear.

    Args:
        in_channels: channels of the images.
        num_classes: logits to give.
        image_size: side of the images in pixels.
    """

    min_image_size, min_image_layer = _SMALLEST

    def __init__(
        self, *, in_channels: Count, num_classes: NumClasses, image_size: int = 28
    ) -> None:
        super().__init__()
        check_image_size(image_size, _SMALLEST)
        self.head = nn.Linear(in_channels * image_size**2, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, num_classes) for x (N, in_channels, image_size, image_size)."""
        logits: Tensor = self.head(x.flatten(1))
        return logits


class MLP(nn.Module):
    """Linear layers with an activation between them.

    Args:
        in_channels: channels of the images.
        num_classes: logits to give.
        image_size: side of the images in pixels.
        hidden: widths of the hidden layers.
        activation: name of the activation after each hidden layer.
        norm: `hidden` puts a batch norm between each hidden layer, which keeps its bias, and its
            activation; or `none`.
    """

    min_image_size, min_image_layer = _SMALLEST

    def __init__(
        self,
        *,
        in_channels: Count,
        num_classes: NumClasses,
        image_size: int = 28,
        hidden: tuple[Count, ...] = (512, 256, 128, 64),
        activation: ActivationName = "relu",
        norm: Literal["none", "hidden"] = "none",
    ) -> None:
        super().__init__()
        check_image_size(image_size, _SMALLEST)
        in_features = in_channels * image_size**2
        self.hidden = nn.Sequential(
            *hidden_layers(in_features, hidden, activation, norm=norm == "hidden")
        )
        self.head = nn.Linear(hidden[-1] if hidden else in_features, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, num_classes) for x (N, in_channels, image_size, image_size)."""
        logits: Tensor = self.head(self.hidden(x.flatten(1)))
        return logits


MODELS = {
    "softmax": ModelRow(
        SoftmaxRegression,
        Card("Softmax regression", "Textbook form", input_shape=(1, 28, 28), num_classes=10),
        takes_rows=True,
    ),
    "linear": ModelRow(
        SoftmaxRegression,
        Card("Linear model", "Textbook form", input_shape=(30, 1, 1), num_classes=1),
        takes_rows=True,
    ),
    "mlp": ModelRow(
        MLP,
        Card("Multilayer perceptron", "Textbook form", input_shape=(1, 28, 28), num_classes=10),
        takes_rows=True,
    ),
}
