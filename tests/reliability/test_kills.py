"""``kill -9`` at any moment: the run goes on and ends where an uninterrupted one does."""

from __future__ import annotations

import collections
import json
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from killable import CALLS, PHASES
from tiny import command, differences, info, records, series, started, tiny
from warmed import (
    NUM_COLD_KILLS,
    NUM_KILLS,
    SETTINGS,
    Forks,
    check_goes_on,
    count,
    found,
)

SAVING = ("serialise", "write", "fsync", "rename", "manifest", "prune")
HIT = PHASES[1:]
# The third save writes these, and then removes what the first one left.
WRITTEN = ("epoch_0001.pt", "epoch_0001.state.pt", "manifest.json")
REMOVED = ("step_00000002.pt", "step_00000002.state.pt")
POINTS = [
    *((file, call) for file in WRITTEN for call in CALLS if call != "unlink"),
    *((file, "unlink") for file in REMOVED),
    (REMOVED[-1], "directory fsync"),
]


def check_killed(forks: Forks, path: Path, whole: Path) -> None:
    """Look at a run that was killed, go on with it, and compare."""
    ended = len(series(path, "train/loss")) if (path / "metrics.jsonl").exists() else 0
    manifest = path / "checkpoints" / "manifest.json"
    saves = json.loads(manifest.read_text())["saves"] if manifest.exists() else {}
    # The epoch whose save was going on is logged and not yet saved.
    assert sum(name.startswith("epoch") for name in saves) >= ended - 1
    check_goes_on(forks, path, whole)
    assert info(path)["status"] == "done"


def killed(forks: Forks, root: Path, whole: Path, **when: Any) -> str:
    """Kill a run, go on, compare; return the phase that was hit."""
    answer = forks.run("train", *tiny(root, *SETTINGS), **when)
    if answer["phase"] == "ended" or not list(root.rglob("run.json")):
        return "ended" if answer["phase"] == "ended" else "start"
    assert answer["code"] == -signal.SIGKILL
    check_killed(forks, found(root), whole)
    return answer["phase"]


@pytest.mark.parametrize("phase", HIT)
def test_a_run_killed_in_each_phase_goes_on_exactly(
    phase: str, forks: Forks, whole: tuple[Path, float], tmp_path: Path
) -> None:
    number = 1 if phase == "evaluate" else 3
    assert killed(forks, tmp_path, whole[0], phase=phase, count=number) == phase


@pytest.mark.parametrize(("file", "call"), POINTS)
def test_a_death_at_each_point_of_a_save(
    file: str, call: str, forks: Forks, whole: tuple[Path, float], tmp_path: Path
) -> None:
    # Each save writes a manifest; what is removed was renamed into the directory once.
    number = {"manifest.json": 3, REMOVED[-1]: 2 if call == "directory fsync" else 1}.get(file, 1)
    answer = forks.run("train", *tiny(tmp_path, *SETTINGS), die_at=[file, call, number])
    assert answer["code"] == -signal.SIGKILL, answer["err"]
    path = found(tmp_path)
    saves = json.loads((path / "checkpoints" / "manifest.json").read_text())["saves"]
    is_named = POINTS.index((file, call)) >= POINTS.index(("manifest.json", "rename"))
    newest = "epoch_0001" if is_named else "step_00000004"
    assert list(saves)[-1] == newest
    check_killed(forks, path, whole[0])


def test_a_death_in_the_first_save(forks: Forks, whole: tuple[Path, float], tmp_path: Path) -> None:
    """Files without a manifest: what a deleted manifest leaves too, but only after one save."""
    order = {"die_at": ["step_00000002.state.pt", "rename", 1]}
    assert forks.run("train", *tiny(tmp_path, *SETTINGS), **order)["code"] == -signal.SIGKILL
    path = found(tmp_path)
    answer = forks.run("train", f"resume={path}", die_at=["step_00000002.pt", "rename", 1])
    assert answer["code"] == -signal.SIGKILL
    assert "the first checkpoint was never finished" in answer["err"]
    check_killed(forks, path, whole[0])


def listed_status(root: Path) -> str:
    from cnnbench.runs.directory import find_runs
    from cnnbench.runs.prune import describe_run

    [run] = find_runs(root)
    return str(describe_run(run)["status"])


def test_a_run_killed_again_and_again_goes_on_exactly(
    forks: Forks, whole: tuple[Path, float], tmp_path: Path
) -> None:
    forks.run("train", *tiny(tmp_path, *SETTINGS), phase="rename", count=2)
    path = found(tmp_path)
    assert info(path)["status"] == "running"
    assert listed_status(tmp_path) == "dead"
    for phase in ("write", "manifest"):
        answer = forks.run("train", f"resume={path}", phase=phase, count=1)
        assert answer["phase"] == phase
    check_killed(forks, path, whole[0])
    assert listed_status(tmp_path) == "done"


def points(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Return what TensorBoard shows of a run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(path), size_guidance={"scalars": 0}).Reload()
    tags = [tag for tag in board.Tags()["scalars"] if not tag.startswith("perf/")]
    return {tag: [(event.step, event.value) for event in board.Scalars(tag)] for tag in tags}


@pytest.mark.parametrize("number", [4, 9])
def test_tensorboard_after_a_kill_shows_each_point_once_and_lost_an_epoch_at_most(
    number: int, forks: Forks, whole: tuple[Path, float], tmp_path: Path
) -> None:
    settings = tiny(tmp_path, *SETTINGS)
    answer = forks.run("train", *settings, phase="train", count=number)
    assert answer["phase"] == "train"
    path = found(tmp_path)
    check_killed(forks, path, whole[0])
    shown = points(path)
    lost = set()
    for tag in {key for record in records(path) for key in record} - {"epoch", "global_step"}:
        wanted = {r["global_step"]: (r["epoch"], r[tag]) for r in records(path) if tag in r}
        steps = [step for step, _ in shown[tag]]
        assert len(steps) == len(set(steps)), tag
        for step, value in shown[tag]:
            assert value == pytest.approx(wanted[step][1]), (tag, step)
        lost |= {epoch for step, (epoch, _) in wanted.items() if step not in steps}
    assert len(lost) <= 1


@pytest.mark.slow
def test_two_hundred_kills(forks: Forks, whole: tuple[Path, float], tmp_path: Path) -> None:
    draw = random.Random(0)
    hits: collections.Counter[str] = collections.Counter()
    number = 0
    while hits.total() < NUM_KILLS - NUM_COLD_KILLS:
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
            count("kills that went on exactly, by the phase they hit", dict(hits))
    for number in range(NUM_COLD_KILLS):
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
    count("kills that went on exactly, by the phase they hit", dict(hits))
    assert hits["cold"] == NUM_COLD_KILLS
    assert sum(hits[phase] for phase in SAVING) >= NUM_KILLS // 2 - NUM_COLD_KILLS
    assert all(hits[phase] for phase in HIT)
