"""What the classic ways to build a convolution cost, side by side.

    python benchmarks/costs.py [--format text|markdown|csv|json] [--seconds 0.2]

Parameters, MACs and receptive fields are counted, so they are the same on every machine. The time
is measured: the forward pass of a batch of 16 on one thread, the fastest of many, per image.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cnnbench.geometry.trace import analyze
from cnnbench.rendering.text import FORMATS, render_table

_BATCH = 16
COLUMNS = (
    "comparison",
    "form",
    "num_params",
    "macs",
    "receptive_field",
    "params_ratio",
    "ms_per_image",
)


@dataclass(frozen=True)
class Row:
    """One form of something, compared with the first of the same comparison."""

    comparison: str
    form: str
    build: Callable[[], nn.Module]
    input_shape: tuple[int, int, int]


def conv(
    in_channels: int, out_channels: int, kernel: int | tuple[int, int], **more: Any
) -> nn.Conv2d:
    """Build a convolution that keeps height and width."""
    sides = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = tuple(side // 2 for side in sides)
    return nn.Conv2d(in_channels, out_channels, sides, padding=padding, **more)


def all_rows() -> list[Row]:
    """Return the comparisons; layers are built when they are measured."""
    wide, small, deep, map28, head = (
        (256, 28, 28),
        (4, 28, 28),
        (192, 28, 28),
        (64, 28, 28),
        (512, 7, 7),
    )
    bottleneck = "3x3 at 256 channels"
    grouped = "3x3 from 4 to 8 channels"
    separable = "3x3 from 4 to 8 channels without bias"
    reduced = "5x5 from 192 to 32 channels"
    factored = "5x5 at 64 channels"
    heads = "10 classes from 512 maps of 7x7"
    return [
        Row(bottleneck, "plain", lambda: conv(256, 256, 3), wide),
        Row(
            bottleneck,
            "bottleneck of 32",
            lambda: nn.Sequential(conv(256, 32, 1), conv(32, 32, 3), conv(32, 256, 1)),
            wide,
        ),
        Row(grouped, "plain", lambda: conv(4, 8, 3), small),
        Row(grouped, "2 groups", lambda: conv(4, 8, 3, groups=2), small),
        Row(separable, "plain", lambda: conv(4, 8, 3, bias=False), small),
        Row(
            separable,
            "depthwise, then 1x1",
            lambda: nn.Sequential(conv(4, 4, 3, groups=4, bias=False), conv(4, 8, 1, bias=False)),
            small,
        ),
        Row(
            separable,
            "depthwise to 8, then 1x1",
            lambda: nn.Sequential(conv(4, 8, 3, groups=4, bias=False), conv(8, 8, 1, bias=False)),
            small,
        ),
        Row(reduced, "plain", lambda: conv(192, 32, 5), deep),
        Row(
            reduced,
            "through 16 channels",
            lambda: nn.Sequential(conv(192, 16, 1), conv(16, 32, 5)),
            deep,
        ),
        Row(factored, "plain", lambda: conv(64, 64, 5), map28),
        Row(
            factored,
            "two 3x3",
            lambda: nn.Sequential(conv(64, 64, 3), conv(64, 64, 3)),
            map28,
        ),
        Row(
            factored,
            "1x3, 3x1, 1x3, 3x1",
            lambda: nn.Sequential(*(conv(64, 64, k) for k in ((1, 3), (3, 1)) * 2)),
            map28,
        ),
        Row(
            heads,
            "linear, hidden 4096, 4096",
            lambda: nn.Sequential(
                nn.Flatten(),
                nn.Linear(512 * 49, 4096),
                nn.ReLU(),
                nn.Linear(4096, 4096),
                nn.ReLU(),
                nn.Linear(4096, 10),
            ),
            head,
        ),
        Row(heads, "linear", lambda: nn.Sequential(nn.Flatten(), nn.Linear(512 * 49, 10)), head),
        Row(
            heads,
            "1x1 convolution, then average",
            lambda: nn.Sequential(conv(512, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            head,
        ),
        Row(
            heads,
            "average, then linear",
            lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10)),
            head,
        ),
    ]


def count(rows: list[Row]) -> list[dict[str, Any]]:
    """Return what can be counted, without memory or time."""
    counted: list[dict[str, Any]] = []
    for row in rows:
        with torch.device("meta"):
            geometry = analyze(row.build(), row.input_shape)
        first = next((r for r in counted if r["comparison"] == row.comparison), None)
        fields = [layer.receptive_field for layer in geometry.layers if layer.receptive_field]
        counted.append(
            {
                "comparison": row.comparison,
                "form": row.form,
                "num_params": geometry.num_params,
                "macs": geometry.macs,
                "receptive_field": max(fields, default=None),
                "params_ratio": geometry.num_params
                / (first or {}).get("num_params", geometry.num_params),
            }
        )
    return counted


def seconds_per_image(row: Row, budget_seconds: float) -> float:
    """Return the fastest forward pass of a batch within a budget, per image."""
    module = row.build().eval()
    images = torch.rand(_BATCH, *row.input_shape)
    fastest, spent = float("inf"), 0.0
    with torch.inference_mode():
        module(images)
        while spent == 0 or spent < budget_seconds:
            started = time.perf_counter()
            module(images)
            passed = time.perf_counter() - started
            fastest, spent = min(fastest, passed), spent + passed
    return fastest / _BATCH


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--format", choices=FORMATS, default="text")
    parser.add_argument("--seconds", type=float, default=0.2, help="measured for each row")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = all_rows()
    table = count(rows)
    for row, line in zip(rows, table, strict=True):
        line["ms_per_image"] = 1000 * seconds_per_image(row, args.seconds)
    print(render_table(table, COLUMNS, args.format), end="")


if __name__ == "__main__":
    main()
