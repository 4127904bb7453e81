"""Pooling by name, and averaging to a given size."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

PoolName = Literal["max", "avg"]

POOLS: dict[PoolName, type[nn.MaxPool2d] | type[nn.AvgPool2d]] = {
    "max": nn.MaxPool2d,
    "avg": nn.AvgPool2d,
}


def average_pool_to(x: Tensor, size: int) -> Tensor:
    """Average feature maps (N, C, H, W) to (N, C, size, size).

    The result is that of adaptive average pooling. Where a plain average does the same it is
    taken, because its gradient is the same in every run on a GPU, and adaptive pooling's is not.
    """
    height, width = x.shape[-2:]
    if (height, width) == (size, size):
        return x
    if size == 1:
        return x.mean((2, 3), keepdim=True)
    if height % size == 0 and width % size == 0:
        return F.avg_pool2d(x, (height // size, width // size))
    return F.adaptive_avg_pool2d(x, size)
