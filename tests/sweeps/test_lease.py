"""Jobs that several commands share: who runs which, who takes over, and who stops."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import TINY, differences, info, train

from cnnbench.sweeps import lease as leases
from cnnbench.sweeps.job import main as run_job
from cnnbench.sweeps.lease import Lease, Watcher, claim, read_lease, release
from cnnbench.sweeps.progress import SweepView

QUICK = (*TINY, "model=softmax", "optimizer=sgd", "data.native_size=8", "num_epochs=2")


def test_one_of_many_claims_and_the_next_generation_is_the_only_one_left(tmp_path: Path) -> None:
    assert read_lease(tmp_path) is None
    assert [claim(tmp_path, 1) for _ in range(3)] == [True, False, False]
    first = read_lease(tmp_path)
    assert first is not None
    assert first.is_held
    assert first.owner["pid"] == os.getpid()
    assert claim(tmp_path, 2)
    # Who lost the job can write no outcome into it any more.
    release(tmp_path, first, 0, "")
    newest = read_lease(tmp_path)
    assert newest is not None
    assert (newest.generation, newest.is_held) == (2, True)
    assert [file.name for file in tmp_path.iterdir()] == ["lease-2.json"]
    release(tmp_path, newest, 76, "not finite")
    assert read_lease(tmp_path) == Lease(2, newest.owner, 0, 76, "not finite")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"owner": 3}', '{"heartbeat": true}', "[" * 9999])
def test_what_cannot_be_read_is_held_by_nobody_known(text: str, tmp_path: Path) -> None:
    (tmp_path / "lease-7.json").write_text(text)
    assert read_lease(tmp_path) == Lease(7)


def test_a_watcher_times_heartbeats_by_its_own_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(leases.time, "monotonic", lambda: now)
    watcher, elsewhere = Watcher(10.0), {"machine": "another", "pid": 1, "started": "1"}

    def looks(heartbeat: int, *steps: float) -> list[bool]:
        nonlocal now
        found = []
        for step in steps:
            now += step
            found.append(watcher.is_stale(tmp_path, Lease(1, elsewhere, heartbeat)))
        return found

    assert looks(1, *[1.5] * 7) == [False] * 7
    assert looks(2, *[1.5] * 7) == [False] * 7  # it beat, so the count begins anew
    assert looks(2, 1.5) == [True]
    # A watcher that was itself stopped for an hour saw one look's worth of silence.
    assert looks(3, 1.5, 3600.0, 1.5) == [False, False, False]


def test_watching_calls_a_job_silent_after_its_own_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(leases.time, "monotonic", lambda: now)
    (tmp_path / "sweep.json").write_text('{"jobs": [{"overrides": [], "run": "a"}]}')
    directory = tmp_path / "jobs" / "a"
    directory.mkdir(parents=True)
    job = {"format": 1, "command": [], "lease_seconds": 5.0, "config": {}}
    (directory / "job.json").write_text(json.dumps(job))
    elsewhere = {"machine": "another", "pid": 1, "started": "1"}
    lease = {"owner": elsewhere, "heartbeat": 1, "code": None, "message": ""}
    (directory / "lease-1.json").write_text(json.dumps(lease))
    view, found = SweepView(tmp_path), []
    for now in (0.0, 2.0, 4.0, 6.0):  # noqa: B007
        found.append(view.refresh()[0].status)
    assert found == ["running", "running", "running", "silent"]


def test_an_owner_of_this_machine_that_is_gone_is_known_at_once() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = leases._start_of(process.pid)
    owner = {**leases.owner(), "pid": process.pid, "started": started}
    assert not Lease(1, owner).is_owner_dead()
    assert Lease(1, {**owner, "started": "1"}).is_owner_dead()  # the number is another's now
    process.kill()
    process.communicate()
    assert Lease(1, owner).is_owner_dead()
    assert not Lease(1, {**owner, "machine": "another"}).is_owner_dead()
    assert not Lease(1).is_owner_dead()


def sweep(root: Path, *words: str) -> subprocess.Popen[str]:
    argv = [*QUICK, "sweep.name=s", f"output_root={root}", *words]
    return subprocess.Popen(
        [sys.executable, "-m", "cnnbench", "train", "-m", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 200
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)


def lines(run: Path) -> int:
    file = run / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


@pytest.mark.skipif(sys.platform != "linux", reason="stops processes by number")
def test_a_job_that_stood_still_is_taken_over_and_stops_when_it_wakes_up(tmp_path: Path) -> None:
    """Two commands, the job of one stopped for longer than its lease."""
    words = ["seed=0,1", "hydra.launcher.slots=1", "hydra.launcher.lease_seconds=3"]
    # Long enough that it is stopped in the middle.
    words += ["num_epochs=60", "data.num_train=800", "checkpoint.keep_last=2"]
    first = sweep(tmp_path, *words)
    root = tmp_path / "sweeps" / "s"
    wait_for((root / "sweep.json").exists, first)
    names = [job["run"] for job in json.loads((root / "sweep.json").read_text())["jobs"]]
    run, directory = root / names[0], root / "jobs" / names[0]
    wait_for(lambda: lines(run) > 5, first)
    held = read_lease(directory)
    assert held is not None
    stopped = held.owner["pid"]
    os.kill(stopped, signal.SIGSTOP)
    try:
        second = sweep(tmp_path, *words)
        out, err = second.communicate(timeout=250)
        assert second.returncode == 0, err
        assert "another command runs it" in out
        taken = read_lease(directory)
        assert taken is not None
        assert (taken.generation, taken.code) == (2, 0)
        assert info(run)["status"] == "done"
        before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    finally:
        os.kill(stopped, signal.SIGCONT)
    out, err = first.communicate(timeout=100)
    assert first.returncode == 0, err
    assert "another process took this job over" in (directory / "log.txt").read_text()
    # What woke up wrote nothing, and the taker's result is that of an undisturbed run.
    assert before == {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    assert "failed" not in out + err
    alone = train(tmp_path / "alone", *QUICK, "seed=0", *words[3:])
    assert differences(alone, run) == []
    assert len(info(run)["provenance"]["processes"]) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="stops processes by number")
def test_two_commands_share_the_jobs_and_a_killed_parent_fails_none(tmp_path: Path) -> None:
    words = ["seed=range(0,4)", "hydra.launcher.slots=1", "num_epochs=20"]
    killed = sweep(tmp_path, *words)
    jobs = tmp_path / "sweeps" / "s" / "jobs"
    wait_for(lambda: list(jobs.glob("*/lease-1.json")), killed)
    killed.kill()
    killed.communicate()
    both = [sweep(tmp_path, *words) for _ in range(2)]
    answers = [process.communicate(timeout=250) for process in both]
    assert [process.returncode for process in both] == [0, 0], answers
    assert all("failed" not in out + err for out, err in answers)
    runs = sorted(file.parent for file in jobs.parent.glob("*/run.json"))
    assert [info(run)["status"] for run in runs] == ["done"] * 4
    # Each was trained to its end once.
    ends = [(run.parent / "jobs" / run.name / "log.txt").read_text() for run in runs]
    assert [text.count("test accuracy") for text in ends] == [1] * 4


def test_a_job_file_of_a_stranger_runs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    directory = tmp_path / "jobs" / "a"
    directory.mkdir(parents=True)
    try:
        for text in ("", "[]", '{"format": 2}', '{"format": 1, "config": 3}', "[" * 9999):
            (directory / "job.json").write_text(text)
            assert run_job([str(tmp_path), "a", "1"]) == 65
            assert "not a job that this version can read" in capsys.readouterr().err
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
