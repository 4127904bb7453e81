"""Training steps with oneDNN's convolutions against steps with those of `cnnbench.layers.cpu`.

    python benchmarks/convolutions.py [--winograd|--squares] [--repeats 7] [--shapes] [--cpu-time]

The other way is `products` in bfloat16, or with `--winograd` or `--squares` that in float32.
channels_last, AdamW; one step each in turn in one process, medians. `--shapes` shows forward and
backward of each convolution alone instead, and how fast the other way runs beside the peak, the
fastest of large square matrix products in the same run; Winograd's algorithm is credited with the
multiplications of a direct sum. `--cpu-time` takes the CPU's seconds in place of the clock's, for a
machine on which other work runs; with `OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE` none of them are
waiting.
"""

from __future__ import annotations

import argparse
import copy
import functools
import platform
import time
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import cnnbench
from cnnbench.analysis.bench import peak_flops_per_second
from cnnbench.device.device import configure, device_name
from cnnbench.device.precision import BF16, FP32, Precision, autocast
from cnnbench.layers.cpu.pools import use_halving
from cnnbench.layers.cpu.products import use_products
from cnnbench.layers.cpu.squares import use_squares
from cnnbench.layers.cpu.winograd import use_winograd


class Case(NamedTuple):
    """A network, its images and its batch size."""

    model: str
    in_channels: int
    side: int
    batch_size: int
    args: dict[str, Any]


CASES = (
    Case("resnet18", 3, 32, 128, {"stem": "small"}),
    Case("googlenet", 1, 96, 128, {"stem": "imagenet", "norm": "none"}),
    Case("googlenet", 1, 28, 64, {}),
    Case("vgg11", 1, 32, 64, {}),
    Case("densenet121", 1, 28, 64, {}),
    Case("mobilenet_v2", 1, 28, 64, {}),
    Case("small_resnet", 1, 28, 128, {}),
    Case("lenet", 1, 28, 64, {}),
    Case("lenet", 1, 28, 256, {}),
    Case("basic_cnn", 1, 28, 64, {}),
)


class Way(NamedTuple):
    """What is compared with oneDNN, in which number format, and by which clock."""

    name: str
    use: Callable[[nn.Module], None]
    precision: Precision
    clock: Callable[[], float]


def alternating(
    ways: Sequence[Callable[[], object]], repeats: int, clock: Callable[[], float]
) -> list[float]:
    """Return the median milliseconds of each way, one call each in turn after two warm-ups."""
    seconds: list[list[float]] = [[] for _ in ways]
    for _ in range(repeats + 2):
        for times, way in zip(seconds, ways, strict=True):
            started = clock()
            way()
            times.append(clock() - started)
    return [median(times[2:]) * 1e3 for times in seconds]


