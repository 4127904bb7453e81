"""Initial weights by name."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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


def _dirac(weight: Tensor) -> None:
    # As many filters as there are input channels pass one on; the others keep their values.
    nn.init.dirac_(weight[: weight.shape[1]])


INITS: Registry[Callable[[Tensor], None]] = Registry(
    "initialisation",
    {
        "default": _keep,
        "normal": _normal,
        "constant": _constant,
        "xavier_uniform": _xavier_uniform,
        "kaiming_normal": _kaiming_normal,
        "dirac": _dirac,
    },
)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


# Which layers are set.
INIT_LAYERS: Registry[tuple[type[nn.Module], ...]] = Registry(
    "init_layers",
    {"all": (*_CONVOLUTIONS, nn.Linear), "linear": (nn.Linear,)},
)


def initialize(module: nn.Module, init: str = "default", layers: str = "all") -> None:
    """Set the weights of convolutions and linear layers in place, and their biases to zero.

    Norms are left alone, and so is everything with `default`, PyTorch's own initialisation.

    Args:
        module: the network.
        init: `default`, `normal` (0, 0.01), `constant` (1), `xavier_uniform`, `kaiming_normal`, or
            `dirac`, which acts on convolutions alone: their first filters are the identity
            (Zagoruyko and Komodakis, 2017, https://arxiv.org/abs/1706.00388).
        layers: `all`, or `linear` to leave convolutions alone.

    Raises:
        UsageError: a name is unknown, or the network has no such layer.
    """
    fill, kinds = INITS[init], INIT_LAYERS[layers]
    if init == "default":
        return
    is_dirac = init == "dirac"
    kinds = tuple(kind for kind in kinds if not is_dirac or kind in _CONVOLUTIONS)
    chosen = [layer for layer in module.modules() if isinstance(layer, kinds)]
    if not chosen:
        names = "linear layer" if layers == "linear" else "convolution or linear layer"
        names = "convolution that is asked for" if is_dirac else names
        raise UsageError(
            f"model.init={init} model.init_layers={layers}: has no effect: the network has no "
            f"{names}"
        )
    for layer in chosen:
        fill(layer.get_parameter("weight"))
        if layer.bias is not None:
            nn.init.zeros_(layer.get_parameter("bias"))


# Patches are taken from this many positions of a side at most: more tell nothing more.
_PATCH_POSITIONS = 28
# Directions in which patches hardly differ would else be blown up noise.
_WHITEN_EPS = 5e-4


def first_convolution(module: nn.Module) -> nn.Conv2d:
    """Return the first 2-d convolution of a network, in the order of its modules.

    Raises:
        UsageError: it has none.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            return layer
    raise UsageError("model.whiten=true: the network has no convolution; set model.whiten=false")


@torch.no_grad()
def whiten(module: nn.Module, images: Tensor) -> None:
    """Start the first convolution with filters that whiten the patches of images, in place.

    The filters are the principal directions of the patches, each scaled to unit variance, and
    their negatives, the strongest first, as far as the layer's output channels reach; others keep
    their values. The bias becomes 0. As in Jordan, 2024, https://arxiv.org/abs/2404.00498, but
    the layer is trained on.

    Args:
        module: the network.
        images: network input, (N, C, H, W), of some hundred images at least.

    Raises:
        UsageError: the network has no convolution.
    """
    layer = first_convolution(module)
    stride = max(1, images.shape[2] // _PATCH_POSITIONS)
    patches = F.unfold(images.float(), layer.kernel_size, stride=stride)
    rows = patches.transpose(1, 2).reshape(-1, patches.shape[1]).double()
    # A grouped convolution sees some of the channels.
    rows = rows[:, : layer.weight[0].numel()]
    values, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))
    directions = (vectors / (values + _WHITEN_EPS).sqrt()).T.flip(0)
    both = torch.stack([directions, -directions], dim=1).flatten(0, 1)[: len(layer.weight)]
    layer.weight[: len(both)] = both.view(-1, *layer.weight.shape[1:]).to(layer.weight)
    if layer.bias is not None:
        layer.bias.zero_()
