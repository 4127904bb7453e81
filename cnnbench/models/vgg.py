"""VGG: Simonyan and Zisserman, https://arxiv.org/abs/1409.1556, table 1 (A, B, D, E).

Departures are in the cards below. `norm` adds batch norm, which came later, as torchvision's `_bn`
networks have it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

from torch import Tensor, nn

from cnnbench.config.schema import Count, Probability, RatioNumber
from cnnbench.layers import (
    DropoutPosition,
    HeadName,
    Step,
    average_pool_to,
    build_head,
    hidden_layers,
    run_head,
    scale_channels,
    smallest_image,
)
from cnnbench.models.row import KAIMING_INIT, Card, Departure, ModelRow, NumClasses

_WIDTHS = (64, 128, 256, 512, 512)
_SMALLEST = smallest_image([Step(f"pool of stage {n}", 2, 2) for n in range(1, 6)])


class VGG(nn.Module):
    """Five stages of 3x3 convolutions, each ended by a max pool, and three linear layers.

    Args:
        in_channels: channels of the images, of at least 32 pixels.
        num_classes: logits to give.
        num_convs: convolutions of each stage.
        head: `linear` flattens the last feature maps; `gap` averages each, and `conv1x1` averages
            what a 1x1 convolution makes of them: both have no hidden layers.
        head_size: side of the feature maps that a linear head sees.
        hidden: widths of the hidden linear layers.
        dropout: probability at each hidden layer.
        dropout_position: `after` each hidden layer's activation, as the paper has it, or `before`
            each hidden layer, the first of which takes the flattened feature maps.
        norm: `conv` puts a batch norm after each convolution, which keeps its bias; or `none`.
        width_multiplier: scales convolutions and hidden layers.
    """

    min_image_size, min_image_layer = _SMALLEST

    def __init__(
        self,
        *,
        in_channels: Count,
        num_classes: NumClasses,
        num_convs: tuple[Count, ...],
        head: HeadName = "linear",
        head_size: Count = 1,
        hidden: tuple[Count, ...] = (4096, 4096),
        dropout: Probability = 0.5,
        dropout_position: DropoutPosition = "after",
        norm: Literal["none", "conv"] = "none",
        width_multiplier: RatioNumber = 1.0,
    ) -> None:
        super().__init__()
        stages = []
        for depth, width in zip(num_convs, _WIDTHS, strict=True):
            out_channels = scale_channels(width, width_multiplier)
            stages.append(_build_stage(depth, in_channels, out_channels, norm == "conv"))
            in_channels = out_channels
        self.stages = nn.Sequential(*stages)
        self.head_name, self.head_size = head, head_size
        layers = []
        if head == "linear":
            layers = hidden_layers(
                in_channels * head_size**2,
                tuple(scale_channels(width, width_multiplier) for width in hidden),
                "relu",
                dropout=dropout,
                dropout_position=dropout_position,
            )
        self.head = build_head(head, in_channels, head_size, layers, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, num_classes) for x (N, in_channels, H, W)."""
        # (N, 64, H/2, W/2), (N, 128, H/4, W/4), (N, 256, H/8, W/8), (N, 512, H/16, W/16),
        # (N, 512, H/32, W/32)
        x = self.stages(x)
        if self.head_name == "linear":
            x = average_pool_to(x, self.head_size)  # (N, 512, head_size, head_size)
        return run_head(self.head_name, self.head, x)


def _build_stage(depth: int, in_channels: int, out_channels: int, has_norm: bool) -> nn.Sequential:
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for number in range(1, depth + 1):
        parts[f"conv{number}"] = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        if has_norm:
            parts[f"norm{number}"] = nn.BatchNorm2d(out_channels)
        parts[f"act{number}"] = nn.ReLU()
        in_channels = out_channels
    parts["pool"] = nn.MaxPool2d(2)
    return nn.Sequential(parts)


def _row(
    letter: str, num_layers: int, num_convs: tuple[int, int, int, int, int], params: str
) -> ModelRow:
    card = Card(
        title=f"VGG-{num_layers}, configuration {letter} (2014)",
        source="Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image "
        "Recognition",
        link="https://arxiv.org/abs/1409.1556",
        rows="tables 1 and 2",
        paper_params=params,
        args={"head_size": 7},
        departures=(
            Departure(
                "32-pixel images, whose last feature maps are averaged to one pixel",
                "data.image_size=224 model.head_size=7",
            ),
            KAIMING_INIT,
        ),
    )
    return ModelRow(VGG, card, {"num_convs": num_convs})


# Table 1: convolutions per stage; table 2: parameters.
MODELS = {
    "vgg11": _row("A", 11, (1, 1, 2, 2, 2), "133 million"),
    "vgg13": _row("B", 13, (2, 2, 2, 2, 2), "133 million"),
    "vgg16": _row("D", 16, (2, 2, 3, 3, 3), "138 million"),
    "vgg19": _row("E", 19, (2, 2, 4, 4, 4), "144 million"),
}
