from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cnnbench.errors import DiskError
from cnnbench.tracking import JsonLines, read_records


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def test_a_line_is_a_flat_object_that_begins_with_epoch_and_step(path: Path) -> None:
    log = JsonLines(path)
    log.scalars({"train/loss": 0.25, "epoch": 2, "train/accuracy": 0.5}, step=30)
    log.scalars({"train/step_loss": 1.5}, step=31)
    assert path.read_text().splitlines() == [
        '{"epoch": 2, "global_step": 30, "train/loss": 0.25, "train/accuracy": 0.5}',
        '{"global_step": 31, "train/step_loss": 1.5}',
    ]
    log.close()
    log.close()


def test_numbers_come_back_exactly_and_those_not_finite_as_null(path: Path) -> None:
    values = {"a": 0.1 + 0.2, "b": 1e-300, "c": float("nan"), "d": float("inf")}
    log = JsonLines(path)
    log.scalars(values, step=1)
    log.close()
    assert "NaN" not in path.read_text()
    assert lines(path) == [{"global_step": 1, "a": 0.1 + 0.2, "b": 1e-300, "c": None, "d": None}]


def test_lines_are_there_before_any_flush(path: Path) -> None:
    log = JsonLines(path)
    log.scalars({"a": 1.0}, step=1)
    assert lines(path) == [{"global_step": 1, "a": 1.0}]
    log.flush()
    log.close()


def test_goes_on_where_the_file_ends(path: Path) -> None:
    for step in (1, 2):
        log = JsonLines(path)
        log.scalars({"a": 1.0}, step=step)
        log.close()
    assert [line["global_step"] for line in lines(path)] == [1, 2]


@pytest.mark.parametrize("torn", ["", '{"epoch": 1, "global_st', '{"global_step": 1, "a": 1.0}'])
def test_truncation_drops_later_and_torn_lines(path: Path, torn: str) -> None:
    log = JsonLines(path)
    for step in (1, 2, 3, 4):
        log.scalars({"epoch": step // 3 + 1, "a": step / 2}, step=step)
    log.close()
    whole = path.read_text()
    path.write_text(whole + torn)
    log = JsonLines(path)
    log.truncate_after(2)
    assert path.read_text() == "".join(whole.splitlines(keepends=True)[:2])
    log.scalars({"epoch": 2, "a": 9.0}, step=3)
    log.close()
    assert [line["a"] for line in lines(path)] == [0.5, 1.0, 9.0]
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def test_truncation_leaves_a_file_alone_that_needs_none(path: Path) -> None:
    log = JsonLines(path)
    log.scalars({"a": 1.0, "b": float("nan")}, step=5)
    before = path.stat().st_ino
    log.truncate_after(5)
    assert path.stat().st_ino == before
    log.close()


def test_reading_passes_over_what_is_no_record(path: Path) -> None:
    path.write_bytes(b'{"global_step": 1}\nnonsense\n\xff\xfe\n[1]\n{"a": 2}\n{"global_step": 2}\n')
    assert read_records(path) == [{"global_step": 1}, {"global_step": 2}]


def test_a_disk_that_takes_nothing_is_a_disk_error(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="missing") as raised:
        JsonLines(tmp_path / "missing" / "metrics.jsonl")
    assert raised.value.exit_code == 74


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is always full")
def test_a_full_disk_is_a_disk_error(tmp_path: Path) -> None:
    log = JsonLines(tmp_path / "metrics.jsonl")
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, log._file.fileno())
    os.close(full)
    with pytest.raises(DiskError, match="No space left"):
        log.scalars({"a": 1.0}, step=1)
    # Nor can such a device be flushed; the file is closed all the same.
    with pytest.raises(DiskError):
        log.close()
    log.close()
