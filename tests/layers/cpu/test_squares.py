"""Convolutions at once with the pool behind them, against float64, and where they are used."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from tiny import info, series, train
from torch import Tensor, nn

from cnnbench.device.precision import BF16, FP32
from cnnbench.layers import convolve_and_pool
from cnnbench.layers.cpu import squares, use_cpu_kernels
from cnnbench.layers.cpu.squares import SquaresConv2d
from cnnbench.training import launch

LAST, FIRST = torch.channels_last, torch.contiguous_format
SHAPES = (
    # batch, in, out, kernel, padding, sides
    (5, 1, 6, 5, 2, (28, 28)),
    (4, 6, 16, 5, 0, (14, 14)),
    (3, 3, 4, 5, 1, (8, 6)),
    (2, 3, 5, 5, (0, 2), (10, 4)),
    (2, 2, 3, 5, 4, (2, 6)),
)


def prepared(conv: nn.Conv2d) -> nn.ModuleList:
    """Return a copy of a convolution, and a pool, as a CPU trains them."""
    parts = nn.ModuleList([copy.deepcopy(conv), nn.MaxPool2d(2)])
    use_cpu_kernels(parts, FP32, channels_last=True, winograd=True)
    return parts


def passes(conv: nn.Module, pool: nn.Module, images: Tensor, weighting: Tensor) -> list[Tensor]:
    """Return the output and all gradients of one weighted sum."""
    images = images.clone(memory_format=torch.preserve_format).requires_grad_()
    out = convolve_and_pool(conv, pool, images)
    (out * weighting).sum().backward()
    grads = [p.grad for p in conv.parameters()]
    return [out.detach(), images.grad, *grads]  # type: ignore[list-item]


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all that can go this way."""
    monkeypatch.setattr(squares, "gains", lambda *_: True)


def made(
    shape: tuple[int, ...], memory_format: torch.memory_format = LAST, *, bias: bool = True
) -> tuple[nn.Conv2d, Tensor]:
    torch.manual_seed(0)
    batch, channels, out_channels, side, padding, sides = shape
    conv = nn.Conv2d(channels, out_channels, side, padding=padding, bias=bias)
    images = torch.randn(batch, channels, *sides)  # type: ignore[misc]
    return conv.to(memory_format=memory_format), images.to(memory_format=memory_format)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("memory_format", [LAST, FIRST])
def test_forward_and_gradients_are_those_of_double_precision(
    shape: tuple[int, ...], bias: bool, memory_format: torch.memory_format
) -> None:
    conv, images = made(shape, memory_format, bias=bias)
    pool, (other, halving) = nn.MaxPool2d(2), prepared(conv)
    weighting = torch.randn_like(pool(conv(images)))
    truth = passes(copy.deepcopy(conv).double(), pool, images.double(), weighting.double())
    ours = passes(other, halving, images, weighting)
    for right, our in zip(truth, ours, strict=True):
        assert our.shape == right.shape
        torch.testing.assert_close(our.double(), right, rtol=1e-5, atol=2e-6 * right.abs().max())
    # What updates the weights walks memory.
    assert other.weight.grad.is_contiguous(memory_format=memory_format)
    assert "Squares" in type(convolve_and_pool(other, halving, images).grad_fn).__name__
    other.zero_grad()
    again = passes(other, halving, images, weighting)
    assert all(torch.equal(one, two) for one, two in zip(ours, again, strict=True))


@pytest.mark.usefixtures("always")
def test_of_equal_values_one_gets_the_whole_gradient() -> None:
    conv, images = made((2, 1, 3, 5, 2, (8, 8)))
    other, pool = prepared(conv)
    convolve_and_pool(other, pool, torch.zeros_like(images)).sum().backward()
    assert other.bias.grad.tolist() == [32.0] * 3
    # An even image: at every pixel within, each kernel sees the same.
    other.zero_grad()
    convolve_and_pool(other, pool, torch.ones_like(images)).sum().backward()
    assert other.weight.grad[:, :, 2, 2].tolist() == [[32.0]] * 3


@pytest.mark.usefixtures("always")
def test_what_is_not_a_number_stays_so() -> None:
    conv, images = made((2, 1, 3, 5, 2, (8, 8)))
    images[1, 0, 4, 4] = torch.nan
    out = convolve_and_pool(*prepared(conv), images)
    assert out[1].isnan().any()
    assert not out[0].isnan().any()


@pytest.mark.usefixtures("always")
def test_frozen_weights_get_no_gradient() -> None:
    conv, images = made(SHAPES[1])
    other, pool = prepared(conv)
    other.weight.requires_grad_(False)
    convolve_and_pool(other, pool, images).sum().backward()
    assert other.weight.grad is None
    assert other.bias.grad.tolist() == pytest.approx([100.0] * 16)


