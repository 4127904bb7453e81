"""The fast pool against torch's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import train
from torch import Tensor, nn

from cnnbench.layers.cpu.pools import HalvingMaxPool2d, use_halving


def both(images: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return output and gradient of torch's pool and of the fast one."""
    fast = nn.MaxPool2d(2)
    use_halving(fast)
    assert type(fast) is HalvingMaxPool2d
    results = []
    for pool in (nn.MaxPool2d(2), fast):
        x = images.clone().requires_grad_()
        out = pool(x)
        out.backward(torch.arange(out.numel()).view_as(out).to(out.dtype))
        assert x.grad is not None
        results.append((out.detach(), x.grad))
    return results


@pytest.mark.parametrize("shape", [(3, 6, 28, 28), (2, 1, 4, 6), (2, 16, 6, 6), (2, 5, 7, 9)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_values_and_gradients_are_torchs_to_the_bit(
    shape: tuple[int, ...], dtype: torch.dtype, memory_format: torch.memory_format
) -> None:
    torch.manual_seed(0)
    # No two values are equal, also of those that bfloat16 can tell apart.
    order = torch.randperm(256)[torch.arange(shape[2] * shape[3]) % 256].view(shape[2:])
    images = (order - 128 + torch.zeros(shape)).to(dtype).contiguous(memory_format=memory_format)
    (their_out, their_grad), (our_out, our_grad) = both(images)
    assert our_out.equal(their_out)
    squares = images.unfold(2, 2, 2).unfold(3, 2, 2).flatten(-2)
    assert ((squares == squares.amax(-1, keepdim=True)).sum(-1) == 1).all()
    assert our_grad.equal(their_grad)


def test_of_equal_values_one_gets_the_whole_gradient() -> None:
    (_, their_grad), (_, our_grad) = both(torch.zeros(2, 3, 4, 4))
    assert (
        our_grad.unfold(2, 2, 2)
        .unfold(3, 2, 2)
        .sum((-1, -2))
        .equal(their_grad.unfold(2, 2, 2).unfold(3, 2, 2).sum((-1, -2)))
    )
    assert (our_grad != 0).sum() == (their_grad != 0).sum()


def test_what_is_not_a_number_stays_so() -> None:
    images = torch.zeros(1, 1, 2, 2)
    images[0, 0, 1, 0] = torch.nan
    assert all(out.isnan().all() for out, _ in both(images))


def test_other_pools_are_left_alone() -> None:
    others = nn.ModuleList(
        [
            nn.MaxPool2d(3, 2),
            nn.MaxPool2d(2, 1),
            nn.MaxPool2d(2, padding=1),
            nn.MaxPool2d(2, dilation=2),
            nn.MaxPool2d(2, return_indices=True),
            nn.AvgPool2d(2),
        ]
    )
    before = [type(part) for part in others]
    use_halving(others)
    assert [type(part) for part in others] == before


def test_training_uses_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    plain = HalvingMaxPool2d.forward
    monkeypatch.setattr(
        HalvingMaxPool2d, "forward", lambda self, images: used.append(1) or plain(self, images)
    )
    train(tmp_path, "num_epochs=1", "model=lenet")
    assert used
