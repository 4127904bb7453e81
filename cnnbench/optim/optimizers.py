"""Optimizers by name, fused where torch has a fused kernel, and which parameters decay."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from cnnbench.errors import UsageError
from cnnbench.optim.kernels import SGD, Adam, AdamW, Muon, RMSprop
from cnnbench.registry import Registry

ParamGroups = Sequence[dict[str, Any]]
_Kind = TypeVar("_Kind", SGD, Adam, AdamW)

NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)


def sgd(
    params: ParamGroups,
    *,
    lr: float = 0.01,
    weight_decay: float = 5e-4,
    decoupled_weight_decay: bool = False,
    momentum: float = 0.9,
) -> torch.optim.Optimizer:
    """Stochastic gradient descent with momentum, as AlexNet and VGG were trained.

    Args:
        params: parameter groups.
        lr: base learning rate; > 0. The papers' 0.01 also trains networks without batch norm.
        weight_decay: L2 penalty added to the gradient; >= 0.
        decoupled_weight_decay: take ``weight_decay`` times the learning rate off each weight
            instead, as AdamW does (Loshchilov and Hutter, 2019).
        momentum: in [0, 1).
    """
    options = {"weight_decay": weight_decay, "momentum": momentum}
    return _momentum_sgd(params, decoupled_weight_decay, lr=lr, **options)


def sgd_nesterov(
    params: ParamGroups,
    *,
    lr: float = 0.01,
    weight_decay: float = 5e-4,
    decoupled_weight_decay: bool = False,
    momentum: float = 0.9,
) -> torch.optim.Optimizer:
    """Stochastic gradient descent with Nesterov momentum (Sutskever et al., 2013).

    Args:
        params: parameter groups.
        lr: base learning rate; > 0.
        weight_decay: L2 penalty added to the gradient; >= 0.
        decoupled_weight_decay: as of ``sgd``.
        momentum: in (0, 1).

    Raises:
        UsageError: the momentum is 0, which leaves nothing to look ahead with.
    """
    if momentum == 0:
        raise UsageError("optimizer=sgd_nesterov needs momentum > 0; use optimizer=sgd without")
    options = {"weight_decay": weight_decay, "momentum": momentum}
    return _momentum_sgd(params, decoupled_weight_decay, lr=lr, nesterov=True, **options)


def adam(
    params: ParamGroups,
    *,
    lr: float = 1e-3,
    weight_decay: float = 0.0,
    betas: tuple[float, ...] = (0.9, 0.999),
    eps: float = 1e-8,
) -> torch.optim.Optimizer:
    """Adam (Kingma and Ba, 2015).

    Args:
        params: parameter groups.
        lr: base learning rate; > 0.
        weight_decay: L2 penalty added to the gradient; >= 0.
        betas: two decay rates, of the mean and of the square of the gradient; each in [0, 1).
        eps: added to the denominator; > 0.

    Raises:
        UsageError: ``betas`` are not two.
    """
    return _fused(Adam, params, lr=lr, weight_decay=weight_decay, betas=_pair(betas), eps=eps)


def adamw(
    params: ParamGroups,
    *,
    lr: float = 1e-3,
    weight_decay: float = 0.01,
    betas: tuple[float, ...] = (0.9, 0.999),
    eps: float = 1e-8,
) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019).

    Args:
        params: parameter groups.
        lr: base learning rate; > 0.
        weight_decay: share of a weight taken off per step, times the learning rate; >= 0.
        betas: two decay rates, of the mean and of the square of the gradient; each in [0, 1).
        eps: added to the denominator; > 0.

    Raises:
        UsageError: ``betas`` are not two.
    """
    return _fused(AdamW, params, lr=lr, weight_decay=weight_decay, betas=_pair(betas), eps=eps)


def rmsprop(
    params: ParamGroups,
    *,
    lr: float = 3e-4,
    weight_decay: float = 0.0,
    alpha: float = 0.99,
    eps: float = 1e-8,
    momentum: float = 0.0,
    centered: bool = False,
) -> torch.optim.Optimizer:
    """RMSprop (Tieleman and Hinton, 2012). torch has no fused kernel for it.

    Args:
        params: parameter groups.
        lr: base learning rate; > 0. The average of squares starts at 0 and is not corrected, so
            that the first step is 1 / sqrt(1 - alpha) = 10 times as long.
        weight_decay: L2 penalty added to the gradient; >= 0.
        alpha: decay rate of the average of squares; in [0, 1).
        eps: added to the denominator; > 0.
        momentum: in [0, 1).
        centered: divide by the variance of the gradient, not by its mean square.
    """
    return RMSprop(
        params,
        lr=lr,
        weight_decay=weight_decay,
        alpha=alpha,
        eps=eps,
        momentum=momentum,
        centered=centered,
    )


