"""Every number of a run as one JSON object a line."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnbench.errors import DiskError
from cnnbench.files import atomic_write, check_fence, check_regular, read_regular

if TYPE_CHECKING:
    import torch
    from torch import nn


class JsonLines:
    """Appends flat objects whose keys are ``epoch``, ``global_step`` and metric names.

    A line is written whole, in a single call; a number that is not finite becomes null. Images
    and networks are left to other trackers.

    Args:
        path: the file; lines are appended to it.

    Raises:
        DiskError: the file cannot be written, here and in all methods.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = self._open()

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Append one line."""
        numbers = {
            name: value if math.isfinite(value) else None
            for name, value in values.items()
            if name != "epoch"
        }
        epoch = {"epoch": int(values["epoch"])} if "epoch" in values else {}
        line = json.dumps({**epoch, "global_step": step, **numbers}, allow_nan=False)
        data = f"{line}\n".encode()
        check_fence()
        try:
            written = self._file.write(data)
        except OSError as error:
            raise self._failure(error) from error
        if written != len(data):
            raise DiskError(f"cannot write {self._path}: the disk took only part of a line")

    def images(self, tag: str, image: torch.Tensor, step: int) -> None:
        """Do nothing: this file holds numbers."""

    def graph(self, module: nn.Module, example: torch.Tensor, step: int) -> None:
        """Do nothing: this file holds numbers."""

    def flush(self) -> None:
        """Wait until the disk has every line."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._failure(error) from error

    def close(self) -> None:
        """Flush and close; more than once is fine."""
        if not self._file.closed:
            with self._file:
                self.flush()

    def truncate_after(
        self,
        global_step: int,
        is_written_again: Callable[[Collection[str]], bool] = lambda names: False,
    ) -> None:
        """Drop what a run resumed from ``global_step`` will write again.

        Lines of later steps go, and a torn last line. The file is replaced atomically, and only
        where something goes.

        Args:
            global_step: where the run is resumed.
            is_written_again: whether a line with these names, of that very step, will be written
                again, and so goes too.
        """
        kept = [
            record
            for record in read_records(self._path)
            if record["global_step"] < global_step
            or (record["global_step"] == global_step and not is_written_again(record.keys()))
        ]
        data = "".join(f"{json.dumps(record)}\n" for record in kept).encode()
        try:
            is_changed = data != self._path.read_bytes()
        except OSError as error:
            raise self._failure(error) from error
        if is_changed:
            self._file.close()
            atomic_write(self._path, data)
            self._file = self._open()

    def _open(self) -> io.FileIO:
        try:
            check_regular(self._path)
            return io.FileIO(self._path, "a")
        except OSError as error:
            raise self._failure(error) from error

    def _failure(self, error: OSError) -> DiskError:
        return DiskError(
            f"cannot write {self._path}: {error.strerror}; make room or choose another output_root"
        )


def read_records(path: Path) -> list[dict[str, Any]]:
    """Return the complete records of a metrics file, without torn or foreign lines.

    Raises:
        OSError: the file cannot be read.
    """
    return list(_records(read_regular(path).split(b"\n")[:-1]))


def _records(lines: Iterable[bytes]) -> Iterable[dict[str, Any]]:
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("global_step"), int):
            yield record
