"""What one batch tells of a network that was not written here, before its first epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnnbench.errors import UsageError
from cnnbench.geometry.observe import undisturbed
from cnnbench.losses import CROSS_ENTROPY, Loss
from cnnbench.models.build import build_meta, is_foreign
from cnnbench.models.foreign import check_rows
from cnnbench.training.setup import Setup
from cnnbench.training.unsaved import plain_values, some_of, unsaved_state

_NUM_IMAGES = 32
_MOST_MACS = 20e9
_MOST_ACTIVATION_BYTES = 256e6
# Batches of other sizes may be computed by other kernels, on a GPU in TF32.
_TOLERANCES = {"cpu": 1e-3}
# What changes the shape of logits or averages them, as autograd calls it.
_RESHAPING = (
    *("View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "T"),
    *("Permute", "ToCopy", "Clone", "Alias", "Slice", "Select", "Mean", "AvgPool2D"),
    *("AdaptiveAvgPool2D", "AsStrided"),
)
# How a loss makes two logits of one.
_ONE_OUTPUT = ("Div", "Cat", "Neg")
# log_softmax is not among them: cross-entropy gives the same loss and gradients after it.
_ON_LOGITS = {
    "Relu": "ReLU",
    "Threshold": "ReLU",
    "Hardtanh": "ReLU6",
    "LeakyRelu": "leaky ReLU",
    "Softmax": "softmax",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
}


def findings(setup: Setup) -> list[str]:
    """Return sentences on what looks wrong in a network, each for the user; none of one of ours.

    The network, its statistics and the random numbers of training stay as they were.

    Args:
        setup: at its start.

    Raises:
        UsageError: the network does not give one row of logits for each image.
    """
    name = setup.plan.network.name
    if not is_foreign(name):
        return []
    model = setup.state.model
    began = plain_values(model)
    images, targets = setup.data.prepare(*setup.data.spread_images(_num_images(setup)))
    with undisturbed(model):
        model.train()
        with _calls(model) as calls, setup.plan.autocast():
            loss, logits = setup.compute_loss(model, images, targets)
        # What the loss makes of them; a number for each image has one column.
        logits = logits.view(len(logits), -1)
        width = 2 if setup.plan.loss.has_one_output else setup.plan.network.num_classes
        is_number = setup.plan.loss.is_number
        _check_shape(setup, logits, images, 1 if is_number else width)
        loss.backward()
        found = [
            *_unused(model, {call.name for call in calls}),
            *_unregistered(model, loss),
            *_on_logits(logits, setup.plan.loss),
            *_equal(model, logits.detach().float()),
        ]
        is_plain = setup.plan.loss == CROSS_ENTROPY
        if is_plain and setup.plan.config.model.weights is None:
            found += _start(F.cross_entropy(logits.detach().float(), targets).item(), logits)
        found += _unsaved(setup, began, images, targets)
        model.eval()
        found += _in_evaluation(setup, images)
    return [f"model={name}: {text}" for text in dict.fromkeys(found)]


def _unsaved(setup: Setup, began: Mapping[str, Any], images: Tensor, targets: Tensor) -> list[str]:
    def step(some: Tensor) -> None:
        with setup.plan.autocast():
            setup.compute_loss(setup.state.model, some, targets[: len(some)])

    network = setup.plan.network
    twin = build_meta(network.name, setup.plan.config.model.args, **network.sizes)
    return unsaved_state(setup.state.model, began, images, step, twin)


def _num_images(setup: Setup) -> int:
    network = setup.plan.network
    by_macs = _MOST_MACS // max(1, network.macs)
    by_memory = _MOST_ACTIVATION_BYTES // max(1, network.activation_bytes)
    return int(max(2, min(_NUM_IMAGES, by_macs, by_memory)))


def _check_shape(setup: Setup, logits: Tensor, images: Tensor, width: int) -> None:
    network = setup.plan.network
    try:
        check_rows(logits.view(len(logits), -1), len(images), width)
    except UsageError as error:
        raise UsageError(f"model={network.name}: {error}") from None


@dataclass(frozen=True)
class _Call:
    """One call of one module."""

    name: str
    kind: str
    taken: Tensor | None
    given: Tensor | None


@contextmanager
def _calls(model: nn.Module) -> Iterator[list[_Call]]:
    """Collect the calls of all modules, in the order in which they end."""
    calls: list[_Call] = []

    def hook(name: str) -> Any:
        def note(part: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            taken = inputs[0] if inputs and isinstance(inputs[0], Tensor) else None
            given = output.detach() if isinstance(output, Tensor) else None
            # What comes next may change a tensor in place, as nn.ReLU(inplace=True) does.
            calls.append(_Call(name, _kind(part), _copy(taken), _copy(given)))

        return note

    def _copy(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None or torch.is_grad_enabled() else tensor.clone()

    handles = [part.register_forward_hook(hook(name)) for name, part in model.named_modules()]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _kind(part: nn.Module) -> str:
    """Return the class of a layer as the user wrote it, without the kernels that stand in."""
    kinds = (kind for kind in type(part).__mro__ if not kind.__module__.startswith("cnnbench."))
    return next(kinds).__name__


def _unused(model: nn.Module, called: set[str]) -> list[str]:
    """Name the layers that forward never calls, and other parameters without a gradient."""
    dead: list[str] = []
    for name, part in model.named_modules():
        if not name or any(name.startswith(f"{other}.") for other in dead):
            continue
        is_called = any(other == name or other.startswith(f"{name}.") for other in called)
        learned = [p.grad is not None for p in part.parameters()]
        is_layer = not isinstance(part, (nn.Identity, nn.modules.loss._Loss))
        is_empty = isinstance(part, (nn.ModuleList, nn.ModuleDict)) and not len(part)
        if not is_called and not any(learned) and is_layer and not is_empty:
            dead.append(name)
    lost = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
        and parameter.grad is None
        and not any(name.startswith(f"{other}.") for other in dead)
    ]
    found = []
    if dead:
        kinds = [f"{name} ({_kind(model.get_submodule(name))})" for name in dead]
        found.append(
            f"forward never calls {some_of(kinds)}: as if it were not there; call it, or "
            "take it out"
        )
    if lost:
        found.append(
            f"no gradient reaches {some_of(lost)}: training leaves it as it is; look for .data, "
            ".detach(), torch.no_grad() or .numpy() where forward uses it"
        )
    return found


def _unregistered(model: nn.Module, loss: Tensor) -> list[str]:
    """Look for weights that forward uses and the network does not know, so that none trains."""
    known = {id(parameter) for parameter in model.parameters()}
    seen, nodes, lost = set(), [loss.grad_fn], dict[int, Tensor]()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        weight = getattr(node, "variable", None)
        if weight is not None and id(weight) not in known:
            lost[id(weight)] = weight
        nodes += [other for other, _ in node.next_functions]
    if not lost:
        return []
    shapes = sorted({str(tuple(weight.shape)) for weight in lost.values()})
    return [
        f"forward uses weights of shape {some_of(shapes)} that are not the network's own, so that "
        "they never train and are not saved: layers made inside forward, or kept in a plain list "
        "or dict; make them in __init__, lists as nn.ModuleList(...), tensors as nn.Parameter(...)"
    ]


def _on_logits(logits: Tensor, loss: Loss) -> list[str]:
    """Look at the operation that gave the logits, as autograd recorded it."""
    node = logits.grad_fn
    passed = (*_RESHAPING, *(_ONE_OUTPUT if loss.has_one_output and not loss.is_number else ()))
    while node is not None:
        name = type(node).__name__.rstrip("0123456789").removesuffix("Backward")
        if name in _ON_LOGITS:
            return [_activated(_ON_LOGITS[name], loss)]
        if name not in passed or not node.next_functions:
            return []
        node = node.next_functions[0][0]
    return []


def _activated(what: str, loss: Loss) -> str:
    if loss.is_number:
        return (
            f"forward ends in {what}, which limits the numbers that it can give; return what the "
            "last layer gives"
        )
    if loss.has_one_output:
        return (
            f"forward ends in {what}: loss={loss.name} takes a raw logit and applies sigmoid "
            f"itself, so that {what} before it holds training back; return what the last layer "
            "gives"
        )
    return (
        f"forward ends in {what}: the cross-entropy loss takes raw logits and applies softmax "
        f"itself, so that {what} before it holds training back; return what the last layer gives"
    )


def _equal(model: nn.Module, logits: Tensor) -> list[str]:
    """Tell whether all images, or all classes, get the same logits."""
    largest = logits.abs().max().item()
    if largest == 0:
        # A last layer that begins with zeros learns; a network whose maps are all zero does not.
        weights = [p.grad for p in model.parameters() if p.grad is not None and p.ndim > 1]
        if any(gradient.count_nonzero().item() for gradient in weights):
            return []
    for dim, what in ((0, "images"), (1, "classes")):
        spread = (logits.amax(dim) - logits.amin(dim)).max().item()
        if logits.shape[dim] > 1 and spread <= 1e-6 * largest:
            return [
                f"all {what} get the same logits: the weights begin all alike, or a layer before "
                "gives nothing but zeros; look at the initial weights and at the activations"
            ]
    return []


def _start(loss: float, logits: Tensor) -> list[str]:
    """Compare the first loss with that of a network that knows nothing."""
    chance = math.log(logits.shape[1])
    if 0.5 * chance <= loss <= 2 * chance + 0.5:
        return []
    expected = f"log({logits.shape[1]}) = {chance:.2f} is that of a network that knows nothing"
    if loss < chance:
        return [f"the first loss is {loss:.2f}, and {expected}: its weights are trained already"]
    return [
        f"the first loss is {loss:.2f}, and {expected}: the first logits are too large; begin with "
        "smaller weights (model.init=xavier_uniform), or put norms between the layers"
    ]


def _in_evaluation(setup: Setup, images: Tensor) -> list[str]:
    """Look for what ignores ``eval()`` or mixes images, by comparing passes layer by layer."""
    model = setup.state.model
    passes = []
    with torch.no_grad():
        for batch in (images, images, images[: max(1, len(images) // 16)]):
            with _calls(model) as calls:
                logits = model(batch)
            # What hooks see of the whole may hold more than the logits.
            calls[-1] = replace(calls[-1], given=logits)
            _check_shape(setup, logits, batch, setup.plan.network.num_classes)
            passes.append(calls)
    logits = passes[0][-1].given
    found = []
    if logits is not None and logits.ndim == 2 and _are_probabilities(logits):
        found.append(_activated("softmax", setup.plan.loss))
    if where := _first_difference(passes[0], passes[1], 1e-3):
        return [
            *found,
            f"two evaluations of the same images differ, from {where} on: something is drawn at "
            "random in evaluation mode too; write F.dropout(x, p, training=self.training) or use "
            "nn.Dropout(p)",
        ]
    if where := _first_difference(passes[2], passes[0], _TOLERANCES.get(images.device.type, 1e-2)):
        found.append(
            f"in evaluation mode the logits of an image depend on the other images of its batch, "
            f"from {where} on: a norm that ignores eval() (it has to use running statistics where "
            "self.training is false), or a view that folds the batch into the features"
        )
    return found


def _are_probabilities(logits: Tensor) -> bool:
    sums = logits.sum(1)
    return bool((logits >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-3)


def _first_difference(ones: list[_Call], others: list[_Call], tolerance: float) -> str:
    """Name the innermost module that gives something else for the same images; empty for none.

    Args:
        ones: calls for some images.
        others: calls for the same images, and perhaps more after them.
        tolerance: relative to the largest value.
    """
    if len(ones) != len(others) or _is_same(ones[-1].given, others[-1].given, tolerance):
        return ""
    for one, other in zip(ones, others, strict=True):
        if one.name != other.name:
            break
        same_input = _is_same(one.taken, other.taken, tolerance)
        if same_input and not _is_same(one.given, other.given, tolerance):
            return f"{one.name} ({one.kind})" if one.name else "forward"
    return "forward"


def _is_same(one: Tensor | None, other: Tensor | None, tolerance: float) -> bool:
    """Compare the rows that two tensors both have; what is no tensor passes."""
    if one is None or other is None or one.ndim != other.ndim or not one.ndim:
        return True
    rows = min(len(one), len(other))
    if one.shape[1:] != other.shape[1:] or not one[:rows].numel():
        return True
    scale = one[:rows].abs().max().item()
    difference = (one[:rows] - other[:rows]).abs().max().item()
    return difference <= tolerance * scale + 1e-6
