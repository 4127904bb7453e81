"""A search from the command line: what it trains, tells, leaves, resumes and refuses."""

from __future__ import annotations

import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from tiny import TINY, info

import cnnbench
from cnnbench.cli.main import run as cli
from cnnbench.sweeps.lease import read_lease

ENGINE = ("hydra/sweeper=optuna", "hydra.launcher.slots=2", "sweep.name=s")
SPACE = ("optimizer.lr=tag(log,interval(1e-4,1e-1))", "data.batch_size=8,16")


def words(root: Path, trials: int, *more: str) -> list[str]:
    return [*TINY, *ENGINE, f"hydra.sweeper.num_trials={trials}", f"output_root={root}", *more]


def told(root: Path) -> list[optuna.trial.FrozenTrial]:
    """Return what the engine itself reads in the journal."""
    backend = optuna.storages.journal.JournalFileBackend(str(root / "journal.log"))
    storage = optuna.storages.JournalStorage(backend)
    return optuna.load_study(study_name="search", storage=storage).trials


def check_told(root: Path) -> list[dict[str, Any]]:
    """Compare each told trial with its own runs, and return the runs' records."""
    jobs = json.loads((root / "sweep.json").read_text())["jobs"]
    found = []
    for trial in told(root):
        assert trial.state.is_finished()
        runs = [info(root / job["run"]) for job in jobs if job["trial"] == trial.number]
        for run in runs:
            assert run["config"]["optimizer"]["lr"] == pytest.approx(
                trial.params["optimizer.lr"], rel=1e-3
            )
            assert not any(name.startswith("test/") for name in run["results"])
            assert run["config"]["evaluate_test"] is False
            assert run["results"]["test_reads"] == 0
            assert not (root / "predictions.npz").exists()
        if trial.state == optuna.trial.TrialState.COMPLETE and runs:
            values = [run["results"]["val/accuracy"] for run in runs]
            assert all(run["status"] == "done" and "reason" not in run for run in runs)
            assert trial.value == pytest.approx(sum(values) / len(values), abs=1e-12)
        elif trial.state == optuna.trial.TrialState.PRUNED and runs:
            assert any(run.get("reason") == "pruned" for run in runs)
        found += runs
    return found


def test_a_search_from_its_first_trial_to_its_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, num_failed = cnnbench.train_sweep(words(tmp_path, 4, *SPACE))
    assert num_failed == 0
    assert root == tmp_path / "sweeps" / "s"
    out = capsys.readouterr().out
    runs = check_told(root)
    assert len(runs) == len(told(root)) == 4
    best = max(runs, key=lambda run: run["results"]["val/accuracy"])
    value = best["results"]["val/accuracy"]
    assert f"best val/accuracy {value:.4f}, trial" in out
    # The command names the best settings, with what its search cost, and reads the test images.
    [line] = [line for line in out.splitlines() if line.startswith("cnnbench train -m")]
    settings = [word for word in shlex.split(line)[3:] if not word.startswith("seed=")]
    assert f"optimizer.lr={best['config']['optimizer']['lr']:g}" in settings or value in [
        run["results"]["val/accuracy"] for run in runs if run is not best
    ]
    again = cnnbench.train([*settings, f"output_root={tmp_path / 'final'}"])
    results = info(again)["results"]
    assert results["val/accuracy"] == value
    assert "test/accuracy" in results
    seconds = sum(run["results"]["train_seconds"] for run in runs)
    assert results["tuning_trials"] == 4
    assert results["tuning_seconds"] == pytest.approx(seconds, rel=1e-3)
    # So say the tables, of the result and of the trials.
    for path in (again, root):
        for row in cnnbench.compare(path)["rows"]:
            assert row["tuning_trials"]["mean"] == 4
            assert row["tuning_seconds"]["mean"] == pytest.approx(seconds, rel=1e-3)
    rows = cnnbench.compare(root)["rows"]
    means = [row["val/accuracy"]["mean"] for row in rows]
    assert means == sorted(means, reverse=True)
    assert all(row["test_reads"] == 0 and row["verdict"] is None for row in rows)
    page = (root / "report.html").read_text()
    assert page.count('class="trial"') + page.count('class="best"') == 4
    assert "val/accuracy" in page
    # The test images of one trial are read later, and its record says so.
    one = root / json.loads((root / "sweep.json").read_text())["jobs"][0]["run"]
    measured = cnnbench.evaluate(one)
    assert info(one)["results"]["test/accuracy"] == measured["accuracy"]
    assert info(one)["results"]["test_reads"] == 1

    # More trials are those that are missing; a line that a kill cut off is no obstacle.
    before = {run: run.read_bytes() for run in root.glob("*/run.json")}
    with (root / "journal.log").open("ab") as journal:
        journal.write(b'{"op_code":4,"work')
    cnnbench.train_sweep(words(tmp_path, 5, *SPACE))
    assert len(told(root)) == 5
    assert before == {run: run.read_bytes() for run in before}
    assert "; 5 done" in capsys.readouterr().out

    # Another space is refused, and nothing is written.
    before = {file: file.stat().st_mtime_ns for file in root.rglob("*")}
    for other, what in (
        (("optimizer.lr=tag(log,interval(1e-4,1))", SPACE[1]), "became optimizer.lr"),
        ((*SPACE, "num_epochs=3"), "settings that all trials share"),
        ((*SPACE, "seed=0,1"), "seed=0 became seed=0,1"),
        ((*SPACE, "hydra.sweeper.objective=val/loss"), "val/accuracy became val/loss"),
    ):
        assert cli(["train", "-m", *words(tmp_path, 6, *other)]) == 2
        err = capsys.readouterr().err
        assert what in err
        assert "another sweep.name" in err
    assert before == {file: file.stat().st_mtime_ns for file in root.rglob("*")}


