"""Manifests and run files of any content: no exception but ours. And a disk full at any write."""

from __future__ import annotations

import builtins
import errno
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import differences, info, tiny, train

import cnnbench
from cnnbench import files
from cnnbench.checkpoint import Checkpoints
from cnnbench.cli import run as cli
from cnnbench.errors import CheckpointError, CnnbenchError
from cnnbench.rundir import RunDir
from cnnbench.verbs.runs import describe_run

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
    for read in (lambda: opened.info, lambda: opened.config):
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
        _ = RunDir(tmp_path).info
    with pytest.raises(CnnbenchError):
        Checkpoints(tmp_path).load_newest()


class FullDisk:
    """Takes so many bytes through ``files.open``, and no more."""

    def __init__(self, free_bytes: int) -> None:
        self.free_bytes, self.written = free_bytes, 0

    def open(self, path: Path, mode: str) -> Any:
        file, disk = builtins.open(path, mode), self  # noqa: SIM115

        class Limited:
            def __enter__(self) -> Limited:
                return self

            def __exit__(self, *exc: object) -> None:
                file.close()

            def __getattr__(self, name: str) -> Any:
                return getattr(file, name)

            def write(self, content: bytes) -> None:
                taken = content[: disk.free_bytes - disk.written]
                file.write(taken)
                disk.written += len(taken)
                if len(taken) < len(content):
                    raise OSError(errno.ENOSPC, "No space left on device")

        return Limited()


SMALL = ("model=softmax", "data.native_size=8", "optimizer=adamw")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A whole run and how many bytes its atomic writes took."""
    disk = FullDisk(1 << 40)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "open", disk.open, raising=False)
        run = train(tmp_path_factory.mktemp("written"), *SMALL)
    return run, disk.written


@pytest.mark.parametrize(
    "place", [*range(8), *(pytest.param(n, marks=pytest.mark.slow) for n in range(8, 100))]
)
def test_a_disk_full_at_any_byte(
    place: int,
    written: tuple[Path, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole, num_bytes = written
    # The golden ratio spreads any number of places evenly.
    free = int(num_bytes * 0.98 * ((place + 1) * 0.618034 % 1))
    with monkeypatch.context() as patch:
        patch.setattr(files, "open", FullDisk(free).open, raising=False)
        assert cli(["train", *tiny(tmp_path, *SMALL)]) == 74
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "the disk is full" in err
    found = [file.parent for file in tmp_path.rglob("run.json")]
    if not found:
        return  # not even the first description found room
    Checkpoints(found[0] / "checkpoints").load_newest()  # raises where saves were and none is whole
    cnnbench.train([f"resume={found[0]}"])
    assert not list(tmp_path.rglob("*.tmp-*"))
    assert differences(whole, found[0]) == []
