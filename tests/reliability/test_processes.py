"""Several processes at once, signals at any moment, memory that runs out, workers that die."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
from tiny import differences, info, signal_at, tiny
from warmed import SETTINGS, Forks, check_goes_on, found

NUM_STARTS = 20
SOFTMAX = ("model=softmax", "data.native_size=8", "num_epochs=1")


def test_twenty_starts_at_once_make_twenty_runs(forks: Forks, tmp_path: Path) -> None:
    answers = forks.run_copies(NUM_STARTS, "train", *tiny(tmp_path, *SOFTMAX))
    assert [answer["code"] for answer in answers] == [0] * NUM_STARTS, answers[0]["err"]
    said = {Path(answer["out"].splitlines()[-1]) for answer in answers}
    assert said == {file.parent for file in tmp_path.rglob("run.json")}
    assert len(said) == NUM_STARTS
    first, *others = said
    assert all(info(run)["status"] == "done" for run in said)
    assert all(differences(first, run) == [] for run in others)


# Training waits until the other process was told that it may not.
WAIT_FOR_THE_OTHER = """
import time
from pathlib import Path
from cnnbench.cli import main as cli
from cnnbench.engine import loop

told, until = Path({told!r}), time.monotonic() + 100
fail, update = cli._fail, loop._update

def tell(*args):
    told.touch()
    return fail(*args)

def wait(*args):
    while not told.exists() and time.monotonic() < until:
        time.sleep(0.01)
    return update(*args)

cli._fail, loop._update = tell, wait
"""


def test_of_two_resumes_at_once_one_goes_on_and_one_is_told(
    forks: Forks, whole: tuple[Path, float], tmp_path: Path
) -> None:
    stopping = signal_at("cnnbench.engine.loop:_update", 3, signal.SIGTERM)
    assert forks.run("train", *tiny(tmp_path, *SETTINGS), preamble=stopping)["code"] == 143
    run = found(tmp_path)
    waiting = WAIT_FOR_THE_OTHER.format(told=str(tmp_path / "told"))
    answers = forks.run_copies(2, "train", f"resume={run}", preamble=waiting)
    refused, done = sorted(answers, key=lambda answer: -answer["code"])
    assert (refused["code"], done["code"]) == (2, 0), (refused["err"], done["err"])
    assert refused["err"] == f"cnnbench: {run}: another process is writing to this run\n"
    assert differences(whole[0], run) == []
    assert len(info(run)["provenance"]["processes"]) == 2


PLACES = {
    "training": ("cnnbench.engine.loop:_update", 3),
    "evaluation": ("cnnbench.training.trainer:Training._evaluate", 1),
    "the last test": ("cnnbench.training.trainer:Training._evaluate", 3),
    "serialising": ("torch:save", 1),
    "writing weights": ("cnnbench.runs.checkpoint:atomic_write", 1),
    "writing a manifest": ("cnnbench.runs.checkpoint:atomic_write", 3),
    "pruning": ("cnnbench.runs.checkpoint:Checkpoints._prune", 3),
    "building": ("cnnbench.training.trainer:build_model", 1),
}


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT], ids=["term", "int"])
@pytest.mark.parametrize("place", PLACES)
def test_a_signal_saves_the_state(
    place: str, signum: int, forks: Forks, whole: tuple[Path, float], tmp_path: Path
) -> None:
    preamble = signal_at(*PLACES[place], signum)
    answer = forks.run("train", *tiny(tmp_path, *SETTINGS), preamble=preamble)
    assert answer["code"] == 128 + signum, answer["err"]
    run = found(tmp_path)
    assert answer["out"].splitlines()[-1] == str(run)
    assert f"cnnbench train resume={run}" in answer["err"]
    assert "Traceback" not in answer["err"]
    assert info(run)["status"] == "interrupted"
    check_goes_on(forks, run, whole[0])


def test_a_terminal_that_hangs_up_saves_the_state_but_not_under_nohup(
    forks: Forks, whole: tuple[Path, float], tmp_path: Path
) -> None:
    preamble = signal_at("cnnbench.engine.loop:_update", 3, signal.SIGHUP)
    answer = forks.run("train", *tiny(tmp_path / "shell", *SETTINGS), preamble=preamble)
    assert answer["code"] == 129, answer["err"]
    run = found(tmp_path / "shell")
    assert "hung up after epoch 0, step 3; the state is saved" in answer["err"]
    check_goes_on(forks, run, whole[0])
    nohup = f"import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n{preamble}"
    answer = forks.run("train", *tiny(tmp_path / "nohup", *SETTINGS), preamble=nohup)
    assert answer["code"] == 0, answer["err"]
    assert differences(whole[0], found(tmp_path / "nohup")) == []


STOP_A_WHILE = """
import os, signal, subprocess
from cnnbench.engine import loop

