"""Muon: momentum whose direction is made orthogonal, for the weights of layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

# An odd polynomial whose slope at 0 is steep, so that few iterations bring every singular value
# near 1 (Jordan et al., 2024). It ends between .7 and 1.2, which trains as well as exactly 1.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_NEWTON_SCHULZ_STEPS = 5
# The root mean square of an update of AdamW's, so that its rates serve (Liu et al., 2025).
_ADAMW_RMS = 0.2


def orthogonalize(matrices: Tensor, steps: int = _NEWTON_SCHULZ_STEPS) -> Tensor:
    """Bring the singular values of each matrix near 1 by Newton-Schulz iterations.

    Args:
        matrices: (N, rows, columns), float.
        steps: iterations, >= 1.

    Returns:
        Of the same shape; for a matrix U S V^T about U V^T.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Orthogonal momentum for weights of two or more dimensions, AdamW for the others.

    A filter (out, in, kh, kw) is one row (in * kh * kw) of its layer's matrix; matrices of one
    shape are orthogonalised together. The last weight, which is the head's, is AdamW's too, as the
    authors advise. An update of a matrix is scaled to the size of AdamW's (0.2 sqrt(max(rows,
    columns))), so that one learning rate and weight decay serve both.

    Sources: Jordan et al., 2024, https://kellerjordan.github.io/posts/muon; the scale from Liu et
    al., 2025, https://arxiv.org/abs/2502.16982.

    Args:
        params: parameters or groups of them.
        lr: > 0.
        weight_decay: share of a weight taken off per step, times the learning rate; >= 0.
        momentum: of the matrices, Nesterov's; in [0, 1).
        betas: AdamW's decay rates.
        eps: added to AdamW's denominator; > 0.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float,
        weight_decay: float,
        momentum: float,
        betas: tuple[float, float],
        eps: float,
    ) -> None:
        options = {"weight_decay": weight_decay, "momentum": momentum, "betas": betas, "eps": eps}
        super().__init__(params, {"lr": lr, **options})

    def _matrices(self) -> list[Tensor]:
        """Return the weights whose momentum is made orthogonal: all layers' but the last one's."""
        # Found anew each time: a copy of an optimizer has no more than torch gives it.
        every = [p for group in self.param_groups for p in group["params"]]
        return [p for p in every if p.ndim >= 2][:-1]

    @property
    def matrix_bytes(self) -> int:
        """Memory of the weights whose momentum is made orthogonal."""
        return sum(p.nbytes for p in self._matrices())

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update the parameters once."""
        matrices = set(map(id, self._matrices()))
        for group in self.param_groups:
            with_gradient = [p for p in group["params"] if p.grad is not None]
            by_shape: dict[torch.Size, list[Tensor]] = {}
            others = []
            for parameter in with_gradient:
                if id(parameter) in matrices:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
                else:
                    others.append(parameter)
            if group["weight_decay"] and with_gradient:
                torch._foreach_mul_(with_gradient, 1 - group["lr"] * group["weight_decay"])
            for parameters in by_shape.values():
                self._step_matrices(parameters, group)
            for parameter in others:
                self._step_adam(parameter, group)

    def _step_matrices(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        momentum = group["momentum"]
        updates = []
        for parameter in parameters:
            state, gradient = self.state[parameter], parameter.grad
            assert gradient is not None
            if not state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            average = state["momentum_buffer"].lerp_(gradient, 1 - momentum)
            updates.append(gradient.lerp(average, momentum).reshape(len(parameter), -1))
        directions = orthogonalize(torch.stack(updates))
        scale = _ADAMW_RMS * max(directions.shape[1:]) ** 0.5
        for parameter, direction in zip(parameters, directions, strict=True):
            parameter.add_(direction.view(parameter.shape), alpha=-group["lr"] * scale)

    def _step_adam(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1
        first, second = group["betas"]
        count = float(state["step"])
        mean = state["exp_avg"].lerp_(gradient, 1 - first)
        square = state["exp_avg_sq"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
        denominator = (square / (1 - second**count)).sqrt_().add_(group["eps"])
        parameter.addcdiv_(mean, denominator, value=-group["lr"] / (1 - first**count))
