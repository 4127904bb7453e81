"""torch's optimizers without what surrounds their kernels: the compiler, groups and hooks."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from cnnbench.optim import muon

Tensors = list[torch.Tensor]


class WithoutCompiler(torch.optim.Optimizer):
    """An optimizer that leaves torch's compiler alone.

    torch wraps these methods so that ``torch.compile`` passes over them, and their first call
    imports the compiler, which takes more than a second of every start. Nothing here compiles an
    optimizer, so what is wrapped is called as it is.
    """

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with their own options."""
        inspect.unwrap(torch.optim.Optimizer.add_param_group)(self, param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset the gradients."""
        inspect.unwrap(torch.optim.Optimizer.zero_grad)(self, set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Return the state, as torch's optimizers do."""
        state: dict[str, Any] = inspect.unwrap(torch.optim.Optimizer.state_dict)(self)
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what ``state_dict`` returned."""
        inspect.unwrap(torch.optim.Optimizer.load_state_dict)(self, state_dict)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update the parameters once."""
        # torch puts its hooks around this method, so those around the wrapped one can go.
        return inspect.unwrap(super().step.__func__)(self, closure)  # type: ignore[attr-defined]

    def call_kernels(self, group: dict[str, Any], params: Tensors, grads: Tensors) -> None:
        """Update a group's parameters, whose state exists, by torch's fused kernel for CPUs."""
        raise NotImplementedError


class SGD(WithoutCompiler, torch.optim.SGD):
    """SGD, whose weight decay may act on the weights apart from the gradient."""

    def decouple_weight_decay(self) -> None:
        """Take each group's weight decay, times its rate, off the weights; no gradient has it."""
        for group in self.param_groups:
            group["decoupled_weight_decay"], group["weight_decay"] = group["weight_decay"], 0.0

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update the parameters once."""
        for group in self.param_groups:
            self._decay(group, [p for p in group["params"] if p.grad is not None])
        return super().step(closure)

    def _decay(self, group: dict[str, Any], params: Tensors) -> None:
        share = group["lr"] * group.get("decoupled_weight_decay", 0.0)
        if share and params:
            kept: Any = 1 - share
            # Where the kernel leaves the weights alone, so does this.
            if (found_inf := getattr(self, "found_inf", None)) is not None:
                kept = torch.where(found_inf == 1, 1.0, kept)
            torch._foreach_mul_(params, kept)

    def call_kernels(self, group: dict[str, Any], params: Tensors, grads: Tensors) -> None:
        """As ``torch.optim.sgd._fused_sgd`` calls it."""
        self._decay(group, params)
        has_momentum = group["momentum"] != 0
        buffers = [self.state[p]["momentum_buffer"] for p in params] if has_momentum else []
        options = ("weight_decay", "momentum", "lr", "dampening", "nesterov", "maximize")
        torch._fused_sgd_(
            params, grads, buffers, is_first_step=False, **{name: group[name] for name in options}
        )


class Adam(WithoutCompiler, torch.optim.Adam):
    """Adam."""

    kernel = staticmethod(torch._fused_adam_)

    def call_kernels(self, group: dict[str, Any], params: Tensors, grads: Tensors) -> None:
        """As ``torch.optim.adam._fused_adam`` calls it."""
        states = [self.state[p] for p in params]
        steps = [state["step"] for state in states]
        torch._foreach_add_(steps, 1)
        means = [state["exp_avg"] for state in states]
        squares = [state["exp_avg_sq"] for state in states]
        beta1, beta2 = group["betas"]
        options = ("amsgrad", "lr", "weight_decay", "eps", "maximize")
        values = {name: group[name] for name in options}
        self.kernel(params, grads, means, squares, [], steps, beta1=beta1, beta2=beta2, **values)


class AdamW(Adam, torch.optim.AdamW):
    """AdamW."""

    kernel = staticmethod(torch._fused_adamw_)


class RMSprop(WithoutCompiler, torch.optim.RMSprop):
    """RMSprop."""


class Muon(WithoutCompiler, muon.Muon):
    """Muon."""


def update(optimizer: torch.optim.Optimizer) -> None:
    """Update the parameters once, as ``optimizer.step()`` does, bit for bit.

    On a CPU ``step`` takes four times as long as the kernel that it calls: most of a small
    network's update is looking after groups, hooks and devices. Where there is one kernel to call
    and its state exists, this calls it.
    """
    groups = optimizer.param_groups
    if isinstance(optimizer, WithoutCompiler) and all(group.get("fused") for group in groups):
        pairs = [(group["params"], [p.grad for p in group["params"]]) for group in groups]
        if all(_is_plain(optimizer, *pair) for pair in pairs):
            with torch.no_grad():
                for group, (params, grads) in zip(groups, pairs, strict=True):
                    optimizer.call_kernels(group, params, grads)
            return
    optimizer.step()


def _is_plain(optimizer: torch.optim.Optimizer, params: Tensors, grads: list[Any]) -> bool:
    """Tell whether all these parameters have a gradient and, where needed, a state on the CPU."""
    has_state = optimizer.defaults.get("momentum") == 0 or all(p in optimizer.state for p in params)
    dtype = params[0].dtype
    return has_state and all(
        g is not None and g.is_cpu and not g.is_sparse and g.dtype is dtype for g in grads
    )


def supports_found_inf(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether ``step`` skips the update on the device where ``optimizer.found_inf`` is 1.

    Fused kernels read the attribute, a float32 tensor of shape ``()`` on the parameters' device;
    for others the host has to look and leave ``step`` out.
    """
    return all(group.get("fused") for group in optimizer.param_groups)
