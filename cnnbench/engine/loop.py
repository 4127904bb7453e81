"""Training and evaluation as generators: whoever drives them logs, saves, stops or is interrupted.

Numbers stay tensors on the device; the driver reads them when it needs them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from cnnbench.engine.finite import update_error
from cnnbench.engine.state import TrainState
from cnnbench.layers.heads import aux_outputs, aux_weight
from cnnbench.losses import CROSS_ENTROPY, Loss
from cnnbench.optim import supports_found_inf, update
from cnnbench.seeds import derive_seed, seed_python

Batches = Iterable[tuple[Tensor, Tensor]]
# (images, targets, generator) -> network input and targets, on the device
Prepare = Callable[[Tensor, Tensor, torch.Generator | None], tuple[Tensor, Tensor]]
Autocast = Callable[[], AbstractContextManager[object]]
# (model, images, targets) -> mean loss and outputs, as ``Loss.outputs`` has them
ComputeLoss = Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, Tensor]]


class HasAuxHeads(Protocol):
    """A network with auxiliary heads, whose losses count ``aux_weight`` each in training.

    Not checked at run time: asking each step whether a network is one takes .1 ms.
    """

    aux_weight: float

    def forward_with_aux(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the main logits, and those of the auxiliary heads."""
        ...


@dataclass(frozen=True)
class Step:
    """What one optimizer update did.

    Args:
        epoch: the epoch it belongs to, from 1.
        loss: mean over the batch, a scalar tensor.
        grad_norm: 2-norm of all gradients, a scalar tensor.
        lr: learning rate of the first parameter group.
        num_images: of the batch.
        ends_epoch: whether it was the epoch's last.
    """

    epoch: int
    loss: Tensor
    grad_norm: Tensor
    lr: float
    num_images: int
    ends_epoch: bool


def fit(
    state: TrainState,
    epoch_batches: Callable[[int, int], Batches],
    prepare: Prepare,
    schedule: Callable[[float], float],
    *,
    num_steps: int,
    steps_per_epoch: int,
    seed: int,
    device: torch.device,
    autocast: Autocast,
    compute_loss: ComputeLoss | None = None,
    class_weights: Tensor | None = None,
    clip_norm: float | None = None,
    accumulate_steps: int = 1,
    draws_in_python: bool = False,
) -> Iterator[Step]:
    """Train from where the state stands, yielding after every optimizer update.

    An update whose loss or gradient is not finite is skipped. On the CPU, and with optimizers that
    are not fused, that raises at once; elsewhere the skip happens on the device without waiting
    for it, and the driver sees it in the yielded tensors.

    Args:
        state: changed in place; consistent whenever this yields.
        epoch_batches: (epoch from 1, first batch) -> that epoch's batches from there on.
        prepare: turns a raw batch into network input and targets on the device.
        schedule: progress in [0, 1] -> factor of the base learning rate.
        num_steps: stop after so many updates in all; the last epoch may end with them.
        steps_per_epoch: batches in a whole epoch.
        seed: the run's seed.
        device: where the model is.
        autocast: makes the context in which the forward pass computes.
        compute_loss: as ``loss_of`` returns it, or compiled; by default plain cross-entropy.
        class_weights: those that ``compute_loss`` weighs the mean by.
        clip_norm: longer gradients are shortened to this 2-norm; None for none.
        accumulate_steps: parts of a batch that are computed one after another, whose gradients
            add up to the batch's; >= 1.
        draws_in_python: whether the model may draw from the generators of Python and NumPy, which
            are then seeded as torch's is.

    Raises:
        NonFiniteError: a loss or gradient is infinite or not a number.
    """
    compute_loss = compute_loss or loss_of(CROSS_ENTROPY)
    generator = torch.Generator(device)
    base_lrs = [group["initial_lr"] for group in state.optimizer.param_groups]
    parameters = [p for p in state.model.parameters() if p.requires_grad]
    while state.global_step < num_steps:
        state.model.train()
        if state.epoch_step == 0:
            state.sums = state.sums.empty()
        for raw_images, raw_targets in epoch_batches(state.epoch + 1, state.epoch_step):
            factor = schedule(state.global_step / num_steps)
            for group, base_lr in zip(state.optimizer.param_groups, base_lrs, strict=True):
                group["lr"] = base_lr * factor
            generator.manual_seed(derive_seed(seed, "augment", state.global_step))
            layer_seed = derive_seed(seed, "dropout", state.global_step)
            _seed_dropout(layer_seed, device)
            if draws_in_python:
                seed_python(layer_seed)
            images, targets = prepare(raw_images, raw_targets, generator)
            for parameter in parameters:
                parameter.grad = None
            sizes = _part_sizes(len(images), accumulate_steps)
            loss, logits = _backward(
                state, images, targets, compute_loss, autocast, class_weights, sizes
            )
            grad_norm = _update(state, loss, parameters, clip_norm)
            # A mixed image counts for the heavier of its classes.
            labels = targets if targets.ndim == 1 else targets.argmax(dim=1)
            state.sums.add(loss * len(labels), logits.detach(), labels)
            state.global_step += 1
            state.epoch_step += 1
            epoch = state.epoch + 1
            is_last = state.global_step == num_steps
            ends_epoch = is_last or state.epoch_step == steps_per_epoch
            if ends_epoch:
                state.epoch, state.epoch_step = epoch, 0
            lr = state.optimizer.param_groups[0]["lr"]
            yield Step(epoch, loss, grad_norm, lr, len(raw_targets), ends_epoch)
            if is_last:
                return