update, calls = loop._update, []

def stop_a_while(*args):
    calls.append(None)
    if len(calls) == 3:
        subprocess.Popen(["sh", "-c", f"sleep {seconds}; kill -CONT {{os.getpid()}}"])
        os.kill(os.getpid(), signal.SIGSTOP)
    return update(*args)

loop._update = stop_a_while
"""


def test_the_time_of_a_stopped_process_is_in_no_ones_seconds(
    forks: Forks, whole: tuple[Path, float], tmp_path: Path
) -> None:
    preamble = STOP_A_WHILE.format(seconds=4)
    answer = forks.run("train", *tiny(tmp_path, *SETTINGS), preamble=preamble)
    assert answer["code"] == 0, answer["err"]
    assert answer["seconds"] > 4
    run = found(tmp_path)
    assert differences(whole[0], run) == []
    assert info(run)["results"]["train_seconds"] < 3
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    assert max(line.get("perf/epoch_seconds", 0) for line in lines) < 3


def test_a_signal_ends_an_evaluation_of_a_run(
    forks: Forks, whole: tuple[Path, float], tmp_path: Path
) -> None:
    before = (whole[0] / "run.json").read_bytes()
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        preamble = signal_at("cnnbench.data.splits:Splits.prepare", 1, signum)
        answer = forks.run("evaluate", str(whole[0]), preamble=preamble)
        assert answer["code"] == 128 + signum
        assert "Traceback" not in answer["err"]
    assert (whole[0] / "run.json").read_bytes() == before


# The second signal comes while the first one's save is stuck.
SIGNAL_TWICE = """
import os, time
from cnnbench.training import trainer as training
from cnnbench.engine import loop

update = loop._update

def ask(*args):
    os.kill(os.getpid(), {first:d})
    return update(*args)

def ask_again(*args, **keywords):
    os.kill(os.getpid(), {second:d})
    time.sleep(300)

loop._update, training.Training._save = ask, ask_again
"""


@pytest.mark.parametrize(
    ("first", "second"), [(signal.SIGINT, signal.SIGTERM), (signal.SIGTERM, signal.SIGINT)]
)
def test_a_second_signal_ends_at_once(
    first: int, second: int, forks: Forks, tmp_path: Path
) -> None:
    preamble = SIGNAL_TWICE.format(first=first, second=second)
    answer = forks.run("train", *tiny(tmp_path, *SETTINGS), preamble=preamble)
    assert answer["code"] == 128 + second
    assert answer["seconds"] < 100
    assert info(found(tmp_path))["status"] == "running"


def test_memory_that_really_runs_out_ends_in_one_sentence(forks: Forks, tmp_path: Path) -> None:
    preamble = (
        "import resource\n"
        "pages = int(open('/proc/self/statm').read().split()[0])\n"
        "limit = pages * resource.getpagesize() + (300 << 20)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
    )
    large = ("model=mlp", "model.hidden=[30000,30000]", "data.native_size=8")
    answer = forks.run("train", *tiny(tmp_path, *large), preamble=preamble)
    assert answer["code"] == 75, answer["err"]
    [line] = [line for line in answer["err"].splitlines() if "warning" not in line]
    assert "data.batch_size=16" in line
    assert "data.image_size=8" in line
    assert info(found(tmp_path))["status"] == "failed"


KILL_A_WORKER = """
import multiprocessing, os
from cnnbench.training import trainer as training

log, told = training.log_step, []

def log_and_kill(*args, **keywords):
    workers = [child.pid for child in multiprocessing.active_children()]
    if not told:
        told.append(print("workers", *workers, flush=True))
        os.kill(workers[0], 9)
    log(*args, **keywords)

training.log_step = log_and_kill
"""


def test_a_dead_loader_worker_ends_in_one_sentence_and_leaves_no_orphan(
    forks: Forks, tmp_path: Path
) -> None:
    settings = tiny(tmp_path, "data.batch_size=2", "data.num_workers=2", "model=softmax")
    answer = forks.run("train", *settings, preamble=KILL_A_WORKER)
    assert answer["code"] == 75, answer["err"]
    assert "a loader worker died with data.batch_size=2 data.image_size=16" in answer["err"]
    [line] = [line for line in answer["out"].splitlines() if line.startswith("workers")]
    workers = [int(word) for word in line.split()[1:]]
    assert len(workers) == 2
    until = time.monotonic() + 60
    while any(map(is_alive, workers)):
        assert time.monotonic() < until, "a worker outlived its parent"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
