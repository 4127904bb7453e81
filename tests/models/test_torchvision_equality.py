"""The networks that torchvision has too give the same logits with the same weights."""

from __future__ import annotations

import pytest
import torch
import torchvision
from network_cases import cases, meta_model

# Same network under both names; arguments that turn ours into torchvision's.
PAIRS = {
    "vgg11": ("vgg11", {"head_size": 7}),
    "vgg13": ("vgg13", {"head_size": 7}),
    "vgg16": ("vgg16", {"head_size": 7}),
    "vgg19": ("vgg19", {"head_size": 7}),
    "vgg11_bn": ("vgg11_bn", {"head_size": 7, "norm": "conv"}),
    "resnet18": ("resnet18", {"stem": "imagenet"}),
    "resnet34": ("resnet34", {"stem": "imagenet"}),
    "resnet50": ("resnet50", {"stem": "imagenet"}),
    "resnet101": ("resnet101", {"stem": "imagenet"}),
    "resnet152": ("resnet152", {"stem": "imagenet"}),
    "resnext50_32x4d": ("resnext50_32x4d", {"stem": "imagenet"}),
    "wide_resnet50_2": ("wide_resnet50_2", {"stem": "imagenet"}),
    "densenet121": ("densenet121", {"stem": "imagenet"}),
    "mobilenet_v2": ("mobilenet_v2", {"stem": "imagenet"}),
    "alexnet": ("alexnet", {"conv_channels": (64, 192, 384, 256, 256), "padding": 2}),
}
# torchvision's AlexNet averages to 6 x 6, which its 224 pixels leave anyway.
SIZES = {"alexnet": 224, "mobilenet_v2": 65, "densenet121": 64}


def meta_pair(name, image_size):
    peer, args = PAIRS[name]
    ours = meta_model(name.removesuffix("_bn"), image_size, num_classes=12, args=args)
    with torch.device("meta"):
        theirs = torchvision.models.get_model(peer, weights=None, num_classes=12)
    return ours, theirs


def random_state(module):
    """Draw a state that keeps activations at a sensible size."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point():
            state[name] = torch.zeros(tensor.shape, dtype=tensor.dtype)
            continue
        values = torch.rand(tensor.shape, generator=generator)
        if tensor.dim() > 1:
            values = (values - 0.5) * (24 / tensor[0].numel()) ** 0.5
        state[name] = values if tensor.dim() > 1 or name.endswith("bias") else values + 0.5
    return state


@pytest.mark.parametrize("name", PAIRS)
def test_parameters_and_buffers_come_in_torchvisions_order(name):
    ours, theirs = meta_pair(name, 224)
    shapes = [tensor.shape for tensor in ours.state_dict().values()]
    assert shapes == [tensor.shape for tensor in theirs.state_dict().values()]


@pytest.mark.parametrize("name", cases(PAIRS, "logits"))
def test_logits_equal_torchvisions(name):
    size = SIZES.get(name, 32)
    ours, theirs = meta_pair(name, size)
    state = random_state(theirs)
    theirs.load_state_dict(state, assign=True)
    renamed = dict(zip(ours.state_dict(), state.values(), strict=True))
    ours.load_state_dict(renamed, assign=True)
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = theirs.eval()(images)
        logits = ours.eval()(images)
    assert expected.std() > 1e-3
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
