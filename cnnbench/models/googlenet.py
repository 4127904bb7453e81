"""GoogLeNet: Szegedy et al., https://arxiv.org/abs/1409.4842, table 1.

Departures are in the card below. Later forms as arguments: two 3x3 for a 5x5, and 1xn with nx1 for
nxn (https://arxiv.org/abs/1512.00567, sections 3.1 and 3.2); residual blocks
(https://arxiv.org/abs/1602.07261, section 3.2), where the last 1x1 has no norm, as in the paper's
published code, and the shortcut is a plain 1x1 where channels differ.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from cnnbench.config.schema import Count, Positive, Probability, Range, RatioNumber
from cnnbench.layers import (
    StemName,
    Step,
    average_pool_to,
    conv_unit,
    scale_channels,
    smallest_image,
)
from cnnbench.models.inception import Factorize, InceptionBlock, InceptionRow, Norm
from cnnbench.models.row import NO_LRN, Card, Departure, ModelRow, NumClasses

# Table 1 of the paper; a pool comes before 4a and 5a.
ROWS: dict[str, InceptionRow] = {
    "3a": InceptionRow(64, (96, 128), (16, 32), 32),
    "3b": InceptionRow(128, (128, 192), (32, 96), 64),
    "4a": InceptionRow(192, (96, 208), (16, 48), 64),
    "4b": InceptionRow(160, (112, 224), (24, 64), 64),
    "4c": InceptionRow(128, (128, 256), (24, 64), 64),
    "4d": InceptionRow(112, (144, 288), (32, 64), 64),
    "4e": InceptionRow(256, (160, 320), (32, 128), 128),
    "5a": InceptionRow(256, (160, 320), (32, 128), 128),
    "5b": InceptionRow(384, (192, 384), (48, 128), 128),
}
_AUX_AFTER = ("inception4a", "inception4d")


class AuxHead(nn.Module):
    """A small classifier on a middle block, which gives early layers a shorter way to the loss.

    Args:
        in_channels: output channels of the block.
        num_classes: logits to give.
        norm: whether its convolution has a batch norm.
        width_multiplier: scales its two hidden layers.
    """

    def __init__(
        self, in_channels: int, num_classes: int, *, norm: bool, width_multiplier: float
    ) -> None:
        super().__init__()
        conv_channels = scale_channels(128, width_multiplier)
        hidden = scale_channels(1024, width_multiplier)
        self.conv = conv_unit(in_channels, conv_channels, 1, norm=norm)
        self.hidden = nn.Linear(conv_channels * 4 * 4, hidden)
        self.act = nn.ReLU()
        self.dropout = nn.Dropout(0.7)
        self.head = nn.Linear(hidden, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, num_classes) for x (N, in_channels, H, W)."""
        is_paper_size = all((side - 5) // 3 + 1 == 4 for side in x.shape[-2:])
        x = F.avg_pool2d(x, 5, 3) if is_paper_size else average_pool_to(x, 4)
        x = self.conv(x)  # (N, 128, 4, 4)
        x = self.dropout(self.act(self.hidden(x.flatten(1))))  # (N, 1024)
        logits: Tensor = self.head(x)
        return logits


class GoogLeNet(nn.Module):
    """A stem, nine Inception blocks, the average of each feature map, one linear layer.

    Args:
        in_channels: channels of the images.
        num_classes: logits to give.
        stem: `imagenet` (7x7/2) or `small` (3x3/1); both keep the two pools.
        norm: `conv` after each convolution, `block` in the stem and after each block, or `none`.
        factorize: `3x3` splits each 5x5 in two; `asymmetric` also 3x3 in 1x3 and 3x1, each padded
            along its kernel; `asymmetric_pad_first` pads the 1x3 on all sides and the 3x1 not at
            all, which gives the same sizes and other borders; or `none`.
        factorize_stages: stages that `factorize` changes, of 3, 4 and 5.
        residual: add a shortcut around each block.
        residual_scale: factor on the block before the sum.
        aux: build the two auxiliary heads, which `forward_with_aux` runs.
        aux_weight: how much the loss of each auxiliary head counts in training.
        dropout: probability before the last layer.
        pool_ceil_mode: pool 3/2 without padding, rounding sizes up.
        width_multiplier: scales every layer but the last.
    """

    def __init__(
        self,
        *,
        in_channels: Count,
        num_classes: NumClasses,
        stem: StemName = "small",
        norm: Norm = "conv",
        factorize: Factorize = "none",
        factorize_stages: tuple[Literal[3, 4, 5], ...] = (3, 4, 5),
        residual: bool = False,
        residual_scale: Positive = 1.0,
        aux: bool = False,
        aux_weight: Annotated[float, Range(ge=0)] = 0.3,
        dropout: Probability = 0.0,
        pool_ceil_mode: bool = False,
        width_multiplier: RatioNumber = 1.0,
    ) -> None:
        super().__init__()
        self.min_image_size, self.min_image_layer = smallest_image(_steps(stem, pool_ceil_mode))

        self.aux_weight = aux_weight
        widths = [scale_channels(c, width_multiplier) for c in (64, 64, 192)]
        self.stem = _build_stem(in_channels, widths, stem, norm, pool_ceil_mode)
        self.blocks = nn.ModuleDict()
        self.aux_heads = nn.ModuleDict()
        channels = widths[-1]
        for name, paper_row in ROWS.items():
            if name in ("4a", "5a"):
                self.blocks[f"pool{int(name[0]) - 1}"] = _pool(pool_ceil_mode)
            row = paper_row.scaled(width_multiplier)
            self.blocks[f"inception{name}"] = InceptionBlock(
                channels,
                row,
                norm=norm,
                factorize=factorize if int(name[0]) in factorize_stages else "none",
                residual_scale=residual_scale if residual else None,
            )
            channels = row.out_channels
            if aux and f"inception{name}" in _AUX_AFTER:
                self.aux_heads[f"inception{name}"] = AuxHead(
                    channels, num_classes, norm=norm == "conv", width_multiplier=width_multiplier
                )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, num_classes) for x (N, in_channels, H, W)."""
        return self._head(self._blocks(self.stem(x))[0])

    def forward_with_aux(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the logits, and those of the auxiliary heads: two of them, none without `aux`.

        Args:
            x: images (N, in_channels, H, W).
        """
        x, middle = self._blocks(self.stem(x))
        aux_logits = tuple(head(middle[name]) for name, head in self.aux_heads.items())
        return self._head(x), aux_logits

    def _blocks(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        # With the imagenet stem at 224 pixels: 3b (N, 480, 28, 28), 4e (N, 832, 14, 14),
        # 5b (N, 1024, 7, 7)
        middle = {}
        for name, block in self.blocks.items():
            x = block(x)
            if name in self.aux_heads:
                middle[name] = x
        return x, middle

    def _head(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.dropout(x.mean((2, 3))))
        return logits


def _pool(ceil_mode: bool) -> nn.MaxPool2d:
    return nn.MaxPool2d(3, 2, 0, ceil_mode=True) if ceil_mode else nn.MaxPool2d(3, 2, 1)


def _steps(stem: StemName, ceil_mode: bool) -> list[Step]:
    pools = [Step(f"pool{n}", 3, 2, 0 if ceil_mode else 1, ceil_mode) for n in range(1, 5)]
    conv1 = Step("conv1", 7, 2, 3) if stem == "imagenet" else Step("conv1", 3, 1, 1)
    return [conv1, *pools]


def _build_stem(
    in_channels: int, widths: list[int], stem: StemName, norm: Norm, ceil_mode: bool
) -> nn.Sequential:
    has_norm = norm != "none"
    bias = norm != "conv"
    kernel_size, stride = (7, 2) if stem == "imagenet" else (3, 1)
    conv1 = conv_unit(
        in_channels,
        widths[0],
        kernel_size,
        stride=stride,
        padding=kernel_size // 2,
        norm=has_norm,
        bias=bias,
    )
    # At 224 pixels: pool1 (N, 64, 56, 56), pool2 (N, 192, 28, 28)
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    parts["conv1"] = conv1
    parts["pool1"] = _pool(ceil_mode)
    parts["conv2"] = conv_unit(widths[0], widths[1], 1, norm=has_norm, bias=bias)
    parts["conv3"] = conv_unit(widths[1], widths[2], 3, padding=1, norm=has_norm, bias=bias)
    parts["pool2"] = _pool(ceil_mode)
    return nn.Sequential(parts)


MODELS = {
    "googlenet": ModelRow(
        GoogLeNet,
        Card(
            "GoogLeNet, Inception v1 (2014)",
            "Szegedy et al., Going Deeper with Convolutions",
            link="https://arxiv.org/abs/1409.4842",
            rows="table 1",
            paper_params="6.8 million (sum of table 1)",
            paper_macs="1.5 billion",
            args={"stem": "imagenet", "norm": "none", "dropout": 0.4, "pool_ceil_mode": True},
            departures=(
                Departure(
                    "the stem is a 3x3 of stride 1 in place of the 7x7/2, so that small images "
                    "keep some pixels",
                    "model.stem=imagenet",
                ),
                Departure(
                    "a batch norm after each convolution "
                    "(Ioffe and Szegedy, https://arxiv.org/abs/1502.03167)",
                    "model.norm=none",
                ),
                Departure("no dropout before the last layer", "model.dropout=0.4"),
                Departure("pools pad by 1 in place of rounding up", "model.pool_ceil_mode=true"),
                Departure("no auxiliary heads", "model.aux=true"),
                NO_LRN,
            ),
        ),
    )
}
