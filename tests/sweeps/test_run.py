"""Sweeps by the real command: jobs fail alone, and the same command goes on with what is left."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from tiny import TINY, command, differences, info, stop_when, train

import cnnbench
import cnnbench.training.launch
from cnnbench.analysis.results import Sweep
from cnnbench.cli.main import run as cli
from cnnbench.config.compose import Composer
from cnnbench.config.schema import ConfigError
from cnnbench.errors import Interrupted
from cnnbench.runs.directory import RunDir, open_run
from cnnbench.sweeps.jobs import expand
from cnnbench.sweeps.lease import read_lease

SGD = ("optimizer=sgd", "scheduler=constant")
STUDY = {
    "settings": [*TINY, *SGD],
    "jobs": [["optimizer.lr=0.01"], ["optimizer.lr=1e20"], ["optimizer.lr=0.02", "seed=3"]],
}


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A user's own conf with a study whose second job breaks."""
    folder = tmp_path / "own" / "study"
    folder.mkdir(parents=True)
    (folder / "rates.yaml").write_text(f"# three learning rates\n{yaml.safe_dump(STUDY)}")
    return folder.parent


def test_a_study_with_a_job_that_breaks(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["train", "-m", "study=rates", "--config-dir", str(own), "hydra.launcher.slots=1"]
    first = subprocess.run(
        [sys.executable, "-m", "cnnbench", *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=200,
        check=False,
    )
    lines = first.stdout.splitlines()
    assert first.returncode == 1, first.stdout
    root = Path(lines[-1])
    assert root.parent == tmp_path / "outputs" / "sweeps"
    record = json.loads((root / "sweep.json").read_text())
    runs = [root / job["run"] for job in record["jobs"]]
    assert [job["overrides"] for job in record["jobs"]] == [
        ["optimizer.lr=0.01"],
        ["optimizer.lr=1e+20"],
        ["optimizer.lr=0.02", "seed=3"],
    ]
    assert sorted(file.parent for file in root.glob("*/run.json")) == sorted(runs)
    assert [info(run)["status"] for run in runs] == ["done", "failed", "done"]

    # The failure is told at once, before the next job starts, and again in the table.
    [told] = [place for place, line in enumerate(lines) if "failed: epoch 1, step 2" in line]
    started, *_ = [n for n, line in enumerate(lines) if line.startswith("[3/3]")]
    assert told < started
    assert str(runs[1]) in lines[told]
    # The table and verdict of compare: those that are done in rows, the other one below them.
    ended = "\n".join(lines[started:])
    assert re.search(r"^Most accurate: basic_cnn optimizer\.lr=0\.0[12]", ended, re.MULTILINE)
    [left] = [line for line in lines[started:] if str(runs[1]) in line]
    assert left.split()[0] == "failed"
    for run in (runs[0], runs[2]):
        accuracy = info(run)["results"]["test/accuracy"]
        assert re.search(rf"^ +\d  basic_cnn .* {accuracy:.4f} ", ended, re.MULTILINE)
    assert lines[-2] == f"report: {root / 'report.html'}"
    page = (root / "report.html").read_text()
    assert str(runs[0]) in page
    assert "Traceback" not in first.stdout

    # The others are what they are alone.
    alone = train(tmp_path / "alone", *SGD, "optimizer.lr=0.01")
    assert differences(alone, runs[0]) == []
    alone = train(tmp_path / "alone", *SGD, "optimizer.lr=0.02", "seed=3")
    assert differences(alone, runs[2]) == []

    # Repeated: the first job is skipped, the second tried again, the third goes on.
    config = open_run(runs[2]).config
    shutil.rmtree(runs[2])
    with monkeypatch.context() as patch:
        stop_when(patch, lambda training: training.state.global_step == 3)
        with pytest.raises(Interrupted):
            cnnbench.training.launch.resume(config, RunDir(runs[2]), ["a", "test"])
    before = [(run / "run.json").read_bytes() for run in runs]
    second = command(*words, cwd=tmp_path)
    assert second.returncode == 1, second.stderr
    assert Path(second.stdout.splitlines()[-1]) == root
    assert "[1/3] optimizer.lr=0.01: done before" in second.stdout
    log = root / "jobs" / runs[2].name / "log.txt"
    assert "resumed after epoch 0, step 3" in log.read_text()
    assert second.stderr.count("failed: epoch 1, step 2") == 1
    after = [(run / "run.json").read_bytes() for run in runs]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, False]
    assert differences(alone, runs[2]) == []
    names = {path.name for path in root.iterdir() if not path.name.startswith("events.out.")}
    assert names == {"jobs", "report.html", "sweep.json", *(run.name for run in runs)}


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 90
    while not (path.exists() and path.stat().st_size):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)


