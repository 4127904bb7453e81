"""Shapes, parameters, MACs and receptive fields against independent counts."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import sys
import time

import pytest
import torch
import torch.nn.functional as F
from network_cases import meta_model
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cnnbench.geometry.trace import analyze
from cnnbench.models import MODELS, create_model


def fields(geometry, *kinds):
    return [layer.receptive_field for layer in geometry.layers if layer.kind in kinds]


class Branches(nn.Module):
    """Two branches of different field and the same stride, and a shortcut."""

    def __init__(self):
        super().__init__()
        self.wide = nn.Conv2d(2, 2, (1, 5), 1, (0, 2))
        self.dilated = nn.Conv2d(2, 2, 3, 1, 3, dilation=3)
        self.last = nn.Conv2d(4, 4, (3, 1), 2, (1, 0))

    def forward(self, x):
        x = torch.cat([self.wide(x), self.dilated(x)], dim=1)
        return self.last(x + x.relu())


SMALL_NETS = {
    "plain": lambda: nn.Sequential(
        nn.Conv2d(2, 3, 5, 2), nn.ReLU(), nn.AvgPool2d(3, 2), nn.Conv2d(3, 3, 3)
    ),
    "dilated": lambda: nn.Sequential(nn.Conv2d(2, 3, 3, dilation=4), nn.Conv2d(3, 3, 2, 3)),
    "padded": lambda: nn.Sequential(
        nn.ZeroPad2d(2), nn.Conv2d(2, 3, 5, padding=2), nn.MaxPool2d(3, 2, 1), nn.Conv2d(3, 3, 3)
    ),
    "branches": lambda: nn.Sequential(nn.Conv2d(2, 2, 3, 2), Branches(), nn.AvgPool2d(2)),
    "tall": lambda: nn.Sequential(nn.Conv2d(2, 2, (7, 1)), nn.Conv2d(2, 2, (1, 3), (1, 2))),
    "grouped": lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3, groups=2), nn.Unflatten(1, (2, 2)), nn.Flatten(1, 2), nn.Conv2d(4, 2, 3)
    ),
}


def measured_field(module, size=64):
    """Return height and width of the input that the middle output pixel depends on."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.uniform_(parameter, 0.1, 1.0)
    seen = torch.zeros(size, size, dtype=torch.bool)
    for _ in range(40):  # a max pool shows one pixel of its window at a time
        images = torch.rand(8, 2, size, size, requires_grad=True)
        maps = module(images)
        maps[:, :, maps.shape[2] // 2, maps.shape[3] // 2].sum().backward()
        seen |= images.grad.abs().sum((0, 1)) > 0
    rows, columns = seen.any(1).nonzero(), seen.any(0).nonzero()
    return int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1


@pytest.mark.parametrize("name", SMALL_NETS)
def test_receptive_field_is_what_gradients_reach(name):
    module = SMALL_NETS[name]()
    last = analyze(module, (2, 64, 64)).layers[-1]
    assert last.receptive_field == max(measured_field(module))


def test_receptive_fields_of_lenet_and_alexnet():
    lenet = analyze(meta_model("lenet", in_channels=1, image_size=28), (1, 28, 28))
    assert fields(lenet, "Conv2d", "MaxPool2d") == [5, 6, 14, 16]
    alexnet = analyze(meta_model("alexnet", image_size=224), (3, 224, 224))
    expected = [11, 19, 51, 67, 99, 131, 163, 195]
    assert fields(alexnet, "Conv2d", "MaxPool2d") == expected
    assert fields(lenet, "Linear") == [None] * 3
    assert fields(alexnet, "Linear", "Dropout") == [None] * 5


def test_receptive_field_of_vgg16_and_resnet18():
    """The numbers of Araujo et al., https://doi.org/10.23915/distill.00021, table 1."""
    vgg = analyze(meta_model("vgg16", image_size=224), (3, 224, 224))
    assert fields(vgg, "MaxPool2d")[-1] == 212
    resnet = analyze(meta_model("resnet18", 224, args={"stem": "imagenet"}), (3, 224, 224))
    assert max(fields(resnet, "Conv2d")) == 435
    assert resnet.layers[-2].stride == 32


def test_a_global_view_has_no_receptive_field():
    for pool in (nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(1), nn.Flatten()):
        module = nn.Sequential(nn.Conv2d(1, 2, 3), pool)
        assert fields(analyze(module, (1, 9, 9)), "Conv2d", type(pool).__name__) == [3, None]
    # Seven windows of an even number of pixels are a plain pool.
    module = nn.Sequential(nn.Conv2d(1, 2, 1), nn.AdaptiveAvgPool2d(7))
    assert analyze(module, (1, 14, 14)).layers[-1].receptive_field == 2
    assert analyze(module, (1, 14, 14)).layers[-1].stride == 2


@pytest.mark.parametrize("name", [name for name in MODELS if name != "torchvision"])
def test_macs_are_half_of_pytorchs_flops_and_layers_add_up(name):
    module = meta_model(name, 97).eval()
    geometry = analyze(module, (3, 97, 97))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        logits = module(torch.empty(1, 3, 97, 97, device="meta"))
    assert 2 * geometry.macs == counter.get_total_flops()
    assert geometry.macs == sum(layer.macs for layer in geometry.layers)
    assert geometry.num_params == sum(layer.num_params for layer in geometry.layers)
    assert sum(layer.share for layer in geometry.layers) == pytest.approx(1)
    # The NiNs end in the average of a map, which is no layer.
    assert geometry.layers[-1].output_shape[0] == logits.shape[1]


class Mixed(nn.Module):
    """Products of several kinds, a parameter of its own, and a layer that is never called."""

    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose2d(3, 4, 2, 2)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.scale = nn.Parameter(torch.ones(4, 4))
        self.unused = nn.Linear(5, 6)

    def forward(self, x):
        x = self.up(x).flatten(2).transpose(1, 2)
        x = self.attention(x, x, x)[0]
        return x @ self.scale


def test_products_outside_of_layers_are_counted():
    module = Mixed().eval()
    geometry = analyze(module, (3, 4, 4))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        # On a CPU, attention would take a fused path that PyTorch's counter doesn't know.
        module.to("meta")(torch.empty(1, 3, 4, 4, device="meta"))
    assert 2 * geometry.macs == counter.get_total_flops()
    assert geometry.num_params == sum(p.numel() for p in module.parameters())
    assert geometry.macs == sum(layer.macs for layer in geometry.layers)
    rows = {layer.name: layer for layer in geometry.layers}
    assert rows["Mixed"].num_params == 16
    assert rows["Mixed"].macs == 64 * 4 * 4
    assert rows["unused"].output_shape == ()
    assert rows["unused"].num_params == 36
    assert rows["up"].output_shape == (4, 8, 8)


def test_shared_and_frozen_parameters():
    linear = nn.Linear(4, 4)
    module = nn.Sequential(linear, nn.ReLU(), linear, nn.Linear(4, 2))
    module[3].weight.requires_grad_(False)
    geometry = analyze(module, (4,))
    assert geometry.num_params == 20 + 10
    assert (geometry.num_trainable, geometry.num_frozen) == (22, 8)
    assert [layer.num_params for layer in geometry.layers] == [20, 0, 0, 10]
    assert [layer.macs for layer in geometry.layers] == [16, 0, 16, 8]
    assert geometry.param_bytes == 120
    assert geometry.input_bytes == 16
    # The ReLU's output, which the next layer needs too, and the input of the last.
    assert geometry.activation_bytes == 4 * (4 + 4)


def test_a_view_takes_no_memory_of_its_own():
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Identity(), nn.Flatten(), nn.Linear(8, 1))
    assert analyze(module, (1, 4, 4)).activation_bytes == 4 * 8


