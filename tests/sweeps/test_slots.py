"""How many jobs run at once, and the words that say so."""

from __future__ import annotations

import dataclasses
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tiny import info
from tiny_plans import SOFTMAX, plan

import cnnbench
from cnnbench.cli.main import run as cli
from cnnbench.config.compose import Composer
from cnnbench.config.launcher import split_launcher
from cnnbench.errors import UsageError
from cnnbench.sweeps import launchers, slots
from cnnbench.sweeps.launchers import fork_server
from cnnbench.sweeps.slots import choose_slots

GIB = 1 << 30


@pytest.mark.parametrize(
    ("cores", "macs", "wanted", "number", "threads"),
    [
        (1, 10**6, "auto", 1, None),
        (2, 10**6, "auto", 2, 1),
        (16, 50_000_000, "auto", 16, 1),
        (16, 50_000_001, "auto", 2, 8),
        (6, 10**9, "auto", 1, None),
        (16, 10**6, 4, 4, 4),
        (2, 10**6, 8, 8, 1),
        (16, 10**6, 1, 1, None),
    ],
)
def test_the_rule(
    cores: int,
    macs: int,
    wanted: Any,
    number: int,
    threads: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(slots, "available_cores", lambda: cores)
    monkeypatch.setattr(slots, "memory_bytes", lambda: 64 * GIB)
    # The largest network decides, however many jobs there are.
    found = choose_slots([plan(10**5), plan(macs)] * 20, wanted)
    assert (found.number, found.num_threads, found.gpus) == (number, threads, ())


def test_threads_that_somebody_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "available_cores", lambda: 16)
    monkeypatch.setattr(slots, "memory_bytes", lambda: 64 * GIB)
    several = plan()
    device = dataclasses.replace(several.config.device, num_threads=4)
    several = dataclasses.replace(
        several, config=dataclasses.replace(several.config, device=device)
    )
    assert choose_slots([several] * 20, "auto").number == 4
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert choose_slots([plan()] * 20, 4).environment(3) == {"OMP_NUM_THREADS": "2"}
    assert choose_slots([plan()] * 20, 16).environment(3) == {"OMP_NUM_THREADS": "1"}


def test_memory_bounds_auto_and_refuses_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "available_cores", lambda: 16)
    monkeypatch.setattr(slots, "memory_bytes", lambda: GIB)
    assert choose_slots([plan()] * 20, "auto").number == 3
    with pytest.raises(UsageError, match=r"hydra\.launcher\.slots=9: .* 1,074 MB"):
        choose_slots([plan()] * 20, 9)
    assert choose_slots([plan()] * 2, 9).number == 9  # two jobs fill two of them
    assert choose_slots([plan()], 1).number == 1


def test_seconds_that_count_are_shared_with_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "available_cores", lambda: 16)
    timed = plan()
    budget = dataclasses.replace(timed.config.budget, seconds=3.0)
    timed = dataclasses.replace(timed, config=dataclasses.replace(timed.config, budget=budget))
    plans = [plan(), timed]
    assert choose_slots(plans, "auto").number == choose_slots(plans, 1).number == 1
    with pytest.raises(UsageError, match=r"hydra\.launcher\.slots=2: .*budget\.seconds"):
        choose_slots(plans, 2)


