"""What stands in for torch's own kernels where a CPU trains faster without them.

``products`` is for convolutions in bfloat16, ``pools`` for 2x2 max pools; ``use_cpu_kernels`` puts
both into a network by rules over its layers alone. A layer that computes something else than
torch's belongs to ``layers``. Imports ``device``.
"""

from __future__ import annotations

from torch import nn

from cnnbench.device.precision import Precision
from cnnbench.layers.cpu.pools import use_halving
from cnnbench.layers.cpu.products import use_products


def use_cpu_kernels(model: nn.Module, precision: Precision, *, channels_last: bool) -> None:
    """Let the layers of a network that trains on a CPU use the kernels of this package.

    Its state dict stays as it is.

    Args:
        model: in place; to be run as it is, not through ``torch.compile``.
        precision: of its forward pass.
        channels_last: whether its images and weights are laid out channels last.
    """
    use_halving(model)
    if channels_last and precision.name == "bf16":
        use_products(model)