def training_step(
    network: nn.Module, images: Tensor, targets: Tensor, precision: Precision
) -> Callable[[], object]:
    """Return one AdamW step as a function."""
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)

    def step() -> None:
        with autocast(torch.device("cpu"), precision):
            loss = nn.functional.cross_entropy(network(images).float(), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def both_ways(layer: nn.Module, way: Way) -> tuple[nn.Module, nn.Module]:
    """Return a network as it is and its copy that computes the other way."""
    other = nn.Sequential(copy.deepcopy(layer))
    way.use(other)
    return layer, other


def compare_steps(case: Case, repeats: int, way: Way) -> None:
    """Print a row: milliseconds of a training step both ways."""
    network, images, targets = made(case)
    networks = both_ways(network, way)
    steps = [training_step(one, images, targets, way.precision) for one in networks]
    plain, product = alternating(steps, repeats, way.clock)
    print(
        f"| {case.model} {case.args or ''} | {case.side} | {case.batch_size} "
        f"| {plain:.1f} | {product:.1f} | {plain / product:.2f} |",
        flush=True,
    )


def compare_shapes(case: Case, repeats: int, way: Way) -> None:
    """Print a row for each distinct convolution, and all together: forward and backward."""
    network, images, _ = made(case)
    totals = [0.0, 0.0, 0.0]

    def show(what: str, plain: float, product: float, flops: float) -> None:
        print(
            f"| {case.model} {what} | {plain:.2f} | {product:.2f} | {plain / product:.2f} "
            f"| {flops / product / 1e6:,.0f} |",
            flush=True,
        )

    for (layer, shape), count in convolutions(network, images).items():
        inputs = torch.randn(shape).to(way.precision.dtype, memory_format=torch.channels_last)
        ways = [
            functools.partial(passes, one, inputs, way.precision) for one in both_ways(layer, way)
        ]
        plain, product = alternating(ways, repeats, way.clock)
        flops = 3.0 * 2 * macs(layer, inputs)  # forward, the inputs' gradient and the weights'
        show(f"{count} x {layer} | {shape[2]} | {shape[0]}", plain, product, flops)
        for index, value in enumerate((plain, product, flops)):
            totals[index] += count * value
    show(f"all convolutions | {case.side} | {case.batch_size}", *totals)


def macs(layer: nn.Module, inputs: Tensor) -> int:
    """Return the multiply-accumulates of a convolution's forward pass."""
    with torch.no_grad():
        out = layer(inputs.to(next(layer.parameters()).dtype))
    return int(out.numel() * next(layer.parameters())[0].numel())


def passes(layer: nn.Module, inputs: Tensor, precision: Precision) -> None:
    """Run a layer forward and backward."""
    with autocast(torch.device("cpu"), precision):
        out = layer(inputs.requires_grad_())
    out.backward(out.detach())


def convolutions(network: nn.Module, images: Tensor) -> Counter[tuple[nn.Module, torch.Size]]:
    """Return a layer for each distinct convolution and input shape, and how often it occurs."""
    first: dict[str, nn.Module] = {}
    found: Counter[tuple[nn.Module, torch.Size]] = Counter()
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):
                layer.register_forward_pre_hook(
                    lambda one, args: found.update(
                        [(first.setdefault(f"{one}{args[0].shape}", one), args[0].shape)]
                    )
                )
        network(images)
    for layer in network.modules():
        layer._forward_pre_hooks.clear()
    return found


def made(case: Case) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a network, a batch of noise and targets."""
    torch.manual_seed(0)
    network = cnnbench.create_model(
        case.model,
        in_channels=case.in_channels,
        num_classes=10,
        image_size=case.side,
        **case.args,
    ).to(memory_format=torch.channels_last)
    use_halving(network)
    images = torch.randn(case.batch_size, case.in_channels, case.side, case.side)
    targets = torch.randint(0, 10, (case.batch_size,))
    return network, images.to(memory_format=torch.channels_last), targets


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--shapes", action="store_true")
    others = parser.add_mutually_exclusive_group()
    others.add_argument("--winograd", action="store_true")
    others.add_argument("--squares", action="store_true")
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--models", nargs="*", default=[case.model for case in CASES])
    args = parser.parse_args()
    configure(torch.device("cpu"), None)
    print(
        f"torch {torch.__version__}, Python {platform.python_version()}, "
        f"{device_name(torch.device('cpu'))}, {torch.get_num_threads()} threads\n"
    )
    clock = time.process_time if args.cpu_time else time.perf_counter
    way = Way("products", use_products, BF16, clock)
    if args.winograd:
        way = Way("Winograd", use_winograd, FP32, clock)
    if args.squares:
        way = Way("squares", use_squares, FP32, clock)
    rate = ""
    if args.shapes:
        peak = peak_flops_per_second(torch.device("cpu"), way.precision, 2.0)
        rate = f" Gflop/s of {peak / 1e9:,.0f} |"
    print(f"| network | side | batch | oneDNN, ms | {way.name}, ms | ratio |{rate}")
    print("|---|---:|---:|---:|---:|---:|" + "---:|" * args.shapes)
    for case in CASES:
        if case.model in args.models:
            (compare_shapes if args.shapes else compare_steps)(case, args.repeats, way)


if __name__ == "__main__":
    main()
