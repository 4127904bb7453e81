"""Atomic writes: whole or absent, in the right order, and nothing left behind."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cnnbench.errors import CnnbenchError, DiskError, UsageError
from cnnbench.files import (
    atomic_write,
    check_regular,
    disk_error,
    expand_path,
    file_sha256,
    read_regular,
    remove_litter,
    writing,
)


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


def test_a_users_path_is_expanded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert expand_path("~/a") == tmp_path / "a"
    assert expand_path("a b/ü") == tmp_path / "a b" / "ü"
    assert expand_path(Path("~")) == tmp_path
    assert expand_path(None) is None
    with pytest.raises(UsageError, match="without '~'"):
        expand_path("~nobody-of-this-name/a")


def test_a_files_hash_is_of_its_bytes(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"abc")
    wanted = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1
    assert file_sha256(file, "x") == wanted
    for path, words in ((tmp_path / "b", "No such file"), (tmp_path, "directory")):
        with pytest.raises(UsageError, match=rf"^model.weights: {path} cannot be read.*{words}"):
            file_sha256(path, "model.weights")


def test_no_more_is_read_than_was_said(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"12345")
    assert read_regular(file) == read_regular(file, 5) == b"12345"
    with pytest.raises(OSError, match="larger than 4 bytes"):
        read_regular(file, 4)
    # Holes cost nothing on disk, and would fill the memory.
    with file.open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(OSError, match="larger than 1,024 bytes"):
        read_regular(file, 1024)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    import socket

    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for name in ("pipe", "device", "folder", "socket"):
            for refuse in (read_regular, check_regular):
                with pytest.raises(OSError, match=r"no regular file|a directory") as caught:
                    refuse(tmp_path / name)
                assert caught.value.strerror
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "nothing")
    check_regular(tmp_path / "nothing")
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("file")
    assert read_regular(tmp_path / "link") == b"x"
