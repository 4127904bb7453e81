"""What a resumed run takes over from its checkpoints."""

from __future__ import annotations

from cnnbench.engine import Progress, TrainState
from cnnbench.errors import CheckpointError
from cnnbench.notices import warn
from cnnbench.runs.checkpoint import Checkpoints


def restore(checkpoints: Checkpoints, state: TrainState) -> Progress | None:
    """Take over the newest whole checkpoint, if there is one, and forget what came after it.

    Args:
        checkpoints: of the run.
        state: gets what was saved.

    Raises:
        CheckpointError: checkpoints were there and none is whole, or they are another run's.
    """
    newest = checkpoints.load_newest()
    if newest is None:
        if checkpoints.forget_unfinished():
            warn("the first checkpoint was never finished; training starts from the beginning")
        return None
    weights, saved, messages = newest
    for message in messages:
        warn(message)
    try:
        state.load_state_dict(weights["model"], saved["train_state"])
        progress = Progress.restored(saved["progress"])
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(
            f"{checkpoints.directory}: holds the state of another run "
            f"({type(error).__name__}: {error})"
        ) from None
    best = progress.best_epoch
    checkpoints.forget_after(state.global_step, epoch_name(best) if best else None)
    return progress


def epoch_name(epoch: int) -> str:
    """Return the name of the checkpoint at an epoch's end."""
    return f"epoch_{epoch:04d}"
