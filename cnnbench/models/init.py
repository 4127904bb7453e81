"""Initial weights by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from cnnbench.errors import UsageError
from cnnbench.registry import Registry


def _keep(weight: Tensor) -> None:
    """Leave PyTorch's own values."""


def _normal(weight: Tensor) -> None:
    nn.init.normal_(weight, 0.0, 0.01)


def _constant(weight: Tensor) -> None:
    nn.init.constant_(weight, 1.0)


def _xavier_uniform(weight: Tensor) -> None:
    # Glorot and Bengio, https://proceedings.mlr.press/v9/glorot10a.html
    nn.init.xavier_uniform_(weight)


def _kaiming_normal(weight: Tensor) -> None:
    # He et al., https://arxiv.org/abs/1502.01852
    nn.init.kaiming_normal_(weight, nonlinearity="relu")


INITS: Registry[Callable[[Tensor], None]] = Registry(
    "initialisation",
    {
        "default": _keep,
        "normal": _normal,
        "constant": _constant,
        "xavier_uniform": _xavier_uniform,
        "kaiming_normal": _kaiming_normal,
    },
)


# Which layers are set.
INIT_LAYERS: Registry[tuple[type[nn.Module], ...]] = Registry(
    "init_layers",
    {"all": (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear), "linear": (nn.Linear,)},
)


def initialize(module: nn.Module, init: str = "default", layers: str = "all") -> None:
    """Set the weights of convolutions and linear layers in place, and their biases to zero.

    Norms are left alone, and so is everything with `default`, PyTorch's own initialisation.

    Args:
        module: the network.
        init: `default`, `normal` (0, 0.01), `constant` (1), `xavier_uniform` or `kaiming_normal`.
        layers: `all`, or `linear` to leave convolutions alone.

    Raises:
        UsageError: a name is unknown, or the network has no such layer.
    """
    fill, kinds = INITS[init], INIT_LAYERS[layers]
    if init == "default":
        return
    chosen = [layer for layer in module.modules() if isinstance(layer, kinds)]
    if not chosen:
        names = "linear layer" if layers == "linear" else "convolution or linear layer"
        raise UsageError(
            f"model.init={init} model.init_layers={layers}: has no effect: the network has no "
            f"{names}"
        )
    for layer in chosen:
        fill(layer.get_parameter("weight"))
        if layer.bias is not None:
            nn.init.zeros_(layer.get_parameter("bias"))
