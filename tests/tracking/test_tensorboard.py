from __future__ import annotations

import io
import math
import os
import subprocess
import sys
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


def test_a_run_that_goes_on_drops_what_it_writes_again(tmp_path: Path) -> None:
    first = TensorBoard(tmp_path, warn=fail)
    first.images("image", torch.zeros(1, 2, 2, dtype=torch.uint8), 0)
    for step in (1, 2, 3, 4):
        first.scalars({"a": float(step)}, step)
        first.scalars({"test/loss": float(step)}, step)
    first.close()
    second = TensorBoard(
        tmp_path, resumed_after=3, is_written_again=lambda tags: "test/loss" in tags, warn=fail
    )
    for step in (4, 5):
        second.scalars({"a": 10.0 * step}, step)
    second.scalars({"test/loss": 30.0}, 3)
    second.close()
    found = read(tmp_path)
    points = {tag: [(p.step, p.value) for p in found.Scalars(tag)] for tag in ("a", "test/loss")}
    assert points == {
        "a": [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0), (5, 50.0)],
        "test/loss": [(1, 1.0), (2, 2.0), (3, 30.0)],
    }
    assert [event.step for event in found.Images("image")] == [0]


def test_a_run_that_starts_again_drops_all(tmp_path: Path) -> None:
    for _ in range(2):
        writer = TensorBoard(tmp_path, warn=fail)
        writer.images("image", torch.zeros(1, 2, 2, dtype=torch.uint8), 0)
        writer.scalars({"a": 1.0}, 1)
        writer.close()
    found = read(tmp_path)
    assert (len(found.Images("image")), len(found.Scalars("a"))) == (1, 1)


def test_histograms_hold_what_the_tensor_does(tmp_path: Path) -> None:
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    broken = torch.cat([values, torch.tensor([torch.nan, torch.inf])])
    writer = TensorBoard(tmp_path, warn=fail)
    tensors = {"weights/a": broken, "weights/same": torch.ones(7), "none": torch.empty(0)}
    writer.histograms(tensors, 3)
    writer.close()
    found = read(tmp_path)
    assert set(found.Tags()["histograms"]) == {"weights/a", "weights/same"}
    [event] = found.Histograms("weights/a")
    histogram = event.histogram_value
    assert (event.step, histogram.num) == (3, 1000)
    assert histogram.min == pytest.approx(values.min().item())
    assert histogram.max == pytest.approx(values.max().item())
    assert histogram.sum == pytest.approx(values.double().sum().item())
    assert histogram.sum_squares == pytest.approx(values.double().square().sum().item())
    edges = np.array(histogram.bucket_limit)
    assert edges[[0, -1]] == pytest.approx([histogram.min, histogram.max])
    for place in range(1, len(edges) - 1):
        inside = ((values >= edges[place - 1]) & (values < edges[place])).sum()
        assert histogram.bucket[place] == inside
    assert sum(histogram.bucket) == 1000
    [same] = found.Histograms("weights/same")
    assert sum(same.histogram_value.bucket) == 7


def test_the_pages_own_code_reads_the_precision_recall_curves(tmp_path: Path) -> None:
    from sklearn.metrics import precision_recall_curve
    from tensorboard.util import tensor_util

    from cnnbench.metrics import NUM_THRESHOLDS, CurveCounts

    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(200, 3, generator=generator)
    targets = torch.randint(3, (200,), generator=generator)
    counts = CurveCounts(3)
    for part in (slice(0, 90), slice(90, 200)):
        counts.add(logits[part], targets[part])
    names = ("T-shirt/top", "\u00e9", "c")
    writer = TensorBoard(tmp_path, warn=fail)
    writer.pr_curves("test/pr", names, counts.read(), 5)
    writer.close()
    found = read(tmp_path)
    assert found.PluginTagToContent("pr_curves").keys() == {f"test/pr/{name}" for name in names}
    probabilities = logits.softmax(1).numpy()
    for place, name in enumerate(names):
        [event] = found.Tensors(f"test/pr/{name}")
        rows = tensor_util.make_ndarray(event.tensor_proto)
        assert rows.shape == (6, NUM_THRESHOLDS)
        right, wrong, above, missed, precision, recall = rows
        is_class = (targets == place).numpy()
        exact = precision_recall_curve(is_class, probabilities[:, place], drop_intermediate=False)
        for step in range(NUM_THRESHOLDS):
            # Where sklearn's next larger threshold, a probability that occurs, gives the same.
            at = np.searchsorted(exact[2], step / (NUM_THRESHOLDS - 1))
            assert recall[step] == pytest.approx(exact[1][at])
            if right[step] + wrong[step]:
                assert precision[step] == pytest.approx(exact[0][at])
        assert (right + missed == is_class.sum()).all()
        assert (wrong + above == (~is_class).sum()).all()


def test_graph_shows_the_layers_and_disturbs_nothing(tmp_path: Path) -> None:
    module = network()
    module.train()
    module[1].eval()
    module[0].weight.grad = torch.ones_like(module[0].weight)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    modes = [part.training for part in module.modules()]
    random_state = torch.get_rng_state()
    writer = TensorBoard(tmp_path, warn=fail)
    images = torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    writer.graph(module, images, 3)
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


def test_a_graph_does_not_load_tensorflow(tmp_path: Path) -> None:
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text("raise SystemExit('loaded TensorFlow')")
    script = """if True:
        import torch
        from pathlib import Path
        from cnnbench.tracking import TensorBoard
        log = TensorBoard(Path("log"), warn=print)
        log.graph(torch.nn.Linear(2, 1), torch.zeros(1, 2), 0)
        log.close()
        """
    subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        check=True,
    )


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
    writer.graph(Untraceable(), torch.zeros(1), 0)
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
