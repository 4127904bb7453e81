"""A package as a zip file that a stranger may have made: it is looked at before it is unpacked.

Only names that a package has are taken, so that none leads outside; links, pipes and encrypted
members are refused, and sizes are limited before memory or disk is taken. Nothing in it is run.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import stat
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from cnnbench.errors import CheckpointError, UsageError
from cnnbench.files import open_regular

MANIFEST, TABLE, CHECKLIST, PAGE = "manifest.json", "table.json", "checklist.md", "report.html"
RENDERED = {"table.txt": "text", "table.md": "markdown", "table.csv": "csv", "table.tex": "latex"}
# What is read of a run; its weights are only hashed.
RUN_FILES = ("run.json", "config.yaml", "metrics.jsonl", "predictions.npz")
RUN_NAME = r"[A-Za-z0-9][A-Za-z0-9=,_+-]{0,119}"
_OTHERS = "|".join(map(re.escape, (MANIFEST, TABLE, CHECKLIST, PAGE, *RENDERED)))
_READ = re.compile(rf"runs/{RUN_NAME}/(?:{'|'.join(map(re.escape, RUN_FILES))})", re.ASCII)
_KNOWN = re.compile(
    rf"{_OTHERS}|{_READ.pattern}"
    rf"|runs/{RUN_NAME}/checkpoints/(?:manifest\.json|(?:epoch|step)_\d{{4,12}}\.pt)"
    r"|figures/(?:[0-9A-Za-z][0-9A-Za-z=._+-]{0,99}/)?[0-9a-z_]{1,80}\.(?:png|svg)",
    re.ASCII,
)
_MAX_MEMBERS = 40_000
_MAX_DIRECTORY_BYTES = 16 << 20
_MAX_TOTAL_BYTES = 64 << 30
# Of one member that is unpacked or read; a page of many runs is the largest of them.
_MAX_READ_BYTES = 400 << 20
MAX_TEXT_BYTES = 64 << 20
# Text of ours shrinks to a tenth; more is a bomb, or too small to be one.
MAX_RATIO = 200
_SMALL_BYTES = 1 << 20
_CHUNK = 1 << 20
_END, _END64, _LOCATOR64 = b"PK\5\6", b"PK\6\6", b"PK\6\7"
_END_BYTES, _END64_BYTES, _LOCATOR_BYTES = 22, 56, 20


@dataclass(frozen=True)
class Unpacked:
    """A package whose runs were unpacked.

    Attributes:
        root: holds ``runs/NAME/...``.
        digests: SHA-256 of each member, by name.
        texts: of the members that are not a run's, but for figures.
        runs: the names of its runs, in order.
    """

    root: Path
    digests: dict[str, str]
    texts: dict[str, bytes]
    runs: list[str]


def unpack(file: Path, root: Path) -> Unpacked:
    """Check a zip file, hash its members, and write those of its runs that are read.

    Args:
        file: anyone's.
        root: an empty directory.

    Raises:
        UsageError: there is no such file, or it is no regular one.
        CheckpointError: it is no package of ours, damaged, or larger than allowed.
    """
    try:
        with open_regular(file) as stream:
            _check_directory(stream, file)
            with zipfile.ZipFile(stream) as archive:
                members = _checked(archive, file)
                return _take(archive, members, file, root)
    except FileNotFoundError:
        raise UsageError(f"{file}: there is no such file") from None
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror or error}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise _refused(file, str(error) or type(error).__name__) from None
    except (ValueError, struct.error, LookupError) as error:
        raise _refused(file, f"it is damaged ({error})") from None


def _refused(file: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{file}: not a package of 'cnnbench pack': {reason}")


def _check_directory(stream: IO[bytes], file: Path) -> None:
    """Refuse a table of contents that is too large before zipfile reads it whole."""
    size = stream.seek(0, 2)
    stream.seek(max(0, size - _END_BYTES))
    end = stream.read()
    # Without a comment, as ours are, there is but one place where a reader may look.
    if len(end) != _END_BYTES or not end.startswith(_END) or end[-2:] != b"\0\0":
        raise _refused(file, "it is no zip file, or has a comment at its end")
    count, directory_bytes = struct.unpack_from("<H", end, 10)[0], struct.unpack_from("<L", end, 12)
    length = directory_bytes[0]
    at = size - _END_BYTES - _LOCATOR_BYTES
    if at >= _END64_BYTES:
        stream.seek(at - _END64_BYTES)
        record = stream.read(_END64_BYTES + _LOCATOR_BYTES)
        if record[_END64_BYTES:].startswith(_LOCATOR64):
            place = struct.unpack_from("<Q", record, _END64_BYTES + 8)[0]
            if not record.startswith(_END64) or place != at - _END64_BYTES:
                raise _refused(file, "its table of contents is not where it says")
            count, length = struct.unpack_from("<QQ", record, 32)
    stream.seek(0)
    if count > _MAX_MEMBERS or length > _MAX_DIRECTORY_BYTES:
        raise _refused(file, f"it has more than {_MAX_MEMBERS:,} members")


def _checked(archive: zipfile.ZipFile, file: Path) -> list[zipfile.ZipInfo]:
    """Return the members, each of which is a plain file with a name that packages have."""
    members, seen = [], set[str]()
    total = packed = 0
    for member in archive.infolist():
        name, kind = member.filename, stat.S_IFMT(member.external_attr >> 16)
        if name.endswith("/") and not member.file_size:
            continue  # a directory, as other tools write one
        if kind not in (0, stat.S_IFREG):
            raise _refused(file, f"its member {name!r} is a link or no plain file")
        if not _KNOWN.fullmatch(name):
            raise _refused(file, f"its member {name!r} is none that a package has")
        if name in seen:
            raise _refused(file, f"it has two members {name!r}")
        if member.flag_bits & 1:
            raise _refused(file, f"its member {name!r} is encrypted")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _refused(file, f"its member {name!r} is packed in an unusual way")
        large = member.file_size > _SMALL_BYTES
        if large and member.file_size > MAX_RATIO * max(1, member.compress_size):
            raise _refused(file, f"its member {name!r} grows more than {MAX_RATIO} times")
        seen.add(name)
        total += member.file_size
        packed += member.compress_size
        members.append(member)
    if len(members) > _MAX_MEMBERS or total > _MAX_TOTAL_BYTES:
        raise _refused(file, f"it unpacks to more than {_MAX_TOTAL_BYTES >> 30} GiB")
    if archive.fp is not None and packed > archive.fp.seek(0, 2):
        raise _refused(file, "its members overlap")
    if MANIFEST not in seen or TABLE not in seen:
        raise _refused(file, f"it lacks {MANIFEST if MANIFEST not in seen else TABLE}")
    return members


def _take(
    archive: zipfile.ZipFile, members: list[zipfile.ZipInfo], file: Path, root: Path
) -> Unpacked:
    digests: dict[str, str] = {}
    texts: dict[str, bytes] = {}
    for member in members:
        name = member.filename
        is_run, is_hashed = bool(_READ.fullmatch(name)), name.startswith(("figures/", "runs/"))
        limit = _MAX_READ_BYTES if is_run else _MAX_TOTAL_BYTES if is_hashed else MAX_TEXT_BYTES
        if member.file_size > limit:
            raise _refused(file, f"its member {name!r} has more than {limit:,} bytes")
        digest, left, kept = hashlib.sha256(), member.file_size, []
        target = root / name
        if is_run:
            target.parent.mkdir(parents=True, exist_ok=True)
        with (
            archive.open(member) as stream,
            target.open("wb") if is_run else contextlib.nullcontext() as out,
        ):
            while chunk := stream.read(_CHUNK):
                left -= len(chunk)
                if left < 0:
                    raise _refused(file, f"its member {name!r} is larger than it says")
                digest.update(chunk)
                if out is not None:
                    out.write(chunk)
                elif not is_hashed:
                    kept.append(chunk)
        digests[name] = digest.hexdigest()
        if not is_run and not is_hashed:
            texts[name] = b"".join(kept)
    runs = sorted({name.split("/")[1] for name in digests if name.startswith("runs/")})
    return Unpacked(root, digests, texts, runs)
