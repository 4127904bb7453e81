"""Trains in two processes by ``fit`` itself, in float64, and prints the losses of each step.

``python two_ranks.py SIZE``: with a size of 1 it is one process, by the same code.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cnnbench.data.loader import BatchOrder
from cnnbench.engine import TrainState, fit
from cnnbench.engine.world import World
from cnnbench.metrics import Sums
from cnnbench.models.build import create

NUM_IMAGES, BATCH, CLASSES, SIDE = 74, 16, 5, 67
WEIGHTS = torch.tensor([0.5, 1.0, 2.0, 1.0, 3.0], dtype=torch.float64)
# With dropout, and with auxiliary heads; none with batch norm.
NETWORKS = {
    "lenet": {},
    "alexnet": {"width_multiplier": 0.125},
    "googlenet": {"width_multiplier": 0.125, "norm": "none", "aux_weight": 0.3},
}


def train(name: str, args: dict[str, object], world: World) -> dict[str, object]:
    """Train an epoch, and return what one process would say of it."""
    torch.manual_seed(0)
    sizes = {"in_channels": 3, "num_classes": CLASSES, "image_size": SIDE}
    model = create(name, args, sizes).double()
    images = torch.randn(NUM_IMAGES, 3, SIDE, SIDE, dtype=torch.float64)
    targets = torch.randint(CLASSES, (NUM_IMAGES,))
    shard = world.shard
    order = BatchOrder(NUM_IMAGES, BATCH, shuffle=True, shard=shard)

    def batches(epoch: int, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        order.set_epoch(epoch, first)
        yield from shard.following(
            ((images[rows], targets[rows]) for rows in order), order.size_of, first
        )

    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    state = TrainState(model=model, optimizer=optimizer, sums=Sums())
    # In float64 throughout, where the loop's own loss is of outputs in float32.
    compute = world.in_parts(in_float64, model, shard, class_weights=WEIGHTS)
    steps = fit(
        state,
        batches,
        lambda images, targets, _: (images, targets),
        lambda progress: 1.0,
        num_steps=len(order),
        steps_per_epoch=len(order),
        seed=3,
        device=torch.device("cpu"),
        autocast=contextlib.nullcontext,
        compute_loss=compute,
    )
    found = [(step.loss.item(), step.grad_norm.item()) for step in steps]
    world.collect(state.sums)
    scores = state.sums.read()
    sizes_seen = sum(parameter.double().norm().item() for parameter in model.parameters())
    return {
        "steps": found,
        "sums": [scores.loss, scores.correct, scores.count],
        "weights": sizes_seen,
    }


def in_float64(model: nn.Module, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    if not hasattr(model, "forward_with_aux"):
        outputs = model(images)
        return nn.functional.cross_entropy(outputs, targets, WEIGHTS), outputs
    outputs, aux = model.forward_with_aux(images)
    losses = [nn.functional.cross_entropy(logits, targets, WEIGHTS) for logits in (outputs, *aux)]
    return losses[0] + 0.3 * sum(losses[1:]), outputs


def main(size: int) -> None:
    torch.set_num_threads(1)
    file = tempfile.NamedTemporaryFile()  # noqa: SIM115
    rank = 0
    for other in range(1, size):
        if os.fork() == 0:
            rank = other
            break
    if size > 1:
        dist.init_process_group(
            "gloo", init_method=f"file://{file.name}-store", rank=rank, world_size=size
        )
    world = World(rank, size)
    found = {name: train(name, args, world) for name, args in NETWORKS.items()}
    if rank == 0:
        print(json.dumps(found))
        for _ in range(size - 1):
            os.wait()
    if size > 1:
        dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
