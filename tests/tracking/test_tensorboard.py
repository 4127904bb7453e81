from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cnnbench.tracking import TensorBoard


def fail(message: str) -> None:
    pytest.fail(message)


def read(directory: Path) -> Any:
    """Return TensorBoard's own view of a directory."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(directory), size_guidance={"scalars": 0, "images": 0})
    accumulator.Reload()
    return accumulator


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3),
        nn.BatchNorm2d(2),
        nn.ReLU(),
        nn.Dropout(),
        nn.Flatten(),
        nn.Linear(32, 3),
    )


def test_tensorboards_own_reader_finds_every_number(tmp_path: Path) -> None:
    writer = TensorBoard(tmp_path, warn=fail)
    for step in range(1, 6):
        writer.scalars({"train/loss": 1 / step, "epoch": 1}, step)
    writer.scalars({"val/loss": float("nan")}, 5)
    writer.close()
    writer.close()
    found = read(tmp_path)
    assert set(found.Tags()["scalars"]) == {"train/loss", "val/loss"}
    points = [(point.step, point.value) for point in found.Scalars("train/loss")]
    assert points == [(step, pytest.approx(1 / step)) for step in range(1, 6)]
    assert math.isnan(found.Scalars("val/loss")[0].value)
    names = [path.name for path in tmp_path.iterdir()]
    assert len(names) == 1
    assert names[0].startswith("events.out.tfevents.")


def test_numbers_are_readable_after_a_flush(tmp_path: Path) -> None:
    writer = TensorBoard(tmp_path, warn=fail)
    writer.scalars({"a": 1.0}, 1)
    writer.flush()
    assert [point.value for point in read(tmp_path).Scalars("a")] == [1.0]
    writer.close()


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_come_back_pixel_by_pixel(tmp_path: Path, channels: int) -> None:
    pixels = torch.randint(256, (channels, 5, 7), dtype=torch.uint8)
    writer = TensorBoard(tmp_path, warn=fail)
    writer.images("train/plain", pixels, 3)
    writer.close()
    (event,) = read(tmp_path).Images("train/plain")
    assert (event.step, event.height, event.width) == (3, 5, 7)
    decoded = np.array(Image.open(io.BytesIO(event.encoded_image_string)))
    expected = pixels[0] if channels == 1 else pixels.permute(1, 2, 0)
    np.testing.assert_array_equal(decoded, expected.numpy())


def test_a_run_that_goes_on_hides_the_steps_it_repeats(tmp_path: Path) -> None:
    first = TensorBoard(tmp_path, warn=fail)
    for step in (1, 2, 3, 4):
        first.scalars({"a": float(step)}, step)
    first.close()
    second = TensorBoard(tmp_path, purge_step=3, warn=fail)
    for step in (3, 4, 5):
        second.scalars({"a": 10.0 * step}, step)
    second.close()
    points = [(point.step, point.value) for point in read(tmp_path).Scalars("a")]
    assert points == [(1, 1.0), (2, 2.0), (3, 30.0), (4, 40.0), (5, 50.0)]


def test_graph_shows_the_layers_and_disturbs_nothing(tmp_path: Path) -> None:
    module = network()
    module.train()
    module[1].eval()
    module[0].weight.grad = torch.ones_like(module[0].weight)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    modes = [part.training for part in module.modules()]
    random_state = torch.get_rng_state()
    writer = TensorBoard(tmp_path, warn=fail)
    writer.graph(module, torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(0)))
    writer.close()
    assert [part.training for part in module.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.equal(module[0].weight.grad, torch.ones_like(module[0].weight))
    assert module[5].weight.grad is None
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name
    definition = read(tmp_path).Graph()
    operations = {node.op for node in definition.node}
    assert {"aten::_convolution", "aten::batch_norm", "aten::linear"} <= operations


class Untraceable(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.rand(1)
        raise RuntimeError("no such luck\nsecond line")


def test_a_graph_that_fails_is_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    messages: list[str] = []
    writer = TensorBoard(tmp_path, warn=messages.append)
    random_state = torch.get_rng_state()
    writer.graph(Untraceable(), torch.zeros(1))
    writer.scalars({"a": 1.0}, 1)
    writer.close()
    assert messages == ["TensorBoard shows no graph of this network: no such luck"]
    assert torch.equal(torch.get_rng_state(), random_state)
    assert capsys.readouterr() == ("", "")
    assert read(tmp_path).Scalars("a")[0].value == 1.0


def test_a_directory_that_cannot_be_written_warns_once(tmp_path: Path) -> None:
    messages: list[str] = []
    writer = TensorBoard(tmp_path / "missing", warn=messages.append)
    for step in range(3):
        writer.scalars({"a": 1.0}, step)
    writer.images("b", torch.zeros(1, 2, 2, dtype=torch.uint8), 1)
    writer.flush()
    writer.close()
    assert len(messages) == 1
    assert "metrics.jsonl has every number" in messages[0]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is always full")
def test_a_full_disk_warns_once_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    really_open = Path.open
    monkeypatch.setattr(Path, "open", lambda path, mode: really_open(Path("/dev/full"), "wb"))
    messages: list[str] = []
    writer = TensorBoard(tmp_path, warn=messages.append)
    for step in range(3):
        writer.scalars({"a": 1.0}, step)
        writer.flush()
    writer.close()
    assert len(messages) == 1
    assert "No space left" in messages[0]
    assert capsys.readouterr() == ("", "")
