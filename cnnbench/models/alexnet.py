"""AlexNet: Krizhevsky et al., https://doi.org/10.1145/3065386.

Departures are in the cards below.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

from torch import Tensor, nn

from cnnbench.config.schema import Count, Probability, RatioNumber, Size
from cnnbench.errors import UsageError
from cnnbench.layers import (
    ACTIVATIONS,
    POOLS,
    ActivationName,
    HeadName,
    PoolName,
    Step,
    build_head,
    hidden_layers,
    output_size,
    run_head,
    scale_channels,
    smallest_image,
)
from cnnbench.models.row import KAIMING_INIT, NO_LRN, Card, Departure, ModelRow, NumClasses


def _steps(num_convs: int, padding: int) -> list[Step]:
    """Give conv1 11/4, conv2 5, the others 3; pools after the first two and the last."""
    steps = [Step("conv1", 11, 4, padding), Step("pool1", 3, 2)]
    steps += [Step("conv2", 5, 1, 2), Step("pool2", 3, 2)]
    steps += [Step(f"conv{n}", 3, 1, 1) for n in range(3, num_convs + 1)]
    return [*steps, Step(f"pool{num_convs}", 3, 2)]


class AlexNet(nn.Module):
    """Five convolutions, three overlapping pools and three linear layers.

    Args:
        in_channels: channels of the images.
        num_classes: logits to give.
        image_size: side of the images in pixels, at least 65 (67 with `padding=0`).
        conv_channels: output channels of each convolution, three or more.
        hidden: widths of the hidden linear layers.
        activation: name of the activation after each layer but the last.
        pool: `max` or `avg`.
        dropout: probability after each hidden layer.
        padding: zeros around the image in conv1.
        head: `linear` flattens the last feature maps; `gap` averages each, and
            `conv1x1` averages what a 1x1 convolution makes of them: both have no hidden layers.
        groups: 2 splits conv2, conv4 and conv5 into the two streams of the paper.
        width_multiplier: scales convolutions and hidden layers.
    """

    def __init__(
        self,
        *,
        in_channels: Count,
        num_classes: NumClasses,
        image_size: int = 97,
        conv_channels: tuple[Count, ...] = (96, 256, 384, 384, 256),
        hidden: tuple[Count, ...] = (4096, 4096),
        activation: ActivationName = "relu",
        pool: PoolName = "max",
        dropout: Probability = 0.5,
        padding: Size = 1,
        head: HeadName = "linear",
        groups: Literal[1, 2] = 1,
        width_multiplier: RatioNumber = 1.0,
    ) -> None:
        super().__init__()
        if len(conv_channels) < 3:
            raise UsageError(f"conv_channels={list(conv_channels)}: expected at least 3 numbers")
        if any(channels % groups for channels in conv_channels):
            raise UsageError(
                f"conv_channels={list(conv_channels)}: groups={groups} must divide each"
            )
        steps = _steps(len(conv_channels), padding)
        self.min_image_size, self.min_image_layer = smallest_image(steps)
        side = output_size(image_size, steps)

        # A stream is half of the channels, so widths stay multiples of `groups`.
        widths = [groups * scale_channels(c // groups, width_multiplier) for c in conv_channels]
        hidden = tuple(scale_channels(width, width_multiplier) for width in hidden)
        self.stages = _build_stages(steps, [in_channels, *widths], activation, pool, groups)
        self.head_name = head
        layers = []
        if head == "linear":
            layers = hidden_layers(widths[-1] * side**2, hidden, activation, dropout=dropout)
        self.head = build_head(head, widths[-1], side, layers, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, num_classes) for x (N, in_channels, image_size, image_size)."""
        # (N, 96, 26, 26), (N, 256, 12, 12), (N, 256, 5, 5) after the three pools at 224 pixels
        return run_head(self.head_name, self.head, self.stages(x))


def _build_stages(
    steps: list[Step],
    channels: list[int],
    activation: ActivationName,
    pool: PoolName,
    groups: int,
) -> nn.Sequential:
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for step in steps:
        kind, number = step.layer[:4], int(step.layer[4:])
        if kind == "pool":
            parts[step.layer] = POOLS[pool](step.kernel_size, step.stride)
            continue
        parts[step.layer] = nn.Conv2d(
            channels[number - 1],
            channels[number],
            step.kernel_size,
            step.stride,
            step.padding,
            # The paper's streams meet in conv3, and the image is seen whole.
            groups=groups if number in (2, 4, 5) else 1,
        )
        parts[f"act{number}"] = ACTIVATIONS[activation]()
    return nn.Sequential(parts)


_DEPARTURES = (
    Departure("one stream in place of two", "model.groups=2"),
    Departure(
        "97-pixel images with a padding of 1 in conv1", "data.image_size=227 model.padding=0"
    ),
    NO_LRN,
    KAIMING_INIT,
)


def _card(title: str, params: str, departures: tuple[Departure, ...]) -> Card:
    return Card(
        title=title,
        source="Krizhevsky et al., ImageNet Classification with Deep Convolutional Neural Networks",
        link="https://doi.org/10.1145/3065386",
        rows="section 3.5 and figure 2",
        paper_params=params,
        input_shape=(3, 227, 227),
        args={"padding": 0, "groups": 2},
        departures=departures,
    )


MODELS = {
    "alexnet": ModelRow(AlexNet, _card("AlexNet (2012)", "60 million", _DEPARTURES)),
    "alexnet_small": ModelRow(
        AlexNet,
        _card(
            "AlexNet, simplified",
            "not stated",
            (
                Departure(
                    "one convolution and one hidden layer less: a course's form", "model=alexnet"
                ),
                *_DEPARTURES,
            ),
        ),
        {"conv_channels": (96, 256, 384, 256), "hidden": (4096,)},
    ),
}