def test_each_gpu_gets_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "available_cores", lambda: 16)
    monkeypatch.setattr(slots, "device_memory", lambda device: 80 * GIB)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    found = choose_slots([plan(device="cuda")] * 20, "auto")
    assert (found.number, found.num_threads) == (2, 8)
    names = [found.environment(slot)["CUDA_VISIBLE_DEVICES"] for slot in range(3)]
    assert names == ["3", "5", "3"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hydra/launcher=farm"], "hydra/launcher=farm: unknown choice. Expected local, ray, sl"),
        (["hydra/launcher=locl"], "did you mean 'local'?"),
        (["hydra.launcher.slots=0"], "hydra.launcher.slots=0: expected a whole number >= 1 or"),
        (["hydra.launcher.slots=al"], "hydra.launcher.slots=al: expected"),
        (["hydra.launcher.slots=1,2"], "hydra.launcher.slots: is one for the whole sweep"),
        (["hydra.launcher.slot=2"], "hydra.launcher.slot: unknown key; did you mean 'slots'"),
        (["hydra.launcher.fail_fast=3"], "fail_fast=3: expected true or false"),
        (["hydra.launcher.max_failures=0"], "max_failures=0: expected"),
        (["hydra.launcher.lease_seconds=-1"], "lease_seconds=-1: expected a number > 0"),
        (["hydra.launcher.partition=x"], "partition: acts with hydra/launcher=slurm, not with loc"),
        (["hydra/launcher=slurm", "hydra.launcher.address=x"], "address: acts with hydra/launche"),
        (["hydra/launcher=slurm", "hydra.launcher.minutes=1"], "minutes=1: expected"),
        (["hydra/launcher=slurm", "hydra.launcher.memory_gb=0"], "memory_gb=0: expected"),
        (["hydra/launcher=slurm", "hydra.launcher.max_requeues=-1"], "max_requeues=-1: expected"),
        (["hydra/launcher=rey"], "did you mean 'ray'?"),
    ],
)
def test_wrong_words_are_refused_before_anything_is_written(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["train", "-m", *SOFTMAX, "seed=0,1", f"output_root={tmp_path}", *words]
    assert cli(argv) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "argv",
    [["train"], ["summary"], ["bench", "-m", "seed=0,1"]],
    ids=" ".join,
)
def test_one_run_has_no_launcher(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli([*argv, "model=lenet", "hydra.launcher.slots=2"]) == 2
    assert "hydra.launcher.slots: launches the jobs of a sweep" in capsys.readouterr().err


def test_what_is_not_installed_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = launchers._Kind("cnnbench.none", package="no_such_package", extra="farm")
    monkeypatch.setitem(launchers.LAUNCHERS, "farm", kind)
    with pytest.raises(UsageError, match=r"needs no_such_package.*pip install 'cnnbench\[farm\]'"):
        launchers.check_launcher("farm")


def test_launcher_words_are_no_part_of_the_jobs() -> None:
    settings = Composer().parse(["seed=0,1", "hydra.launcher.slots=3", "hydra/launcher=local"])
    name, config, jobs = split_launcher(settings)
    assert (name, config.slots, config.most_failures) == ("local", 3, None)
    assert [setting.key for setting in jobs] == ["seed"]
    quick = Composer().parse(["hydra.launcher.fail_fast=true", "hydra.launcher.max_failures=3"])
    assert split_launcher(quick)[1].most_failures == 1


@pytest.mark.parametrize("key", ["sweep.name", "output_root", "hydra.launcher.slots"])
@pytest.mark.parametrize("more", [(), ("hydra/sweeper=optuna", "hydra.sweeper.num_trials=2")])
def test_a_sweep_has_one_place(
    key: str, more: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(["train", "-m", "seed=0,1", f"{key}=1,2", *more]) == 2
    assert f"{key}: is one for the whole sweep, no axis of it" in capsys.readouterr().err


def test_several_runs_are_resumed_one_by_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["train", "-m", "resume=a,b"]) == 2
    assert "resume: resumes one run; to resume a sweep" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_the_fork_server_has_one_thread_and_leaves_with_its_parent(tmp_path: Path) -> None:
    """A fork copies one thread alone: whatever another one held would be held for ever."""
    code = (
        "import os, sys\nfrom cnnbench.sweeps.launchers import fork_server\n"
        "fork_server.preload()\nimport torch\n"
        "print(len(os.listdir('/proc/self/task')), torch.cuda.is_initialized())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "False"]
    assert "torch" in fork_server.PRELOADED


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
@pytest.mark.parametrize(
    ("word", "code", "said"),
    [("num_epochs=1", 0, ""), ("data.image_size=200000", 75, "training takes at least")],
)
def test_the_command_of_a_sweep_loads_no_torch(
    word: str, code: int, said: str, tmp_path: Path
) -> None:
    """Jobs are checked, and the layers of networks found for the page, where torch is loaded."""
    source = (
        "import sys\nfrom cnnbench.cli.main import run\n"
        "code = run(sys.argv[1:])\nsys.exit(99 if 'torch' in sys.modules else code)"
    )
    words = [*SOFTMAX, "seed=0,1", "sweep.name=s", f"output_root={tmp_path}", word]
    done = subprocess.run(
        [sys.executable, "-c", source, "train", "-m", *words, "hydra.launcher.slots=2"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert done.stderr.count("cnnbench: ") == bool(said)
    assert said in done.stderr
    if not code:
        page = (tmp_path / "sweeps" / "s" / "report.html").read_text()
        assert "<td>Linear</td>" in page


def test_failures_end_a_sweep_and_the_others_stay_resumable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*SOFTMAX, "optimizer=sgd", "scheduler=constant", f"output_root={tmp_path}"]
    axis = "optimizer.lr=1e20,1e21,0.1,0.2"
    how = ["hydra.launcher.slots=1", "hydra.launcher.max_failures=2"]
    root, num_failed = cnnbench.train_sweep([*words, axis, *how])
    assert num_failed == 2
    said = capsys.readouterr()
    assert "the sweep stops after 2 failed jobs; the same command resumes it" in said.err
    assert said.err.count("its log: ") == 2
    assert cli(["runs", "watch", str(root), "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["status"] for row in rows] == ["failed"] * 2 + ["waiting"] * 2
    assert "not finite" in rows[0]["reason"] or "inf" in rows[0]["reason"]
    assert cnnbench.train_sweep([*words, axis]) == (root, 2)
    assert cli(["runs", "watch", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 done, 2 failed"
    runs = [info(file.parent) for file in root.glob("*/run.json")]
    done = [run for run in runs if run["status"] == "done"]
    assert len(done) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no sweep"),
        ("{", "not a sweep that this version can read"),
        ('{"jobs": [{"overrides": [], "run": "../x"}]}', "not a sweep that this version can read"),
        ('{"jobs": 3}', "not a sweep that this version can read"),
    ],
)
def test_watching_what_is_no_sweep(
    content: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "sweep.json").write_text(content)
    assert cli(["runs", "watch", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_a_launcher_outlives_its_server_and_tells_what_it_does_not_know(tmp_path: Path) -> None:
    from cnnbench.sweeps.launchers import Launch
    from cnnbench.sweeps.launchers.local import ForkLauncher, SpawnLauncher

    jobs = tmp_path / "jobs" / "a"
    jobs.mkdir(parents=True)
    command = (sys.executable, "-m", "cnnbench.sweeps.job", str(tmp_path), "a", "1")
    kinds = [SpawnLauncher(), *([ForkLauncher()] if sys.platform == "linux" else [])]
    for launcher in kinds:
        launcher.submit(Launch("a", command, jobs))
        until = time.monotonic() + 100
        while not (found := launcher.ended(0.2)):
            assert time.monotonic() < until
        assert found == {"a": 65}  # there is no job.json
        launcher.close()
    if isinstance(launcher, ForkLauncher):
        launcher.submit(Launch("a", command, jobs))
        assert launcher._server is not None
        launcher._server.kill()
        assert select.select([launcher._server.stdout], [], [], 20)[0]
        assert launcher.ended(1.0) == {"a": None}
        assert launcher.ended(0.0) == {}
    assert "not a job" in (jobs / "log.txt").read_text()
    assert os.listdir(jobs) == ["log.txt"]
