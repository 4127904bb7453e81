"""Convolutions by matrix products against torch's own, in float32 and in double precision."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from tiny import train
from torch import Tensor, nn

import cnnbench
from cnnbench.layers.cpu.products import ProductConv2d, use_products
from cnnbench.runs.checkpoint import Checkpoints

# Each way through the rule: all oneDNN, weights by product, all by product, 1x1, odd ones.
SHAPES = (
    # in, out, kernel, stride, padding, image
    (8, 16, 3, 1, 1, 14),
    (64, 32, 3, 1, 1, 6),
    (64, 32, 5, 1, 2, 6),
    (64, 32, 3, 2, 1, 9),
    (64, 32, (1, 7), 1, (0, 3), 7),
    (288, 300, 3, 1, 1, 4),
    (288, 300, 3, 2, 1, 4),
    (288, 300, 3, 1, 0, 4),
    (288, 300, (3, 2), 1, (2, 0), 3),
    (24, 40, 1, 1, 0, 5),
    (24, 40, 1, 2, 0, 6),
    (24, 40, 1, 1, 1, 5),
    (1, 6, 5, 1, 2, 8),
)


def passes(conv: nn.Module, images: Tensor, weighting: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """Return the output and all gradients of one weighted sum, under autocast."""
    images = images.clone().requires_grad_()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float64):
        out = conv(images)
    (out * weighting.to(out.dtype)).sum().backward()
    grads = [p.grad for p in conv.parameters()]
    return [out.detach(), images.grad, *grads]  # type: ignore[list-item]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_every_pass_is_as_near_to_the_exact_one_as_torchs(
    shape: tuple[int, ...], bias: bool, memory_format: torch.memory_format
) -> None:
    torch.manual_seed(0)
    in_channels, out_channels, kernel, stride, padding, side = shape
    plain = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=bias)
    plain = plain.to(memory_format=memory_format)
    product, exact = copy.deepcopy(plain), copy.deepcopy(plain).double()
    use_products(product)
    images = torch.randn(3, in_channels, side, side).to(memory_format=memory_format)
    weighting = torch.randn_like(plain(images))
    truth = passes(exact, images.double(), weighting.double(), torch.float64)
    theirs = passes(plain, images, weighting, torch.bfloat16)
    ours = passes(product, images, weighting, torch.bfloat16)
    assert type(product) is ProductConv2d
    for right, their, our in zip(truth, theirs, ours, strict=True):
        assert our.shape == right.shape
        assert our.dtype == their.dtype
        error, their_error = ((x.double() - right).norm() / right.norm() for x in (our, their))
        assert error < max(1.1 * float(their_error), 4e-3)


def test_frozen_weights_get_no_gradient() -> None:
    conv = nn.Conv2d(64, 64, 3, padding=1)
    use_products(conv)
    conv.weight.requires_grad_(False)
    images = torch.randn(2, 64, 4, 4, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        conv(images).float().sum().backward()
    assert conv.weight.grad is None
    assert conv.bias is not None
    assert conv.bias.grad is not None
    assert images.grad is not None


def test_other_convolutions_are_left_alone() -> None:
    class Own(nn.Conv2d):
        pass

    others = nn.ModuleList(
        [
            nn.Conv2d(4, 4, 3, groups=2),
            nn.Conv2d(4, 4, 3, dilation=2),
            nn.Conv2d(4, 4, 3, padding="same"),
            nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
            nn.ConvTranspose2d(4, 4, 3),
            Own(4, 4, 3),
        ]
    )
    before = [type(part) for part in others]
    use_products(others)
    assert [type(part) for part in others] == before


def test_without_gradients_or_autocast_it_is_torchs_own_to_the_bit() -> None:
    plain = nn.Conv2d(64, 64, 1)
    product = copy.deepcopy(plain)
    use_products(product)
    images = torch.randn(2, 64, 4, 4)
    assert product(images).equal(plain(images))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert product(images).equal(plain(images))
    assert product.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_training_uses_them_in_bfloat16_alone(
    tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []
    plain = ProductConv2d.forward
    monkeypatch.setattr(
        ProductConv2d, "forward", lambda self, images: used.append(self) or plain(self, images)
    )
    run = train(tmp_path, "num_epochs=1", f"device.precision={precision}")
    assert bool(used) is (precision == "bf16")
    # What is kept is a plain network's state.
    weights = Checkpoints(run / "checkpoints").load("best")["model"]
    assert weights.keys() == cnnbench.load(run).state_dict().keys()
