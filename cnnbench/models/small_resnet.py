"""A small residual network for images of 28 to 32 pixels, made for few minutes on a CPU.

Its form is that of Page's ResNet-9 (https://github.com/davidcpage/cifar10-fast): convolutions that
a max pool halves, a residual block of two more behind each, and the maximum of each channel.
Departures: fewer and narrower stages, all with a block, and a stem that halves the sides by a 5x5
convolution, because a CPU spends its time on the many pixels of the first feature maps, where few
channels leave its matrix units idle.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from cnnbench.config.schema import Count
from cnnbench.errors import UsageError
from cnnbench.layers import Step, conv_unit, smallest_image
from cnnbench.models.row import Card, ModelRow, NumClasses


class SmallResNet(nn.Module):
    """A stem, halving stages with a residual block each, a global maximum, one linear layer.

    Args:
        in_channels: channels of the images.
        num_classes: logits to give.
        widths: output channels of the stem and of each stage; the default leaves 3 x 3 of
            28 x 28 pixels.
        stem_stride: of the stem, whose kernel is one pixel more than twice as wide; 1 or more.
    """

    def __init__(
        self,
        *,
        in_channels: Count,
        num_classes: NumClasses,
        widths: tuple[Count, ...] = (16, 48, 96),
        stem_stride: Count = 2,
    ) -> None:
        super().__init__()
        if not widths:
            raise UsageError("widths=[]: expected at least 1 number")
        kernel_size = 2 * stem_stride + 1
        self.min_image_size, self.min_image_layer = smallest_image(
            [
                Step("stem", kernel_size, stem_stride, stem_stride),
                *(Step(f"pool of stage {n}", 2, 2) for n in range(1, len(widths))),
            ]
        )
        channels, *stage_widths = widths
        self.stem = conv_unit(
            in_channels, channels, kernel_size, stride=stem_stride, padding=stem_stride, norm=True
        )
        stages = []
        for width in stage_widths:
            stages.append(_build_stage(channels, width))
            channels = width
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, num_classes) for x (N, in_channels, H, W)."""
        x = self.stem(x)  # (N, 16, 14, 14) at 28 pixels
        x = self.stages(x)  # (N, 48, 7, 7), (N, 96, 3, 3)
        logits: Tensor = self.head(x.amax((2, 3)))
        return logits


class _Residual(nn.Module):
    """Two convolutions beside the identity; nothing follows the sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = conv_unit(channels, channels, 3, padding=1, norm=True)
        self.conv2 = conv_unit(channels, channels, 3, padding=1, norm=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, channels, H, W) for x of that shape."""
        out: Tensor = x + self.conv2(self.conv1(x))
        return out


def _build_stage(in_channels: int, out_channels: int) -> nn.Sequential:
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    parts["conv"] = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    # Before norm and activation, which so have a quarter of the values to go through.
    parts["pool"] = nn.MaxPool2d(2)
    parts["norm"] = nn.BatchNorm2d(out_channels)
    parts["act"] = nn.ReLU()
    parts["block"] = _Residual(out_channels)
    return nn.Sequential(parts)


MODELS = {
    "small_resnet": ModelRow(
        SmallResNet,
        Card(
            "Small residual network",
            "Made here for images of 28 to 32 pixels, of the form of Page's ResNet-9; no paper",
            link="https://github.com/davidcpage/cifar10-fast",
            input_shape=(1, 28, 28),
            num_classes=10,
        ),
    )
}
