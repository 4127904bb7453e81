"""What TensorBoard shows of whole runs beside their numbers, read by TensorBoard's own code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import differences, info, stop_when, train

import cnnbench
from cnnbench.errors import Interrupted, NonFiniteError
from cnnbench.losses import CROSS_ENTROPY
from cnnbench.training import display as board


def read(run: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    guidance = {"scalars": 0, "images": 0, "histograms": 0, "tensors": 0}
    return EventAccumulator(str(run), size_guidance=guidance).Reload()


def hparams(root: Path) -> tuple[Any, list[Any]]:
    """Return the columns of the HParams page over a directory of runs, and its lines."""
    from tensorboard import context
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.data.provider import ListHyperparametersResult
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups

    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(root))
    multiplexer.Reload()
    provider = MultiplexerDataProvider(multiplexer, str(root))
    backend = backend_context.Context(TBContext(data_provider=provider))
    who = context.RequestContext()
    experiment = backend.experiment_from_metadata(
        who, "", True, backend.hparams_metadata(who, ""), ListHyperparametersResult([], [])
    )
    statuses = [api_pb2.Status.Value(name) for name in api_pb2.Status.keys()]  # noqa: SIM118
    request = api_pb2.ListSessionGroupsRequest(allowed_statuses=statuses, slice_size=100)
    groups = list_session_groups.Handler(who, backend, "", request).run().session_groups
    return experiment, sorted(groups, key=lambda group: group.name)


def values(group: Any) -> dict[str, Any]:
    fields = ("string_value", "bool_value", "number_value")
    return {
        key: next(getattr(value, field) for field in fields if value.HasField(field))
        for key, value in group.hparams.items()
    }


def status(group: Any) -> str:
    from tensorboard.plugins.hparams import api_pb2

    [session] = group.sessions
    return str(api_pb2.Status.Name(session.status))


def test_three_networks_have_a_line_each_and_all_columns(tmp_path: Path) -> None:
    runs = [
        train(tmp_path, "model=basic_cnn", "seed=1"),
        train(tmp_path, "model=softmax", "optimizer=sgd", "optimizer.lr=0.5"),
        train(
            tmp_path, "model=mlp", "data.normalize=none", "data.val_fraction=0", "selection=last"
        ),
    ]
    experiment, groups = hparams(tmp_path)
    assert [group.name for group in groups] == sorted(str(r.relative_to(tmp_path)) for r in runs)
    keys = [column.name for column in experiment.hparam_infos]
    assert len(keys) == len(set(keys)) == 17
    tags = [column.name.tag for column in experiment.metric_infos]
    assert tags == board.result_tags(CROSS_ENTROPY)
    shown = [column.display_name for column in experiment.metric_infos]
    assert shown == ["test/accuracy", "val/accuracy", "train_seconds", "num_params"]
    for group, run in zip(groups, sorted(runs), strict=True):
        found, config, results = values(group), info(run)["config"], info(run)["results"]
        assert found.keys() == set(keys)
        assert status(group) == "STATUS_SUCCESS"
        for key in ("model", "data", "augment", "optimizer", "scheduler"):
            assert found.pop(key) == config[key]["name"]
        assert found.pop("device") == "cpu"
        assert found.pop("precision") == "fp32"
        for key, value in found.items():
            name, _, inner = key.partition(".")
            assert value == (config[name][inner] if inner else config[name]), key
        measured = {metric.name.tag: metric.value for metric in group.metric_values}
        wanted = {**results, "num_params": info(run)["model"]["num_params"]}
        assert measured == {
            tag: pytest.approx(wanted[key])
            for tag, key in zip(tags, shown, strict=True)
            if key in wanted
        }
        assert ("results/val/accuracy" in measured) == (config["data"]["val_fraction"] > 0)
    assert all(len(list(run.rglob("events.out.tfevents.*"))) == 1 for run in runs)


def test_lines_of_runs_that_did_not_end_well_and_of_one_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NonFiniteError):
        train(tmp_path / "failed", "optimizer=sgd", "optimizer.lr=1e20", "scheduler=constant")
    with monkeypatch.context() as patch:
        stop_when(patch, lambda training: training.state.global_step == 3)
        with pytest.raises(Interrupted) as caught:
            train(tmp_path / "stopped")
    _, (failed, stopped) = hparams(tmp_path)
    assert (status(failed), status(stopped)) == ("STATUS_FAILURE", "STATUS_RUNNING")
    assert values(failed).keys() == values(stopped).keys()
    assert not stopped.metric_values
    run = caught.value.run_path
    assert run is not None
    cnnbench.train([f"resume={run}", "device.precision=bf16"])
    _, (_, line) = hparams(tmp_path)
    assert status(line) == "STATUS_SUCCESS"
    assert values(line)["precision"] == "bf16"
    assert len(line.metric_values) == 4


def test_the_test_is_drawn_and_recorded(tmp_path: Path) -> None:
    import io

    from PIL import Image

    from cnnbench.tracking import confusion_image

    run = train(tmp_path)
    confusion = info(run)["test_confusion"]
    assert confusion == cnnbench.evaluate(run)["confusion_matrix"]
    assert sum(map(sum, confusion)) == 30
    right = sum(confusion[place][place] for place in range(3))
    assert right / 30 == info(run)["results"]["test/accuracy"]
    [image] = read(run).Images("test/confusion")
    pixels = np.array(Image.open(io.BytesIO(image.encoded_image_string)))
    np.testing.assert_array_equal(pixels, confusion_image(np.array(confusion))[0].numpy())
    names = info(run)["data"]["class_names"]
    curves = read(run).PluginTagToContent("pr_curves")
    assert curves.keys() == {f"test/pr/{name}" for name in names}


def test_histograms_change_nothing_else(tmp_path: Path) -> None:
    settings = ("augment=crop", "num_epochs=3", "model.init=kaiming_normal")
    plain = train(tmp_path, *settings)
    shown = train(tmp_path, *settings, "histograms_every_epochs=2")
    assert differences(plain, shown) == []
    assert not read(plain).Tags()["histograms"]
    found = read(shown)
    names = [name for name, _ in cnnbench.load(shown).named_parameters()]
    tags = {f"{kind}/{name}" for kind in ("weights", "gradients") for name in names}
    assert set(found.Tags()["histograms"]) == tags
    for tag in tags:
        assert [event.step for event in found.Histograms(tag)] == [10], tag
    keys = [info(run)["provenance"]["run_key"] for run in (plain, shown)]
    assert keys[0] == keys[1]


def test_nothing_is_shown_twice_after_stops_and_an_extension(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ("scheduler=constant", "selection=test", "histograms_every_epochs=1")
    stops = (3, 5, 8)
    with monkeypatch.context() as patch:
        stop_when(patch, lambda training: training.state.global_step == stops[0])
        with pytest.raises(Interrupted) as caught:
            train(tmp_path, *settings)
    run = caught.value.run_path
    for stop in stops[1:]:
        with monkeypatch.context() as patch:
            stop_when(patch, lambda training, stop=stop: training.state.global_step == stop)
            with pytest.raises(Interrupted):
                cnnbench.train([f"resume={run}"])
    cnnbench.train([f"resume={run}"])
    cnnbench.train([f"resume={run}", "extend_epochs=1"])
    found, whole = read(run), read(train(tmp_path, *settings, "num_epochs=3"))
    for kind, points in (
        ("scalars", "Scalars"),
        ("images", "Images"),
        ("histograms", "Histograms"),
        ("tensors", "Tensors"),
    ):
        assert set(found.Tags()[kind]) == set(whole.Tags()[kind])
        for tag in found.Tags()[kind]:
            if not tag.startswith("_hparams_"):
                ours, theirs = ([e.step for e in getattr(b, points)(tag)] for b in (found, whole))
                assert ours == theirs, tag
