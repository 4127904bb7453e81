"""The forms that course notes give a network, each against the same layers written out plainly."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from network_cases import meta_model
from torch import nn

from cnnbench.geometry.trace import analyze
from cnnbench.layers import ACTIVATIONS, POOLS, ActivationName, PoolName
from cnnbench.models import create_model


def ours_and(plain, name, image_size, **args):
    """Return a network and the plain one with its state, and images for both."""
    torch.manual_seed(0)
    module = create_model(name, in_channels=1, num_classes=3, image_size=image_size, args=args)
    theirs = plain.state_dict()
    state = module.state_dict()
    assert [t.shape for t in theirs.values()] == [t.shape for t in state.values()]
    plain.load_state_dict(dict(zip(theirs, state.values(), strict=True)))
    return module, plain, torch.rand(5, 1, image_size, image_size)


def assert_same(plain, name, image_size, **args):
    """Compare logits and their gradients in training, where norms use the batch."""
    module, plain, images = ours_and(plain, name, image_size, **args)
    logits, expected = module(images), plain(images)
    torch.testing.assert_close(logits, expected)
    logits.square().sum().backward()
    expected.square().sum().backward()
    for ours, theirs in zip(module.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-4)


def lenet(norm, padding):
    def conv_norm(channels):
        return [nn.BatchNorm2d(channels)] if norm in ("conv", "all") else []

    def hidden_norm(width):
        return [nn.BatchNorm1d(width)] if norm in ("hidden", "all") else []

    return nn.Sequential(
        *[nn.Conv2d(1, 6, 5, padding=padding), *conv_norm(6), nn.Sigmoid(), nn.AvgPool2d(2)],
        *[nn.Conv2d(6, 16, 5), *conv_norm(16), nn.Sigmoid(), nn.AvgPool2d(2), nn.Flatten()],
        *[nn.Linear(400, 120), *hidden_norm(120), nn.Sigmoid()],
        *[nn.Linear(120, 84), *hidden_norm(84), nn.Sigmoid(), nn.Linear(84, 3)],
    )


@pytest.mark.parametrize("norm", ["none", "conv", "hidden", "all"])
@pytest.mark.parametrize(("padding", "image_size"), [(0, 32), (2, 28)])
def test_lenet(norm, padding, image_size):
    args = {"norm": norm, "padding": padding, "activation": "sigmoid", "pool": "avg"}
    assert_same(lenet(norm, padding), "lenet", image_size, **args)


def test_mlp_with_batch_norm():
    plain = nn.Sequential(
        *[nn.Flatten(), nn.Linear(64, 9), nn.BatchNorm1d(9), nn.ReLU()],
        *[nn.Linear(9, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 3)],
    )
    assert_same(plain, "mlp", 8, hidden=(9, 7), norm="hidden")


@pytest.mark.parametrize(("dilation", "seen"), [(1, [5, 6, 14, 16]), (2, [9, 10, 26, 28])])
def test_a_dilated_network_sees_more_at_the_same_sizes(dilation, seen):
    module = meta_model("basic_cnn", 28, in_channels=1, args={"dilation": dilation})
    layers = [x for x in analyze(module, (1, 28, 28)).layers if x.kind in ("Conv2d", "MaxPool2d")]
    assert [layer.receptive_field for layer in layers] == seen
    assert [layer.output_shape[1] for layer in layers] == [24, 12, 8, 4]


def test_dilation_leaves_out_pixels():
    module, plain, images = ours_and(
        nn.Sequential(
            *[nn.Conv2d(1, 10, 5, padding=4, dilation=3), nn.MaxPool2d(2), nn.ReLU()],
            *[nn.Conv2d(10, 20, 5, padding=4, dilation=3), nn.MaxPool2d(2), nn.ReLU()],
            *[nn.Flatten(), nn.Linear(320, 3)],
        ),
        "basic_cnn",
        28,
        dilation=3,
    )
    torch.testing.assert_close(module(images), plain(images))


def test_nin_cifar_with_a_final_relu_cuts_its_logits_off_at_zero():
    torch.manual_seed(0)
    module = create_model(
        "nin_cifar", in_channels=1, num_classes=10, image_size=9, args={"final_relu": True}
    ).eval()
    images, seen = torch.randn(8, 1, 9, 9), []
    module.block3.conv3.register_forward_hook(lambda _, __, maps: seen.append(maps))
    with torch.no_grad():
        logits = module(images)
    assert (seen[0] < 0).any()
    torch.testing.assert_close(logits, F.relu(seen[0]).mean((2, 3)))


@pytest.mark.parametrize(
    ("name", "image_size", "args"),
    [
        ("alexnet", 97, {"conv_channels": (8, 8, 8)}),
        ("vgg11", 64, {"width_multiplier": 1 / 16}),
    ],
)
def test_heads_of_a_1x1_convolution_and_of_an_average_are_the_same_function(name, image_size, args):
    torch.manual_seed(0)
    modules = {
        head: create_model(
            name, in_channels=1, num_classes=3, image_size=image_size, args={**args, "head": head}
        ).eval()
        for head in ("gap", "conv1x1")
    }
    state = modules["gap"].state_dict()
    state["head.0.weight"] = state["head.0.weight"][:, :, None, None]
    modules["conv1x1"].load_state_dict(state)
    images = torch.rand(2, 1, image_size, image_size)
    with torch.no_grad():
        expected = F.linear(
            modules["gap"].stages(images).mean((2, 3)),
            state["head.0.weight"].flatten(1),
            state["head.0.bias"],
        )
        for module in modules.values():
            torch.testing.assert_close(module(images), expected)


def test_vgg_drops_before_its_hidden_layers():
    for position, kinds in (
        ("after", ["Linear", "ReLU", "Dropout"] * 2 + ["Linear"]),
        ("before", ["Dropout", "Linear", "ReLU"] * 2 + ["Linear"]),
    ):
        module = meta_model("vgg11", 32, args={"dropout_position": position, "dropout": 0.3})
        assert [type(layer).__name__ for layer in module.head] == kinds
        assert {layer.p for layer in module.head if isinstance(layer, nn.Dropout)} == {0.3}
    without = meta_model("vgg11", 32, args={"dropout_position": "before", "dropout": 0.0})
    assert not any(isinstance(layer, nn.Dropout) for layer in without.head)


def test_resnet_stem_pool_with_ceil_sees_no_padding():
    torch.manual_seed(0)
    args = {"stem": "imagenet", "pool_ceil_mode": True}
    module = create_model("resnet18", in_channels=1, num_classes=2, image_size=40, args=args)
    kept = []
    module.stem.act.register_forward_hook(lambda _, __, maps: kept.append(maps))
    pooled = module.stem(torch.randn(2, 1, 40, 40))
    expected = F.max_pool2d(kept[0], 3, 2, 0, ceil_mode=True)
    assert torch.equal(pooled, expected)
    assert pooled.shape[2:] == (10, 10)
    assert not torch.equal(pooled, F.max_pool2d(kept[0], 3, 2, 1))


def test_an_asymmetric_pair_that_pads_first_differs_at_the_borders_alone():
    outputs = []
    for factorize in ("asymmetric", "asymmetric_pad_first"):
        torch.manual_seed(0)
        args = {"factorize": factorize, "norm": "none", "width_multiplier": 0.25}
        module = create_model("googlenet", in_channels=1, num_classes=2, image_size=32, args=args)
        branch = module.blocks["inception3a"].branch3x3
        assert [unit.conv.kernel_size for unit in branch] == [(1, 1), (1, 3), (3, 1)]
        for unit in branch:
            nn.init.constant_(unit.conv.bias, 0.5)
        outputs.append(branch(torch.rand(2, 48, 8, 8)))
    plain, pad_first = outputs
    assert plain.shape == pad_first.shape
    torch.testing.assert_close(pad_first[:, :, 1:-1], plain[:, :, 1:-1])
    for row in (0, -1):
        assert not torch.allclose(pad_first[:, :, row], plain[:, :, row])


def test_names_of_activations_and_pools_are_those_of_their_types():
    assert set(ACTIVATIONS) == set(ActivationName.__args__)
    assert set(POOLS) == set(PoolName.__args__)
