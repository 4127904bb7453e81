"""What training changes and what its driver remembers, and therefore what a checkpoint holds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from cnnbench.metrics import Sums

_COUNTS = ("epoch", "epoch_step", "global_step")


@dataclass
class TrainState:
    """All that the loop changes. Random numbers need no state: they are counted, not consumed.

    Args:
        model: the network in training.
        optimizer: its ``param_groups`` hold the base learning rate as ``initial_lr``.
        average: the moving average of the weights that evaluation uses, or ``None``.
        scaler: loss scaling for fp16, or ``None``.
        sums: loss and accuracy over the running epoch's training steps.
        epoch: epochs finished.
        epoch_step: optimizer updates made in the running epoch.
        global_step: optimizer updates made in the run.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    sums: Sums
    average: AveragedModel | None = None
    scaler: torch.amp.GradScaler | None = None
    epoch: int = 0
    epoch_step: int = 0
    global_step: int = 0

    @property
    def evaluated_model(self) -> nn.Module:
        """The network whose accuracy counts: the average where there is one."""
        return self.model if self.average is None else self.average.module

    def state_dict(self) -> dict[str, Any]:
        """Return what resuming needs beside the evaluated weights, as plain values and tensors."""
        state: dict[str, Any] = {name: getattr(self, name) for name in _COUNTS}
        state["optimizer"] = self.optimizer.state_dict()
        state["sums"] = self.sums.state_dict()
        if self.average is not None:
            state["model"] = self.model.state_dict()
            state["num_averaged"] = self.average.n_averaged
        if self.scaler is not None:
            state["scaler"] = self.scaler.state_dict()
        return state

    def load_state_dict(self, weights: dict[str, Any], state: dict[str, Any]) -> None:
        """Take over a saved state.

        Args:
            weights: the evaluated network's state dict.
            state: what ``state_dict`` returned.
        """
        if self.average is not None:
            self.average.module.load_state_dict(weights)
            self.average.n_averaged.copy_(state["num_averaged"])
            self.model.load_state_dict(state["model"])
        else:
            self.model.load_state_dict(weights)
        self.optimizer.load_state_dict(state["optimizer"])
        self.sums.load_state_dict(state["sums"])
        if self.scaler is not None and "scaler" in state:
            self.scaler.load_state_dict(state["scaler"])
        for name in _COUNTS:
            setattr(self, name, state[name])


@dataclass
class Progress:
    """What the driver of the loop remembers from checkpoint to checkpoint.

    Attributes:
        ended_epoch: the last epoch that was evaluated, logged and saved.
        train_seconds: spent in training steps, in all.
        epoch_seconds: of those, in the running epoch.
        data_seconds: of those, spent fetching and preparing batches.
        best_epoch: the epoch whose weights are selected so far; 0 before the first.
        best_value: its value of what is selected on.
        best_val: its ``val/loss`` and ``val/accuracy``, where it was evaluated.
        test_reads: how often the test set was read.
        num_steps: updates of the whole run, where a budget of seconds fixed them; else 0.
    """

    ended_epoch: int = 0
    train_seconds: float = 0.0
    epoch_seconds: float = 0.0
    data_seconds: float = 0.0
    best_epoch: int = 0
    best_value: float = -math.inf
    best_val: dict[str, float] = field(default_factory=dict)
    test_reads: int = 0
    num_steps: int = 0

    @classmethod
    def restored(cls, saved: dict[str, Any]) -> Progress:
        """Return what a checkpoint holds; an older one has no ``num_steps`` or ``data_seconds``.

        Raises:
            KeyError: a field is missing.
        """
        saved = {"num_steps": 0, "data_seconds": 0.0, **saved}
        return cls(**{item.name: saved[item.name] for item in fields(cls)})
