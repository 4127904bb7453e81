"""What a resumed run takes over from its checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cnnbench.engine import Progress, TrainState
from cnnbench.engine.world import World
from cnnbench.errors import CheckpointError
from cnnbench.notices import warn
from cnnbench.runs.checkpoint import Checkpoints, read_tensors, write_tensors


class SharedCheckpoints(Checkpoints):
    """The checkpoints of a run, which the first of its processes writes, and reads for all.

    Args:
        directory: ``RUN/checkpoints``.
        world: the processes that train together.
    """

    def __init__(self, directory: Path, world: World) -> None:
        super().__init__(directory)
        self._own, self._world = Checkpoints(directory), world

    def save(self, *args: Any, **options: Any) -> None:
        """Write one, as ``Checkpoints.save`` does."""
        if self._world.is_first:
            self._own.save(*args, **options)

    def load(self, name: str, part: str = "weights") -> dict[str, Any]:
        """Return one file's content, as ``Checkpoints.load`` does."""
        content: dict[str, Any] = self._shared(lambda: self._own.load(name, part))
        return content

    def load_newest(self) -> tuple[dict[str, Any], dict[str, Any], list[str]] | None:
        """Return what ``Checkpoints.load_newest`` does; the sums so far go to the first process."""
        newest = self._shared(self._own.load_newest)
        if newest is None:
            return None
        weights, state, messages = newest
        if not self._world.is_first:
            sums = state["train_state"]["sums"]
            state["train_state"]["sums"] = {name: value * 0 for name, value in sums.items()}
        return weights, state, messages

    def forget_after(self, global_step: int, best: str | None) -> None:
        """Drop newer ones, as ``Checkpoints.forget_after`` does."""
        if self._world.is_first:
            self._own.forget_after(global_step, best)

    def forget_unfinished(self) -> bool:
        """Remove what a first save left, as ``Checkpoints.forget_unfinished`` does."""
        return self._world.is_first and self._own.forget_unfinished()

    def _shared(self, read: Callable[[], Any]) -> Any:
        if self._world.size == 1:
            return read()
        content = self._world.send(lambda: write_tensors({"read": read()}))
        return read_tensors(content, self.directory)["read"]


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
