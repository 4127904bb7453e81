"""Strided 1x1 convolutions of few channels against double precision: see oneDNN#6035."""

from __future__ import annotations

import copy
import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import series, tiny
from torch import Tensor, nn

from cnnbench.device.precision import BF16, FP32
from cnnbench.layers import BasicBlock
from cnnbench.layers.cpu import use_cpu_kernels

LAYOUTS = (torch.channels_last, torch.contiguous_format)


class Own(nn.Conv2d):
    """A convolution with weights of its own making, as weight standardisation has them."""

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(input, weight, self.bias)


class Block(nn.Sequential):
    pass


def passes(module: nn.Module, images: Tensor, weighting: Tensor) -> list[Tensor]:
    """Return the output, the images' gradient and those of all parameters."""
    images = images.clone(memory_format=torch.preserve_format).requires_grad_()
    out = module(images)
    (out * weighting).sum().backward()
    return [out.detach(), images.grad, *[p.grad for p in module.parameters()]]  # type: ignore[list-item]


def check(module: nn.Module, images: Tensor, layout: torch.memory_format) -> None:
    """Compare what training computes with the plain module in double precision."""
    guarded = copy.deepcopy(module).to(memory_format=layout)
    exact = copy.deepcopy(module).double()
    use_cpu_kernels(guarded, FP32, channels_last=layout == torch.channels_last)
    assert guarded.state_dict().keys() == module.state_dict().keys()
    weighting = torch.randn(exact(images.double()).shape)
    found = passes(guarded, images.contiguous(memory_format=layout), weighting)
    truth = passes(exact, images.double(), weighting.double())
    for ours, right in zip(found, truth, strict=True):
        assert ours.shape == right.shape
        assert (ours - right).norm() <= 2e-6 * right.norm()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("in_channels", range(1, 9))
def test_every_pass_is_exact(in_channels: int, layout: torch.memory_format) -> None:
    torch.manual_seed(in_channels)
    cases = itertools.product((2, 3, (1, 2), (2, 1)), (16, 15, 32, 33), (1, 4))
    for stride, side, batch in cases:
        conv = nn.Conv2d(in_channels, 16, 1, stride, bias=side % 2 == 0)
        check(conv, torch.randn(batch, in_channels, side, side + 1), layout)


MEMBERS = {
    "inside a Sequential": lambda: Block(nn.Conv2d(3, 8, 1, 2, bias=False), nn.BatchNorm2d(8)),
    "a subclass": lambda: Own(3, 8, 1, 2),
    "padded": lambda: nn.Conv2d(3, 8, 1, 2, padding=1),
    "padded by reflection": lambda: nn.Conv2d(3, 8, 1, 2, (2, 0), padding_mode="reflect"),
    "valid": lambda: nn.Conv2d(3, 8, 1, 2, padding="valid"),
    "dilated": lambda: nn.Conv2d(3, 8, 1, 2, dilation=2),
    "depthwise": lambda: nn.Conv2d(24, 24, 1, 2, groups=24),
    "grouped": lambda: nn.Conv2d(24, 16, 1, 2, groups=4),
    "one output channel": lambda: nn.Conv2d(5, 1, 1, 2),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", MEMBERS)
def test_every_member_of_the_kind_is_exact(name: str, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    module = MEMBERS[name]()
    channels = next(m for m in module.modules() if isinstance(m, nn.Conv2d)).in_channels
    check(module, torch.randn(4, channels, 16, 16), layout)
    check(module, torch.randn(1, channels, 9, 10), layout)


def torchvision_block() -> nn.Module:
    from torchvision.models.resnet import Bottleneck, conv1x1

    return Bottleneck(4, 1, stride=2, downsample=conv1x1(4, 4, 2))


NETWORKS = {
    "a block of ours": lambda: BasicBlock(3, 8, stride=2),
    "a block of torchvision": torchvision_block,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_have_no_exposed_convolution(name: str) -> None:
    """Each convolution that oneDNN is asked for has stride 1, a larger kernel or a full block."""
    module = NETWORKS[name]()
    assert exposed(module)
    use_cpu_kernels(module, FP32, channels_last=True)
    assert not exposed(module)


def exposed(module: nn.Module) -> list[nn.Conv2d]:
    return [
        part
        for part in module.modules()
        if type(part) is nn.Conv2d
        and part.kernel_size == (1, 1)
        and max(part.stride) > 1
        and part.in_channels // part.groups < 8
    ]


def test_who_convolves_in_a_way_of_its_own_and_who_is_not_exposed_is_left_alone() -> None:
    class Other(nn.Conv2d):
        def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            return super()._conv_forward(input, 2 * weight, bias)

    others = nn.ModuleList(
        [Other(3, 8, 1, 2), nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 3, 2), nn.Conv2d(64, 8, 1, 2)]
    )
    before = [type(part) for part in others]
    use_cpu_kernels(others, FP32, channels_last=True)
    assert [type(part) for part in others] == before


def test_bfloat16_is_sliced_too_and_a_compiled_network() -> None:
    conv = nn.Conv2d(3, 8, 1, 2)
    use_cpu_kernels(conv, BF16, channels_last=True)
    compiled = nn.Sequential(nn.Conv2d(3, 8, 1, 2), nn.MaxPool2d(2))
    use_cpu_kernels(compiled, FP32, channels_last=True, is_compiled=True)
    assert not exposed(conv)
    assert not exposed(compiled)
    assert type(compiled[1]) is nn.MaxPool2d


STRIDED = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, in_channels, num_classes, image_size):
        super().__init__(
            nn.Conv2d(in_channels, 16, 1, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(4),
            nn.Flatten(), nn.Linear(256, num_classes),
        )
"""


def test_a_custom_network_trains_as_with_the_other_layout(tmp_path: Path) -> None:
    """In a process of its own: without the slice it crashes, or never ends."""
    file = tmp_path / "strided.py"
    file.write_text(STRIDED)
    settings = ("model=custom", f"model.path={file}:Net", "data.in_channels=3", "num_epochs=1")
    layouts = [f"device.channels_last={layout}" for layout in ("true", "false")]
    runs = [tiny(tmp_path, *settings, "data.native_size=32", layout) for layout in layouts]
    code = f"import cnnbench\nfor run in {runs!r}:\n    print('run', cnnbench.train(run))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    found = [Path(line[4:]) for line in done.stdout.splitlines() if line.startswith("run /")]
    last, first = (series(run, "train/step_loss") for run in found)
    assert len(last) == 5
    assert last == pytest.approx(first, rel=1e-5)