class Functional(nn.Module):
    """Operations that are no layers, a frozen layer, and weights computed by the module."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1).requires_grad_(False)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 3, padding=1))
        self.head = nn.Linear(16 * 64, 5)

    def forward(self, x):
        x = torch.sigmoid(self.conv(x))
        x = torch.cat([F.gelu(self.normed(x)), x * x.tanh()], 1)
        return self.head((F.max_pool2d(x, 2) + 1).relu_().flatten(1))


def kept_bytes(module, images):
    """Return what autograd keeps on the CPU beside images, parameters and buffers."""
    known = [images, *module.parameters(), *module.buffers()]
    own = {tensor.untyped_storage().data_ptr() for tensor in known}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        module.requires_grad_()(images)
    return sum(storage.nbytes() for place, storage in kept.items() if place not in own)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("functional", 16),
        ("lenet", 28),
        ("inception_cnn", 28),
        ("nin_cifar", 32),
        ("small_resnet", 32),
        ("googlenet", 32),
        ("resnet18", 16),
        ("densenet121", 16),
        ("mobilenet_v2", 16),
    ],
)
def test_activations_are_what_training_keeps(name, size):
    if name == "functional":
        module = Functional()
    else:
        module = create_model(name, in_channels=3, num_classes=10, image_size=size)
    measured = kept_bytes(module.train(), torch.rand(8, 3, size, size)) / 8
    for context in (contextlib.nullcontext(), torch.no_grad(), torch.inference_mode()):
        with context:
            found = analyze(module, (3, size, size)).activation_bytes
        # Training keeps masks and each batch's mean too, and shares computed weights.
        assert 0.9 * measured <= found <= 1.05 * measured


def test_the_module_is_left_as_it_was():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(), nn.Flatten())
    module[1].eval()
    calls = []
    module[0].register_forward_hook(lambda *_: calls.append(1))
    module.note = torch.ones(3)
    before = {name: (id(t), t._version, t.clone()) for name, t in module.state_dict().items()}
    ids = [id(p) for p in module.parameters()]
    random_state = torch.get_rng_state()
    analyze(module, (1, 5, 5))
    assert torch.equal(torch.get_rng_state(), random_state)
    assert calls == []
    assert module.training
    assert not module[1].training
    assert [id(p) for p in module.parameters()] == ids
    assert {p.device.type for p in module.parameters()} == {"cpu"}
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name][2])
    assert [len(part._forward_hooks) for part in module.modules()] == [0, 1, 0, 0, 0]
    assert [len(part._forward_pre_hooks) for part in module.modules()] == [0] * 5


def test_weights_computed_by_the_module_are_followed():
    module = nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 2, 3))
    geometry = analyze(module, (1, 5, 5))
    assert geometry.num_params == sum(p.numel() for p in module.parameters())
    assert geometry.macs == 9 * 2 * 9


@pytest.mark.parametrize(
    ("module", "input_shape", "num_params", "macs"),
    [
        (nn.Conv2d(256, 256, 3, padding=1), (256, 8, 8), 590_080, None),
        (
            nn.Sequential(nn.Conv2d(256, 32, 1), nn.Conv2d(32, 32, 3, 1, 1), nn.Conv2d(32, 256, 1)),
            (256, 8, 8),
            25_920,
            None,
        ),
        (nn.Conv2d(4, 8, 3), (4, 8, 8), 296, None),
        (nn.Conv2d(4, 8, 3, groups=2), (4, 8, 8), 152, None),
        (nn.Conv2d(4, 8, 3, bias=False), (4, 8, 8), 288, 36 * 288),
        (
            nn.Sequential(nn.Conv2d(4, 4, 3, groups=4, bias=False), nn.Conv2d(4, 8, 1, bias=False)),
            (4, 8, 8),
            68,
            36 * 68,
        ),
        (
            nn.Sequential(nn.Conv2d(4, 8, 3, groups=4, bias=False), nn.Conv2d(8, 8, 1, bias=False)),
            (4, 8, 8),
            136,
            36 * 136,
        ),
        (nn.Conv2d(192, 32, 5, padding=2), (192, 28, 28), 153_632, 120_422_400),
        (
            nn.Sequential(nn.Conv2d(192, 16, 1), nn.Conv2d(16, 32, 5, padding=2)),
            (192, 28, 28),
            None,
            12_443_648,
        ),
    ],
)
def test_costs_of_kinds_of_convolution(module, input_shape, num_params, macs):
    geometry = analyze(module, input_shape)
    if num_params is not None:
        assert geometry.num_params == num_params
    if macs is not None:
        assert geometry.macs == macs


def test_the_deepest_network_takes_less_than_two_seconds():
    module = meta_model("resnet152", 224, num_classes=1000, args={"stem": "imagenet"})
    start = time.process_time()
    geometry = analyze(module, (3, 224, 224))
    assert time.process_time() - start < 2
    assert geometry.macs == 11_513_626_624


# Kernel, stride, padding, and what else the layer takes.
SLIDING = {
    **{
        f"convolution {k} {s} {p} {d} {g}": nn.Conv2d(
            4, 6, k, stride=s, padding=p, dilation=d, groups=g, bias=k == 1
        )
        for k, s, p, d, g in itertools.product(
            (1, 3, (2, 5)), (1, 3, (2, 1)), (0, (1, 2)), (1, 2), (1, 2)
        )
    },
    "same": nn.Conv2d(4, 2, 3, padding="same"),
    "transposed": nn.ConvTranspose2d(4, 2, 3, 2),
    **{
        f"{kind.__name__} {k} {s} {p} {ceil}": kind(k, s, padding=p, ceil_mode=ceil)
        for kind, k, s, p, ceil in itertools.product(
            (nn.MaxPool2d, nn.AvgPool2d), (2, 3, (3, 2)), (None, 1, 2, 3), (0, 1), (False, True)
        )
    },
    "dilated pool": nn.MaxPool2d(3, 2, dilation=2, ceil_mode=True),
    "adaptive": nn.AdaptiveAvgPool2d((3, 1)),
}


@pytest.mark.parametrize("size", [(11, 11), (12, 10), (7, 13)])
def test_sliding_windows_have_the_shapes_that_torch_computes(size: tuple[int, int]) -> None:
    images = torch.rand(1, 4, *size)
    for name, layer in SLIDING.items():
        [found] = analyze(layer, (4, *size)).layers
        assert found.output_shape == layer(images).shape[1:], name


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(4, 2, 5), (4, 4, 9)),
        (nn.Conv2d(4, 2, 3), (3, 9, 9)),
        (nn.MaxPool2d(5), (4, 4, 4)),
        (nn.AvgPool2d(3, padding=2), (4, 9, 9)),
    ],
    ids=["larger than its image", "other channels", "pool larger than its image", "padded too far"],
)
def test_windows_that_do_not_fit_fail_as_they_do_in_torch(
    layer: nn.Module, shape: tuple[int, ...]
) -> None:
    with pytest.raises(RuntimeError):
        layer(torch.rand(1, *shape))
    with pytest.raises(RuntimeError):
        analyze(layer, shape)


def test_networks_are_measured_without_sympy() -> None:
    """Importing it takes a second of every start; torchvision's networks load it themselves."""
    code = (
        "import sys; sys.modules['sympy'] = None\n"
        "from cnnbench.config.compose import Composer\n"
        "from cnnbench.models.build import measure_network\n"
        "composer = Composer()\n"
        "for name in composer.groups.choices('model'):\n"
        "    if name in ('custom', 'torchvision'): continue\n"
        "    config = composer.compose({'model': name})\n"
        "    size = config.data.image_size\n"
        "    args = config.model.args\n"
        "    measure_network(name, args, in_channels=3, num_classes=10, image_size=size)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
