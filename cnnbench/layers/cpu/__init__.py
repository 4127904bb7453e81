"""What stands in for torch's own kernels where a CPU trains faster, or only right, without them.

``products`` is for convolutions in bfloat16, ``winograd`` for those in float32, ``pools`` for 2x2
max pools, ``squares`` for convolutions of few channels with such a pool behind them, ``slices`` for
strided 1x1 convolutions, which torch's kernel can get wrong; ``use_cpu_kernels`` puts them into a
network by rules over its layers alone. ``ways`` are for layers whose kernel was found wrong on this
machine. A layer that computes something else than torch's belongs to ``layers``. Imports
``device``.
"""

from __future__ import annotations

from torch import nn

from cnnbench.device.precision import Precision
from cnnbench.layers.cpu.pools import use_halving
from cnnbench.layers.cpu.products import use_products
from cnnbench.layers.cpu.slices import use_slices
from cnnbench.layers.cpu.squares import use_squares
from cnnbench.layers.cpu.winograd import use_winograd


def use_cpu_kernels(
    model: nn.Module,
    precision: Precision,
    *,
    channels_last: bool,
    is_compiled: bool = False,
    winograd: bool = False,
) -> None:
    """Let the layers of a network that trains on a CPU use the kernels of this package.

    Its state dict stays as it is.

    Args:
        model: in place.
        precision: of its forward pass.
        channels_last: whether its images and weights are laid out channels last.
        is_compiled: whether it is to be run through ``torch.compile``, which has faster forms of
            its own and yet calls torch's convolutions.
        winograd: whether convolutions in float32 may go by Winograd's algorithm, or as products
            with the pool behind them.
    """
    use_slices(model)
    if is_compiled:
        return
    use_halving(model)
    if channels_last and precision.name == "bf16":
        use_products(model)
    if channels_last and precision.name == "fp32" and winograd:
        use_winograd(model)
        use_squares(model)
