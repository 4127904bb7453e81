"""What single blocks cost and see, side by side: the comparisons that papers argue with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from cnnbench.errors import UsageError, expected_names
from cnnbench.geometry.summary import largest_field
from cnnbench.geometry.trace import analyze

_SIZE = 28


def _conv(
    in_channels: int,
    out_channels: int,
    kernel: int | tuple[int, int],
    bias: bool,
    *,
    groups: int = 1,
    dilation: int = 1,
) -> nn.Conv2d:
    """Build a convolution that keeps the size of its maps; an even kernel takes a pixel."""
    height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
    return nn.Conv2d(
        in_channels,
        out_channels,
        (height, width),
        padding=(dilation * (height - 1) // 2, dilation * (width - 1) // 2),
        dilation=dilation,
        groups=groups,
        bias=bias,
    )


def _stack(a: Sequence[int], bias: bool) -> nn.Module:
    before, after, kernel, count = a
    widths = [before, *[after] * (count - 1)]
    return nn.Sequential(*(_conv(width, after, kernel, bias) for width in widths))


def _pairs(a: Sequence[int], bias: bool) -> nn.Module:
    before, after, side, count = a
    layers = []
    for width in [before, *[after] * (count - 1)]:
        layers += [_conv(width, after, (1, side), bias), _conv(after, after, (side, 1), bias)]
    return nn.Sequential(*layers)


@dataclass(frozen=True)
class Block:
    """A kind of block.

    Attributes:
        arguments: their names, in order; the first is the number of input channels.
        build: takes them, ``bias``, and the side of the maps.
        defaults: of the last arguments.
        is_flat: whether it takes features in place of maps.
    """

    arguments: tuple[str, ...]
    build: Callable[[Sequence[int], bool, int], nn.Module]
    defaults: tuple[int, ...] = ()
    is_flat: bool = False

    @property
    def usage(self) -> str:
        """The arguments as a message shows them."""
        required = len(self.arguments) - len(self.defaults)
        return " ".join(
            name if n < required else f"[{name}={self.defaults[n - required]}]"
            for n, name in enumerate(self.arguments)
        )


BLOCKS: dict[str, Block] = {
    "conv": Block(("IN", "OUT", "K"), lambda a, bias, _: _conv(a[0], a[1], a[2], bias)),
    "bottleneck": Block(
        ("C", "MID", "K"),
        lambda a, bias, _: nn.Sequential(
            _conv(a[0], a[1], 1, bias), _conv(a[1], a[1], a[2], bias), _conv(a[1], a[0], 1, bias)
        ),
        (3,),
    ),
    "reduced": Block(
        ("IN", "MID", "OUT", "K"),
        lambda a, bias, _: nn.Sequential(_conv(a[0], a[1], 1, bias), _conv(a[1], a[2], a[3], bias)),
    ),
    "grouped": Block(
        ("IN", "OUT", "K", "GROUPS"),
        lambda a, bias, _: _conv(a[0], a[1], a[2], bias, groups=a[3]),
    ),
    "separable": Block(
        ("IN", "OUT", "K", "MULTIPLIER"),
        lambda a, bias, _: nn.Sequential(
            _conv(a[0], a[0] * a[3], a[2], bias, groups=a[0]), _conv(a[0] * a[3], a[1], 1, bias)
        ),
        (1,),
    ),
    "dilated": Block(
        ("IN", "OUT", "K", "DILATION"),
        lambda a, bias, _: _conv(a[0], a[1], a[2], bias, dilation=a[3]),
    ),
    "stacked": Block(("IN", "OUT", "K", "COUNT"), lambda a, bias, _: _stack(a, bias), (3, 2)),
    "asymmetric": Block(("IN", "OUT", "N", "PAIRS"), lambda a, bias, _: _pairs(a, bias), (1,)),
    "linear": Block(
        ("IN", "OUT"), lambda a, bias, _: nn.Linear(a[0], a[1], bias=bias), is_flat=True
    ),
    "linear_head": Block(
        ("C", "CLASSES"),
        lambda a, bias, size: nn.Sequential(
            nn.Flatten(), nn.Linear(a[0] * size**2, a[1], bias=bias)
        ),
    ),
    "conv_head": Block(
        ("C", "CLASSES"),
        lambda a, bias, _: nn.Sequential(
            _conv(a[0], a[1], 1, bias), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        ),
    ),
    "average_head": Block(
        ("C", "CLASSES"),
        lambda a, bias, _: nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(a[0], a[1], bias=bias)
        ),
    ),
}


def compare_blocks(texts: Sequence[str]) -> list[dict[str, Any]]:
    """Return what blocks cost and see; `cnnbench.summary` says what comes back.

    Args:
        texts: such as ``bottleneck 256 32`` or ``conv 192 32 5 size=28 bias=false``.

    Raises:
        UsageError: no such kind, or arguments that do not fit it.
    """
    rows: list[dict[str, Any]] = []
    for text in texts:
        kind, arguments, size, bias = _parse(text)
        block = BLOCKS[kind]
        shape = (arguments[0],) if block.is_flat else (arguments[0], size, size)
        try:
            geometry = analyze(block.build(arguments, bias, size), shape)
        except (ValueError, RuntimeError) as error:
            raise UsageError(f"--block '{text}': {error}") from None
        first = rows[0] if rows else {"num_params": geometry.num_params, "macs": geometry.macs}
        rows.append(
            {
                "block": text,
                "num_params": geometry.num_params,
                "params_ratio": geometry.num_params / first["num_params"],
                "macs": geometry.macs,
                "macs_ratio": geometry.macs / first["macs"],
                "receptive_field": largest_field(geometry),
                "input_shape": list(shape),
                "output_shape": list(geometry.module_shapes[""]),
            }
        )
    return rows


def _parse(text: str) -> tuple[str, list[int], int, bool]:
    """Return kind, arguments, side of the maps, and whether layers have a bias."""
    kind, *words = text.split() or [""]
    if kind not in BLOCKS:
        raise UsageError(f"--block '{text}': no such block{expected_names(kind, BLOCKS)}")
    block = BLOCKS[kind]
    size, bias, numbers = _SIZE, True, list[int]()
    expected = f"{kind} {block.usage} [size={_SIZE}] [bias=true]"
    for word in words:
        key, is_option, value = word.rpartition("=")
        if key == "bias" and value in ("true", "false"):
            bias = value == "true"
            continue
        is_known = key == "size" or not is_option
        if not (is_known and value.isdecimal() and len(value) < 7 and int(value)):
            raise UsageError(f"--block '{text}': {word} is not expected; write {expected}")
        if key:
            size = int(value)
        else:
            numbers.append(int(value))
    lacking = len(block.arguments) - len(numbers)
    if lacking < 0 or lacking > len(block.defaults):
        raise UsageError(f"--block '{text}': has {len(numbers)} numbers; write {expected}")
    return kind, [*numbers, *block.defaults[len(block.defaults) - lacking :]], size, bias
