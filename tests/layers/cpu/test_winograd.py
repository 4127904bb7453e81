"""Convolutions by Winograd's algorithm against float64, and where they are used."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import pytest
import torch
from tiny import info, series, train
from torch import Tensor, nn

import cnnbench
from cnnbench.device.precision import BF16, FP32
from cnnbench.layers.cpu import use_cpu_kernels, winograd
from cnnbench.layers.cpu.winograd import WinogradConv2d, use_winograd
from cnnbench.training import launch

# Enough tiles in whole batches of whole tiles; odd sides and borders; blocks that do not divide
# the batch; channels that no vector divides.
SHAPES = (
    # batch, in, out, padding, sides
    (70, 96, 128, 1, (8, 8)),
    (300, 128, 96, 1, (4, 4)),
    (35, 150, 151, 0, (13, 13)),
    (40, 192, 192, (0, 1), (14, 11)),
    (300, 256, 130, (1, 0), (4, 6)),
    (33, 128, 128, 1, (11, 12)),
)


def passes(conv: nn.Module, images: Tensor, weighting: Tensor) -> list[Tensor]:
    """Return the output and all gradients of one weighted sum."""
    images = images.clone(memory_format=torch.preserve_format).requires_grad_()
    out = conv(images)
    (out * weighting).sum().backward()
    grads = [p.grad for p in conv.parameters()]
    return [out.detach(), images.grad, *grads]  # type: ignore[list-item]


@pytest.fixture
def made(request: pytest.FixtureRequest) -> tuple[nn.Conv2d, nn.Conv2d, Tensor]:
    """A convolution, as it computes by Winograd's algorithm, and images."""
    torch.manual_seed(0)
    batch, channels, out_channels, padding, sides = request.param
    plain = nn.Conv2d(channels, out_channels, 3, padding=padding)
    plain = plain.to(memory_format=torch.channels_last)
    images = torch.randn(batch, channels, *sides).to(memory_format=torch.channels_last)
    other = copy.deepcopy(plain)
    use_winograd(other)
    return plain, other, images


@pytest.mark.parametrize("made", SHAPES, indirect=True, ids=str)
def test_forward_and_gradients_are_near_those_in_double_precision(
    made: tuple[nn.Conv2d, nn.Conv2d, Tensor],
) -> None:
    plain, other, images = made
    weighting = torch.randn_like(plain(images))
    truth = passes(copy.deepcopy(plain).double(), images.double(), weighting.double())
    ours = passes(other, images, weighting)
    theirs = passes(plain, images, weighting)
    again = passes(copy.deepcopy(other), images, weighting)
    assert type(other) is WinogradConv2d
    # A direct sum has other bits: this one was taken.
    assert not torch.equal(ours[0], theirs[0])
    for right, our, their in zip(truth, ours, theirs, strict=True):
        assert our.shape == right.shape
        assert our.stride() == their.stride()
        assert float((our.double() - right).norm() / right.norm()) < 5e-6
        # The borders are as right as the rest.
        assert float((our.double() - right).abs().max()) < 1e-4 * float(right.abs().max())
    other.zero_grad()
    for our, repeated in zip(ours[:2], again[:2], strict=True):
        assert torch.equal(our, repeated)


@pytest.mark.parametrize("made", [SHAPES[0]], indirect=True, ids=str)
def test_evaluation_and_state_are_torchs_own(made: tuple[nn.Conv2d, nn.Conv2d, Tensor]) -> None:
    plain, other, images = made
    with torch.no_grad():
        assert torch.equal(plain(images), other(images))
    with torch.inference_mode():
        assert torch.equal(plain(images), other(images))
    first = images.contiguous()
    assert torch.equal(plain(first), other(first))
    assert list(plain.state_dict()) == list(other.state_dict())
    # Too few tiles to pay for the kernels' transform.
    assert torch.equal(plain(images[:2]), other(images[:2]))


@pytest.mark.parametrize("made", [SHAPES[0]], indirect=True, ids=str)
def test_frozen_weights_get_no_gradient(made: tuple[nn.Conv2d, nn.Conv2d, Tensor]) -> None:
    plain, other, images = made
    for conv in (plain, other):
        conv.weight.requires_grad_(False)
        conv(images).sum().backward()
        assert conv.weight.grad is None
    assert plain.bias is not None
    assert other.bias is not None
    torch.testing.assert_close(other.bias.grad, plain.bias.grad)