def _seed_dropout(seed: int, device: torch.device) -> None:
    """Seed the generator that the device's layers draw from.

    ``torch.manual_seed`` would seed every kind of device, which takes .4 ms.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.get_device_module(device).manual_seed(seed)


def loss_of(
    loss: Loss, *, weights: Tensor | None = None, label_smoothing: float = 0.0
) -> ComputeLoss:
    """Return what ``fit`` takes as ``compute_loss``.

    Args:
        loss: what is minimised.
        weights: of the classes, on the device of the logits; None for equal ones.
        label_smoothing: share of a target that is spread over all classes, in [0, 1).
    """
    mean = partial(loss.mean, weights=weights, label_smoothing=label_smoothing)

    def compute(model: nn.Module, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return training_loss(model, images, targets, loss.outputs, mean)

    return compute


def training_loss(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    outputs_of: Callable[[Tensor], Tensor] = CROSS_ENTROPY.outputs,
    mean: Callable[[Tensor, Tensor], Tensor] = CROSS_ENTROPY.mean,
) -> tuple[Tensor, Tensor]:
    """Return the mean loss, auxiliary heads included, and the main outputs.

    Args:
        model: a network.
        images: (N, C, H, W).
        targets: (N,) class indices or numbers, or (N, num_classes) probabilities of mixed images.
        outputs_of: what the network gives -> outputs, as ``Loss.outputs``.
        mean: (outputs in float32, targets) -> mean loss, as ``Loss.mean``.
    """
    if not hasattr(model, "forward_with_aux"):
        outputs = outputs_of(model(images))
        return mean(outputs.float(), targets), outputs
    network = cast(HasAuxHeads, model)
    given, aux_given = aux_outputs(model, network.forward_with_aux(images))
    outputs = outputs_of(given)
    loss = mean(outputs.float(), targets)
    for aux in aux_given:
        loss = loss + aux_weight(model) * mean(outputs_of(aux).float(), targets)
    return loss, outputs


def weight_of(targets: Tensor, class_weights: Tensor | None) -> Tensor | float:
    """Return what a part of a batch counts in the mean of the whole batch's losses.

    Args:
        targets: of the part.
        class_weights: those that weigh the mean; they do not divide that of mixed examples.
    """
    if class_weights is None or targets.ndim > 1:
        return float(len(targets))
    return class_weights[targets].sum()


def _part_sizes(count: int, num_parts: int) -> list[int]:
    """Return how many examples of a batch are computed at once, in order.

    None is alone unless the batch is: batch norm cannot learn from one value.
    """
    if num_parts == 1:
        return [count]
    size = max(2, math.ceil(count / num_parts))
    sizes = [size] * (count // size)
    rest = count % size
    if rest > 1 or not sizes:
        return [*sizes, rest]
    return [*sizes[:-1], sizes[-1] + rest]


def _backward(
    state: TrainState,
    images: Tensor,
    targets: Tensor,
    compute_loss: ComputeLoss,
    autocast: Autocast,
    class_weights: Tensor | None,
    sizes: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Add a batch's gradients to the parameters'; return its mean loss, detached, and logits."""
    losses, outputs = [], []
    whole = weight_of(targets, class_weights) if len(sizes) > 1 else 1.0
    for some_images, some_targets in zip(images.split(sizes), targets.split(sizes), strict=True):
        with autocast():
            loss, logits = compute_loss(state.model, some_images, some_targets)
            if len(sizes) > 1:
                loss = loss * (weight_of(some_targets, class_weights) / whole)
        (loss if state.scaler is None else state.scaler.scale(loss)).backward()
        losses.append(loss.detach())
        outputs.append(logits)
    if len(sizes) == 1:
        return losses[0], outputs[0]
    return torch.stack(losses).sum(), torch.cat(outputs)


def _update(
    state: TrainState, loss: Tensor, parameters: list[nn.Parameter], clip_norm: float | None
) -> Tensor:
    """Make one optimizer update, unless the loss or a gradient is not finite.

    Returns:
        The 2-norm of the gradients as they were before any was shortened.
    """
    optimizer, scaler = state.optimizer, state.scaler
    if scaler is not None:
        scaler.unscale_(optimizer)
    grads = [p.grad for p in parameters if p.grad is not None]
    # As torch.nn.utils.get_total_norm does, which also sorts by devices.
    grad_norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
    if clip_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, clip_norm, grad_norm, foreach=True)
    if scaler is not None:
        scaler.step(optimizer)
        scaler.update()
    else:
        total = loss + grad_norm
        if total.device.type != "cpu" and supports_found_inf(optimizer):
            # Fused optimizers leave the weights alone where this is 1, without asking the host.
            optimizer.found_inf = (~total.isfinite()).float()  # type: ignore[attr-defined]
        elif not math.isfinite(total):
            raise update_error(state, loss.item(), grad_norm.item(), is_counted=False)
        update(optimizer)
    if state.average is not None:
        state.average.update_parameters(state.model)
    return grad_norm


def evaluate(
    model: nn.Module, batches: Batches, prepare: Prepare, *, autocast: Autocast
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield what the network gives, (N, width) in float32, and targets (N,) of each batch.

    The model is put into evaluation mode and its mode restored at the end.
    """
    was_training = model.training
    model.eval()
    try:
        for raw_images, raw_targets in batches:
            with torch.inference_mode(), autocast():
                images, targets = prepare(raw_images, raw_targets, None)
                logits = model(images).float()
            yield logits, targets
    finally:
        model.train(was_training)
