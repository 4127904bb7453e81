"""Every convolution shape of every network, in bf16 against fp32, forward and backward."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from cnnbench.config.command import single_config
from cnnbench.config.compose import Composer
from cnnbench.config.run_config import RunConfig
from cnnbench.device.precision import BF16, autocast
from cnnbench.models import MODELS
from cnnbench.models.build import build_meta

CPU = torch.device("cpu")
_COMPOSER = Composer()
_MOST_RELATIVE_ERROR = 2e-2


class Shape(NamedTuple):
    """All that a convolution's kernel is chosen by."""

    in_channels: int
    out_channels: int
    height: int
    width: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


def config_of(name: str) -> RunConfig:
    extra = ["model.arch=resnet18"] if name == "torchvision" else []
    settings = [f"model={name}", *extra]
    return single_config(_COMPOSER, _COMPOSER.parse(settings))


def shapes_of(name: str) -> set[Shape]:
    """Return the convolutions of a network as its YAML has it, at the size its images have."""
    config = config_of(name)
    size = config.data.image_size
    module = build_meta(name, config.model.args, in_channels=1, num_classes=10, image_size=size)
    found: set[Shape] = set()

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, nn.Conv2d)
        height, width = inputs[0].shape[2:]
        assert isinstance(layer.padding, tuple)
        found.add(
            Shape(
                layer.in_channels,
                layer.out_channels,
                height,
                width,
                layer.kernel_size,
                layer.stride,
                layer.padding,
                layer.dilation,
                layer.groups,
            )
        )

    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_pre_hook(note)
    module.eval()
    module(torch.empty(2, 1, size, size, device="meta"))
    return found


def relative_error(ours: Tensor, exact: Tensor) -> float:
    return float((ours.float() - exact).norm() / exact.norm())


def results(shape: Shape, precise: bool) -> list[Tensor]:
    """Return the output and both gradients of a convolution, from the same numbers."""
    torch.manual_seed(0)
    layer = nn.Conv2d(
        shape.in_channels,
        shape.out_channels,
        shape.kernel_size,
        shape.stride,
        shape.padding,
        shape.dilation,
        shape.groups,
    ).to(memory_format=torch.channels_last)
    images = torch.randn(2, shape.in_channels, shape.height, shape.width)
    images = images.to(memory_format=torch.channels_last).requires_grad_()
    if precise:
        output = layer(images)
    else:
        with autocast(CPU, BF16):
            output = layer(images)
    gradient = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    output.backward(gradient.to(output.dtype))
    assert images.grad is not None
    assert layer.weight.grad is not None
    return [output.detach(), images.grad, layer.weight.grad]


NETWORKS = sorted(MODELS)
# Seconds on one core; the small networks are always tested.
SMALL = ("lenet", "basic_cnn", "cifar_quick", "inception_cnn", "small_resnet", "nin_cifar")


def check(names: tuple[str, ...]) -> None:
    shapes = sorted(set().union(*map(shapes_of, names)))
    assert len(shapes) >= len(names)
    wrong = {}
    for shape in shapes:
        pairs = zip(results(shape, precise=False), results(shape, precise=True), strict=True)
        errors = [relative_error(ours, exact) for ours, exact in pairs]
        if max(errors) >= _MOST_RELATIVE_ERROR:
            wrong[shape] = errors
    assert not wrong


def test_shapes_of_small_networks() -> None:
    check(SMALL)


@pytest.mark.slow
def test_shapes_of_every_network() -> None:
    check(tuple(NETWORKS))


def test_every_network_with_convolutions_is_covered() -> None:
    without = {name for name in NETWORKS if not shapes_of(name)}
    assert without == {"linear", "mlp", "softmax"}