@pytest.mark.parametrize(
    ("batch", "channels", "side", "is_used"),
    [
        (128, 128, 16, True),
        (128, 256, 8, True),
        (256, 512, 4, True),
        (128, 64, 32, False),  # transforms take what products save
        (128, 512, 2, False),  # tiles that are mostly border
        (8, 512, 4, False),  # the kernels' own transform
    ],
)
def test_the_rule_is_that_of_the_measurements(
    batch: int, channels: int, side: int, is_used: bool
) -> None:
    shape = torch.Size((batch, channels, side, side))
    assert winograd.gains(shape, channels, (1, 1)) == is_used


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(8, 8, 3, stride=2),
        nn.Conv2d(8, 8, 5),
        nn.Conv2d(8, 8, 3, groups=2),
        nn.Conv2d(8, 8, 3, dilation=2),
        nn.Conv2d(8, 8, 3, padding="same"),
        nn.Conv2d(8, 8, 3, padding=2),
        nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"),
        nn.ConvTranspose2d(8, 8, 3),
    ],
    ids=str,
)
def test_other_convolutions_are_left_alone(conv: nn.Module) -> None:
    kind = type(conv)
    use_winograd(conv)
    assert type(conv) is kind


def test_it_is_for_float32_with_the_channels_last_alone() -> None:
    def kind(precision=FP32, channels_last=True, **settings):
        conv = nn.Conv2d(8, 8, 3)
        use_cpu_kernels(conv, precision, channels_last=channels_last, **settings)
        return type(conv)

    assert kind(winograd=True) is WinogradConv2d
    assert kind() is nn.Conv2d
    assert kind(winograd=True, channels_last=False) is nn.Conv2d
    assert kind(winograd=True, is_compiled=True) is nn.Conv2d
    assert kind(BF16, winograd=True) is not WinogradConv2d


@pytest.mark.parametrize(
    ("capability", "cpu", "suits"),
    [
        ("AVX2", "Intel(R) Xeon(R) Gold", True),
        ("AVX2", "AMD EPYC", True),
        ("AVX512", "AMD EPYC", True),
        ("AVX512", "Intel(R) Xeon(R) Gold", False),
        ("DEFAULT", "AMD EPYC", False),
    ],
)
def test_the_kind_of_cpu_decides(
    capability: str, cpu: str, suits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(winograd, "cpu_name", lambda: cpu)
    assert winograd.suits_winograd() == suits


def test_a_run_records_what_it_used_and_a_resumed_one_repeats_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same losses whatever kind of CPU a run is resumed on."""
    monkeypatch.setattr(winograd, "gains", lambda *_: True)

    def losses(run: Path) -> list[float]:
        return series(run, "train/step_loss")

    def used(run: Path) -> list[bool]:
        return [one["effective"]["winograd"] for one in info(run)["provenance"]["processes"]]

    def extended(name: str, suits: bool, *settings: str) -> Path:
        copied = shutil.copytree(run, tmp_path / name)
        monkeypatch.setattr(launch, "suits_winograd", lambda: suits)
        return cnnbench.train([f"resume={copied}", "extend_epochs=1", *settings])

    settings = (
        *("model=vgg11", "model.width_multiplier=1/32", "data.image_size=32", "num_epochs=1"),
        *("scheduler=constant", "scheduler.warmup_fraction=0"),
    )
    monkeypatch.setattr(launch, "suits_winograd", lambda: True)
    run = train(tmp_path / "run", *settings)
    direct = train(tmp_path / "direct", *settings, "device.winograd=false")
    assert (used(run), used(direct)) == ([True], [False])
    assert losses(run) != losses(direct)
    assert losses(run)[0] == pytest.approx(losses(direct)[0], rel=1e-5)
    assert losses(run) == pytest.approx(losses(direct), rel=1e-2)
    here, elsewhere = extended("here", True), extended("elsewhere", False)
    assert used(here) == used(elsewhere) == [True, True]
    assert losses(here) == losses(elsewhere)
    assert used(extended("changed", True, "device.winograd=false")) == [True, False]
    monkeypatch.setattr(launch, "suits_winograd", lambda: False)
    assert used(train(tmp_path / "other", *settings)) == [False]
