"""One run in several processes: what one computes, however it is divided, stopped or killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from tiny import differences, info, records, signal_at, tiny, weights
from warmed import Forks, found

NUM_TORCHRUNS = 20
RESUME = "torchrun --nproc-per-node 2 -m cnnbench train resume="
# Draws in every way that a layer can, and normalises nothing.
NETWORK = """
import torch
from torch import nn
from torch.nn import functional as F

class Net(nn.Module):
    def __init__(self, in_channels, num_classes):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 8, 3, stride=2)
        self.dropout = nn.Dropout2d(0.2)
        self.head = nn.Linear(8, num_classes)
        self.unused = nn.Linear(2, 2)

    def forward(self, x):
        x = self.dropout(self.conv(x).relu())
        if self.training:
            x = x + 0.1 * torch.randn_like(x)
            x = x * torch.empty(len(x), 1, 1, 1).bernoulli_(0.9)
        return self.head(F.dropout(x.mean((2, 3)), 0.3, self.training))
"""
# 72 training images in batches of 15 and a last one of 12: parts of 8 and 7 images, or of 5.
SETTINGS = (
    "data.batch_size=15",
    "augment=crop_flip",
    "augment.randaugment_ops=1",
    "optimizer=sgd",
    "optimizer.lr=0.05",
    "save_every_steps=2",
)
NORMED = ("model=mlp", "model.hidden=[8]", "model.norm=hidden", "optimizer.ema_decay=0.9")


@pytest.fixture
def network(tmp_path: Path) -> str:
    file = tmp_path / "net.py"
    file.write_text(NETWORK)
    return f"model.path={file}:Net"


class Torchrun:
    """Forks the processes that torchrun would start, and keeps the store that outlives them."""

    def __init__(self, forks: Forks) -> None:
        self.forks = forks
        self.store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)

    def __call__(
        self, *argv: str, size: int = 2, attempt: int = 0, preamble: str = "", of_rank: int = 0
    ) -> list[dict[str, Any]]:
        """Run a command in so many processes, after some Python in one of them."""
        variables = {
            "TORCHELASTIC_RUN_ID": "tests",
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "TORCHELASTIC_RESTART_COUNT": str(attempt),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(self.store.port),
            "WORLD_SIZE": str(size),
            "LOCAL_WORLD_SIZE": str(size),
        }
        code = (
            f"import os\nos.environ.update({variables!r}, RANK=str(COPY), LOCAL_RANK=str(COPY))\n"
            f"if COPY == {of_rank}:\n    exec({preamble!r}, {{}})\n"
        )
        return self.forks.run_copies(size, *argv, preamble=code)


@pytest.fixture
def torchrun(forks: Forks) -> Torchrun:
    return Torchrun(forks)


def check_silent(answer: dict[str, Any]) -> None:
    assert (answer["out"], answer["err"]) == ("", "")


MIXED = ("augment.mixup_alpha=0.4", "loss.label_smoothing=0.1", "optimizer.ema_decay=0.9")


@pytest.mark.parametrize(
    ("size", "more"),
    [
        (2, ("loss.class_weights=balanced",)),
        pytest.param(2, MIXED, marks=pytest.mark.slow),
        pytest.param(3, MIXED, marks=pytest.mark.slow),
        pytest.param(3, ("loss.class_weights=balanced",), marks=pytest.mark.slow),
        pytest.param(
            3,
            ("data.num_workers=1", "data.shuffle=false", "optimizer.clip_norm=0.1"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_several_processes_train_as_one(
    size: int, more: tuple[str, ...], network: str, torchrun: Torchrun, tmp_path: Path
) -> None:
    settings = (*SETTINGS, "model=custom", network, *more)
    first, *others = torchrun("train", *tiny(tmp_path / "many", *settings), size=size)
    assert first["code"] == 0, first["err"]
    for other in others:
        assert other["code"] == 0
        check_silent(other)
    torchrun.forks.train(*tiny(tmp_path / "one", *settings))
    many, one = found(tmp_path / "many"), found(tmp_path / "one")
    assert first["out"].splitlines()[-1] == str(many)
    for ours, theirs in zip(records(many), records(one), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)
    for name, tensor in weights(one).items():
        assert weights(many)[name].numpy() == pytest.approx(tensor.numpy(), abs=1e-5)
    results = info(many)["results"], info(one)["results"]
    assert results[0]["test/accuracy"] == results[1]["test/accuracy"]
    assert results[0]["test/loss"] == pytest.approx(results[1]["test/loss"], rel=1e-4)
    [process] = info(many)["provenance"]["processes"]
    assert process["effective"]["world_size"] == size
    assert (many / "predictions.npz").stat().st_size == (one / "predictions.npz").stat().st_size


@pytest.fixture(scope="module")
def uninterrupted(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes with batch norm and all the state there is."""
    root = tmp_path_factory.mktemp("uninterrupted")
    first, other = Torchrun(forks)("train", *tiny(root, *SETTINGS, *NORMED))
    assert first["code"] == other["code"] == 0, first["err"]
    assert "batch norm is not synchronised on a CPU: each of the 2 processes" in first["err"]
    check_silent(other)
    return found(root)