def muon(
    params: ParamGroups,
    *,
    lr: float = 5e-3,
    weight_decay: float = 0.01,
    momentum: float = 0.95,
    betas: tuple[float, ...] = (0.9, 0.95),
    eps: float = 1e-8,
) -> torch.optim.Optimizer:
    """Orthogonal momentum for the weights of layers, AdamW for the rest (Jordan et al., 2024).

    Args:
        params: parameter groups.
        lr: base learning rate, on AdamW's scale; > 0.
        weight_decay: share of a weight taken off per step, times the learning rate; >= 0.
        momentum: of the layers' weights; in [0, 1).
        betas: AdamW's two decay rates; each in [0, 1).
        eps: added to AdamW's denominator; > 0.

    Raises:
        UsageError: ``betas`` are not two.
    """
    return Muon(
        params, lr=lr, weight_decay=weight_decay, momentum=momentum, betas=_pair(betas), eps=eps
    )


OPTIMIZERS: Registry[Callable[..., torch.optim.Optimizer]] = Registry(
    "optimizer",
    {
        "sgd": sgd,
        "sgd_nesterov": sgd_nesterov,
        "adam": adam,
        "adamw": adamw,
        "rmsprop": rmsprop,
        "muon": muon,
    },
)


def build_optimizer(
    name: str,
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    decay_norms_and_biases: bool,
    args: Mapping[str, Any],
    bias_lr_factor: float = 1.0,
) -> torch.optim.Optimizer:
    """Return an optimizer over the trainable parameters of a model.

    Args:
        name: a key of ``OPTIMIZERS``.
        model: already on its device and in its memory layout; frozen parameters are left out.
        lr: base learning rate; > 0.
        weight_decay: >= 0.
        decay_norms_and_biases: whether weight decay also acts on the parameters of norm layers
            and on all with at most one dimension.
        args: the optimizer's own arguments.
        bias_lr_factor: learning rate of biases, those of norms included, over that of the rest;
            > 0.

    Raises:
        UsageError: the name is unknown, an argument is not one of the optimizer's, or nothing
            in the model is trainable.
    """
    constructor = OPTIMIZERS[name]
    groups = parameter_groups(
        model, weight_decay=weight_decay, decay_norms_and_biases=decay_norms_and_biases
    )
    if bias_lr_factor != 1:
        groups = _with_bias_rate(groups, model, lr * bias_lr_factor)
    optimizer = constructor(groups, lr=lr, weight_decay=weight_decay, **args)
    optimizer.register_load_state_dict_post_hook(_match_layouts)
    return optimizer


def parameter_groups(
    model: nn.Module, *, weight_decay: float, decay_norms_and_biases: bool
) -> list[dict[str, Any]]:
    """Split the trainable parameters into those that decay and those that do not.

    Returns:
        One or two groups with the keys ``params`` and ``weight_decay``; none is empty, and the
        order is that of ``model.named_parameters()``.

    Raises:
        UsageError: nothing in the model is trainable.
    """
    in_norms = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, NORMS)
        for parameter in module.parameters(recurse=False)
    }
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        small = parameter.ndim <= 1 or id(parameter) in in_norms
        (kept if small and not decay_norms_and_biases else decayed).append(parameter)
    if not decayed and not kept:
        raise UsageError("nothing to train: every parameter of the network is frozen")
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _with_bias_rate(
    groups: list[dict[str, Any]], model: nn.Module, lr: float
) -> list[dict[str, Any]]:
    """Put the biases of each group into one of their own, behind it, with their own rate."""
    biases = {id(p) for name, p in model.named_parameters() if name.rpartition(".")[2] == "bias"}
    split = []
    for group in groups:
        rest = [p for p in group["params"] if id(p) not in biases]
        chosen = [p for p in group["params"] if id(p) in biases]
        split += [{**group, "params": rest}, {**group, "params": chosen, "lr": lr}]
    return [group for group in split if group["params"]]


def _fused(kind: type[_Kind], params: ParamGroups, **options: Any) -> _Kind:
    """Return an optimizer with torch's fused kernels, which refuse complex parameters."""
    is_complex = any(p.is_complex() for group in params for p in group["params"])
    return kind(params, fused=not is_complex, **options)


def _pair(betas: tuple[float, ...]) -> tuple[float, float]:
    if len(betas) != 2:
        raise UsageError(
            f"optimizer.betas={list(betas)}: expected two numbers such as [0.9, 0.999]"
        )
    return betas[0], betas[1]


def _momentum_sgd(params: ParamGroups, is_decoupled: bool, **options: Any) -> SGD:
    optimizer = _fused(SGD, params, **options)
    if is_decoupled:
        optimizer.decouple_weight_decay()
    if not options["momentum"]:
        return optimizer
    # torch allocates them uninitialised on the first step; if found_inf skips that step, the
    # second would add momentum from whatever the memory held. Zeros give the same first step.
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def _match_layouts(optimizer: torch.optim.Optimizer) -> None:
    # Fused CPU kernels walk memory and ignore strides: with averages saved by a channels_last run
    # and weights that are not, they would silently pair each average with another weight.
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
