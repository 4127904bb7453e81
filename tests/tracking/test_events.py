from __future__ import annotations

from pathlib import Path

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from cnnbench.tracking import TensorBoard
from cnnbench.tracking.events import event_files, leave_out


def written(directory: Path) -> Path:
    writer = TensorBoard(directory, warn=print)
    for step in (1, 2, 3):
        writer.scalars({"a": float(step)}, step)
    writer.close()
    [file] = event_files(directory)
    return file


def steps(file: Path) -> list[int]:
    return [event.step for event in EventFileLoader(str(file)).Load() if event.HasField("summary")]


def test_what_is_left_out_is_gone_and_the_rest_stays_as_it_was(tmp_path: Path) -> None:
    file = written(tmp_path)
    whole = file.read_bytes()
    leave_out(file, lambda event: event.step == 2)
    assert steps(file) == [1, 3]
    assert whole.startswith(file.read_bytes()[:60])
    assert event_files(tmp_path) == [file]
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_a_file_of_which_nothing_goes_is_not_touched(tmp_path: Path) -> None:
    file = written(tmp_path)
    before = file.stat().st_ino
    leave_out(file, lambda event: False)
    assert file.stat().st_ino == before


def test_a_torn_or_damaged_event_is_the_last(tmp_path: Path) -> None:
    file = written(tmp_path)
    whole = file.read_bytes()
    for torn in (b"\x07", b"\xff" * 40, (5).to_bytes(8, "little") + b"\xff" * 13):
        file.write_bytes(whole + torn)
        leave_out(file, lambda event: False)
        assert file.read_bytes() == whole
