"""Commands forked from a warmed process, the run they are tried on, and a record of the counts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tiny import differences

# How much the full set tries; the fast set tries a few of each.
NUM_KILLS, NUM_COLD_KILLS, NUM_FULL_DISKS = 200, 10, 100
# Where it leaves its counts, as JSON: RELIABILITY_RESULTS=results.json pytest -m slow ...
RESULTS_VARIABLE = "RELIABILITY_RESULTS"
counts: dict[str, Any] = {}

# As small as a run can be that has all the state there is.
SETTINGS = (
    "model=mlp",
    "model.hidden=[8]",
    "data.native_size=8",
    "optimizer=adamw",
    "optimizer.ema_decay=0.9",
    "augment=crop",
    "save_every_steps=2",
)


class Forks:
    """Runs commands in processes forked from one that has imported everything."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("killable.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Forks:
        return self

    def __exit__(self, *exc: object) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()

    def run_copies(self, copies: int, *argv: str, **how: Any) -> list[dict[str, Any]]:
        """Run so many of a command at once; ``how`` is what an order of ``killable`` takes."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        order = {"argv": argv, "copies": copies, **how}
        print(json.dumps(order), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def run(self, *argv: str, **how: Any) -> dict[str, Any]:
        """Run one command; return its ``code``, ``out``, ``err``, ``phase`` and ``seconds``."""
        [answer] = self.run_copies(1, *argv, **how)
        return answer

    def train(self, *settings: str) -> float:
        """Train to the end; return the seconds."""
        answer = self.run("train", *settings)
        assert answer["code"] == 0, answer["err"]
        return answer["seconds"]


def found(root: Path) -> Path:
    """Return the one run below a directory."""
    [path] = [file.parent for file in root.rglob("run.json")]
    return path


def check_goes_on(forks: Forks, path: Path, whole: Path) -> None:
    """Resume a run and hold it to the uninterrupted one."""
    forks.train(f"resume={path}")
    assert differences(whole, path) == []
    assert not list(path.rglob("*.tmp-*"))


def count(name: str, value: Any) -> None:
    """Record what a test counted: in the file that the variable names, and in the summary."""
    counts[name] = value
    if os.environ.get(RESULTS_VARIABLE):
        Path(os.environ[RESULTS_VARIABLE]).write_text(json.dumps(counts, indent=1) + "\n")
