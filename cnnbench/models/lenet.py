"""LeNet-5 and the CIFAR-10 quick network.

LeNet-5: LeCun et al., https://doi.org/10.1109/5.726791. CIFAR quick: the network of cuda-convnet
and Caffe, https://code.google.com/archive/p/cuda-convnet. Departures are in their cards below.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from cnnbench.config.schema import Count, Size
from cnnbench.layers import (
    ACTIVATIONS,
    POOLS,
    ActivationName,
    PoolName,
    Step,
    convolve_and_pool,
    hidden_layers,
    output_size,
    smallest_image,
)
from cnnbench.models.row import Card, Departure, ModelRow, NumClasses

_QUICK_STEPS = tuple(
    step for n in (1, 2, 3) for step in (Step(f"conv{n}", 5, 1, 2), Step(f"pool{n}", 2, 2))
)
_QUICK_SMALLEST = smallest_image(_QUICK_STEPS)


def _lenet_steps(padding: int) -> list[Step]:
    return [
        Step("conv1", 5, 1, padding),
        Step("pool1", 2, 2),
        Step("conv2", 5),
        Step("pool2", 2, 2),
    ]


def _shrink(
    conv: nn.Module, act: nn.Module, pool: nn.Module, x: Tensor, norm: nn.Module | None = None
) -> Tensor:
    """Return what a convolution, then a norm, the activation and the pool make of feature maps.

    Activations rise throughout, so the largest value before is the largest after: max pooling may
    come first, and leaves a quarter of the values to activate. LeNet's paper has that order too.
    """
    is_max = isinstance(pool, nn.MaxPool2d)
    result: Tensor
    if is_max and norm is None:
        result = act(convolve_and_pool(conv, pool, x))
    else:
        x = conv(x) if norm is None else norm(conv(x))
        result = act(pool(x)) if is_max else pool(act(x))
    return result


class LeNet5(nn.Module):
    """Two convolutions with pools, and three linear layers.

    Args:
        in_channels: channels of the images.
        num_classes: logits to give.
        image_size: side of the images in pixels, at least 12 (16 without padding).
        activation: name of the activation after each layer but the last.
        pool: `avg` or `max`.
        padding: zeros around the image in conv1; 0 with 32-pixel images is the paper's.
        norm: `conv` puts a batch norm after each convolution, `hidden` after each hidden linear
            layer, `all` after both, each before the activation; or `none`. Biases are kept.
    """

    def __init__(
        self,
        *,
        in_channels: Count,
        num_classes: NumClasses,
        image_size: int = 28,
        activation: ActivationName = "relu",
        pool: PoolName = "max",
        padding: Size = 2,
        norm: Literal["none", "conv", "hidden", "all"] = "none",
    ) -> None:
        super().__init__()
        steps = _lenet_steps(padding)
        self.min_image_size, self.min_image_layer = smallest_image(steps)
        side = output_size(image_size, steps)
        act = ACTIVATIONS[activation]
        has_norm = norm in ("conv", "all")
        self.conv1 = nn.Conv2d(in_channels, 6, 5, padding=padding)
        self.norm1 = nn.BatchNorm2d(6) if has_norm else None
        self.act1 = act()
        self.pool1 = POOLS[pool](2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.norm2 = nn.BatchNorm2d(16) if has_norm else None
        self.act2 = act()
        self.pool2 = POOLS[pool](2)
        hidden = hidden_layers(16 * side**2, (120, 84), activation, norm=norm in ("hidden", "all"))
        self.head = nn.Sequential(*hidden, nn.Linear(84, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, num_classes) for x (N, in_channels, image_size, image_size)."""
        x = _shrink(self.conv1, self.act1, self.pool1, x, self.norm1)  # (N, 6, 14, 14) at 28 pixels
        x = _shrink(self.conv2, self.act2, self.pool2, x, self.norm2)  # (N, 16, 5, 5)
        logits: Tensor = self.head(x.flatten(1))
        return logits


class CIFARQuick(nn.Module):
    """Three 5x5 convolutions with max pools, and two linear layers.

    Args:
        in_channels: channels of the images.
        num_classes: logits to give.
        image_size: side of the images in pixels, at least 8.
        activation: name of the activation after each layer but the last; `none` for none.
    """

    min_image_size, min_image_layer = _QUICK_SMALLEST

    def __init__(
        self,
        *,
        in_channels: Count,
        num_classes: NumClasses,
        image_size: int = 32,
        activation: ActivationName = "relu",
    ) -> None:
        super().__init__()
        side = output_size(image_size, _QUICK_STEPS)
        act = ACTIVATIONS[activation]
        self.conv1 = nn.Conv2d(in_channels, 32, 5, padding=2)
        self.act1 = act()
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(32, 32, 5, padding=2)
        self.act2 = act()
        self.pool2 = nn.MaxPool2d(2)
        self.conv3 = nn.Conv2d(32, 64, 5, padding=2)
        self.act3 = act()
        self.pool3 = nn.MaxPool2d(2)
        self.head = nn.Sequential(nn.Linear(64 * side**2, 64), act(), nn.Linear(64, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, num_classes) for x (N, in_channels, image_size, image_size)."""
        x = _shrink(self.conv1, self.act1, self.pool1, x)  # (N, 32, 16, 16) at 32 pixels
        x = _shrink(self.conv2, self.act2, self.pool2, x)  # (N, 32, 8, 8)
        x = _shrink(self.conv3, self.act3, self.pool3, x)  # (N, 64, 4, 4)
        logits: Tensor = self.head(x.flatten(1))
        return logits


MODELS = {
    "cifar_quick": ModelRow(
        CIFARQuick,
        Card(
            "CIFAR-10 quick",
            "Krizhevsky's cuda-convnet, known from Caffe's examples; no paper",
            link="https://code.google.com/archive/p/cuda-convnet/",
            input_shape=(3, 32, 32),
            num_classes=10,
            departures=(
                Departure("max pooling without overlap throughout"),
                Departure("an activation between the linear layers", "model.activation=none"),
            ),
        ),
    ),
    "lenet": ModelRow(
        LeNet5,
        Card(
            "LeNet-5 (1998)",
            "LeCun et al., Gradient-Based Learning Applied to Document Recognition",
            link="https://doi.org/10.1109/5.726791",
            rows="section II.B",
            paper_params="60,000",
            paper_macs="340,908 connections",
            input_shape=(1, 28, 28),
            num_classes=10,
            args={"activation": "tanh", "pool": "avg"},
            departures=(
                Departure("ReLU in place of tanh", "model.activation=tanh"),
                Departure("max pools in place of averages", "model.pool=avg"),
                Departure(
                    "28-pixel images, padded by 2 in conv1, in place of 32-pixel ones",
                    "data.image_size=32 model.padding=0",
                ),
                Departure("conv2 sees all channels of pool1, where the paper's table I picks some"),
                Departure("pools have no weights, and the last layer is linear, not radial"),
            ),
        ),
    ),
}
