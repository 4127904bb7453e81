"""A fidelity card per network: what its paper says, what is built here, and how to undo the rest.

``python -m cnnbench.models.cards > docs/models.md`` writes the page. Its numbers are measured.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from cnnbench.geometry.trace import Geometry, analyze
from cnnbench.models import create_model, model_arguments

_HEAD = """\
# The networks, and how true they are to their papers

Written by `python -m cnnbench.models.cards > docs/models.md`; do not edit.

Parameters and MACs (multiply-accumulates of convolutions and linear layers for one image) are
measured on the form that the paper describes, whose arguments are named. "Not stated" means that
the paper gives no such number. What differs from the paper by default is listed with the argument
that takes it back.
"""


@dataclass(frozen=True)
class Departure:
    """One difference from the paper.

    Attributes:
        text: what differs, and why where that is not obvious.
        undo: the setting that takes it back; empty where there is none.
    """

    text: str
    undo: str = ""


@dataclass(frozen=True)
class Card:
    """What is known of a network.

    Attributes:
        title: name and year.
        source: the paper, or where the network comes from.
        link: its address; empty where there is none.
        rows: which table or section gives the layers.
        paper_params: as the paper states it.
        paper_macs: likewise.
        input_shape: of the paper's form.
        num_classes: likewise.
        args: the arguments that give the paper's form.
        departures: differences of the defaults from the paper, largest first.
    """

    title: str
    source: str
    link: str = ""
    rows: str = ""
    paper_params: str = "not stated"
    paper_macs: str = "not stated"
    input_shape: tuple[int, int, int] = (3, 224, 224)
    num_classes: int = 1000
    args: Mapping[str, Any] = field(default_factory=dict)
    departures: tuple[Departure, ...] = ()


_SMALL_STEM = Departure(
    "the stem is a 3x3 of stride 1 without pool, so that small images keep their pixels",
    "model.stem=imagenet",
)
_ZERO_INIT = Departure("the last norm of each block starts at zero", "model.zero_init=false")
_STRIDE = Departure(
    "the stride of a bottleneck is in its 3x3, which is more accurate at little cost",
    "model.stride_in_1x1=true",
)
_NO_LRN = Departure("no local response normalisation: later work measured it as useless")
_KAIMING_INIT = Departure(
    "weights start as He et al. advise: PyTorch's default keeps too little of the signal in each "
    "layer, so that networks without norms learn slowly, and the deeper ones stay at chance",
    "model.init=normal",
)
_RESNET = "He et al., Deep Residual Learning for Image Recognition"
_RESNET_LINK = "https://arxiv.org/abs/1512.03385"
_IMAGENET_STEM = {"stem": "imagenet"}


def _resnet(depth: int, macs: str) -> Card:
    is_deep = depth >= 50
    return Card(
        title=f"ResNet-{depth} (2015)",
        source=_RESNET,
        link=_RESNET_LINK,
        rows="table 1",
        paper_macs=macs,
        args={**_IMAGENET_STEM, **({"stride_in_1x1": True} if is_deep else {})},
        departures=(_SMALL_STEM, *((_STRIDE,) if is_deep else ()), _ZERO_INIT),
    )


def _vgg(letter: str, layers: int, params: str) -> Card:
    return Card(
        title=f"VGG-{layers}, configuration {letter} (2014)",
        source="Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image "
        "Recognition",
        link="https://arxiv.org/abs/1409.1556",
        rows="tables 1 and 2",
        paper_params=params,
        args={"head_size": 7},
        departures=(
            Departure(
                "32-pixel images, whose last map is averaged to one pixel",
                "data.image_size=224 model.head_size=7",
            ),
            _KAIMING_INIT,
        ),
    )


def _alexnet(title: str, params: str, departures: tuple[Departure, ...]) -> Card:
    return Card(
        title=title,
        source="Krizhevsky et al., ImageNet Classification with Deep Convolutional Neural Networks",
        link="https://doi.org/10.1145/3065386",
        rows="section 3.5 and figure 2",
        paper_params=params,
        input_shape=(3, 227, 227),
        args={"padding": 0, "groups": 2},
        departures=departures,
    )


_ALEXNET_DEPARTURES = (
    Departure("one stream in place of two", "model.groups=2"),
    Departure(
        "97-pixel images with a padding of 1 in conv1", "data.image_size=227 model.padding=0"
    ),
    _NO_LRN,
    _KAIMING_INIT,
)

CARDS: dict[str, Card] = {
    "softmax": Card("Softmax regression", "Textbook form", input_shape=(1, 28, 28), num_classes=10),
    "mlp": Card("Multilayer perceptron", "Textbook form", input_shape=(1, 28, 28), num_classes=10),
    "basic_cnn": Card(
        "Basic CNN", "Course network; no paper", input_shape=(1, 28, 28), num_classes=10
    ),
    "inception_cnn": Card(
        "Basic CNN with Inception modules",
        "Course network; its module is a small form of Szegedy et al., Rethinking the Inception "
        "Architecture for Computer Vision",
        link="https://arxiv.org/abs/1512.00567",
        rows="figure 5",
        input_shape=(1, 28, 28),
        num_classes=10,
        departures=(Departure("no activation inside or after a module, as in the course"),),
    ),
    "cifar_quick": Card(
        "CIFAR-10 quick",
        "Krizhevsky's cuda-convnet, known from Caffe's examples; no paper",
        link="https://code.google.com/archive/p/cuda-convnet/",
        input_shape=(3, 32, 32),
        num_classes=10,
        departures=(
            Departure("max pooling without overlap throughout"),
            Departure("an activation between the linear layers", "model.activation=none"),
        ),
    ),
    "lenet": Card(
        "LeNet-5 (1998)",
        "LeCun et al., Gradient-Based Learning Applied to Document Recognition",
        link="https://doi.org/10.1109/5.726791",
        rows="section II.B",
        paper_params="60,000",
        paper_macs="340,908 connections",
        input_shape=(1, 28, 28),
        num_classes=10,
        args={"activation": "tanh", "pool": "avg"},
        departures=(
            Departure("ReLU in place of tanh", "model.activation=tanh"),
            Departure("max pools in place of averages", "model.pool=avg"),
            Departure("28-pixel images, padded by 2 in conv1, in place of 32-pixel ones"),
            Departure("conv2 sees all maps of pool1, where the paper's table I picks some"),
            Departure("pools have no weights, and the last layer is linear, not radial"),
        ),
    ),
    "alexnet": _alexnet("AlexNet (2012)", "60 million", _ALEXNET_DEPARTURES),
    "alexnet_small": _alexnet(
        "AlexNet, simplified",
        "not stated",
        (
            Departure(
                "one convolution and one hidden layer less: a course's form", "model=alexnet"
            ),
            *_ALEXNET_DEPARTURES,
        ),
    ),
    "vgg11": _vgg("A", 11, "133 million"),
    "vgg13": _vgg("B", 13, "133 million"),
    "vgg16": _vgg("D", 16, "138 million"),
    "vgg19": _vgg("E", 19, "144 million"),
    "nin": Card(
        "Network in Network, ImageNet form (2013)",
        "Lin et al., Network In Network; the layers are those of the authors' published model",
        link="https://arxiv.org/abs/1312.4400",
        rows="section 3 and figure 2",
        args={},
        departures=(
            Departure("99-pixel images", "data.image_size=224"),
            Departure("weights start as Glorot and Bengio advise", "model.init=normal"),
            Departure(
                "no ReLU on the logits' maps, which would cut them off", "model.final_relu=true"
            ),
        ),
    ),
    "nin_cifar": Card(
        "Network in Network, CIFAR form (2013)",
        "Lin et al., Network In Network",
        link="https://arxiv.org/abs/1312.4400",
        rows="section 4.2",
        input_shape=(3, 32, 32),
        num_classes=10,
        args={"dropout": 0.5},
        departures=(
            Departure("less dropout, for tens and not hundreds of epochs", "model.dropout=0.5"),
            _KAIMING_INIT,
            Departure("no ReLU on the logits' maps, which would cut them off"),
        ),
    ),
    "googlenet": Card(
        "GoogLeNet, Inception v1 (2014)",
        "Szegedy et al., Going Deeper with Convolutions",
        link="https://arxiv.org/abs/1409.4842",
        rows="table 1",
        paper_params="6.8 million (sum of table 1)",
        paper_macs="1.5 billion",
        args={
            "stem": "imagenet",
            "norm": "none",
            "dropout": 0.4,
            "pool_ceil_mode": True,
        },
        departures=(
            Departure("the stem is a 3x3 of stride 1 in place of the 7x7/2", "model.stem=imagenet"),
            Departure("a batch norm after each convolution", "model.norm=none"),
            Departure("no dropout before the last layer", "model.dropout=0.4"),
            Departure("pools pad by 1 in place of rounding up", "model.pool_ceil_mode=true"),
            Departure("no auxiliary heads", "model.aux=true"),
            _NO_LRN,
        ),
    ),
    "small_resnet": Card(
        "Small residual network",
        "Made here for images of 28 to 32 pixels, of the form of Page's ResNet-9; no paper",
        link="https://github.com/davidcpage/cifar10-fast",
        input_shape=(1, 28, 28),
        num_classes=10,
    ),
    "resnet18": _resnet(18, "1.8 billion"),
    "resnet34": _resnet(34, "3.6 billion"),
    "resnet50": _resnet(50, "3.8 billion"),
    "resnet101": _resnet(101, "7.6 billion"),
    "resnet152": _resnet(152, "11.3 billion"),
    "resnext50_32x4d": Card(
        "ResNeXt-50 32x4d (2016)",
        "Xie et al., Aggregated Residual Transformations for Deep Neural Networks",
        link="https://arxiv.org/abs/1611.05431",
        rows="table 1",
        paper_params="25.0 million",
        paper_macs="4.2 billion",
        args=_IMAGENET_STEM,
        departures=(_SMALL_STEM, _ZERO_INIT),
    ),
    "wide_resnet50_2": Card(
        "Wide ResNet-50-2 (2016)",
        "Zagoruyko and Komodakis, Wide Residual Networks",
        link="https://arxiv.org/abs/1605.07146",
        rows="section 3.4",
        paper_params="68.9 million",
        args=_IMAGENET_STEM,
        departures=(_SMALL_STEM, _STRIDE, _ZERO_INIT),
    ),
    "densenet121": Card(
        "DenseNet-121 (2016)",
        "Huang et al., Densely Connected Convolutional Networks",
        link="https://arxiv.org/abs/1608.06993",
        rows="table 1",
        args=_IMAGENET_STEM,
        departures=(_SMALL_STEM,),
    ),
    "mobilenet_v1": Card(
        "MobileNet v1 (2017)",
        "Howard et al., MobileNets: Efficient Convolutional Neural Networks for Mobile Vision "
        "Applications",
        link="https://arxiv.org/abs/1704.04861",
        rows="table 1",
        paper_params="4.2 million",
        paper_macs="569 million",
        args=_IMAGENET_STEM,
        departures=(Departure("the first two strides are 1", "model.stem=imagenet"),),
    ),
    "mobilenet_v2": Card(
        "MobileNet v2 (2018)",
        "Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks",
        link="https://arxiv.org/abs/1801.04381",
        rows="table 2",
        paper_params="3.4 million",
        paper_macs="300 million",
        args=_IMAGENET_STEM,
        departures=(Departure("the first two strides are 1", "model.stem=imagenet"),),
    ),
    "torchvision": Card(
        "Any classifier of torchvision, by `model.arch`",
        "torchvision; each network's own page names its paper",
        link="https://docs.pytorch.org/vision/stable/models.html",
        args={"arch": "resnet18"},
        departures=(
            Departure("the first convolution and the last layer are fitted to the data"),
            Departure("GoogLeNet and Inception v3 have no auxiliary heads"),
        ),
    ),
}


def measure(name: str) -> Geometry:
    """Return the sizes of the form that a network's card describes."""
    card = CARDS[name]
    in_channels, image_size, _ = card.input_shape
    with torch.device("meta"):
        module = create_model(
            name,
            in_channels=in_channels,
            num_classes=card.num_classes,
            image_size=image_size,
            args=card.args,
        )
    return analyze(module, card.input_shape)