def owner_of(run: Path) -> int:
    """Return the process that runs a job."""
    lease = read_lease(run.parent / "jobs" / run.name)
    assert lease is not None
    return lease.owner["pid"]


def sweeping(tmp_path: Path, *axes: str) -> tuple[subprocess.Popen[str], list[Path]]:
    """Start a sweep and return it with its run directories."""
    words = [*TINY, *SGD, "hydra.launcher.slots=1", *axes]
    words += ["sweep.name=s", f"output_root={tmp_path}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "cnnbench", "train", "-m", *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(tmp_path / "sweeps" / "s" / "sweep.json", process)
    record = json.loads((tmp_path / "sweeps" / "s" / "sweep.json").read_text())
    return process, [tmp_path / "sweeps" / "s" / job["run"] for job in record["jobs"]]


def test_a_worker_that_is_killed_fails_its_job_alone(tmp_path: Path) -> None:
    process, runs = sweeping(tmp_path, "num_epochs=100000,1")
    wait_for(runs[0] / "metrics.jsonl", process)
    os.kill(owner_of(runs[0]), signal.SIGKILL)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 1, err
    assert out.splitlines()[-1] == str(tmp_path / "sweeps" / "s")
    assert "killed by signal 9" in err
    assert "num_epochs=100000" in err
    assert [info(run)["status"] for run in runs] == ["failed", "done"]
    assert "killed by signal 9" in info(runs[0])["reason"]
    assert differences(train(tmp_path / "alone", *SGD, "num_epochs=1"), runs[1]) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_a_signal_stops_the_sweep_and_saves_the_job(signum: int, code: int, tmp_path: Path) -> None:
    process, runs = sweeping(tmp_path, "num_epochs=100000,1")
    wait_for(runs[0] / "metrics.jsonl", process)
    process.send_signal(signum)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert "the same command resumes it" in err
    assert "Traceback" not in err
    assert info(runs[0])["status"] == "interrupted"
    assert not runs[1].exists()


def test_the_jobs_of_a_grid_and_their_order(capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "train",
        "-m",
        *TINY,
        "model=lenet,mlp",
        "seed=range(0,2)",
        "optimizer.lr=0.1",
        "--cfg",
    ]
    assert cli(words) == 0
    configs = list(yaml.safe_load_all(capsys.readouterr().out))
    jobs = [(config["model"]["name"], config["seed"]) for config in configs]
    assert jobs == [("lenet", 0), ("lenet", 1), ("mlp", 0), ("mlp", 1)]
    assert all(config["optimizer"]["lr"] == 0.1 for config in configs)


def test_a_sweep_is_found_again_when_it_grows_and_another_is_another() -> None:
    def name(*settings: str) -> str:
        composer = Composer()
        return expand(composer, composer.parse([*TINY, *settings])).name

    assert name("seed=0,1") == name("seed=0,1,2") == name("seed=0,1", "output_root=/x")
    names = {name("seed=0,1"), name("seed=0,1", "num_epochs=3"), name("optimizer.lr=0.1,0.2")}
    assert len(names) == 3
    assert name("seed=0,1", "sweep.name=mine") == "mine"


@pytest.mark.parametrize("name", ["../../x", "a/b", "..", ".hidden", "größe", "x" * 101])
def test_a_sweeps_name_is_one_of_a_directory(name: str) -> None:
    composer = Composer()
    with pytest.raises(ConfigError, match=r"sweep\.name.*expected a directory's name"):
        expand(composer, composer.parse([*TINY, "seed=0,1", f"sweep.name='{name}'"]))


def test_a_sweep_that_is_done_starts_nothing_and_grows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def sweep(axis: str) -> tuple[Path, int]:
        words = [*TINY, "num_epochs=1", axis, f"output_root={tmp_path}"]
        return cnnbench.train_sweep(words)

    root, num_failed = sweep("seed=range(0,3)")
    assert num_failed == 0
    capsys.readouterr()
    before = {run: run.read_bytes() for run in root.glob("*/run.json")}
    assert sweep("seed=range(0,3)") == (root, 0)
    out = capsys.readouterr().out
    assert out.count("done before") == 3
    # Seeds are folded.
    accuracies = [info(run.parent)["results"]["test/accuracy"] for run in before]
    mean = sum(accuracies) / 3
    assert f"Most accurate: basic_cnn, {mean:.4f} (3 seeds)." in out or f" {mean:.4f} ± " in out
    with ThreadPoolExecutor(1) as thread:  # where Python lets no signal be caught
        assert thread.submit(sweep, "seed=range(0,6)").result() == (root, 0)
    out = capsys.readouterr().out
    assert out.count("done before") == 3
    # Those count as done.
    counts = [int(count) for count in re.findall(r"; (\d) done", out)]
    assert len(counts) == 3
    assert min(counts) > 3
    assert counts[-1] == 6
    assert len(list(root.glob("*/run.json"))) == 6
    assert before == {run: run.read_bytes() for run in before}


def test_what_train_returned_is_its_own_jobs_in_a_directory_that_has_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def sweep(seeds: list[int]) -> tuple[Sweep, str]:
        words = [*TINY, "num_epochs=1", f"output_root={tmp_path}"]
        found = cnnbench.train(words, seed=seeds)
        assert isinstance(found, Sweep)
        return found, capsys.readouterr().err

    first, said = sweep([0, 1])
    assert "of other jobs" not in said
    second, said = sweep([2, 3])
    assert second == first
    [told] = [line for line in said.splitlines() if "of other jobs" in line]
    assert told.startswith(f"cnnbench: {first} also holds 2 runs of other jobs")
    page = (second / "report.html").read_text()
    for found, seeds in ((first, [0, 1]), (second, [2, 3])):
        assert [row["seed"] for row in found.results] == seeds
        assert [row["seeds"] for row in cnnbench.compare(found)["rows"]] == [seeds]
        assert cnnbench.pack([found], tmp_path / "paper.zip")["num_runs"] == 2
        assert all((str(run) in page) == (found is second) for run in found.runs)
    [row] = cnnbench.compare(str(first))["rows"]
    assert row["seeds"] == [0, 1, 2, 3]
    # Grown, it has nothing of others.
    assert "of other jobs" not in sweep([0, 1, 2, 3])[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seed=0,1", "optimizer.lr=-1"], "optimizer.lr=-1"),
        (["model=lenet,lennet"], "did you mean 'lenet'"),
        (["seed=0,1", "resume=x"], "resume"),
        (["study=none"], "study=none"),
        (["model=alexnet,lenet", "data.image_size=16"], "image"),
    ],
)
def test_an_invalid_job_is_found_before_the_first_starts(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(["train", "-m", *TINY, f"output_root={tmp_path}", *words]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_done_run_of_another_key_in_the_same_directory_is_not_believed(tmp_path: Path) -> None:
    """As when the first digits of two keys agree: the recorded key decides."""
    argv = ["train", "-m", *TINY, f"output_root={tmp_path}", "seed=0,1"]
    assert cli(argv) == 0
    [sweep] = (tmp_path / "sweeps").iterdir()
    first, second = sorted(file.parent for file in sweep.glob("*/run.json"))
    numbers = info(second)["results"]
    record = info(first)
    foreign = {**info(second), "provenance": {**info(second)["provenance"], "run_key": "0" * 64}}
    (second / "run.json").write_text(json.dumps(foreign))
    assert cli(argv) == 0
    runs = [file.parent for file in sweep.glob("*/run.json")]
    [again] = [run for run in runs if run not in (first, second)]
    assert again.name.startswith(second.name)
    assert info(again)["results"]["test/accuracy"] == numbers["test/accuracy"]
    assert info(first) == record
    assert info(second) == foreign