@pytest.mark.parametrize(
    "more",
    [
        ("hydra.sweeper.num_trials=0", *SPACE),
        ("optimizer.lrr=interval(0.1,1)",),
        ("hydra.sweeper.pruner=wilcoxon", *SPACE),
        (*SPACE, "evaluate_test=true"),
        (*SPACE, "model=alexnet", "data.image_size=8"),
    ],
)
def test_bad_input_writes_nothing(
    more: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(["train", "-m", *words(tmp_path, 3, *more)]) == 2
    assert not list(tmp_path.iterdir())


def test_a_search_is_no_sweep_and_no_single_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sweeps" / "s").mkdir(parents=True)
    (tmp_path / "sweeps" / "s" / "sweep.json").write_text('{"jobs": []}')
    assert cli(["train", "-m", *words(tmp_path, 3, *SPACE)]) == 2
    assert "is a sweep, and no search" in capsys.readouterr().err
    for argv in (["train", *SPACE], ["train", "search=lenet"], ["train", "hydra/sweeper=optuna"]):
        assert cli(argv) == 2
        assert "add " in capsys.readouterr().err
    assert cli(["bench", "-m", *words(tmp_path, 3, *SPACE)[len(TINY) :]]) == 2
    capsys.readouterr()
    assert cli(["train", "-m", "--dry-run", *words(tmp_path, 3, *SPACE)]) == 2
    assert "only train -m searches, without --dry-run" in capsys.readouterr().err
    assert cli(["train", "-m", "--cfg", *words(tmp_path, 3, *SPACE)]) == 0
    assert "evaluate_test: false" in capsys.readouterr().out


def started(root: Path, trials: int, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "cnnbench", "train", "-m", *words(root, trials, *more)],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def a_running_job(root: Path, process: subprocess.Popen[str]) -> Path:
    """Wait until a job has trained an epoch, and return its run directory."""
    until = time.monotonic() + 120
    while True:
        for metrics in root.glob("*/metrics.jsonl"):
            run = metrics.parent
            lease = read_lease(root / "jobs" / run.name)
            if lease is not None and lease.is_held and b'"train/loss"' in metrics.read_bytes():
                return run
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)


def owner_of(root: Path, run: Path) -> int:
    lease = read_lease(root / "jobs" / run.name)
    assert lease is not None
    return lease.owner["pid"]


def test_a_killed_search_goes_on_and_loses_no_trial(tmp_path: Path) -> None:
    """The workers of the killed command train on, and the next one waits for them."""
    more = (*SPACE, "num_epochs=30", "hydra.sweeper.pruner=none")
    root = tmp_path / "sweeps" / "s"
    first = started(tmp_path, 2, *more)
    a_running_job(root, first)
    first.kill()
    first.communicate()
    second = started(tmp_path, 2, *more)
    out, err = second.communicate(timeout=200)
    assert second.returncode == 0, err
    assert out.splitlines()[-1] == str(root)
    runs = check_told(root)
    assert len(runs) == len(told(root)) == 2
    assert all(run["status"] == "done" for run in runs)


