"""The bands of a sweep, as TensorBoard's own reader and its plug-in see them."""

from __future__ import annotations

from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest

from cnnbench.analysis.compare.bands import write_bands
from cnnbench.analysis.compare.records import read_curves
from cnnbench.analysis.compare.tables import compare_runs
from tests.recorded_runs import write_run


def fail(message: str) -> None:
    pytest.fail(message)


def read(directory: Path) -> tuple[Any, Any]:
    """Return TensorBoard's own view of a directory, and the layout of its custom scalars."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.custom_scalar import layout_pb2, metadata

    found = EventAccumulator(str(directory))
    found.Reload()
    assert metadata.CONFIG_SUMMARY_TAG in found.PluginTagToContent(metadata.PLUGIN_NAME)
    [event] = found.Tensors(metadata.CONFIG_SUMMARY_TAG)
    layout: Any = layout_pb2
    return found, layout.Layout.FromString(event.tensor_proto.string_val[0])


def test_each_network_is_a_line_with_the_band_of_its_seeds(tmp_path: Path) -> None:
    runs = {
        model: [write_run(tmp_path / "runs", model=model, seed=seed) for seed in range(3)]
        for model in ("lenet", "mlp")
    }
    for _ in range(2):  # the same command again leaves no second points
        write_bands(compare_runs([tmp_path / "runs"]), tmp_path, fail)
    found, layout = read(tmp_path)
    [category] = layout.category
    charts = {chart.title: chart.margin.series for chart in category.chart}
    assert charts.keys() == {
        f"{name} by epoch" for name in ("val/accuracy", "val/loss", "train/accuracy", "train/loss")
    }
    for title, lines in charts.items():
        metric = title.removesuffix(" by epoch")
        assert {line.value for line in lines} == {f"{metric}/lenet", f"{metric}/mlp"}
        for line in lines:
            model = line.value.rpartition("/")[2]
            curves = [read_curves(run / "metrics.jsonl")[metric] for run in runs[model]]
            points = {
                tag: {point.step: point.value for point in found.Scalars(tag)}
                for tag in (line.value, line.lower, line.upper)
            }
            for epoch in curves[0]:
                values = [curve[epoch] for curve in curves]
                middle, std = mean(values), stdev(values)
                wanted = (middle, middle - std, middle + std)
                for tag, value in zip(points, wanted, strict=True):
                    assert points[tag][epoch] == pytest.approx(value, rel=1e-6), tag
            assert all(len(found.Scalars(tag)) == len(curves[0]) for tag in points)


def test_several_data_sets_have_charts_of_their_own(tmp_path: Path) -> None:
    for data in ("digits", "fashion_mnist"):
        write_run(tmp_path / "runs", data=data)
    write_bands(compare_runs([tmp_path / "runs"]), tmp_path, fail)
    _, layout = read(tmp_path)
    titles = {chart.title for chart in layout.category[0].chart}
    assert {"val/loss on digits by epoch", "val/loss on fashion_mnist by epoch"} <= titles
