"""``kill -9`` at any moment: the run goes on and ends where an uninterrupted one does."""

from __future__ import annotations

import collections
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from killable import PHASES
from tiny import command, differences, info, series, started, tiny

SETTINGS = (
    "model=mlp",
    "model.hidden=[8]",
    "optimizer=adamw",
    "optimizer.ema_decay=0.9",
    "augment=crop",
    "save_every_steps=2",
)
SAVING = ("serialise", "write", "fsync", "rename", "manifest", "prune")
HIT = PHASES[1:]
NUM_KILLS, NUM_COLD = 200, 10


class Forks:
    """The warmed process."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("killable.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def order(self, settings: list[str], **when: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps({"settings": settings, **when}), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def train(self, settings: list[str]) -> float:
        """Train to the end; return the seconds."""
        answer = self.order(settings, kill=False)
        assert answer["status"] == 0
        return answer["seconds"]


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    forks = Forks()
    yield forks
    assert forks.process.stdin is not None
    forks.process.stdin.close()
    assert forks.process.wait(30) == 0
    assert forks.process.stdout is not None
    forks.process.stdout.close()


@pytest.fixture(scope="module")
def whole(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """An uninterrupted run, and the seconds it took."""
    root = tmp_path_factory.mktemp("whole")
    assert forks.order(tiny(root / "cold", *SETTINGS), kill=False, learn=True)["status"] == 0
    seconds = forks.train(tiny(root / "warm", *SETTINGS))
    assert differences(found(root / "cold"), found(root / "warm")) == []
    return found(root / "warm"), seconds


def found(root: Path) -> Path:
    [path] = [file.parent for file in root.rglob("run.json")]
    return path


def killed(forks: Forks, root: Path, whole: Path, **when: Any) -> str:
    """Kill a run, go on, compare; return the phase that was hit."""
    answer = forks.order(tiny(root, *SETTINGS), **when)
    if answer["phase"] == "ended" or not list(root.rglob("run.json")):
        return "ended" if answer["phase"] == "ended" else "start"
    assert os.WTERMSIG(answer["status"]) == signal.SIGKILL
    check_goes_on(forks, found(root), whole)
    return answer["phase"]


def check_goes_on(forks: Forks, path: Path, whole: Path) -> None:
    ended = len(series(path, "train/loss")) if (path / "metrics.jsonl").exists() else 0
    manifest = path / "checkpoints" / "manifest.json"
    saves = json.loads(manifest.read_text())["saves"] if manifest.exists() else {}
    # The epoch whose save was going on is logged and not yet saved.
    assert sum(name.startswith("epoch") for name in saves) >= ended - 1
    forks.train([f"resume={path}"])
    assert differences(whole, path) == []
    assert not list(path.rglob("*.tmp-*"))
    assert info(path)["status"] == "done"


@pytest.mark.parametrize("phase", HIT)
def test_a_run_killed_in_each_phase_goes_on_exactly(
    phase: str, forks: Forks, whole: tuple[Path, float], tmp_path: Path
) -> None:
    count = 1 if phase == "evaluate" else 3
    assert killed(forks, tmp_path, whole[0], phase=phase, count=count) == phase


def test_a_run_killed_again_and_again_goes_on_exactly(
    forks: Forks, whole: tuple[Path, float], tmp_path: Path
) -> None:
    forks.order(tiny(tmp_path, *SETTINGS), phase="rename", count=2)
    path = found(tmp_path)
    for phase in ("write", "manifest"):
        answer = forks.order([f"resume={path}"], phase=phase, count=1)
        assert answer["phase"] == phase
    check_goes_on(forks, path, whole[0])


@pytest.mark.slow
def test_two_hundred_kills(
    forks: Forks, whole: tuple[Path, float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = random.Random(0)
    hits: collections.Counter[str] = collections.Counter()
    number = 0
    while hits.total() < NUM_KILLS - NUM_COLD:
        number += 1
        if number % 2:
            when: dict[str, Any] = {"phase": draw.choice(SAVING), "count": draw.randint(1, 5)}
        elif number % 20 == 0:
            # Short phases that no save holds, so that none is left to chance.
            when = {"phase": draw.choice(("evaluate", "event flush")), "count": 1}
        else:
            when = {"after_seconds": draw.uniform(0.1, 1.5) * whole[1]}
        phase = killed(forks, tmp_path / str(number), whole[0], **when)
        if phase not in ("ended", "start"):
            hits[phase] += 1
    for number in range(NUM_COLD):
        root = tmp_path / f"cold{number}"
        root.mkdir()
        process = started("train", *tiny(root, *SETTINGS), cwd=root)
        while not list(root.rglob("manifest.json")):
            time.sleep(0.001)
        time.sleep(draw.random() * 0.05)
        process.kill()
        process.communicate()
        path = found(root)
        if process.returncode == -signal.SIGKILL:
            assert command("train", f"resume={path}", cwd=root).returncode == 0
            hits["cold"] += 1
        assert differences(whole[0], path) == []
    with capsys.disabled():
        print(f"\nkills by phase: {dict(hits)}")
    assert hits["cold"] == NUM_COLD
    assert sum(hits[phase] for phase in SAVING) >= NUM_KILLS // 2 - NUM_COLD
    assert all(hits[phase] for phase in HIT)
