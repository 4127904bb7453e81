"""A network's row in the table of networks: what builds it, and its card.

Each family's file has the rows of its networks, beside the architecture that they take, as a
mapping ``MODELS`` from names to rows. A card says how true a network is to its paper;
``python -m cnnbench.models.cards`` writes all of them to ``docs/models.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from torch import nn

from cnnbench.config.schema import Range

# What a network gives for each example, as constructors annotate it: a logit for each class, or
# one for two classes, or a number.
NumClasses = Annotated[int, Range(ge=1)]


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
        input_shape: (C, H, W) of the paper's form.
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


@dataclass(frozen=True)
class ModelRow:
    """A network as it is registered.

    Attributes:
        constructor: takes keyword arguments only, whose annotations say what values they take.
        card: where the network comes from; None for one of another package.
        fixed: constructor arguments that the name sets; they are not the user's.
        takes_rows: whether it also learns from rows of numbers, which are no images.
    """

    constructor: Callable[..., nn.Module]
    card: Card | None = None
    fixed: Mapping[str, Any] = field(default_factory=dict)
    takes_rows: bool = False


# Departures that several families share.
NO_LRN = Departure(
    "no local response normalisation, which Simonyan and Zisserman measured as useless "
    "(https://arxiv.org/abs/1409.1556, table 3)"
)
KAIMING_INIT = Departure(
    "weights start as He et al. advise (https://arxiv.org/abs/1502.01852): PyTorch's default keeps "
    "too little of the signal in each layer, so that networks without norms learn slowly, and the "
    "deeper ones stay at chance",
    "model.init=normal",
)
SMALL_STEM = Departure(
    "the stem is a 3x3 of stride 1 without pool, so that small images keep their pixels",
    "model.stem=imagenet",
)
