"""Atomic writes: whole or absent, in the right order, and nothing left behind."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cnnbench.errors import CnnbenchError, DiskError, UsageError
from cnnbench.files import atomic_write, disk_error, remove_litter, writing


def test_a_file_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "a"
    atomic_write(file, b"old")
    atomic_write(file, b"new")
    assert file.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_leaves_the_old_file_and_no_litter(
    call: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a"
    atomic_write(file, b"old")

    def fail(*args: Any) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(DiskError, match="What was saved before is whole") as caught:
            atomic_write(file, b"new")
    assert caught.value.exit_code == 74
    assert str(file) in str(caught.value)
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has /dev/full")
def test_a_disk_that_is_full_at_the_first_byte() -> None:
    with (
        pytest.raises(DiskError, match="the disk is full"),
        writing(Path("/dev/full")),
        open("/dev/full", "wb", buffering=0) as file,
    ):
        file.write(b"x")


def test_an_interrupt_leaves_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            atomic_write(tmp_path / "a", b"new")
    assert list(tmp_path.iterdir()) == []


def recorder(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Record (call, file name) of what decides whether a write survives a power cut."""
    calls: list[tuple[str, str]] = []
    names: dict[int, str] = {}

    def wrap(name: str, describe: Callable[..., str]) -> None:
        original = getattr(os, name)

        def wrapped(*args: Any, **keywords: Any) -> Any:
            calls.append((name, describe(*args)))
            return original(*args, **keywords)

        monkeypatch.setattr(os, name, wrapped)

    def name_of(descriptor: int) -> str:
        names[descriptor] = Path(os.readlink(f"/proc/self/fd/{descriptor}")).name
        return names[descriptor].partition(".tmp-")[0]

    wrap("fsync", name_of)
    wrap("replace", lambda source, target: Path(target).name)
    unlink = Path.unlink

    def recorded_unlink(self: Path, missing_ok: bool = False) -> None:
        calls.append(("unlink", self.name))
        unlink(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", recorded_unlink)
    return calls


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="names of open files")
def test_bytes_reach_the_disk_before_the_name_and_the_name_before_the_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = recorder(monkeypatch)
    atomic_write(tmp_path / "a", b"new")
    assert calls == [("fsync", "a"), ("replace", "a"), ("fsync", tmp_path.name)]


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="names of open files")
def test_a_checkpoint_is_named_only_when_it_is_whole_and_pruned_only_when_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from cnnbench.runs.checkpoint import Checkpoints

    def save(epoch: int) -> None:
        Checkpoints(tmp_path).save(
            f"epoch_{epoch:04d}",
            {"model": {"w": torch.ones(1)}},
            {"train_state": {}},
            epoch=epoch,
            global_step=epoch,
            is_best=epoch == 3,
            keep_last=1,
        )

    save(1)
    save(2)
    with monkeypatch.context() as patch:
        calls = recorder(patch)
        save(3)
    expected = []
    for name in ("epoch_0003.pt", "epoch_0003.state.pt", "manifest.json"):
        expected += [("fsync", name), ("replace", name), ("fsync", tmp_path.name)]
    assert calls[: len(expected)] == expected
    pruned = calls[len(expected) :]
    assert pruned[-1] == ("fsync", tmp_path.name)
    assert set(pruned[:-1]) == {("unlink", "epoch_0001.pt"), ("unlink", "epoch_0001.state.pt")}


def test_litter_of_dead_writers_goes_and_nothing_else(tmp_path: Path) -> None:
    mine = {"a.pt", "tmp-notes", "b.pt.tmp-1", "a.pt.tmp-x", "my a.pt.tmp-1", "notes.tmp-idea.txt"}
    for name in ("a.pt.tmp-123", "manifest.json.tmp-9", *mine):
        (tmp_path / name).write_text("x")
    remove_litter(tmp_path, r"a\.pt|manifest\.json")
    assert {path.name for path in tmp_path.iterdir()} == mine


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (errno.ENOSPC, DiskError, "the disk is full"),
        (errno.EROFS, DiskError, "read-only"),
        (errno.EACCES, DiskError, "permission denied"),
        (errno.EEXIST, UsageError, "exists"),
        (errno.ENOTDIR, UsageError, "in its way"),
    ],
)
def test_each_failure_has_its_words(code: int, kind: type[CnnbenchError], words: str) -> None:
    error = disk_error(OSError(code, os.strerror(code)), "some/where")
    assert type(error) is kind
    assert words in str(error)
    assert "some/where" in str(error)
