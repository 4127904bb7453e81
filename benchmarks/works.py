"""What ``peers.py`` has trained: the works, their constants, and cnnbench's side of each."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Epoch = Callable[[], float]  # trains one epoch and returns its seconds

SOURCE = Path("/usr/share/datasets/fashion-mnist")
ROOT = Path.home() / ".cache/cnnbench/benchmarks"
MEAN, STD = 0.286, 0.353
LR, WEIGHT_DECAY = 1e-3, 0.01


@dataclass(frozen=True)
class Work:
    """What is trained: a network on the first images of Fashion-MNIST, for one epoch.

    Attributes:
        model: the settings that name the network.
        image_size: pixels of a side; the images have 28.
        batch_size: images in a batch.
        images: in an epoch.
    """

    model: tuple[str, ...]
    image_size: int
    batch_size: int
    images: int


WORKS = {
    "lenet-64": Work(("model=lenet",), 28, 64, 8192),
    "lenet-256": Work(("model=lenet",), 28, 256, 8192),
    "googlenet": Work(("model=googlenet", "model.stem=imagenet", "model.norm=none"), 96, 128, 640),
    "resnet18": Work(("model=resnet18", "model.stem=small"), 32, 128, 512),
}


@functools.cache
def bf16_choices() -> tuple[bool, ...]:
    """Return whether tuned contenders try float32 alone, or bfloat16 too.

    A CPU without bfloat16 takes 100 times as long in it, which no trial has to find out.
    """
    import torch

    from cnnbench.device.precision import has_native_bf16

    return (False, True) if has_native_bf16(torch.device("cpu")) else (False,)


@functools.cache
def make_plan(work: Work) -> Any:
    """Check cnnbench's config of a work.

    Importing this file loads no torch; calling this does.
    """
    from cnnbench.config.command import single_config
    from cnnbench.config.compose import Composer
    from cnnbench.training.launch import check

    composer = Composer()
    settings = [
        *work.model,
        "data=fashion_mnist",
        f"data.batch_size={work.batch_size}",
        f"data.image_size={work.image_size}",
        f"data.limit={work.images}",
        "data.val_fraction=0",
        "selection=last",
    ]
    return check(single_config(composer, composer.parse(settings)))


def make_setup(work: Work) -> Any:
    """Return what ``cnnbench train`` would train with, read and ready."""
    from cnnbench.training.launch import read
    from cnnbench.training.setup import set_up

    plan = make_plan(work)
    return set_up(plan, read(plan))


def make_model(work: Work) -> Any:
    """Build cnnbench's network, which all torch contenders train."""
    from cnnbench.training.network import build_model

    plan = make_plan(work)
    return build_model(plan.config, plan.network).train()


def fastest(options: dict[str, Callable[[], Epoch]]) -> tuple[str, Epoch]:
    """Return the option whose second epoch is the fastest, after one that warms it up."""
    best: tuple[float, str, Epoch] | None = None
    for name, make in options.items():
        epoch = make()
        epoch()
        seconds = epoch()
        if best is None or seconds < best[0]:
            best = seconds, name, epoch
    assert best is not None
    return best[1], best[2]
