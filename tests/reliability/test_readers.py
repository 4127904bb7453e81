"""Manifests and run files of any content: no exception but ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import info, train

from cnnbench.errors import CheckpointError, CnnbenchError
from cnnbench.runs.checkpoint import Checkpoints
from cnnbench.runs.directory import RunDir
from cnnbench.runs.prune import describe_run

PLAIN = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_subnormal=False)
    | st.text(max_size=8)
)
ANYTHING = st.recursive(
    PLAIN,
    lambda part: (
        st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=8), part, max_size=3)
    ),
    max_leaves=6,
)
FUZZ = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("run"), "model=softmax", "num_epochs=1")


def replaced(data: st.DataObject, tree: Any) -> Any:
    """Return a tree with one of its nodes replaced by anything, or removed."""
    if not (isinstance(tree, (dict, list)) and tree) or data.draw(st.integers(0, 4)) == 0:
        return data.draw(ANYTHING)
    places = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
    place = data.draw(st.sampled_from(places))
    changed = dict(tree) if isinstance(tree, dict) else list(tree)
    if data.draw(st.integers(0, 4)) == 0:
        del changed[place]
    else:
        changed[place] = replaced(data, changed[place])
    return changed


@FUZZ
@given(data=st.data())
def test_a_manifest_of_any_content(data: st.DataObject, run: Path, tmp_path: Path) -> None:
    whole = json.loads((run / "checkpoints" / "manifest.json").read_text())
    file = tmp_path / "manifest.json"
    file.write_text(json.dumps(replaced(data, whole)))
    checkpoints = Checkpoints(tmp_path)
    for read in (checkpoints.manifest, checkpoints.load_newest, lambda: checkpoints.load("best")):
        try:
            read()
        except CheckpointError:
            continue


@FUZZ
@given(data=st.data())
def test_a_run_json_of_any_content(data: st.DataObject, run: Path, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps(replaced(data, info(run))))
    opened = RunDir(tmp_path)
    assert describe_run(opened)["status"]
    for read in (lambda: opened.record, lambda: opened.config):
        try:
            read()
        except CheckpointError:
            continue


@FUZZ
@given(content=st.binary(max_size=200))
def test_files_of_any_bytes(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes(content)
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(CnnbenchError):
        _ = RunDir(tmp_path).record
    with pytest.raises(CnnbenchError):
        Checkpoints(tmp_path).load_newest()
