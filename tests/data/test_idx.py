"""Whatever a file holds, the IDX reader returns its values or a DataError."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cnnbench.data.readers.idx import read_idx
from cnnbench.errors import DataError

from .files import idx_bytes

SHAPE = (3, 4, 4)
VALUES = np.arange(48, dtype=np.uint8).reshape(SHAPE)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), packed=st.booleans())
def test_only_our_errors_escape(data: st.DataObject, packed: bool, tmp_path: Path) -> None:
    sound = idx_bytes(VALUES)
    content = bytearray(gzip.compress(sound, mtime=0) if packed else sound)
    for _ in range(data.draw(st.integers(1, 4))):
        if content:
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(0, len(content))) :]
    content += data.draw(st.binary(max_size=8))
    path = tmp_path / ("file.gz" if packed else "file")
    path.write_bytes(content)
    try:
        shape = read_idx(path, SHAPE).shape
    except DataError as error:
        shape, message = SHAPE, str(error)
    else:
        message = str(path)
    assert shape == SHAPE
    assert str(path) in message


@pytest.mark.parametrize("packed", [True, False])
def test_values_come_back(tmp_path: Path, packed: bool) -> None:
    path = tmp_path / ("file.gz" if packed else "file")
    path.write_bytes(gzip.compress(idx_bytes(VALUES)) if packed else idx_bytes(VALUES))
    assert np.array_equal(read_idx(path, SHAPE), VALUES)


def test_a_missing_file_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing"):
        read_idx(tmp_path / "nothing", SHAPE)
