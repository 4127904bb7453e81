"""A moving average of a network's weights that also serves short runs."""

from __future__ import annotations

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class MovingAverage(AveragedModel):
    """An exponential moving average of weights and buffers whose decay is warmed up.

    After ``n`` updates the next one decays by ``min(decay, (1 + n) / (10 + n))``, as in
    TensorFlow's ``ExponentialMovingAverage``. Without it 0.999 would keep a third of the first
    weights, which know nothing, after 1,100 updates. ``n`` is ``n_averaged``, which a checkpoint
    holds, so that a resumed run averages as the uninterrupted one does.

    Args:
        model: on its device; copied.
        decay: the share of the average that stays at an update, in (0, 1).

    Example:
        >>> average = MovingAverage(model, 0.999)
        >>> average.update_parameters(model)  # after each optimizer update
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model, multi_avg_fn=self._update, use_buffers=True)
        self.decay = decay

    def effective_decay(self) -> float:
        """Return the decay of the next update."""
        # Counted on the CPU: no step waits for a GPU.
        count = int(self.n_averaged)
        return min(self.decay, (1 + count) / (10 + count))

    def _update(
        self,
        averages: tuple[Tensor, ...] | list[Tensor],
        currents: tuple[Tensor, ...] | list[Tensor],
        num_averaged: Tensor | int,
    ) -> None:
        get_ema_multi_avg_fn(self.effective_decay())(averages, currents, num_averaged)
