"""Skipped tests are failures in CI, unless the machine has no such device."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SKIPS = """
import pytest

@pytest.mark.skip(reason="no cuda on this machine")
def test_cuda(): pass

@pytest.mark.skipif(True, reason="no mps")
def test_mps(): pass

def test_calls():
    pytest.skip("no internet")

@pytest.mark.skip(reason="dull")
def test_marked(): pass

@pytest.mark.xfail(strict=True)
def test_known(): assert False
"""


@pytest.mark.parametrize(
    ("ci", "summary"),
    # What is skipped before it starts is an error, and so is a module that skips itself.
    [("1", "1 failed, 2 skipped, 1 xfailed, 2 errors"), ("", "5 skipped, 1 xfailed")],
)
def test_skips(tmp_path: Path, ci: str, summary: str) -> None:
    (tmp_path / "conftest.py").write_text((Path(__file__).parent / "conftest.py").read_text())
    (tmp_path / "test_skips.py").write_text(SKIPS)
    (tmp_path / "test_module.py").write_text("import pytest\npytest.importorskip('no_such_thing')")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            "--continue-on-collection-errors",
        ],
        cwd=tmp_path,
        env={**os.environ, "CI": ci},
        capture_output=True,
        text=True,
        check=False,
    )
    assert summary in done.stdout
