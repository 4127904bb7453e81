"""Fetching published files: capped, verified, and whole or absent on disk."""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO, cast

from cnnbench.errors import DataError
from cnnbench.files import sync_directory, writing

Report = Callable[[str], None]

# Of each wait for the network; and of an answer's head as a whole, which may come in drops.
_TIMEOUT_SECONDS = 20.0
_HEAD_SECONDS = 60.0
# A file has this long, and as much more as its bytes take at the least rate.
_FILE_SECONDS = 60.0
_LEAST_BYTES_PER_SECOND = 20_000
_LOCK_TIMEOUT_SECONDS = 1800.0
_CHUNK_BYTES = 1024**2


class _NoDowngrade(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from https to anything else."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: object,
        newurl: str,
    ) -> urllib.request.Request | None:
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise urllib.error.URLError(f"refused to be sent from https to {newurl}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def download_files(
    files: Mapping[Path, tuple[str, int]], mirrors: Sequence[str], report: Report
) -> None:
    """Fetch what is not there yet; processes that want the same files take turns.

    Args:
        files: where each file goes, with its MD5 and largest length; all in one folder.
        mirrors: base addresses, tried in order for each file.
        report: is told which file is being fetched.

    Raises:
        DataError: no mirror gave a file that is the published one.
        DiskError: a file could not be written.
    """
    from filelock import FileLock, Timeout

    first = next(iter(files))
    folder = first.parent
    _check_reachable([mirror + first.name for mirror in mirrors])
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".download.lock", timeout=_LOCK_TIMEOUT_SECONDS)
        try:
            lock.acquire()
        except Timeout as error:
            raise DataError(f"{folder}: another process downloads for too long") from error
        try:
            for path, (md5, num_bytes) in files.items():
                if not is_published(path, md5):
                    _download(path, md5, num_bytes, mirrors, report)
        finally:
            lock.release()


def is_published(path: Path, md5: str) -> bool:
    """Return whether a file is there and is the published one."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, _md5).hexdigest() == md5
    except OSError:
        return False


def _md5() -> hashlib._Hash:
    # The publishers give no better sum; where known, the images' own SHA-256 is compared too.
    return hashlib.md5(usedforsecurity=False)


def _download(path: Path, md5: str, num_bytes: int, mirrors: Sequence[str], report: Report) -> None:
    reasons = []
    for mirror in mirrors:
        url = mirror + path.name
        report(f"downloading {url} ({num_bytes / 1e6:.1f} MB)")
        try:
            return _download_from(url, path, md5, num_bytes)
        except DataError as error:
            reasons.append(f"{url}: {error}")
    raise DataError("; ".join(reasons))


def _check_reachable(urls: Sequence[str]) -> None:
    """Raise unless an address answers, so that without a network nothing is written."""
    reasons = []
    for url in urls:
        try:
            _open(url).close()
        except (OSError, HTTPException) as error:
            reasons.append(f"{url}: {getattr(error, 'reason', None) or error}")
        else:
            return
    raise DataError("; ".join(reasons))


def _open(url: str) -> HTTPResponse:
    """Return an answer whose head is read.

    Raises:
        OSError: there is none, or its head comes too slowly.
        HTTPException: it is no answer of HTTP.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "cnnbench"})  # noqa: S310
    opener = urllib.request.build_opener(_NoDowngrade)
    answers: list[HTTPResponse | Exception] = []

    def ask() -> None:
        try:
            answers.append(cast(HTTPResponse, opener.open(request, timeout=_TIMEOUT_SECONDS)))
        except (OSError, HTTPException) as error:
            answers.append(error)

    # Each byte of a head starts the socket's own limit anew, so that only a thread can be left.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_HEAD_SECONDS)
    if not answers:
        raise TimeoutError(f"no answer in {_HEAD_SECONDS:g} s")
    answer = answers.pop()
    try:
        if isinstance(answer, Exception):
            raise answer
        return answer
    finally:
        # An error that its own frame keeps would keep its connection.
        del answer


def _chunks(url: str, num_bytes: int) -> Iterator[bytes]:
    """Yield what an address gives, at most one chunk beyond ``num_bytes``, and not for ever."""
    length, allowed = 0, _FILE_SECONDS + num_bytes / _LEAST_BYTES_PER_SECOND
    deadline = time.monotonic() + allowed
    try:
        with _open(url) as response:
            # One reading of the socket each: a whole chunk may take a mirror hours.
            while length <= num_bytes and (chunk := response.read1(_CHUNK_BYTES)):
                length += len(chunk)
                yield chunk
                if time.monotonic() > deadline:
                    raise DataError(
                        f"too slow: {length:,} of at most {num_bytes:,} bytes came in "
                        f"{allowed:.0f} s"
                    )
    except (OSError, HTTPException) as error:
        raise DataError(str(getattr(error, "reason", None) or error)) from error


def _download_from(url: str, path: Path, md5: str, num_bytes: int) -> None:
    digest, length = _md5(), 0
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    try:
        with open(handle, "wb") as file:
            for chunk in _chunks(url, num_bytes):
                length += len(chunk)
                digest.update(chunk)
                file.write(chunk)
            if length > num_bytes:
                raise DataError(f"more than the {num_bytes} bytes it should have")
            if digest.hexdigest() != md5:
                raise DataError(f"not the published file: {length} bytes came, their MD5 differs")
            file.flush()
            os.fsync(file.fileno())
        # mkstemp keeps others out; data is for whoever may read the folder.
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    sync_directory(path.parent)
