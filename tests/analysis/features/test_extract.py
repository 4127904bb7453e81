"""Maps, Grad-CAM and receptive fields against brute force, for every network."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cnnbench.analysis.features.extract import look_at
from cnnbench.geometry.trace import analyze
from cnnbench.models import MODELS, create_model

# Sizes and arguments at which a network is quick and has maps of several pixels.
CHEAP: dict[str, tuple[int, dict[str, Any]]] = {
    "softmax": (8, {}),
    "linear": (8, {}),
    "mlp": (8, {"hidden": (12,)}),
    "basic_cnn": (28, {}),
    "inception_cnn": (28, {}),
    "cifar_quick": (16, {}),
    "lenet": (28, {}),
    "alexnet": (97, {"width_multiplier": 0.125}),
    "alexnet_small": (97, {"width_multiplier": 0.125}),
    **{name: (32, {"width_multiplier": 0.125}) for name in ("vgg11", "vgg13", "vgg16", "vgg19")},
    "nin": (67, {}),
    "nin_cifar": (16, {}),
    "googlenet": (28, {"width_multiplier": 0.25}),
    "small_resnet": (28, {}),
    **{n: (40, {"stem": "imagenet"}) for n in MODELS if n.startswith(("resne", "wide_resne"))},
    "densenet121": (16, {"growth_rate": 4}),
    "mobilenet_v1": (16, {"width_multiplier": 0.25}),
    "mobilenet_v2": (16, {"width_multiplier": 0.5}),
    "torchvision": (33, {"arch": "squeezenet1_1"}),
}
# Of the same class as resnet18 and resnet50, and too large for every day.
LARGE = ("resnet34", "resnet101", "resnet152", "resnext50_32x4d", "wide_resnet50_2")
FIRST_LAYERS = {
    "softmax": "head",
    "mlp": "hidden.0",
    "lenet": "conv1",
    "alexnet": "stages.conv1",
    "vgg11": "stages.0.conv1",
    "nin": "block1.conv1",
    "googlenet": "stem.conv1.conv",
    "resnet18": "stem.conv",
    "torchvision": "network.features.0",
}
STAGES = {
    "softmax": [],
    "mlp": [],
    "basic_cnn": ["conv1", "act1", "conv2", "act2"],
    "lenet": ["conv1", "act1", "conv2", "act2"],
    "alexnet": ["stages.act1", "stages.act2", "stages.act5", "stages.pool5"],
    "vgg11": [f"stages.{n}.act{c}" for n, c in enumerate((1, 1, 2, 2, 2))],
    "nin_cifar": ["block1.act3", "block2.act3", "block3.conv3"],
    "googlenet": ["stem.conv1.act", "stem.conv3.act"]
    + [f"blocks.inception{name}" for name in ("3b", "4e", "5b")],
    "small_resnet": ["stages.0.conv", "stages.1.conv", "stages.1.block"],
    "resnet50": ["stem.act", "stages.0.2", "stages.1.3", "stages.2.5", "stages.3.2"],
    "densenet121": [f"stages.transition{n}.conv" for n in (1, 2, 3)] + ["act"],
}


def cheap(name: str) -> tuple[nn.Module, Tensor]:
    """Return a network with seeded weights, and an image for it."""
    size, args = CHEAP[name]
    torch.manual_seed(1)
    module = create_model(name, in_channels=1, num_classes=4, image_size=size, args=args).eval()
    return module, torch.randn(1, 1, size, size)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in LARGE else ()) for n in MODELS]
)
def test_every_network(name: str) -> None:
    module, image = cheap(name)
    before = copy.deepcopy(module.state_dict())
    with torch.no_grad():
        expected = module(image).softmax(1)[0]
    seen = look_at(module, image)
    assert torch.allclose(seen.probabilities, expected, atol=1e-6)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert not any(part._forward_hooks for part in module.modules())
    assert all(p.grad is None for p in module.parameters())

    names = [stage.name for stage in seen.stages]
    assert names == STAGES.get(name, names)
    shapes = analyze(module, image.shape[1:]).module_shapes
    sides = [stage.maps.shape[-1] for stage in seen.stages]
    for stage, side in zip(seen.stages, sides, strict=True):
        assert tuple(stage.maps.shape) == shapes[stage.name]
        assert stage.maps.shape[-2] == side
        check_field(stage, image.shape[-1])
    assert sides == sorted(set(sides), reverse=True)
    assert bool(seen.stages) == (name not in ("softmax", "linear", "mlp"))

    filters = seen.filters
    assert filters is not None
    assert filters.layer == FIRST_LAYERS.get(name, filters.layer)
    layer = module.get_submodule(filters.layer)
    assert torch.equal(filters.weights.flatten(), layer.weight.flatten())
    assert filters.is_convolution == (filters.weights.shape[-1] != image.shape[-1])
    if seen.grad_cam is None:
        assert not seen.stages
        return
    assert filters.responses is not None
    assert len(filters.responses) == len(filters.weights)
    assert seen.grad_cam.shape == image.shape[2:]
    assert 0 <= seen.grad_cam.min() <= seen.grad_cam.max() <= 1


def check_field(stage: Any, image_size: int) -> None:
    """The box that was found by trying is the field that geometry calculates, cut at the edges."""
    top, left, bottom, right = stage.box
    assert (top, bottom) == (left, right)
    assert 0 <= top < bottom <= image_size
    side = bottom - top
    is_cut = top == 0 or bottom == image_size
    assert stage.receptive_field is not None
    assert side <= stage.receptive_field if is_cut else side == stage.receptive_field
    outside = stage.gradient.clone()
    outside[top:bottom, left:right] = 0
    assert not outside.any()
    assert stage.measured_side % 2 == 1 or not stage.gradient.any()


def test_every_row_of_the_tables_is_a_network() -> None:
    assert CHEAP.keys() == set(MODELS)
    assert set(LARGE) | STAGES.keys() | FIRST_LAYERS.keys() <= set(MODELS)


def bilinear(small: np.ndarray, size: int) -> np.ndarray:
    """Enlarge as image programs do: pixels are areas, and edges are repeated."""
    places = (np.arange(size) + 0.5) * len(small) / size - 0.5
    low = np.clip(np.floor(places).astype(int), 0, len(small) - 1)
    high = np.clip(np.floor(places).astype(int) + 1, 0, len(small) - 1)
    part = np.clip(places, 0, None) - np.floor(np.clip(places, 0, None))
    rows = small[low] * (1 - part)[:, None] + small[high] * part[:, None]
    return rows[:, low] * (1 - part) + rows[:, high] * part


def test_grad_cam_of_a_flattening_head_is_that_of_finite_differences() -> None:
    torch.manual_seed(0)
    # With tanh, maps and their weights have both signs.
    args = {"activation": "tanh"}
    module = create_model("lenet", in_channels=1, num_classes=4, image_size=28, args=args)
    module, image = module.eval().double(), torch.randn(1, 1, 28, 28, dtype=torch.float64)
    with torch.no_grad():
        maps = module.pool1(torch.tanh(module.conv1(image)))
        maps = module.pool2(torch.tanh(module.conv2(maps)))
        likeliest = module(image).argmax().item()

        def logit(values: Tensor) -> float:
            return module.head(values.flatten(1))[0, likeliest].item()

        cam = np.zeros(maps.shape[2:])
        for channel in range(maps.shape[1]):
            slopes = []
            for row, column in np.ndindex(*maps.shape[2:]):
                step = torch.zeros_like(maps)
                step[0, channel, row, column] = 1e-6
                slopes.append((logit(maps + step) - logit(maps - step)) / 2e-6)
            cam += np.mean(slopes) * maps[0, channel].numpy()
    assert cam.max() > 0 > cam.min()
    large = bilinear(np.maximum(cam, 0), 28)
    seen = look_at(module, image)
    assert seen.grad_cam is not None
    np.testing.assert_allclose(seen.grad_cam.numpy(), large / large.max(), atol=1e-6)


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "mobilenet_v1"])
def test_grad_cam_of_an_averaging_head_is_the_heads_weights_times_the_maps(name: str) -> None:
    module, image = cheap(name)
    seen = look_at(module, image)
    maps = seen.stages[-1].maps
    weights = module.head.weight[int(seen.probabilities.argmax())].detach()
    cam = np.maximum((weights[:, None, None] * maps).sum(0).numpy(), 0)
    large = bilinear(cam, image.shape[-1])
    assert seen.grad_cam is not None
    np.testing.assert_allclose(seen.grad_cam.numpy(), large / max(large.max(), 1e-30), atol=1e-4)


def test_what_a_unit_sees_is_what_moves_it() -> None:
    """Without ReLUs nothing hides a pixel, so trying each finds the box and the gradient."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 3, 3, stride=2, padding=1),
        nn.AvgPool2d(2),
        nn.Conv2d(3, 5, (3, 1)),
        nn.Flatten(),
        nn.LazyLinear(2),
    ).double()
    image = torch.randn(1, 1, 21, 21, dtype=torch.float64)
    module(image)
    last = look_at(module.eval(), image).stages[-1]
    assert last.name == "2"
    with torch.no_grad():

        def unit(pixels: Tensor) -> Tensor:
            maps = module[:3](pixels)
            return maps[0, :, maps.shape[2] // 2, maps.shape[3] // 2]

        moved = np.zeros((21, 21))
        for row, column in np.ndindex(21, 21):
            step = torch.zeros_like(image)
            step[0, 0, row, column] = 1.0
            moved[row, column] = (unit(image + step) - unit(image)).abs().mean()
    np.testing.assert_allclose(last.gradient.numpy(), moved, atol=1e-6)
    rows, columns = moved.any(1).nonzero()[0], moved.any(0).nonzero()[0]
    box = (rows[0], columns[0], rows[-1] + 1, columns[-1] + 1)
    assert tuple(last.box) == box
    assert last.receptive_field == max(box[2] - box[0], box[3] - box[1]) == 13
    sides = [side for side in range(1, 22, 2) if share_within(moved, side) >= 0.9]
    assert last.measured_side == sides[0] > 1


def share_within(moved: np.ndarray, side: int) -> float:
    rows, columns = np.indices(moved.shape)
    row = round((rows * moved).sum() / moved.sum())
    column = round((columns * moved).sum() / moved.sum())
    reach = side // 2
    padded = np.pad(moved, 21)
    part = padded[row + 21 - reach : row + 22 + reach, column + 21 - reach : column + 22 + reach]
    return part.sum() / moved.sum()


class Shared(nn.Module):
    """What a beginner writes: one pool for all, activations as functions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(16 * 25, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(torch.relu(self.conv1(x)))
        x = self.pool(torch.relu(self.conv2(x)))
        return self.head(x.flatten(1))


class Gated(nn.Module):
    """A gate that looks at the whole image, and then pixels in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.gate = Gate()
        self.tokens = Tokens()
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.tokens(self.gate(self.conv(x))).mean((1, 2)))


