"""A network that was looked at is as before."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from cnnbench.geometry.observe import undisturbed


def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5), nn.Flatten())
    model[1].eval()  # as a frozen layer is in a network that trains
    return model


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_as_before_also_after_an_error(fails: bool) -> None:
    model = network()
    images = torch.randn(4, 1, 6, 6)
    model(images).sum().backward()
    before = copy.deepcopy(model.state_dict())
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    modes = [part.training for part in model.modules()]
    random = torch.get_rng_state()
    try:
        with undisturbed(model):
            assert all(parameter.grad is None for parameter in model.parameters())
            model.train()
            model(images).square().sum().backward()
            assert not model[1].running_mean.equal(before["1.running_mean"])
            if fails:
                raise ZeroDivisionError
    except ZeroDivisionError:
        assert fails
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert all(p.grad.equal(grad) for p, grad in zip(model.parameters(), gradients, strict=True))
    assert [part.training for part in model.modules()] == modes
    assert torch.get_rng_state().equal(random)


def test_without_gradients_there_are_none_afterwards() -> None:
    model = network()
    with undisturbed(model):
        model(torch.randn(4, 1, 6, 6)).sum().backward()
    assert all(parameter.grad is None for parameter in model.parameters())