def render(name: str) -> str:
    """Return one network's card as Markdown."""
    card, geometry = CARDS[name], measure(name)
    source = f"[{card.source}]({card.link})" if card.link else card.source
    settings = [f"model={name}", *(f"model.{key}={_text(v)}" for key, v in card.args.items())]
    shape = " x ".join(map(str, card.input_shape))
    lines = [
        f"## `{name}`: {card.title}",
        "",
        f"{source}{f', {card.rows}' if card.rows else ''}.",
        "",
        f"| `{' '.join(settings)}`, {shape}, {card.num_classes} classes | here | paper |",
        "| --- | ---: | ---: |",
        f"| parameters | {geometry.num_params:,} | {card.paper_params} |",
        f"| MACs | {geometry.macs:,} | {card.paper_macs} |",
        "",
    ]
    if card.departures:
        lines += ["Departures of the defaults:", ""]
        lines += [
            f"- {d.text}: {f'undone by `{d.undo}`' if d.undo else 'not undone by an argument'}"
            for d in card.departures
        ]
    else:
        lines.append("No departures.")
    arguments = ", ".join(f"`{key}={_text(v)}`" for key, v in model_arguments(name).items())
    lines += ["", f"Arguments and defaults: {arguments or 'none'}.", ""]
    return "\n".join(lines)


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_text(part)}" for key, part in value.items()) + "}"
    if isinstance(value, tuple):
        return f"[{','.join(map(_text, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def page() -> str:
    """Return ``docs/models.md``."""
    return "\n".join([_HEAD, *map(render, CARDS)])


if __name__ == "__main__":
    sys.stdout.write(page())
