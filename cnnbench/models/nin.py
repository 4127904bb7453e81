"""Network in Network: Lin et al., https://arxiv.org/abs/1312.4400.

`NiN` is the widespread ImageNet form with AlexNet's kernels; `NiNCifar` is the one of the paper's
section 4.2. Departures are in their cards below.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from cnnbench.config.schema import Count, Probability
from cnnbench.layers import Step, smallest_image
from cnnbench.models.row import KAIMING_INIT, Card, Departure, ModelRow, NumClasses

_STEPS = (
    Step("conv1", 11, 4),
    Step("pool1", 3, 2),
    Step("conv2", 5, 1, 2),
    Step("pool2", 3, 2),
    Step("conv3", 3, 1, 1),
    Step("pool3", 3, 2),
)
_CIFAR_STEPS = (
    Step("conv1", 5, 1, 2),
    Step("pool1", 3, 2),
    Step("conv2", 5, 1, 2),
    Step("pool2", 3, 2),
)


def _mlpconv(
    in_channels: int,
    widths: tuple[int, int, int],
    kernel_size: int,
    *,
    stride: int = 1,
    padding: int = 0,
    final_relu: bool = True,
) -> nn.Sequential:
    """Build a convolution and two 1x1 convolutions, each with ReLU."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    parts["conv1"] = nn.Conv2d(in_channels, widths[0], kernel_size, stride, padding)
    parts["act1"] = nn.ReLU()
    parts["conv2"] = nn.Conv2d(widths[0], widths[1], 1)
    parts["act2"] = nn.ReLU()
    parts["conv3"] = nn.Conv2d(widths[1], widths[2], 1)
    if final_relu:
        parts["act3"] = nn.ReLU()
    return nn.Sequential(parts)


class NiN(nn.Module):
    """Four blocks of a convolution and two 1x1, then the average of each class's feature map.

    Args:
        in_channels: channels of the images, of at least 67 pixels.
        num_classes: logits to give.
        dropout: probability before the last block.
        final_relu: put a ReLU on the feature maps of the logits, as some courses do.
    """

    min_image_size, min_image_layer = smallest_image(_STEPS)

    def __init__(
        self,
        *,
        in_channels: Count,
        num_classes: NumClasses,
        dropout: Probability = 0.5,
        final_relu: bool = False,
    ) -> None:
        super().__init__()
        self.block1 = _mlpconv(in_channels, (96, 96, 96), 11, stride=4)
        self.pool1 = nn.MaxPool2d(3, 2)
        self.block2 = _mlpconv(96, (256, 256, 256), 5, padding=2)
        self.pool2 = nn.MaxPool2d(3, 2)
        self.block3 = _mlpconv(256, (384, 384, 384), 3, padding=1)
        self.pool3 = nn.MaxPool2d(3, 2)
        self.dropout = nn.Dropout(dropout)
        classes = (num_classes, num_classes, num_classes)
        self.block4 = _mlpconv(384, classes, 3, padding=1, final_relu=final_relu)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, num_classes) for x (N, in_channels, H, W)."""
        x = self.pool1(self.block1(x))  # (N, 96, 26, 26) at 224 pixels
        x = self.pool2(self.block2(x))  # (N, 256, 12, 12)
        x = self.pool3(self.block3(x))  # (N, 384, 5, 5)
        x = self.block4(self.dropout(x))  # (N, num_classes, 5, 5)
        return x.mean((2, 3))


class NiNCifar(nn.Module):
    """Three blocks of a convolution and two 1x1 for small images.

    Args:
        in_channels: channels of the images, of at least 7 pixels.
        num_classes: logits to give.
        dropout: probability after each of the two pools.
        final_relu: put a ReLU on the feature maps of the logits, as some courses do.
    """

    min_image_size, min_image_layer = smallest_image(_CIFAR_STEPS)

    def __init__(
        self,
        *,
        in_channels: Count,
        num_classes: NumClasses,
        dropout: Probability = 0.25,
        final_relu: bool = False,
    ) -> None:
        super().__init__()
        self.block1 = _mlpconv(in_channels, (192, 160, 96), 5, padding=2)
        self.pool1 = nn.MaxPool2d(3, 2)
        self.dropout1 = nn.Dropout(dropout)
        self.block2 = _mlpconv(96, (192, 192, 192), 5, padding=2)
        self.pool2 = nn.MaxPool2d(3, 2)
        self.dropout2 = nn.Dropout(dropout)
        self.block3 = _mlpconv(192, (192, 192, num_classes), 3, padding=1, final_relu=final_relu)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, num_classes) for x (N, in_channels, H, W)."""
        x = self.dropout1(self.pool1(self.block1(x)))  # (N, 96, 15, 15) at 32 pixels
        x = self.dropout2(self.pool2(self.block2(x)))  # (N, 192, 7, 7)
        x = self.block3(x)  # (N, num_classes, 7, 7)
        return x.mean((2, 3))


_NO_FINAL_RELU = Departure(
    "no ReLU after the last 1x1 convolution, whose averages are the logits, because it would cut "
    "every logit off at zero",
    "model.final_relu=true",
)

MODELS = {
    "nin": ModelRow(
        NiN,
        Card(
            "Network in Network, ImageNet form (2013)",
            "Lin et al., Network In Network; the layers are those of the authors' published model",
            link="https://arxiv.org/abs/1312.4400",
            rows="section 3 and figure 2",
            departures=(
                Departure("99-pixel images", "data.image_size=224"),
                Departure("weights start as Glorot and Bengio advise", "model.init=normal"),
                _NO_FINAL_RELU,
            ),
        ),
    ),
    "nin_cifar": ModelRow(
        NiNCifar,
        Card(
            "Network in Network, CIFAR form (2013)",
            "Lin et al., Network In Network",
            link="https://arxiv.org/abs/1312.4400",
            rows="section 4.2",
            input_shape=(3, 32, 32),
            num_classes=10,
            args={"dropout": 0.5},
            departures=(
                Departure("less dropout, for tens and not hundreds of epochs", "model.dropout=0.5"),
                KAIMING_INIT,
                _NO_FINAL_RELU,
            ),
        ),
    ),
}
