"""What thinning and removing would free, and that it is only done where nothing changed since."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from recorded_runs import write_run
from tiny import train, weights

from cnnbench.errors import DiskError
from cnnbench.runs.directory import RunDir
from cnnbench.runs.prune import carry_out, describe_run, plan_pruning, plan_removal


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("run"), "num_epochs=4")


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_thinning_takes_what_the_manifest_names_and_nothing_of_the_users(run: Path) -> None:
    mine = run / "checkpoints" / "my_best_model.pt"
    mine.write_text("precious")
    [removal] = plan_pruning([str(run)])
    assert mine not in removal.files
    assert removal.num_bytes == sum(file.stat().st_size for file in removal.files) > 0
    kept = weights(run, "best"), weights(run, "last")
    before = set(run.rglob("*"))
    assert carry_out(removal) is None
    assert before - set(run.rglob("*")) == set(removal.files)
    assert all(kept[0][name].equal(tensor) for name, tensor in weights(run, "best").items())
    assert kept[1].keys() == weights(run, "last").keys()
    assert plan_pruning([str(run)]) == []


@pytest.mark.parametrize("status", ["running", "failed", "done", "interrupted"])
def test_a_run_that_a_process_holds_is_in_no_plan(run: Path, status: str) -> None:
    tree = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**tree, "status": status}))
    assert plan_pruning([str(run.parent)])
    with RunDir(run).lock():
        assert describe_run(RunDir(run))["status"] == status
        assert plan_pruning([str(run.parent)]) == []
        assert plan_removal([str(run.parent)]) == []
    assert bool(plan_removal([str(run.parent)])) == (status in ("running", "failed"))


@pytest.mark.skipif(sys.platform == "win32", reason="its locks are of another kind")
def test_where_nothing_can_be_written_a_dead_run_is_not_taken_for_a_held_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read-only file system: the lock's file is there, and cannot be opened to lock it."""
    run = RunDir(write_run(tmp_path, status="running"))
    opened = os.open

    def read_only(path: str, flags: int, *rest: Any, **keywords: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, "Read-only file system", path)
        return opened(path, flags, *rest, **keywords)

    with run.lock(), monkeypatch.context() as patch:
        patch.setattr(os, "open", read_only)
        assert describe_run(run)["status"] == "running"
    monkeypatch.setattr(os, "open", read_only)
    assert describe_run(run)["status"] == "dead"
    [removal] = plan_removal([str(run.path)])
    with pytest.raises(DiskError, match="the file system is read-only"):
        carry_out(removal)


def test_a_run_of_a_clock_that_was_ahead_has_no_age(tmp_path: Path) -> None:
    path = write_run(tmp_path)
    os.utime(path / "run.json", (4e9, 4e9))
    assert describe_run(RunDir(path))["age_seconds"] == 0


def test_a_plan_is_of_the_run_as_it_was(tmp_path: Path) -> None:
    path = write_run(tmp_path, status="failed")
    [removal] = plan_removal([str(tmp_path)])
    tree = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps({**tree, "status": "interrupted"}))
    reason = carry_out(removal)
    assert reason is not None
    assert "was changed meanwhile" in reason
    assert path.exists()
    (path / "run.json").write_text(json.dumps(tree))
    assert carry_out(removal) is None
    assert not path.exists()


def test_looking_does_not_keep_a_process_from_beginning(tmp_path: Path) -> None:
    run = RunDir(write_run(tmp_path))
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            run.is_held()
            time.sleep(0.005)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for _ in range(50):
            with run.lock():
                pass
    finally:
        over.set()
        looking.join()
