"""Event files as bytes: where they lie, records of events, and leaving events out of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from cnnbench.files import atomic_write

PATTERN = "events.out.tfevents.*"
# A record is its length (8 bytes), a checksum of that (4), the event, and its checksum (4).
_LENGTH_BYTES, _CHECKSUM_BYTES = 8, 4


def event_files(directory: Path) -> list[Path]:
    """Return a directory's event files in the order in which TensorBoard reads them."""
    return sorted(directory.glob(PATTERN))


def record_of(event: bytes) -> bytes:
    """Return a serialized event as event files hold it.

    TensorBoard's own writer does the same, and imports its plugins for it at every start.
    """
    length = len(event).to_bytes(_LENGTH_BYTES, "little")
    return length + _checksum(length) + event + _checksum(event)


def _checksum(data: bytes) -> bytes:
    """Return the masked CRC-32C (RFC 3720, B.4) that guards a record's parts."""
    table, crc = _crc_table(), 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    # Rotated and shifted, so that the checksum of bytes that hold checksums is no constant.
    masked = (crc >> 15 | crc << 17) + 0xA282EAD8
    return (masked & 0xFFFFFFFF).to_bytes(_CHECKSUM_BYTES, "little")


@cache
def _crc_table() -> tuple[int, ...]:
    table = []
    for crc in range(256):
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return tuple(table)


def leave_out(file: Path, is_left_out: Callable[[Any], bool]) -> None:
    """Replace an event file by one without some of its events, and without a torn last one.

    The file is replaced atomically, and only where something goes.

    Args:
        file: an event file that nobody writes to.
        is_left_out: takes an ``Event``.

    Raises:
        OSError: it cannot be read or replaced.
        DiskError: its successor cannot be written.
    """
    from tensorboard.compat.proto.event_pb2 import Event

    content = file.read_bytes()
    kept = []
    for record in _records(content):
        try:
            event = Event.FromString(record[_LENGTH_BYTES + _CHECKSUM_BYTES : -_CHECKSUM_BYTES])
        except Exception:  # protobuf's own kind, which no dependency of ours names
            break  # nor do readers read on after a damaged event
        if not is_left_out(event):
            kept.append(record)
    changed = b"".join(kept)
    if changed != content:
        # Under no name that a TensorBoard which is looking would take for one file more.
        replacement = file.with_name(f".events.tmp-{os.getpid()}")
        atomic_write(replacement, changed)
        os.replace(replacement, file)


def _records(content: bytes) -> Iterator[bytes]:
    start = 0
    while start + _LENGTH_BYTES <= len(content):
        length = int.from_bytes(content[start : start + _LENGTH_BYTES], "little")
        end = start + _LENGTH_BYTES + 2 * _CHECKSUM_BYTES + length
        if end > len(content):
            return
        yield content[start:end]
        start = end