class Gate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * x.mean((2, 3), keepdim=True).sigmoid()


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1))


def test_a_module_that_is_called_twice() -> None:
    torch.manual_seed(0)
    seen = look_at(Shared().eval(), torch.randn(1, 3, 32, 32))
    assert [(stage.name, stage.receptive_field) for stage in seen.stages] == [
        ("conv1", 5),
        ("pool", 6),
        ("conv2", 14),
        ("pool (2)", 16),
    ]
    for stage in seen.stages:
        check_field(stage, 32)


def test_what_sees_the_whole_image_has_no_field_and_tokens_are_no_maps() -> None:
    torch.manual_seed(0)
    seen = look_at(Gated().eval(), torch.randn(1, 3, 16, 16))
    assert [stage.name for stage in seen.stages] == ["conv", "gate"]
    assert [stage.receptive_field for stage in seen.stages] == [3, None]
    assert seen.stages[0].box == (7, 7, 10, 10)
    assert seen.stages[1].box == (0, 0, 16, 16)


def test_a_dead_unit_has_no_measured_field() -> None:
    module, image = cheap("lenet")
    with torch.no_grad():
        module.conv1.bias.fill_(-100)
    seen = look_at(module, image)
    dead = next(stage for stage in seen.stages if stage.name == "act1")
    assert dead.measured_side == 0
    assert not dead.gradient.any()
    assert dead.receptive_field == 6  # max pooling comes first


@pytest.mark.parametrize("arch", ["resnet18", "mobilenet_v3_small"])
def test_torchvision_networks_that_work_in_place(arch: str) -> None:
    torch.manual_seed(0)
    args = {"arch": arch}
    module = create_model("torchvision", in_channels=3, num_classes=3, image_size=64, args=args)
    seen = look_at(module.eval(), torch.randn(1, 3, 64, 64))
    assert len(seen.stages) >= 3
    assert seen.grad_cam is not None
    assert seen.grad_cam.shape == (64, 64)
    if arch != "mobilenet_v3_small":
        assert all(stage.receptive_field for stage in seen.stages)
    else:
        assert None in [stage.receptive_field for stage in seen.stages]
