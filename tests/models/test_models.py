"""What holds for every network, whatever its structure."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from network_cases import cases, meta_model
from torch import nn

from cnnbench.errors import UsageError
from cnnbench.models import MODELS, create_model, initialize, model_arguments

# torchvision's networks have a file of their own.
NAMES = [name for name in MODELS if name != "torchvision"]
SMALLEST = {
    "basic_cnn": 16,
    "inception_cnn": 16,
    "cifar_quick": 8,
    "lenet": 12,
    "alexnet": 65,
    "alexnet_small": 65,
    "nin": 67,
    "nin_cifar": 7,
    "vgg11": 32,
    "vgg13": 32,
    "vgg16": 32,
    "vgg19": 32,
    "densenet121": 8,
    "small_resnet": 7,
}
# Sizes and arguments at which a network costs little memory and time.
CHEAP = {
    "alexnet": (65, {"width_multiplier": 0.125, "dropout": 0.0}),
    "alexnet_small": (65, {"width_multiplier": 0.125, "dropout": 0.0}),
    "vgg11": (32, {"width_multiplier": 0.125, "dropout": 0.0}),
    "vgg13": (32, {"width_multiplier": 0.125, "dropout": 0.0}),
    "vgg16": (32, {"width_multiplier": 0.125, "dropout": 0.0}),
    "vgg19": (32, {"width_multiplier": 0.125, "dropout": 0.0}),
    "nin": (67, {"dropout": 0.0}),
    "nin_cifar": (7, {"dropout": 0.0}),
    "googlenet": (16, {"width_multiplier": 0.25}),
    "densenet121": (8, {"growth_rate": 4}),
    "mobilenet_v1": (8, {"width_multiplier": 0.25}),
    "mobilenet_v2": (8, {"width_multiplier": 0.5, "dropout": 0.0}),
    "small_resnet": (8, {}),
    **{name: (8, {"stem": "imagenet"}) for name in NAMES if "resne" in name and name[0] != "s"},
}
# The same class as resnet50 with more or wider blocks: too large to build often.
LARGE = {"resnet101", "resnet152", "wide_resnet50_2"}


def cheap_model(name, *, in_channels=1, num_classes=10):
    size, args = CHEAP.get(name, (SMALLEST.get(name, 8), {}))
    module = create_model(
        name, in_channels=in_channels, num_classes=num_classes, image_size=size, args=args
    )
    return module, size


def meta_images(count, channels, size):
    return torch.empty(count, channels, size, size, device="meta")


@pytest.mark.parametrize("name", NAMES)
def test_training_gives_logits_and_every_parameter_a_gradient(name):
    size = 99 if SMALLEST.get(name, 1) > 33 else 33
    module = meta_model(name, size, in_channels=1, num_classes=2)
    assert module.training
    assert any(True for _ in module.parameters())
    logits = module(meta_images(2, 1, size))
    assert logits.shape == (2, 2)
    logits.sum().backward()
    assert [n for n, p in module.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_gives_logits_of_one_image(name):
    size = 98 if SMALLEST.get(name, 1) > 33 else 34
    module = meta_model(name, size, in_channels=3, num_classes=42).eval()
    assert module(meta_images(1, 3, size)).shape == (1, 42)


@pytest.mark.parametrize("name", NAMES)
def test_smallest_image(name):
    smallest = SMALLEST.get(name, 1)
    module = meta_model(name, smallest)
    assert module.min_image_size == smallest
    assert module.eval()(meta_images(1, 3, smallest)).shape == (1, 10)
    with pytest.raises(UsageError) as caught:
        meta_model(name, smallest - 1)
    assert str(caught.value).startswith(
        f"{name}: images of {smallest - 1} x {smallest - 1} are too small: "
    )
    assert str(caught.value).endswith(f"needs at least {smallest} x {smallest}")


@pytest.mark.parametrize(
    ("name", "args", "smallest"),
    [
        ("alexnet", {"padding": 0}, 67),
        ("densenet121", {"stem": "imagenet"}, 29),
        ("googlenet", {"pool_ceil_mode": True}, 16),
        ("googlenet", {"pool_ceil_mode": True, "stem": "imagenet"}, 31),
        ("googlenet", {"stem": "imagenet", "aux": True}, 1),
        ("vgg11", {"head_size": 7}, 32),
        ("resnet50", {"stem": "imagenet", "stride_in_1x1": True}, 1),
        ("mobilenet_v1", {"stem": "imagenet"}, 1),
        ("mobilenet_v2", {"stem": "imagenet"}, 1),
        ("small_resnet", {"widths": (4,)}, 1),
        ("small_resnet", {"widths": (4, 8)}, 3),
        ("small_resnet", {"stem_stride": 1}, 4),
        ("mlp", {"hidden": ()}, 1),
        ("mlp", {"norm": "hidden"}, 1),
        ("lenet", {"padding": 0}, 16),
        ("basic_cnn", {"dilation": 3}, 16),
        ("alexnet", {"head": "conv1x1"}, 65),
        ("vgg11", {"head": "gap"}, 32),
        ("resnet18", {"stem": "imagenet", "pool_ceil_mode": True}, 3),
    ],
)
def test_smallest_image_with_arguments(name, args, smallest):
    module = meta_model(name, smallest, args=args).eval()
    assert module(meta_images(1, 3, smallest)).shape == (1, 10)
    with pytest.raises(UsageError, match=f"at least {smallest} x {smallest}"):
        meta_model(name, smallest - 1, args=args)


@pytest.mark.parametrize("name", ["nin", "nin_cifar", "densenet121", "vgg11"])
def test_stated_smallest_size_is_not_too_cautious(name):
    size = SMALLEST[name]
    module = meta_model(name, size).eval()
    with pytest.raises(RuntimeError):
        module(meta_images(1, 3, size - 1))


def test_message_names_the_layer():
    with pytest.raises(UsageError) as caught:
        create_model("lenet", in_channels=1, num_classes=10, image_size=11)
    expected = "lenet: images of 11 x 11 are too small: pool2 needs at least 12 x 12"
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("lenett", {}, "did you mean 'lenet'"),
        ("lenet", {"activaton": "relu"}, "lenet: unknown argument 'activaton'; did you mean 'act"),
        ("lenet", {"in_chanels": 1}, "unknown argument"),
        ("lenet", {"activation": "rellu"}, "expected one of .*; did you mean 'relu'"),
        ("lenet", {"pool": "maxx"}, "did you mean 'max'"),
        ("vgg11", {"num_convs": (1, 1, 1, 1, 1)}, "unknown argument 'num_convs'"),
        ("vgg11", {"norm": "block"}, "^vgg11: norm=block: expected one of none, conv$"),
        ("alexnet", {"head": "append"}, "expected one of linear, gap, conv1x1"),
        ("resnet18", {"pool_ceil_mode": True}, "stem=small has no pool; expected stem=imagenet"),
        ("mobilenet_v2", {"width_multiplier": "1/0"}, "width_multiplier=1/0: expected a number"),
        ("mlp", {"activation": 3, "hidden": 8}, r"activation=3: .*\nmlp: hidden=8: "),
        ("resnet18", {"zero_init": 1}, "zero_init=1: expected true or false"),
        ("resnet18", {"stem": "tiny"}, "resnet18: stem=tiny: expected one of imagenet, small"),
        ("resnet18", {"stride_in_1x1": True}, "unknown argument 'stride_in_1x1'"),
        ("alexnet", {"groups": 3}, "groups=3: expected one of 1, 2"),
        ("alexnet", {"conv_channels": (8, 8)}, "at least 3 numbers"),
        ("alexnet", {"conv_channels": (7, 8, 8), "groups": 2}, "groups=2 must divide"),
        ("alexnet", {"padding": -1}, "padding=-1"),
        ("alexnet", {"dropout": 1.0}, "dropout=1.0: expected a number >= 0 and < 1"),
        ("googlenet", {"factorize_stages": (2,)}, "each one of 3, 4, 5"),
        ("googlenet", {"width_multiplier": 0.0}, "width_multiplier"),
        (
            "mlp",
            {"hidden": (16, 0)},
            r"hidden=\[16, 0\]: expected a list of values, each a whole number >= 1",
        ),
    ],
)
def test_wrong_arguments_are_refused_with_a_hint(name, args, message):
    with pytest.raises(UsageError, match=message):
        create_model(name, in_channels=1, num_classes=10, image_size=99, args=args)


@pytest.mark.parametrize("name", NAMES)
def test_impossible_counts_are_refused(name):
    for in_channels, num_classes in ((0, 10), (1, 0)):
        with pytest.raises(UsageError, match="expected a whole number >= "):
            meta_model(name, 99, in_channels=in_channels, num_classes=num_classes)


def test_given_values_are_no_arguments():
    for name in MODELS:
        assert not {"in_channels", "num_classes", "image_size"} & set(model_arguments(name))
        assert not set(MODELS[name].fixed) & set(model_arguments(name))


@pytest.mark.parametrize("name", NAMES)
def test_state_dict_round_trip_and_evaluation_repeats(name):
    torch.manual_seed(0)
    first, size = cheap_model(name)
    second, _ = cheap_model(name)
    images = torch.randn(3, 1, size, size)
    first(images)  # moves running statistics away from their start
    second.load_state_dict(first.state_dict())
    with torch.inference_mode():
        logits = first.eval()(images)
        assert torch.equal(logits, second.eval()(images))
        assert torch.equal(logits, first(images))
        # One image's logits don't depend on the others of its batch.
        torch.testing.assert_close(first(images[:1]), logits[:1], rtol=1e-4, atol=1e-5)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_loss_falls_on_few_images(name):
    torch.manual_seed(0)
    module, size = cheap_model(name, num_classes=4)
    if sum(p.numel() for p in module.parameters()) > 10_000_000:
        # Adam's two averages of 69 million weights would take most of the time.
        optimizer: torch.optim.Optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    else:
        initialize(module, "kaiming_normal")
        optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    count = 16 if name in LARGE else 64
    targets = torch.arange(count) % 4
    patterns = torch.randn(4, 1, size, size)
    images = patterns[targets] + 0.1 * torch.randn(count, 1, size, size)
    losses: list[float] = []
    while len(losses) < 12 and not (losses and losses[-1] < 0.9 * losses[0]):
        loss = F.cross_entropy(module(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0], losses


@pytest.mark.parametrize("name", NAMES)
def test_logits_pass_through_no_relu_and_hooks_see_untouched_outputs(name):
    torch.manual_seed(0)
    module, size = cheap_model(name)
    kept = []
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.BatchNorm2d | nn.Linear):
            layer.register_forward_hook(lambda _, __, y: kept.append((y, y.clone())))
    with torch.no_grad():
        logits = module(torch.randn(16, 1, size, size))
    assert kept
    assert all(torch.equal(seen, then) for seen, then in kept)
    # Sixteen images and ten classes without one negative logit would take a ReLU.
    assert (logits < 0).any()


def test_a_whole_network_on_the_meta_device_takes_no_memory():
    module = meta_model("vgg19", 224, args={"head_size": 7})
    assert all(tensor.is_meta for tensor in [*module.parameters(), *module.buffers()])


def test_importing_the_networks_loads_no_torchvision():
    code = "import sys, cnnbench.models; sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_zero_init_makes_each_block_its_shortcut(name):
    torch.manual_seed(0)
    args = {"zero_init": True}
    module = create_model(name, in_channels=1, num_classes=2, image_size=8, args=args)
    block = module.stages[0][0]
    x = torch.rand(2, 64, 4, 4)
    torch.testing.assert_close(block(x), torch.relu(block.shortcut(x)))


def test_stride_in_1x1_moves_the_stride():
    for is_first in (True, False):
        module = meta_model("resnet50", 32, args={"stride_in_1x1": is_first})
        block = module.stages[1][0]
        strides = block.conv1.stride[0], block.conv2.stride[0]
        assert strides == ((2, 1) if is_first else (1, 2))


@pytest.mark.parametrize("name", cases(NAMES, "export"))
def test_export_gives_the_same_logits_for_any_batch(name):
    torch.manual_seed(0)
    module, size = cheap_model(name)
    module.eval()
    images = torch.rand(3, 1, size, size)
    batch = torch.export.Dim("batch", min=1, max=1024)
    program = torch.export.export(module, (images[:2],), dynamic_shapes=({0: batch},))
    with torch.inference_mode():
        for some in (images, images[:1]):
            torch.testing.assert_close(program.module()(some), module(some))


@pytest.mark.parametrize("name", NAMES)
def test_one_image_trains_where_no_norm_would_see_one_value(name):
    # A last batch of one must not break a run; a norm needs more than one value per channel.
    size = 193 if SMALLEST.get(name, 1) > 33 else 65
    module = meta_model(name, size, in_channels=1, num_classes=2)
    assert module.train()(meta_images(1, 1, size)).shape == (1, 2)
