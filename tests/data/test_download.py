"""Downloads from a mirror on this machine: whole and right, or not at all."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cnnbench.data.arrays import DatasetArrays
from cnnbench.data.readers.download import download_files
from cnnbench.data.readers.sources import read_published
from cnnbench.errors import DataError, DiskError

from .files import IDX_NAMES, small_idx, with_mirror


@dataclass
class Mirror:
    """A server of a few files that counts what it gives."""

    files: dict[str, bytes] = field(default_factory=dict)
    bodies_sent: list[str] = field(default_factory=list)
    redirect_to: str | None = None
    announce_more: int = 0
    address: str = ""


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("XDG_DATA_DIRS", "/nonexistent")
    state = Mirror()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.rsplit("/", 1)[-1]
            if state.redirect_to is not None:
                self.send_response(302)
                self.send_header("Location", state.redirect_to)
                self.end_headers()
                return
            if name not in state.files:
                self.send_error(404)
                return
            data = state.files[name]
            self.send_response(200)
            self.send_header("Content-Length", str(len(data) + state.announce_more))
            self.end_headers()
            state.bodies_sent.append(name)
            # Who only wanted to know whether there is an answer is gone by now.
            with suppress(ConnectionError):
                self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.address = f"http://127.0.0.1:{server.server_port}/data/"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


def packed_files() -> dict[str, bytes]:
    _, _, raw = small_idx()
    return {f"{name}.gz": gzip.compress(data, mtime=0) for name, data in raw.items()}


def fetch(root: Path, *addresses: str, report=lambda text: None) -> DatasetArrays:
    facts, published, _ = small_idx()
    return read_published(
        "small",
        facts,
        with_mirror(published, *addresses),
        root=root,
        download=True,
        report=report,
    )


def test_files_are_fetched_once(mirror: Mirror, tmp_path: Path) -> None:
    mirror.files = packed_files()
    lines: list[str] = []
    arrays = fetch(tmp_path, mirror.address, report=lines.append)
    assert arrays.source == f"data root {tmp_path / 'Small/raw'}"
    assert arrays.sha256
    assert len(lines) == len(IDX_NAMES)
    assert mirror.address + IDX_NAMES[0] in lines[0]
    kept = {p.name: p.read_bytes() for p in (tmp_path / "Small/raw").glob("[!.]*")}
    assert kept == packed_files()
    mirror.bodies_sent.clear()
    fetch(tmp_path, mirror.address)
    assert mirror.bodies_sent == []


def left_behind(root: Path) -> list[str]:
    return sorted(p.name for p in root.rglob("*") if p.is_file() and p.name != ".download.lock")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data[:-3], "MD5"),
        (lambda data: b"<html>sign in to the network</html>", "MD5"),
        (lambda data: data + b"more", "more than"),
        (lambda data: data[:15] + bytes([data[15] ^ 1]) + data[16:], "MD5"),
    ],
)
def test_a_wrong_file_is_not_kept(mirror: Mirror, tmp_path: Path, change, reason: str) -> None:
    mirror.files = {name: change(data) for name, data in packed_files().items()}
    with pytest.raises(DataError, match=reason) as caught:
        fetch(tmp_path, mirror.address)
    assert mirror.address in str(caught.value)
    assert left_behind(tmp_path) == []


def test_a_broken_connection_is_not_kept(mirror: Mirror, tmp_path: Path) -> None:
    mirror.files = {name: data[: len(data) // 2] for name, data in packed_files().items()}
    mirror.announce_more = 10_000
    with pytest.raises(DataError, match=mirror.address):
        fetch(tmp_path, mirror.address)
    assert left_behind(tmp_path) == []


def test_the_next_mirror_is_asked(mirror: Mirror, tmp_path: Path) -> None:
    mirror.files = packed_files()
    arrays = fetch(tmp_path, "http://127.0.0.1:1/none/", mirror.address)
    assert len(arrays.train) == 30


def test_without_a_network_nothing_is_written(mirror: Mirror, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="data=digits") as caught:
        fetch(tmp_path / "root", "http://127.0.0.1:1/none/")
    assert "dataset-small" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_copy_is_replaced_by_the_published_one(mirror: Mirror, tmp_path: Path) -> None:
    mirror.files = packed_files()
    fetch(tmp_path, mirror.address)
    path = tmp_path / "Small/raw" / f"{IDX_NAMES[0]}.gz"
    path.write_bytes(path.read_bytes()[:-9])
    mirror.bodies_sent.clear()
    arrays = fetch(tmp_path, mirror.address)
    assert set(mirror.bodies_sent) == {path.name}
    assert path.name in arrays.warnings[0]
    assert path.read_bytes() == packed_files()[path.name]


def test_many_at_once_fetch_once(mirror: Mirror, tmp_path: Path) -> None:
    mirror.files = packed_files()
    lines: list[str] = []
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(fetch, tmp_path, mirror.address, report=lines.append) for _ in range(4)]
        hashes = {job.result().sha256 for job in jobs}
    assert len(hashes) == 1
    assert len(lines) == len(IDX_NAMES)


def test_https_is_never_left() -> None:
    from email.message import Message
    from io import BytesIO
    from urllib.error import URLError
    from urllib.request import Request

    from cnnbench.data.readers.download import _NoDowngrade

    handler = _NoDowngrade()
    for target in ("http://elsewhere/file", "file:///etc/passwd"):
        with pytest.raises(URLError, match="refused"):
            handler.redirect_request(
                Request("https://here/file"), BytesIO(), 302, "", Message(), target
            )
    followed = handler.redirect_request(
        Request("https://here/file"), BytesIO(), 302, "", Message(), "https://elsewhere/file"
    )
    assert followed is not None
    assert followed.full_url == "https://elsewhere/file"


def test_a_redirect_to_a_file_is_refused(mirror: Mirror, tmp_path: Path) -> None:
    mirror.redirect_to = "file:///etc/passwd"
    with pytest.raises(DataError, match=mirror.address):
        fetch(tmp_path, mirror.address)


def test_a_folder_that_cannot_be_written_is_a_disk_error(mirror: Mirror, tmp_path: Path) -> None:
    mirror.files = packed_files()
    (tmp_path / "file").touch()
    target = tmp_path / "file/below" / f"{IDX_NAMES[0]}.gz"
    with pytest.raises((DiskError, ValueError), match="file"):
        download_files({target: ("0" * 32, 10)}, [mirror.address], print)
