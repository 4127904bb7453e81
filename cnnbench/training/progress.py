"""What a run's driver remembers, and how a stopped run finds it again."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from cnnbench.engine import TrainState
from cnnbench.errors import CheckpointError
from cnnbench.runs.checkpoint import Checkpoints


@dataclass
class Progress:
    """What the driver itself remembers from checkpoint to checkpoint.

    Attributes:
        ended_epoch: the last epoch that was evaluated, logged and saved.
        train_seconds: spent in training steps, in all.
        epoch_seconds: of those, in the running epoch.
        best_epoch: the epoch whose weights are selected so far; 0 before the first.
        best_value: its value of what is selected on.
        best_val: its ``val/loss`` and ``val/accuracy``, where it was evaluated.
        test_reads: how often the test set was read.
    """

    ended_epoch: int = 0
    train_seconds: float = 0.0
    epoch_seconds: float = 0.0
    best_epoch: int = 0
    best_value: float = -math.inf
    best_val: dict[str, float] = field(default_factory=dict)
    test_reads: int = 0


def restore(
    checkpoints: Checkpoints, state: TrainState, warn: Callable[[str], None]
) -> Progress | None:
    """Take over the newest whole checkpoint, if there is one, and forget what came after it.

    Args:
        checkpoints: of the run.
        state: gets what was saved.
        warn: takes a message for the user.

    Raises:
        CheckpointError: checkpoints were there and none is whole, or they are another run's.
    """
    loaded = checkpoints.load_newest()
    if loaded is None:
        if checkpoints.forget_unfinished():
            warn("the first checkpoint was never finished; training starts from the beginning")
        return None
    weights, saved, messages = loaded
    for message in messages:
        warn(message)
    try:
        state.load_state_dict(weights["model"], saved["train_state"])
        names = [item.name for item in dataclasses.fields(Progress)]
        progress = Progress(**{name: saved["progress"][name] for name in names})
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
