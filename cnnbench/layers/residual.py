"""The two residual blocks of He et al., https://arxiv.org/abs/1512.03385, figure 5."""

from __future__ import annotations

from torch import Tensor, nn

from cnnbench.layers.conv import conv_unit


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return conv_unit(in_channels, out_channels, 1, stride=stride, norm=True, act=None)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut.

    Args:
        in_channels: input channels.
        out_channels: output channels.
        stride: of the first convolution and the shortcut.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.act1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut = _shortcut(in_channels, out_channels, stride)
        self.act2 = nn.ReLU()

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The norm before the sum, whose weight may start at zero."""
        return self.norm2

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, out_channels, H / stride, W / stride) for x (N, in_channels, H, W)."""
        y = self.act1(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        out: Tensor = self.act2(y + self.shortcut(x))
        return out


class BottleneckBlock(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut.

    Args:
        in_channels: input channels.
        hidden_channels: channels of the 3x3 convolution.
        out_channels: output channels.
        stride: of one convolution and of the shortcut.
        groups: groups of the 3x3 convolution.
        stride_in_1x1: put the stride into the first 1x1, as the paper does, not into the 3x3.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        groups: int = 1,
        stride_in_1x1: bool = False,
    ) -> None:
        super().__init__()
        stride1, stride2 = (stride, 1) if stride_in_1x1 else (1, stride)
        self.conv1 = nn.Conv2d(in_channels, hidden_channels, 1, stride1, bias=False)
        self.norm1 = nn.BatchNorm2d(hidden_channels)
        self.act1 = nn.ReLU()
        self.conv2 = nn.Conv2d(
            hidden_channels, hidden_channels, 3, stride2, 1, groups=groups, bias=False
        )
        self.norm2 = nn.BatchNorm2d(hidden_channels)
        self.act2 = nn.ReLU()
        self.conv3 = nn.Conv2d(hidden_channels, out_channels, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(out_channels)
        self.shortcut = _shortcut(in_channels, out_channels, stride)
        self.act3 = nn.ReLU()

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The norm before the sum, whose weight may start at zero."""
        return self.norm3

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, out_channels, H / stride, W / stride) for x (N, in_channels, H, W)."""
        y = self.act1(self.norm1(self.conv1(x)))
        y = self.act2(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(y))
        out: Tensor = self.act3(y + self.shortcut(x))
        return out


def zero_last_norms(module: nn.Module) -> None:
    """Set the weight of every residual block's last norm to zero, in place."""
    for block in module.modules():
        if isinstance(block, BasicBlock | BottleneckBlock):
            nn.init.zeros_(block.last_norm.weight)