@pytest.mark.parametrize(
    ("of_rank", "signum", "point"),
    [
        (0, signal.SIGTERM, ("cnnbench.engine.loop:_update", 3)),
        (1, signal.SIGINT, ("cnnbench.training.trainer:Training._evaluate", 2)),
    ],
)
def test_a_signal_to_one_stops_all_and_they_resume_to_the_same_bits(
    of_rank: int,
    signum: int,
    point: tuple[str, int],
    uninterrupted: Path,
    torchrun: Torchrun,
    tmp_path: Path,
) -> None:
    settings = tiny(tmp_path, *SETTINGS, *NORMED)
    stopping = signal_at(*point, signum)
    first, other = torchrun("train", *settings, preamble=stopping, of_rank=of_rank)
    assert first["code"] == other["code"] == 128 + signum, first["err"] + other["err"]
    run = found(tmp_path)
    assert first["out"].splitlines()[-1] == str(run)
    assert first["err"].endswith(f"Resume with:\n{RESUME}{run}\n")
    check_silent(other)
    assert info(run)["status"] == "interrupted"
    first, other = Torchrun(torchrun.forks)("train", f"resume={run}")
    assert first["code"] == other["code"] == 0, first["err"] + other["err"]
    assert differences(uninterrupted, run) == []


def test_a_run_goes_from_two_processes_to_one_and_back(
    network: str, torchrun: Torchrun, tmp_path: Path
) -> None:
    settings = ("model=custom", network, *SETTINGS, "num_epochs=3")
    torchrun.forks.train(*tiny(tmp_path / "whole", *settings))
    whole = found(tmp_path / "whole")
    stopping = signal_at("cnnbench.engine.loop:_update", 3, signal.SIGTERM)
    torchrun("train", *tiny(tmp_path / "run", *settings), preamble=stopping)
    run = found(tmp_path / "run")
    # One process from the second to the ninth step, then two again.
    stopping = signal_at("cnnbench.engine.loop:_update", 7, signal.SIGTERM)
    alone = torchrun.forks.run("train", f"resume={run}", network, preamble=stopping)
    assert alone["code"] == 143, alone["err"]
    assert "resumed with something else than before (world_size 2, then 1)" in alone["err"]
    first, other = Torchrun(torchrun.forks)("train", f"resume={run}", network)
    assert first["code"] == other["code"] == 0, first["err"]
    assert "(world_size 1, then 2)" in first["err"]
    check_silent(other)
    for ours, theirs in zip(records(run), records(whole), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("of_rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_when_one_is_killed_the_other_says_so_and_a_restart_resumes(
    of_rank: int, uninterrupted: Path, torchrun: Torchrun, tmp_path: Path
) -> None:
    settings = tiny(tmp_path, *SETTINGS, *NORMED)
    dying = signal_at("cnnbench.engine.loop:_update", 4)
    answers = torchrun("train", *settings, preamble=dying, of_rank=of_rank)
    killed, survivor = answers[of_rank], answers[1 - of_rank]
    run = found(tmp_path)
    assert killed["code"] == -signal.SIGKILL
    assert survivor["code"] == 75, survivor["err"]
    said = (killed["err"] + survivor["err"]).splitlines()
    assert said[-2].startswith("cnnbench: another of the 2 processes of this run has ended")
    assert said[-1] == f"{RESUME}{run}"
    # The same command, as torchrun --max-restarts starts it again.
    first, other = torchrun("train", *settings, attempt=1)
    assert first["code"] == other["code"] == 0, first["err"]
    assert "resumed after epoch 0, step 2" in first["out"]
    assert found(tmp_path) == run
    assert differences(uninterrupted, run) == []
    # Killed once more when all was done, nothing is trained again.
    first, other = torchrun("train", *settings, attempt=2)
    assert (first["code"], first["out"].splitlines()[-1]) == (0, str(run))
    assert len(info(run)["provenance"]["processes"]) == 2


REFUSED = {
    "a batch that is too small": (("data.batch_size=1",), "is divided among 2 processes; expected"),
    "a last batch for batch norm": (
        (*NORMED, "data.batch_size=23"),
        "the last batch of an epoch has 3 of the 72 training images, too few for 2 processes; "
        "expected at least 4: set data.drop_last=true or another batch size",
    ),
    "few test images": (
        ("data.num_test=1",),
        "data=synthetic: too few test images for 2 processes: 1",
    ),
    "seconds": (
        ("budget.seconds=5",),
        "budget.seconds: is for one process, and torchrun started 2; set budget.tflop or",
    ),
    "compile": (("device.compile=true",), "device.compile: is for one process"),
    "parts": (("optimizer.accumulate_steps=2",), "optimizer.accumulate_steps: is for one process"),
    "a sweep": (
        ("-m", "seed=0,1"),
        "train -m: torchrun started 2 processes, which train one run together; write 'cnnbench "
        "train -m ...' without torchrun",
    ),
    "a key with a typo": (("sede=1",), "sede: unknown key; did you mean 'seed'?"),
}


QUICK = ("a last batch for batch norm", "a sweep", "a key with a typo")


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=() if case in QUICK else (pytest.mark.slow,)) for case in REFUSED],
)
def test_what_several_processes_cannot_do_is_refused_once(
    case: str, torchrun: Torchrun, tmp_path: Path
) -> None:
    settings, message = REFUSED[case]
    words = tiny(tmp_path, *settings)
    if "budget.seconds=5" in words:
        words.remove("num_epochs=2")
    answers = torchrun("train", *words)
    assert [answer["code"] for answer in answers] == [2, 2], answers[0]["err"]
    said = "".join(answer["err"] for answer in answers)
    assert said.count(message) == 1, said
    assert said.startswith("cnnbench: ")
    assert not list(tmp_path.iterdir())


