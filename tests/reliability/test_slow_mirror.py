"""A mirror that sends drop by drop cannot hold a download for ever."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from cnnbench.data.readers import download
from cnnbench.errors import DataError

CONTENT = b"x" * 5000
MD5 = hashlib.md5(CONTENT).hexdigest()
HEAD = f"HTTP/1.1 200 OK\r\nContent-Length: {len(CONTENT)}\r\nConnection: close\r\n\r\n".encode()
# Bytes of the answer that come at once; the others come in drops.
KINDS = {"the head drips": 0, "the body drips": len(HEAD), "the end drips": len(HEAD) + 4900}


@pytest.fixture
def dripping(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve every request at the rate of a dripping tap; give the address."""
    monkeypatch.setenv("no_proxy", "*")
    server = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.recv(65536)
            answer = HEAD + CONTENT
            connection.sendall(answer[: request.param])
            for byte in answer[request.param :]:
                if over.wait(0.02):
                    return
                connection.sendall(bytes([byte]))

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = server.accept()
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield f"http://127.0.0.1:{server.getsockname()[1]}/"
    over.set()
    server.close()


@pytest.mark.parametrize("dripping", KINDS.values(), ids=KINDS, indirect=True)
def test_it_is_given_up(dripping, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "_HEAD_SECONDS", 0.5)
    monkeypatch.setattr(download, "_FILE_SECONDS", 0.5)
    monkeypatch.setattr(download, "_LEAST_BYTES_PER_SECOND", 50_000)
    began = time.monotonic()
    files = {tmp_path / "new" / "file.gz": (MD5, len(CONTENT))}
    with pytest.raises(DataError, match=r"no answer in 0\.5 s|too slow: [\d,]+ of at most 5,000"):
        download.download_files(files, [dripping], lambda text: None)
    assert time.monotonic() - began < 5
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.name != ".download.lock"]


@pytest.mark.parametrize("dripping", [len(HEAD) + len(CONTENT)], indirect=True)
def test_a_quick_one_is_not(dripping, tmp_path):
    file = tmp_path / "file.gz"
    download.download_files({file: (MD5, len(CONTENT))}, [dripping], lambda text: None)
    assert file.read_bytes() == CONTENT


def test_the_allowed_time_grows_with_the_file():
    """CIFAR-10 over a line of 56 kB/s, the slowest that anybody has, is still fetched."""
    seconds = 170_498_071 / 56_000
    assert 2 * seconds < download._FILE_SECONDS + 170_498_071 / download._LEAST_BYTES_PER_SECOND
