"""The warmed process that the tests fork commands from, and a word about what they counted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny
from warmed import SETTINGS, Forks, counts, found


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    with Forks() as forks:
        root = tmp_path_factory.mktemp("warm")
        forks.train(*tiny(root, "num_epochs=1"))  # the next find imported what it imported
        yield forks


@pytest.fixture(scope="session")
def whole(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """An uninterrupted run of ``SETTINGS``, and the seconds it took."""
    root = tmp_path_factory.mktemp("whole")
    seconds = forks.train(*tiny(root, *SETTINGS))
    return found(root), seconds


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say what was counted."""
    for name, value in counts.items():
        terminalreporter.write_line(f"{name}: {value}")
