from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import nn

from cnnbench.tracking import JsonLines, Memory, TensorBoard, Tracker, Trackers, read_records

PICTURE = torch.zeros(1, 2, 2, dtype=torch.uint8)


class Failing(Memory):
    def close(self) -> None:
        raise OSError("close failed")


class Counting(Memory):
    flushed = closed = 0

    def flush(self) -> None:
        self.flushed += 1

    def close(self) -> None:
        self.closed += 1


def test_each_tracker_gets_everything() -> None:
    sinks = Counting(), Counting()
    trackers = Trackers(*sinks)
    module = nn.Identity()
    trackers.scalars({"train/loss": 1.5, "epoch": 1}, 7)
    trackers.images("train/plain", PICTURE, 8)
    trackers.graph(module, PICTURE, 0)
    trackers.flush()
    trackers.close()
    for sink in sinks:
        assert sink.records == [{"train/loss": 1.5, "epoch": 1, "global_step": 7}]
        assert sink.logged_images == [("train/plain", 8, PICTURE)]
        assert sink.graphs == [module]
        assert (sink.flushed, sink.closed) == (1, 1)


def test_one_that_fails_to_close_does_not_keep_the_others_open() -> None:
    first, last = Counting(), Counting()
    with pytest.raises(OSError, match="close failed"):
        Trackers(first, Failing(), last).close()
    assert (first.closed, last.closed) == (1, 1)


def test_the_file_and_tensorboard_hold_the_same_numbers(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log: Tracker = Trackers(
        JsonLines(tmp_path / "metrics.jsonl"), TensorBoard(tmp_path, warn=pytest.fail)
    )
    values: Mapping[str, float] = {"epoch": 1, "train/loss": 0.5, "val/accuracy": 0.25}
    log.scalars(values, 3)
    log.images("train/plain", PICTURE, 3)
    log.graph(nn.Linear(2, 2), torch.zeros(1, 2), 0)
    log.close()
    found = EventAccumulator(str(tmp_path))
    found.Reload()
    (record,) = read_records(tmp_path / "metrics.jsonl")
    assert record == {**values, "global_step": 3}
    assert set(found.Tags()["scalars"]) == {"train/loss", "val/accuracy"}
    for name in ("train/loss", "val/accuracy"):
        (point,) = found.Scalars(name)
        assert (point.step, point.value) == (3, values[name])
