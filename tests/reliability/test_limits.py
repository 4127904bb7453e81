"""Few file handles, little memory, no threads: one sentence and exit 75, never a bug."""

from __future__ import annotations

import errno
import subprocess
import sys

import pytest
from tiny import tiny

from cnnbench.cli.main import run as cli
from cnnbench.errors import resource_error
from cnnbench.files import atomic_write

ERRORS = {
    "handles of the process": (OSError(errno.EMFILE, "Too many open files"), "open files"),
    "handles of the system": (OSError(errno.ENFILE, "Too many open files in system"), "open files"),
    "handles of torch": (RuntimeError("unable to mmap: Too many open files (24)"), "open files"),
    "handles between processes": (RuntimeError("received 0 items of ancdata"), "open files"),
    "memory of the system": (OSError(errno.ENOMEM, "Cannot allocate memory"), "out of memory"),
    "memory of Python": (MemoryError(), "out of memory"),
    "memory of torch": (RuntimeError("[enforce] can't allocate memory: 12 bytes"), "out of memory"),
    "memory of C++": (RuntimeError("std::bad_alloc"), "out of memory"),
    "memory of the loader": (
        ImportError("libx.so: failed to map segment from shared object"),
        "out of memory",
    ),
    "threads": (RuntimeError("can't start new thread"), "no thread or process"),
    "processes": (BlockingIOError(errno.EAGAIN, "Resource unavailable"), "no thread or process"),
}


@pytest.mark.parametrize("where", ["training", "reading", "writing"])
@pytest.mark.parametrize("kind", ERRORS)
def test_what_the_system_refuses(tmp_path, capsys, monkeypatch, kind, where):
    error, words = ERRORS[kind]

    def fail(*args, **kwargs):
        raise error

    place = {
        "training": "cnnbench.training.trainer.log_step",
        "reading": "cnnbench.training.launch.read_splits",
        "writing": "cnnbench.training.trainer.estimates.expected_bytes",
    }[where]
    monkeypatch.setattr(place, fail)
    assert cli(["train", *tiny(tmp_path, "model=softmax", "num_epochs=1")]) == 75
    err = capsys.readouterr().err
    assert words in err
    assert "a bug in" not in err


def test_other_errors_are_not_of_this_kind(tmp_path):
    for error in (OSError(errno.ENOENT, "x"), ValueError("x"), RuntimeError("x"), KeyError("x")):
        assert resource_error(error) is None


def test_a_file_without_a_handle(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(errno.EMFILE, "Too many open files", str(tmp_path))

    monkeypatch.setattr("builtins.open", fail)
    with pytest.raises(Exception, match="too many open files") as caught:
        atomic_write(tmp_path / "x", b"")
    assert caught.value.exit_code == 75


LIMITED = """
import resource, sys
{limit}
from cnnbench.__main__ import main
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("limit", "codes"),
    [
        ("resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))", (0,)),
        ("resource.setrlimit(resource.RLIMIT_AS, (900 << 20, 900 << 20))", (0, 75)),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limits")
def test_a_process_with_limits(tmp_path, limit, codes):
    code = LIMITED.format(limit=limit)
    settings = tiny(tmp_path, "model=softmax", "num_epochs=1")
    ended = subprocess.run(
        [sys.executable, "-c", code, "train", *settings],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ended.returncode in codes, ended.stderr
    assert "a bug in" not in ended.stderr
    assert len(ended.stderr.splitlines()) <= 3
