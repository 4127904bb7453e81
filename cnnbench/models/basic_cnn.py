"""Two small teaching networks: two convolutions, and the same with Inception modules.

The Inception module here is the first of GoogLeNet's later relatives (Szegedy et al.,
https://arxiv.org/abs/1512.00567, figure 5) reduced to 88 channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cnnbench.config.schema import Count
from cnnbench.layers import Step, convolve_and_pool, output_size, smallest_image
from cnnbench.models.row import Card, Departure, ModelRow, NumClasses

_STEPS = (Step("conv1", 5), Step("pool1", 2, 2), Step("conv2", 5), Step("pool2", 2, 2))
_SMALLEST = smallest_image(_STEPS)


class BasicCNN(nn.Module):
    """Two 5x5 convolutions, each with max pool and ReLU, and one linear layer.

    Args:
        in_channels: channels of the images.
        num_classes: logits to give.
        image_size: side of the images in pixels, at least 16.
        dilation: of both convolutions. Above 1 they see more pixels with as many weights; padding
            keeps the sizes, so that nothing else changes.
    """

    min_image_size, min_image_layer = _SMALLEST

    def __init__(
        self,
        *,
        in_channels: Count,
        num_classes: NumClasses,
        image_size: int = 28,
        dilation: Count = 1,
    ) -> None:
        super().__init__()
        side = output_size(image_size, _STEPS)
        padding = 2 * (dilation - 1)
        self.conv1 = nn.Conv2d(in_channels, 10, 5, padding=padding, dilation=dilation)
        self.pool1 = nn.MaxPool2d(2)
        self.act1 = nn.ReLU()
        self.conv2 = nn.Conv2d(10, 20, 5, padding=padding, dilation=dilation)
        self.pool2 = nn.MaxPool2d(2)
        self.act2 = nn.ReLU()
        self.head = nn.Linear(20 * side**2, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, num_classes) for x (N, in_channels, image_size, image_size)."""
        x = self.act1(convolve_and_pool(self.conv1, self.pool1, x))  # (N, 10, 12, 12) at 28 pixels
        x = self.act2(convolve_and_pool(self.conv2, self.pool2, x))  # (N, 20, 4, 4)
        logits: Tensor = self.head(x.flatten(1))
        return logits


class InceptionABlock(nn.Module):
    """Four branches without activations, concatenated to 88 channels.

    Args:
        in_channels: input channels.
    """

    out_channels = 16 + 24 + 24 + 24

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.branch1x1 = nn.Conv2d(in_channels, 16, 1)
        self.branch5x5 = nn.Sequential(
            nn.Conv2d(in_channels, 16, 1), nn.Conv2d(16, 24, 5, padding=2)
        )
        self.branch3x3 = nn.Sequential(
            nn.Conv2d(in_channels, 16, 1),
            nn.Conv2d(16, 24, 3, padding=1),
            nn.Conv2d(24, 24, 3, padding=1),
        )
        self.branch_pool = nn.Sequential(
            nn.AvgPool2d(3, stride=1, padding=1), nn.Conv2d(in_channels, 24, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, 88, H, W) for x (N, in_channels, H, W)."""
        branches = (self.branch1x1, self.branch5x5, self.branch3x3, self.branch_pool)
        return torch.cat([branch(x) for branch in branches], dim=1)


class InceptionCNN(nn.Module):
    """`BasicCNN` with an Inception module after each ReLU.

    Args:
        in_channels: channels of the images.
        num_classes: logits to give.
        image_size: side of the images in pixels, at least 16.
    """

    min_image_size, min_image_layer = _SMALLEST

    def __init__(
        self, *, in_channels: Count, num_classes: NumClasses, image_size: int = 28
    ) -> None:
        super().__init__()
        side = output_size(image_size, _STEPS)
        self.conv1 = nn.Conv2d(in_channels, 10, 5)
        self.pool1 = nn.MaxPool2d(2)
        self.act1 = nn.ReLU()
        self.inception1 = InceptionABlock(10)
        self.conv2 = nn.Conv2d(InceptionABlock.out_channels, 20, 5)
        self.pool2 = nn.MaxPool2d(2)
        self.act2 = nn.ReLU()
        self.inception2 = InceptionABlock(20)
        self.head = nn.Linear(InceptionABlock.out_channels * side**2, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, num_classes) for x (N, in_channels, image_size, image_size)."""
        x = self.act1(convolve_and_pool(self.conv1, self.pool1, x))  # (N, 10, 12, 12) at 28 pixels
        x = self.inception1(x)  # (N, 88, 12, 12)
        x = self.act2(convolve_and_pool(self.conv2, self.pool2, x))  # (N, 20, 4, 4)
        x = self.inception2(x)  # (N, 88, 4, 4)
        logits: Tensor = self.head(x.flatten(1))
        return logits


MODELS = {
    "basic_cnn": ModelRow(
        BasicCNN,
        Card("Basic CNN", "Course network; no paper", input_shape=(1, 28, 28), num_classes=10),
    ),
    "inception_cnn": ModelRow(
        InceptionCNN,
        Card(
            "Basic CNN with Inception modules",
            "Course network; its module is a small form of Szegedy et al., Rethinking the "
            "Inception Architecture for Computer Vision",
            link="https://arxiv.org/abs/1512.00567",
            rows="figure 5",
            input_shape=(1, 28, 28),
            num_classes=10,
            departures=(Departure("no activation inside or after a module, as in the course"),),
        ),
    ),
}