def test_a_failure_of_all_is_said_once(torchrun: Torchrun, tmp_path: Path) -> None:
    settings = tiny(tmp_path, "model=softmax", "optimizer=sgd", "optimizer.lr=1e38", "seed=3")
    answers = torchrun("train", *settings)
    assert [answer["code"] for answer in answers] == [76, 76]
    [line] = "".join(answer["err"] for answer in answers).splitlines()
    assert "so no update was made" in line
    assert info(found(tmp_path))["status"] == "failed"


def test_other_verbs_are_for_one_process(torchrun: Torchrun) -> None:
    first, other = torchrun("compare", "outputs")
    assert first["code"] == other["code"] == 2
    assert first["err"] == (
        "cnnbench: compare: torchrun started 2 processes, which train one run together; write "
        "'cnnbench compare ...' without torchrun\n"
    )
    check_silent(other)


def started(root: Path, *settings: str, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Start two processes by the real torchrun."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", *options]
    command = ["--nproc-per-node", "2", "-m", "cnnbench", "train", *tiny(root, *settings)]
    return subprocess.Popen(
        [*torchrun, *command], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def workers(process: subprocess.Popen[str]) -> list[int]:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [
        int(pid)
        for pid in children.split()
        if b"cnnbench" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


def wait_for(process: subprocess.Popen[str], start: str) -> list[str]:
    """Return the lines of standard output up to one that starts so."""
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith(start):
            return lines
    raise AssertionError("".join(lines) + process.communicate()[1])


def test_torchrun_itself(tmp_path: Path) -> None:
    process = started(tmp_path, "model=softmax", "num_epochs=1")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert out.splitlines()[-1] == str(found(tmp_path))
    assert len(re.findall("^epoch 1/1", out, re.MULTILINE)) == 1
    assert "cnnbench" not in err


@pytest.mark.slow
def test_every_end_is_clean(tmp_path: Path) -> None:
    for number in range(NUM_TORCHRUNS):
        root = tmp_path / str(number)
        root.mkdir()
        process = started(root, "model=softmax", "num_epochs=1")
        out, err = process.communicate(timeout=300)
        assert (process.returncode, out.splitlines()[-1]) == (0, str(found(root))), err
        assert "cnnbench" not in err
        assert "rror" not in err


@pytest.mark.slow
def test_every_restart_resumes(tmp_path: Path) -> None:
    settings = ("model=mlp", "model.hidden=[8]", "num_epochs=400", "checkpoint.keep_last=1")
    for number in range(NUM_TORCHRUNS):
        root = tmp_path / str(number)
        root.mkdir()
        process = started(root, *settings, options=("--max-restarts", "1"))
        wait_for(process, f"epoch {2 + number}/")
        os.kill(workers(process)[number % 2], signal.SIGKILL)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        assert "resumed after epoch" in out
        run = found(root)
        assert out.splitlines()[-1] == str(run)
        assert len(info(run)["provenance"]["processes"]) == 2
        assert [record["epoch"] for record in records(run) if "train/loss" in record] == list(
            range(1, 401)
        )


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_stopping_torchrun_saves_the_state(signum: int, tmp_path: Path) -> None:
    process = started(tmp_path, "model=softmax", "num_epochs=100000", "data.num_workers=1")
    wait_for(process, "epoch 2/")
    process.send_signal(signum)
    _, err = process.communicate(timeout=300)
    run = found(tmp_path)
    assert info(run)["status"] == "interrupted", err
    ours = [n for n, line in enumerate(err.splitlines()) if RESUME in line]
    assert len(ours) == 1


@pytest.mark.slow
def test_when_one_is_killed_torchruns_report_follows_our_last_line(tmp_path: Path) -> None:
    process = started(tmp_path, "model=softmax", "num_epochs=100000")
    wait_for(process, "epoch 2/")
    os.kill(workers(process)[1], signal.SIGKILL)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1
    lines = err.splitlines()
    [ours] = [n for n, line in enumerate(lines) if RESUME in line]
    assert lines[ours - 1].startswith("cnnbench: another of the 2 processes of this run has ended")
    assert "failed (exitcode: -9)" in "".join(lines[ours + 1 :])
    assert "failed (exitcode: -9)" not in "".join(lines[:ours])
