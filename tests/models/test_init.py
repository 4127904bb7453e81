"""Initial weights by name."""

from __future__ import annotations

import math
from typing import get_args, get_type_hints

import pytest
import torch
from torch import nn

from cnnbench.config.run_config import ModelConfig
from cnnbench.errors import UsageError
from cnnbench.models import INITS, initialize
from cnnbench.models.init import whiten


def small_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(8, 64, 3), nn.BatchNorm2d(64), nn.Flatten(), nn.Linear(576, 128))


def before_and_after(init, layers="all"):
    module = small_network()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    initialize(module, init, layers)
    return module, before


def test_default_keeps_pytorchs_own_values():
    module, before = before_and_after("default")
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])


EVERYWHERE = [name for name in INITS if name not in ("default", "dirac")]


@pytest.mark.parametrize("init", EVERYWHERE)
def test_biases_are_zero_and_norms_left_alone(init):
    module, before = before_and_after(init)
    for name, tensor in module.state_dict().items():
        if name.startswith("1."):
            assert torch.equal(tensor, before[name])
        elif name.endswith("bias"):
            assert not tensor.any()
        else:
            assert not torch.equal(tensor, before[name])


@pytest.mark.parametrize("init", EVERYWHERE)
def test_linear_leaves_convolutions_alone(init):
    module, before = before_and_after(init, "linear")
    assert torch.equal(module[0].weight, before["0.weight"])
    assert torch.equal(module[0].bias, before["0.bias"])
    assert not torch.equal(module[3].weight, before["3.weight"])


@pytest.mark.parametrize(
    ("init", "conv_std", "linear_std"),
    [
        ("normal", 0.01, 0.01),
        ("xavier_uniform", math.sqrt(2 / (72 + 576)), math.sqrt(2 / (576 + 128))),
        ("kaiming_normal", math.sqrt(2 / 72), math.sqrt(2 / 576)),
    ],
)
def test_spread(init, conv_std, linear_std):
    module, _ = before_and_after(init)
    for layer, std in ((module[0], conv_std), (module[3], linear_std)):
        assert abs(layer.weight.mean().item()) < 0.05 * std
        assert layer.weight.std().item() == pytest.approx(std, rel=0.05)


def test_constant_is_one():
    module, _ = before_and_after("constant")
    assert (module[0].weight == 1).all()
    assert (module[3].weight == 1).all()


def test_unknown_names_are_refused():
    with pytest.raises(UsageError, match="did you mean 'kaiming_normal'"):
        initialize(small_network(), "kaiming_normall")
    with pytest.raises(UsageError, match="unknown init_layers 'conv'; known: all, linear"):
        initialize(small_network(), "normal", "conv")


def test_the_config_knows_the_same_names():
    assert get_args(get_type_hints(ModelConfig)["init"]) == tuple(INITS)


@pytest.mark.parametrize("layers", ["all", "linear"])
def test_a_network_without_such_layers_is_refused(layers):
    for module in (nn.Sequential(nn.BatchNorm2d(2)), nn.Conv2d(1, 1, 3)):
        if layers == "all" and isinstance(module, nn.Conv2d):
            initialize(module, "normal", layers)
            continue
        with pytest.raises(UsageError, match="has no effect: the network has no"):
            initialize(module, "normal", layers)


def test_dirac_passes_each_channel_on_and_leaves_the_rest():
    module, before = before_and_after("dirac")
    images = torch.randn(2, 8, 5, 5)
    out = module[0](images)
    assert torch.equal(out[:, :8], images[:, :, 1:-1, 1:-1])
    assert torch.equal(module[0].weight[8:], before["0.weight"][8:])
    assert torch.equal(module[3].weight, before["3.weight"])
    with pytest.raises(UsageError, match="no convolution"):
        initialize(nn.Linear(3, 3), "dirac")
    with pytest.raises(UsageError, match="no convolution"):
        initialize(module, "dirac", "linear")


@pytest.mark.parametrize(("channels", "filters"), [(1, 32), (1, 5), (3, 54)])
def test_whitened_outputs_are_uncorrelated_with_unit_variance(channels, filters):
    torch.manual_seed(0)
    noise = torch.randn(400, channels, 14, 14)
    # Neighbours are alike, as in images.
    images = torch.nn.functional.avg_pool2d(noise, 3, 1)
    module = nn.Sequential(nn.Conv2d(channels, filters, 3), nn.ReLU())
    before = module[0].weight.clone()
    whiten(module, images)
    set_filters = min(filters, 18 * channels)
    with torch.no_grad():
        out = module[0](images).transpose(0, 1).flatten(1)
    positive, negative = out[0:set_filters:2], out[1:set_filters:2]
    torch.testing.assert_close(negative, -positive[: len(negative)])
    covariance = positive @ positive.T / positive.shape[1]
    torch.testing.assert_close(covariance, torch.eye(len(covariance)), rtol=0, atol=0.15)
    assert torch.equal(module[0].weight[set_filters:], before[set_filters:])


def test_what_has_no_convolution_is_not_whitened():
    with pytest.raises(UsageError, match="no convolution"):
        whiten(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), torch.ones(2, 1, 2, 2))
