"""Stopping where a number is infinite or none: later ones would only be worse."""

from __future__ import annotations

import math

from cnnbench.engine.state import TrainState
from cnnbench.errors import NonFiniteError

_MIN_SCALE = 1.0  # below it, loss scaling would shrink what it is there to raise


def check_step(state: TrainState, loss: float, grad_norm: float) -> None:
    """Stop where an update was skipped; a loss scaler's own skips are normal while it can.

    Raises:
        NonFiniteError: a number of the newest step is not finite.
    """
    scaler = state.scaler
    if scaler is not None and math.isfinite(loss) and scaler.get_scale() >= _MIN_SCALE:
        return
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        raise update_error(state, loss, grad_norm)


def check_loss(state: TrainState, split: str, loss: float) -> None:
    """Stop where evaluation gives no number.

    Raises:
        NonFiniteError: it does not.
    """
    if not math.isfinite(loss):
        raise _error(state, f"{split} loss is {loss}")


def check_weights(state: TrainState) -> None:
    """Refuse to save what the last update broke: the next one would only find it later.

    Raises:
        NonFiniteError: a weight or a running statistic is not finite.
    """
    values = state.evaluated_model.state_dict().values()
    if not all(bool(value.isfinite().all()) for value in values if value.is_floating_point()):
        raise _error(state, "weights are not finite")


def update_error(
    state: TrainState, loss: float, grad_norm: float, *, is_counted: bool = True
) -> NonFiniteError:
    """Return the error of a step whose update was skipped.

    Args:
        state: as the step left it.
        loss: of the step.
        grad_norm: likewise.
        is_counted: whether the state counts the step already.
    """
    what = f"loss is {loss} and the gradient norm {grad_norm}, so no update was made,"
    return _error(state, what, next_step=not is_counted)


def _error(state: TrainState, what: str, *, next_step: bool = False) -> NonFiniteError:
    lr = state.optimizer.param_groups[0]["lr"]
    epoch = state.epoch + (next_step or state.epoch_step > 0)
    return NonFiniteError(
        f"epoch {epoch}, step {state.global_step + next_step}: the {what} at learning rate {lr:g}. "
        "Lower optimizer.lr or raise scheduler.warmup_fraction."
    )
