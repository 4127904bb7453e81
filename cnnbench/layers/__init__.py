"""Blocks and size arithmetic that several networks share.

Here belongs what more than one family is made of: units, blocks, pools, heads, and how sizes shrink
on the way; ``cpu/`` has faster forms of torch's own layers. A block of one family stays in that
family's file in ``models``. Files here import torch and ``errors``, and never see a
configuration or the name of a network.
"""

from __future__ import annotations

from cnnbench.layers.conv import (
    ACTIVATIONS,
    ActivationName,
    StemName,
    build_stem,
    conv_unit,
    scale_channels,
)
from cnnbench.layers.cpu.squares import convolve_and_pool
from cnnbench.layers.heads import (
    DropoutPosition,
    HeadName,
    build_head,
    hidden_layers,
    run_head,
)
from cnnbench.layers.pooling import POOLS, PoolName, average_pool_to
from cnnbench.layers.residual import BasicBlock, BottleneckBlock, zero_last_norms
from cnnbench.layers.sizes import (
    SmallestImage,
    Step,
    check_image_size,
    output_size,
    smallest_image,
)

__all__ = [
    "ACTIVATIONS",
    "ActivationName",
    "StemName",
    "build_stem",
    "conv_unit",
    "scale_channels",
    "convolve_and_pool",
    "DropoutPosition",
    "HeadName",
    "build_head",
    "hidden_layers",
    "run_head",
    "POOLS",
    "PoolName",
    "average_pool_to",
    "BasicBlock",
    "BottleneckBlock",
    "zero_last_norms",
    "SmallestImage",
    "Step",
    "check_image_size",
    "output_size",
    "smallest_image",
]