@pytest.mark.usefixtures("always")
def test_evaluation_hooks_and_state_are_torchs_own() -> None:
    conv, images = made(SHAPES[1])
    other, halving = prepared(conv)
    plain = halving(conv(images))
    assert list(conv.state_dict()) == list(other.state_dict())
    with torch.no_grad():
        assert torch.equal(convolve_and_pool(other, halving, images), plain)
    assert torch.equal(convolve_and_pool(other.eval(), halving, images), plain)
    assert torch.equal(other.train()(images), conv(images))
    seen: list[Tensor] = []
    handle = other.register_forward_hook(lambda *args: seen.append(args[2]))
    assert torch.equal(convolve_and_pool(other, halving, images), plain)
    assert torch.equal(seen[0], conv(images))
    handle.remove()
    for pool in (nn.AvgPool2d(2), nn.MaxPool2d(3)):
        assert torch.equal(convolve_and_pool(other, pool, images), pool(conv(images)))
    odd = images[..., 1:]
    assert torch.equal(convolve_and_pool(other, halving, odd), halving(conv(odd)))


@pytest.mark.parametrize(
    ("batch", "channels", "out_channels", "side", "is_beside", "is_used"),
    [
        (64, 1, 6, 28, False, True),
        (8, 1, 6, 28, False, True),
        (2, 1, 6, 28, False, False),  # too few squares
        (64, 6, 16, 10, True, True),
        (64, 6, 16, 10, False, False),  # first to be laid side by side
        (64, 10, 20, 12, True, False),  # too many channels
        (64, 1, 32, 28, False, False),
        (64, 1, 6, 27, False, False),  # half squares at the border
    ],
)
def test_the_rule_is_that_of_the_measurements(
    batch: int, channels: int, out_channels: int, side: int, is_beside: bool, is_used: bool
) -> None:
    conv, pool = prepared(nn.Conv2d(channels, out_channels, 5, padding=2))
    images = torch.zeros(batch, channels, side, side)
    if is_beside:
        images = images.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)
    made_by = type(convolve_and_pool(conv, pool, images).grad_fn).__name__
    assert ("Squares" in made_by) == is_used


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(8, 8, 5, stride=2),
        nn.Conv2d(8, 8, 3),
        nn.Conv2d(8, 8, (5, 3)),
        nn.Conv2d(8, 8, 5, groups=2),
        nn.Conv2d(8, 8, 5, dilation=2),
        nn.Conv2d(8, 8, 5, padding="same"),
        nn.Conv2d(8, 8, 5, padding=2, padding_mode="reflect"),
        nn.ConvTranspose2d(8, 8, 5),
    ],
    ids=str,
)
def test_other_convolutions_are_left_alone(conv: nn.Module) -> None:
    kind = type(conv)
    squares.use_squares(conv)
    assert type(conv) is kind


def test_it_is_for_float32_with_the_channels_last_alone() -> None:
    def kind(precision=FP32, channels_last=True, **settings):
        conv = nn.Conv2d(8, 8, 5)
        use_cpu_kernels(conv, precision, channels_last=channels_last, **settings)
        return type(conv)

    assert kind(winograd=True) is SquaresConv2d
    assert kind() is nn.Conv2d
    assert kind(winograd=True, channels_last=False) is nn.Conv2d
    assert kind(winograd=True, is_compiled=True) is nn.Conv2d
    assert kind(BF16, winograd=True) is not SquaresConv2d


@pytest.mark.parametrize(("model", "widths"), [("lenet", {6, 16}), ("basic_cnn", {10})])
def test_training_uses_it(
    model: str, widths: set[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[int] = []
    plain = squares._Squares.apply
    monkeypatch.setattr(
        squares._Squares, "apply", lambda *args: used.append(len(args[1])) or plain(*args)
    )
    monkeypatch.setattr(launch, "suits_winograd", lambda: True)
    settings = (
        *(f"model={model}", "num_epochs=1", "data.image_size=28"),
        *("data.num_train=128", "data.batch_size=64", "data.val_fraction=0", "selection=last"),
    )
    run = train(tmp_path / "run", *settings)
    assert set(used) == widths
    used.clear()
    direct = train(tmp_path / "direct", *settings, "device.winograd=false")
    assert not used
    assert [one["effective"]["winograd"] for one in info(run)["provenance"]["processes"]] == [True]
    losses = [series(one, "train/step_loss") for one in (run, direct)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
