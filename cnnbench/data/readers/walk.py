"""Which files below a folder are images, and which are passed over for what reason."""

from __future__ import annotations

import os
import stat
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from cnnbench.data.images import SUFFIXES
from cnnbench.errors import DataError

# What systems and programs leave beside a user's files; names that begin with a dot are hidden.
_SYSTEM_NAMES = frozenset(
    (
        *[
            "__macosx",
            "@eadir",
            "#recycle",
            "#snapshot",
            "$recycle.bin",
            "thumbs.db",
            "desktop.ini",
        ],
        *["lost+found", "__pycache__"],
        "system volume information",
    )
)
# Image files of kinds that no decoder here reads.
_UNREAD = frozenset(
    [
        ".heic",
        ".heif",
        ".avif",
        ".jp2",
        ".jxl",
        ".ico",
        ".tga",
        ".dds",
        ".exr",
        ".hdr",
        ".dcm",
        ".svg",
        ".eps",
        ".psd",
        ".xcf",
        ".raw",
        ".arw",
        ".cr2",
        ".cr3",
        ".dng",
        ".nef",
        ".orf",
        ".rw2",
    ]
)
# A folder that holds one of these is a run or a sweep of ours: its plots are no data.
_RUN_FILES = ("run.json", "sweep.json")


@dataclass
class ImageWalk:
    """The image files below a folder.

    Attributes:
        files: in the order of their relative paths, each file once.
        passed_over: how many files or folders were not read, by reason.
        examples: one path for each reason.
        seen: device and inode of each file that was listed.
    """

    files: list[Path] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)
    examples: dict[str, Path] = field(default_factory=dict)
    seen: set[tuple[int, int]] = field(default_factory=set)

    def pass_over(self, path: Path, reason: str) -> None:
        """Count a path that is not read."""
        self.passed_over[reason] += 1
        self.examples.setdefault(reason, path)

    def add(self, other: ImageWalk) -> None:
        """Take over the files and reasons of another walk."""
        self.files += other.files
        self.passed_over += other.passed_over
        self.examples = {**other.examples, **self.examples}

    def notes(self) -> list[str]:
        """Return a sentence for each reason for which anything was passed over."""
        return [
            f"passed over {count} {reason}, such as {self.examples[reason]}"
            for reason, count in sorted(self.passed_over.items())
        ]


def pass_over_loose(folder: Path, walk: ImageWalk) -> None:
    """Count the images that lie in a folder itself, where only class folders have a meaning.

    So are folders of images whose name begins with a dot, as that of a class may.
    """
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith(".") and entry.is_dir():
            if any(map(_is_image_name, os.listdir(entry.path))):
                walk.pass_over(Path(entry.path), "hidden folders")
        elif _is_image_name(entry.name) and not is_hidden(entry.name) and entry.is_file():
            walk.pass_over(Path(entry.path), "images outside the class folders")


def _is_image_name(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES


def is_hidden(name: str) -> bool:
    """Tell whether a name is one that systems hide or make for themselves."""
    return name.startswith((".", "~$")) or name.lower() in _SYSTEM_NAMES


def is_run_folder(folder: Path) -> bool:
    """Tell whether a folder is a run or a sweep of ours, or holds nothing but such folders."""
    if any((folder / name).is_file() for name in _RUN_FILES):
        return True
    try:
        entries = [e for e in os.scandir(folder) if not is_hidden(e.name)]
    except OSError:
        return False
    folders = [Path(e.path) for e in entries if e.is_dir(follow_symlinks=False)]
    return bool(folders) and len(folders) == len(entries) and all(map(is_run_folder, folders))


def find_images(root: Path) -> ImageWalk:
    """Return the image files at or below a path.

    Hidden and system names, runs of ours and files of other kinds are passed over at any depth. A
    file that links reach more than once is listed once, and links that lead in a circle end.

    Args:
        root: a folder, or one file, which is taken whatever its name.

    Raises:
        DataError: there is no such path, or it cannot be read.
    """
    walk = ImageWalk()
    try:
        mode = root.stat().st_mode
    except FileNotFoundError:
        raise DataError(f"{root}: there is no such file") from None
    except OSError as error:
        raise DataError(f"{root}: cannot be read: {error.strerror}") from None
    if stat.S_ISREG(mode):
        walk.files.append(root)
        return walk
    if not stat.S_ISDIR(mode):
        raise DataError(f"{root}: neither a file nor a folder")
    seen_folders: set[tuple[int, int]] = set()
    seen_files: set[tuple[int, int]] = set()
    folders = [root]
    while folders:
        folder = folders.pop()
        try:
            status = folder.stat()
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            if folder == root:
                raise DataError(f"{root}: cannot be read: {error.strerror}") from None
            walk.pass_over(folder, f"folders that cannot be read ({error.strerror})")
            continue
        if (status.st_dev, status.st_ino) in seen_folders:
            walk.pass_over(folder, "folders that a link reaches again")
            continue
        seen_folders.add((status.st_dev, status.st_ino))
        below = [path for entry in entries if (path := _look_at(entry, walk, seen_files))]
        # The last is walked first.
        folders += reversed(below)
    walk.files.sort(key=lambda path: (str(path.parent), path.name))
    return walk


def _look_at(
    entry: os.DirEntry[str], walk: ImageWalk, seen_files: set[tuple[int, int]]
) -> Path | None:
    """Take an entry of a folder, or count why not; return it where it is a folder to walk."""
    path = Path(entry.path)
    try:
        status = entry.stat()
    except OSError as error:
        walk.pass_over(path, f"entries that cannot be read ({error.strerror})")
        return None
    is_folder = stat.S_ISDIR(status.st_mode)
    if is_hidden(entry.name):
        if is_folder or path.suffix.lower() in SUFFIXES:
            walk.pass_over(path, "hidden files and folders")
    elif is_folder and is_run_folder(path):
        walk.pass_over(path, "folders with runs of cnnbench")
    elif is_folder:
        return path
    elif not stat.S_ISREG(status.st_mode):
        walk.pass_over(path, "entries that are no files")
    else:
        _add_file(path, status, walk, seen_files)
    return None


def _add_file(
    path: Path, status: os.stat_result, walk: ImageWalk, seen: set[tuple[int, int]]
) -> None:
    suffix = path.suffix.lower()
    if suffix in _UNREAD:
        walk.pass_over(path, f"{suffix} images, a kind that is not read")
    elif suffix not in SUFFIXES:
        walk.pass_over(path, f"{suffix or 'nameless'} files, which are no images")
    elif (identity := (status.st_dev, status.st_ino)) in seen:
        walk.pass_over(path, "links to an image that is listed already")
    elif not os.access(path, os.R_OK):
        walk.pass_over(path, "images that cannot be read (Permission denied)")
    else:
        seen.add(identity)
        walk.files.append(path)