@pytest.mark.slow
def test_a_killed_worker_is_resumed_where_it_was(tmp_path: Path) -> None:
    root = tmp_path / "sweeps" / "s"
    process = started(tmp_path, 2, *SPACE, "num_epochs=60", "hydra.sweeper.pruner=none")
    run = a_running_job(root, process)
    os.kill(owner_of(root, run), signal.SIGKILL)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert "killed by signal 9; it is resumed" in err
    assert len(check_told(root)) == 2
    assert len(info(run)["provenance"]["processes"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_stops_a_search_that_the_same_command_resumes(
    signum: int, code: int, tmp_path: Path
) -> None:
    root = tmp_path / "sweeps" / "s"
    more = (*SPACE, "num_epochs=60", "hydra.sweeper.pruner=none")
    process = started(tmp_path, 3, *more)
    a_running_job(root, process)
    process.send_signal(signum)
    _, err = process.communicate(timeout=100)
    assert process.returncode == code
    assert "of 3 trials finished; the same command resumes it" in err
    assert "Traceback" not in err
    again = started(tmp_path, 3, *more)
    _, err = again.communicate(timeout=200)
    assert again.returncode == 0, err
    assert len(check_told(root)) == len(told(root)) == 3


def test_a_second_command_on_a_search_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import filelock

    root = tmp_path / "sweeps" / "s"
    root.mkdir(parents=True)
    with filelock.FileLock(root / ".search.lock"):
        assert cli(["train", "-m", *words(tmp_path, 3, *SPACE)]) == 2
    assert "another command runs this search" in capsys.readouterr().err
    assert not (root / "journal.log").exists()


@pytest.mark.slow
def test_points_of_several_seeds_and_those_that_are_given_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A learning rate of nearly nothing is worse on every seed."""
    more = ("optimizer.lr=1e-9,1e-2", "seed=range(5)", "optimizer=sgd", "num_epochs=6")
    root, _ = cnnbench.train_sweep(words(tmp_path, 6, *more, "hydra.sweeper.pruner=wilcoxon"))
    assert "(mean of 5 seeds), trial" in capsys.readouterr().out
    jobs = json.loads((root / "sweep.json").read_text())["jobs"]
    # Two points there are, whatever is drawn: none trains twice.
    assert len(jobs) == 10
    trials = told(root)
    assert len(trials) == 6
    states = {str(trial.params["optimizer.lr"]): trial.state.name for trial in trials}
    assert states["0.01"] == "COMPLETE"
    for trial in trials:
        runs = [info(root / job["run"]) for job in jobs if job["trial"] == trial.number]
        if trial.state.name == "COMPLETE" and runs:
            mean = sum(run["results"]["val/accuracy"] for run in runs) / 5
            assert trial.value == pytest.approx(mean)


@pytest.mark.slow
def test_the_median_prunes_and_compare_leaves_out_what_it_pruned(tmp_path: Path) -> None:
    more = ("optimizer.lr=tag(log,interval(1e-7,1e-1))", "optimizer=sgd", "num_epochs=400")
    root, _ = cnnbench.train_sweep(words(tmp_path, 10, *more))
    pruned = [trial for trial in told(root) if trial.state.name == "PRUNED"]
    assert pruned
    check_told(root)
    found = cnnbench.compare(root)
    assert len(found["rows"]) == 10 - len(pruned)
    assert [run["status"] for run in found["left_out"]] == ["pruned"] * len(pruned)
    assert len(cnnbench.compare(root, pruned=True)["rows"]) == 10
    run = root / next(iter(found["left_out"]))["run"]
    assert cnnbench.train([f"resume={run}"]) == run  # finished, and left as it is
    assert info(run)["reason"] == "pruned"
    assert info(run)["results"]["best_epoch"] < 400


@pytest.mark.slow
def test_kills_at_random_lose_no_trial_and_tell_none_twice(tmp_path: Path) -> None:
    """kill -9 of the command or of one of its workers, wherever they are; searches one by one.

    CNNBENCH_KILLS=200 is the documented long form.
    """
    draw, killed, number = random.Random(0), {"command": 0, "worker": 0}, 0
    while sum(killed.values()) < int(os.environ.get("CNNBENCH_KILLS", "20")):
        number += 1
        folder = tmp_path / str(number)
        folder.mkdir()
        _kill_through_a_search(folder, draw, killed)
        print(number, killed, flush=True)


def _kill_through_a_search(folder: Path, draw: random.Random, killed: dict[str, int]) -> None:
    root, num_trials = folder / "sweeps" / "s", 24
    more = (*SPACE, "num_epochs=20", "save_every_steps=3")
    process = started(folder, num_trials, *more)
    while process.poll() is None:
        leases = map(read_lease, root.glob("jobs/*"))
        held = [lease for lease in leases if lease is not None and lease.is_held and lease.owner]
        workers = [lease.owner["pid"] for lease in held if not lease.is_owner_dead()]
        if not workers:
            time.sleep(0.05)
            continue
        victim = draw.choice([process.pid, *workers])
        time.sleep(draw.uniform(0, 3))
        if process.poll() is None and (victim == process.pid or owner_is(victim, root)):
            os.kill(victim, signal.SIGKILL)
            killed["command" if victim == process.pid else "worker"] += 1
            if victim == process.pid:
                process.communicate()
                process = started(folder, num_trials, *more)
    _, err = process.communicate()
    assert process.returncode in (0, 1), err
    trials = told(root)
    assert len(trials) == num_trials
    assert all(trial.state.is_finished() for trial in trials)
    check_told(root)
    # Told once: a second end of a trial would be a second such line.
    lines = [json.loads(line) for line in (root / "journal.log").read_bytes().splitlines()]
    ended = [line["trial_id"] for line in lines if line["op_code"] == 6 and line["state"] != 0]
    assert sorted(ended) == list(range(num_trials))
    assert json.loads((root / "search.json").read_text())["trials"] == num_trials


def owner_is(pid: int, root: Path) -> bool:
    """Tell whether a process still has a job of ours, so that its number is no other's."""
    leases = [lease for lease in map(read_lease, root.glob("jobs/*")) if lease is not None]
    return any(
        lease.owner.get("pid") == pid and lease.is_held and not lease.is_owner_dead()
        for lease in leases
    )
