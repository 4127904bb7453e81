"""A disk that is full at any byte of any file: one sentence, and the run goes on from before."""

from __future__ import annotations

import builtins
import errno
import io
import itertools
import types
from pathlib import Path
from typing import Any

import pytest
from tiny import differences, info, tiny, train
from warmed import NUM_FULL_DISKS, Forks, check_goes_on, count, found

import cnnbench
from cnnbench import files
from cnnbench.cli.main import run as cli
from cnnbench.runs.checkpoint import Checkpoints

SMALL = ("model=softmax", "data.native_size=8", "optimizer=adamw")
NUM_FAST = 8


class FullDisk:
    """Takes so many bytes through ``files.open``, and no more."""

    def __init__(self, free_bytes: int) -> None:
        self.free_bytes, self.written = free_bytes, 0

    def open(self, path: Path, mode: str) -> Any:
        file, disk = builtins.open(path, mode), self  # noqa: SIM115

        class Limited:
            def __enter__(self) -> Limited:
                return self

            def __exit__(self, *exc: object) -> None:
                file.close()

            def __getattr__(self, name: str) -> Any:
                return getattr(file, name)

            def write(self, content: bytes) -> None:
                taken = content[: disk.free_bytes - disk.written]
                file.write(taken)
                disk.written += len(taken)
                if len(taken) < len(content):
                    raise OSError(errno.ENOSPC, "No space left on device")

        return Limited()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A whole run and how many bytes its atomic writes took."""
    disk = FullDisk(1 << 40)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "open", disk.open, raising=False)
        run = train(tmp_path_factory.mktemp("written"), *SMALL)
    return run, disk.written


@pytest.mark.parametrize(
    "place",
    [
        *range(NUM_FAST),
        *(pytest.param(n, marks=pytest.mark.slow) for n in range(NUM_FAST, NUM_FULL_DISKS)),
    ],
)
def test_a_disk_full_at_any_byte(
    place: int,
    written: tuple[Path, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole, num_bytes = written
    # The golden ratio spreads any number of places evenly.
    free = int(num_bytes * 0.98 * ((place + 1) * 0.618034 % 1))
    with monkeypatch.context() as patch:
        patch.setattr(files, "open", FullDisk(free).open, raising=False)
        assert cli(["train", *tiny(tmp_path, *SMALL)]) == 74
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "the disk is full" in err
    if list(tmp_path.rglob("checkpoints")):  # else not even the first description found room
        run = found(tmp_path)
        Checkpoints(run / "checkpoints").load_newest()  # raises where saves were and none is whole
        cnnbench.train([f"resume={run}"])
        assert not list(tmp_path.rglob("*.tmp-*"))
        assert differences(whole, run) == []
    count("full disks that were told in one sentence, last place", place)


def filling_file(num_writes: int, part: int = 0) -> type[io.FileIO]:
    """Return a class of files that take so many writes in all, and a part of the next."""
    numbers = itertools.count()

    class Filling(io.FileIO):
        def write(self, data: Any) -> int:
            if next(numbers) < num_writes:
                return super().write(data)
            if part:
                return super().write(data[:part])
            raise OSError(errno.ENOSPC, "No space left on device")

    return Filling


@pytest.mark.parametrize("part", [0, 5])
@pytest.mark.parametrize("num_writes", [0, 3, 5, 9])
def test_a_disk_full_at_a_line_of_metrics(
    num_writes: int,
    part: int,
    written: tuple[Path, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kind = filling_file(num_writes, part)
    with monkeypatch.context() as patch:
        patch.setattr("cnnbench.tracking.json_lines.io", types.SimpleNamespace(FileIO=kind))
        assert cli(["train", *tiny(tmp_path, *SMALL)]) == 74
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "cannot write" in err
    assert "metrics.jsonl" in err
    run = found(tmp_path)
    assert info(run)["status"] == "failed"
    if num_writes == 9:
        assert Checkpoints(run / "checkpoints").load("last")["model"]
    cnnbench.train([f"resume={run}"])
    assert differences(written[0], run) == []


@pytest.mark.parametrize(
    ("name", "number"), [("config.yaml", 1), ("run.json", 1), ("run.json", 2), ("manifest.json", 2)]
)
def test_a_disk_full_at_a_small_file(
    name: str,
    number: int,
    written: tuple[Path, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen: list[str] = []

    def open_or_fill(path: Path, mode: str) -> Any:
        seen.append(path.name.partition(".tmp-")[0])
        is_full = seen[-1] == name and seen.count(name) >= number
        return filling_file(0)(path, mode) if is_full else builtins.open(path, mode)

    with monkeypatch.context() as patch:
        patch.setattr(files, "open", open_or_fill, raising=False)
        assert cli(["train", *tiny(tmp_path, *SMALL)]) == 74
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"{name}: cannot be written: the disk is full" in err
    assert not list(tmp_path.rglob("*.tmp-*"))
    if (name, number) == ("run.json", 1):
        assert not list(tmp_path.rglob("checkpoints"))  # nothing of the run is left
        return
    run = found(tmp_path)
    cnnbench.train([f"resume={run}"])
    assert differences(written[0], run) == []


@pytest.mark.parametrize("num_writes", [0, 1])
def test_a_disk_full_at_tensorboards_file_costs_its_curves_alone(
    num_writes: int,
    written: tuple[Path, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    really_open = Path.open

    def open_or_fill(path: Path, *args: Any, **keywords: Any) -> Any:
        if path.name.startswith("events.out"):
            return io.BufferedWriter(filling_file(num_writes)(path, "x"))
        return really_open(path, *args, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", open_or_fill)
        assert cli(["train", *tiny(tmp_path, *SMALL)]) == 0
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "warning: TensorBoard gets no more data" in err
    assert differences(written[0], found(tmp_path)) == []


@pytest.mark.parametrize("limit", [2000, 4500, 7000])
def test_files_that_the_system_lets_grow_no_further(
    limit: int, forks: Forks, written: tuple[Path, int], tmp_path: Path
) -> None:
    """The error comes from the kernel, for whichever file reaches the limit first."""
    preamble = f"import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))"
    answer = forks.run("train", *tiny(tmp_path, *SMALL), preamble=preamble)
    told = answer["err"].splitlines()
    board = [line for line in told if "warning: TensorBoard" in line]
    assert len(board) <= 1
    assert len(told) - len(board) == (answer["code"] != 0), told
    assert answer["code"] in (0, 74)
    assert board or answer["code"] == 74, "the limit must be felt"
    if list(tmp_path.rglob("run.json")):
        run = found(tmp_path)
        if answer["code"]:
            check_goes_on(forks, run, written[0])
        assert differences(written[0], run) == []
