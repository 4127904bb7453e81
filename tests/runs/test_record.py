"""run.json: what is written comes back, and what is none of ours is refused once and for all."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from recorded_runs import write_run

from cnnbench.errors import CheckpointError
from cnnbench.runs.directory import open_run
from cnnbench.runs.record import DataRecord, RunRecord, utc_text

RECORDED = Path(__file__).parents[1] / "data" / "run_v1"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_run(tmp_path) / "run.json"


@pytest.fixture
def tree(file: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(file.read_text())
    return loaded


def test_what_is_written_is_read_back(file: Path, tmp_path: Path) -> None:
    record = dataclasses.replace(
        RunRecord.read(file),
        reason="ü\n",
        command=("cnnbench", "train"),
        results={"a": 1.5, "b": 2},
    )
    record.write(tmp_path / "new.json")
    assert RunRecord.read(tmp_path / "new.json") == record
    assert type(RunRecord.read(tmp_path / "new.json").results["b"]) is int
    assert {path.name for path in tmp_path.glob("*.json*")} == {"new.json"}


@pytest.mark.parametrize("name", ["done", "interrupted"])
def test_a_file_of_the_first_version_is_read_whole(name: str, tmp_path: Path) -> None:
    before = json.loads((RECORDED / name / "run.json").read_text())
    record = RunRecord.read(RECORDED / name / "run.json")
    assert (record.status, record.model_name, record.data_name) == (name, "softmax", "synthetic")
    assert record.data == DataRecord.of(before["data"])
    [process] = record.provenance.processes
    [was] = before["provenance"]["processes"]
    assert process.effective == was["in_force"]
    assert process.machine == was["machine"]
    assert process.code_version == before["provenance"]["code_version"]
    assert process.started == "2026-11-22T01:24:1" + process.started[18:]
    record.write(tmp_path / "run.json")
    after = json.loads((tmp_path / "run.json").read_text())
    assert {**after, "provenance": None} == {**before, "provenance": None}
    assert after["provenance"]["run_key"] == before["provenance"]["run_key"]


def test_keys_of_a_later_version_are_kept(tree: dict[str, Any], file: Path) -> None:
    tree["later"] = {"a": [1]}
    tree["data"]["later"] = 2
    tree["provenance"]["later"] = "x"
    tree["provenance"]["processes"][0]["later"] = None
    file.write_text(json.dumps(tree))
    record = dataclasses.replace(RunRecord.read(file), status="failed")
    record.write(file)
    written = json.loads(file.read_text())
    assert written["status"] == "failed"
    assert written["later"] == {"a": [1]}
    assert written["data"]["later"] == 2
    assert written["provenance"]["later"] == "x"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'"running"',
        b"\xff\xfe\x00",
        b'{"format": 1}',
        b'{"format": 1, "status": "done"}',
        b"[" * 100_000,
        b" " * (5 << 20),
        b"1" * 10_000,
    ],
)
def test_what_is_no_record_at_all(content: bytes, file: Path) -> None:
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"run\.json: not a run this version can read") as e:
        RunRecord.read(file)
    assert e.value.exit_code == 65


def _set(*keys: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(tree: dict[str, Any]) -> None:
        for key in keys[:-1]:
            tree = tree[key]
        tree[keys[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_set("format", to=2), "its format is 2"),
        (_set("status", to="finished"), "its status"),
        (_set("status", to=["done"]), "its status"),
        (_set("config", to="x"), "its config is no object"),
        (_set("config", "model", to="lenet"), "config.model.name"),
        (_set("config", "model", "name", to="../x"), "config.model.name"),
        (_set("config", "data", "name", to="/etc"), "config.data.name"),
        (_set("config", "data", "name", to=""), "config.data.name"),
        (_set("config", "data", "name", to="a\x1b[31m"), "config.data.name"),
        (_set("config", "num_epochs", to=json.loads("[" * 700 + "]" * 700)), "too deeply"),
        (_set("model", to="lenet"), "its model is no object"),
        (_set("model", "name", to=3), "model.name"),
        (_set("model", "macs", to=10**30), "model.macs"),
        (_set("model", "num_params", to="many"), "model.num_params"),
        (_set("model", "num_params", to=-1), "model.num_params"),
        (_set("model", "num_params", to=True), "model.num_params"),
        (_set("seed", to="x"), "its seed"),
        (_set("seed", to=True), "its seed"),
        (_set("data", to=[]), "its data is no object"),
        (_set("data", "sha256", to=None), "data.sha256"),
        (_set("data", "num_classes", to=0), "data.num_classes"),
        (_set("data", "class_names", to="abc"), "data.class_names"),
        (_set("data", "class_names", to=[["a"], 1]), "data.class_names"),
        (_set("data", "class_names", to=["a"]), "data.class_names"),
        (_set("results", to=[]), "its results"),
        (_set("results", "a", to={"b": 1}), "its results"),
        (_set("results", "test_reads", to=None), "test_reads"),
        (_set("results", "test_reads", to=-1), "test_reads"),
        (_set("results", "test_reads", to=1.5), "test_reads"),
        (_set("results", "best_epoch", to=10**400), "not finite"),
        (_set("results", "test/loss", to=float("nan")), "not finite"),
        (_set("results", "test/loss", to=float("inf")), "not finite"),
        (_set("test_confusion", to=[[1]]), "10 x 10"),
        (_set("test_confusion", to=[[-1] * 10] * 10), "10 x 10"),
        (_set("test_confusion", to=[["1"] * 10] * 10), "test_confusion"),
        (_set("command", to=[{"a": "b"}]), "its command"),
        (_set("reason", to=1), "its reason"),
        (_set("provenance", to=None), "its provenance is no object"),
        (_set("provenance", "processes", to="x"), "processes is no list"),
        (_set("provenance", "processes", to=[]), "processes is empty"),
        (_set("provenance", "processes", 0, to=3), "processes is no object"),
        (_set("provenance", "processes", 0, to={}), "started is missing"),
        (_set("provenance", "processes", 0, "effective", to=[]), "effective is no object"),
        (_set("provenance", "processes", 0, "started", to="yesterday"), "is no time"),
        (_set("provenance", "processes", 0, "started", to="0001-01-01T00:00+23:00"), "is no time"),
        (_set("provenance", "model_files", to=3), "model_files is no object"),
        (_set("provenance", "model_files", to={"path": 1}), "model_files.path"),
    ],
)
def test_a_strangers_value_is_refused_by_name(
    change: Callable[[dict[str, Any]], None], words: str, tree: dict[str, Any], file: Path
) -> None:
    change(tree)
    file.write_text(json.dumps(tree))
    with pytest.raises(CheckpointError, match="not a run this version can read") as caught:
        RunRecord.read(file)
    assert words in str(caught.value)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("key", ["status", "config", "seed", "data", "model", "provenance"])
def test_what_every_run_has_must_be_there(key: str, tree: dict[str, Any], file: Path) -> None:
    whole = copy.deepcopy(tree)
    del tree[key]
    file.write_text(json.dumps(tree))
    with pytest.raises(CheckpointError, match=f"its {key} is missing"):
        RunRecord.read(file)
    file.write_text(json.dumps(whole))
    assert RunRecord.read(file)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("kind", ["pipe", "device", "directory"])
def test_what_is_no_file_is_refused_at_once(kind: str, file: Path) -> None:
    file.unlink()
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "device":
        file.symlink_to("/dev/zero")
    else:
        file.mkdir()
    with pytest.raises(CheckpointError, match=r"no regular file|a directory"):
        _ = open_run(file.parent).record


def test_what_cannot_be_json_is_never_half_written(file: Path) -> None:
    record = RunRecord.read(file)
    with pytest.raises(ValueError, match="JSON"):
        dataclasses.replace(record, results={"loss": float("nan")}).write(file)
    assert RunRecord.read(file) == record


def test_moments_sort_as_text() -> None:
    from datetime import datetime

    texts = ["2026-10-25T02:30:00+02:00", "2026-10-25T02:10:00+01:00", "2026-10-25T01:10:00.001Z"]
    moments = [utc_text(datetime.fromisoformat(text)) for text in texts]
    assert moments == sorted(moments)
    assert moments[0] == "2026-10-25T00:30:00.000+00:00"
