"""Which folders below a root are training, validation and test parts, and which are classes."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from cnnbench.data.readers.walk import find_images, is_hidden, is_run_folder
from cnnbench.errors import DataError

_PARTS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "val",
    "valid": "val",
    "validation": "val",
}
# Words that mean a part but are no usual name of its folder, and words that say nothing.
_SYNONYMS = {
    **_PARTS,
    **dict.fromkeys(("trainset", "trainingset", "trainval", "learn", "learning", "fit"), "train"),
    **dict.fromkeys(("testset", "testingset", "holdout", "heldout", "query", "gallery"), "test"),
    **dict.fromkeys(("valset", "validset", "validationset", "dev", "devset"), "val"),
    **dict.fromkeys(("eval", "evaluation", "validate"), "val"),
}
_FILLERS = frozenset(
    [
        "set",
        "data",
        "dataset",
        "images",
        "image",
        "imgs",
        "img",
        "pics",
        "split",
        "part",
        "folder",
        "files",
        "samples",
        "seg",
        "final",
    ]
)


def sub_folders(root: Path) -> list[Path]:
    """Return the folders in a folder that may be classes or parts, sorted by name.

    Raises:
        DataError: it cannot be read.
    """
    try:
        entries = list(os.scandir(root))
    except OSError as error:
        raise DataError(f"{root}: cannot be read as a folder: {error.strerror}") from error
    folders = [Path(e.path) for e in entries if e.is_dir() and not is_hidden(e.name)]
    return sorted((f for f in folders if not is_run_folder(f)), key=lambda path: path.name)


def part_of(name: str) -> str | None:
    """Return the part that is the usual meaning of a folder's name, in any case, or None."""
    return _PARTS.get(name.casefold().removeprefix("seg_"))


def _meaning(name: str) -> str | None:
    """Return the part that a name may mean, synonyms and additions included."""
    words = [word for word in re.split(r"[\W_\d]+", name.casefold()) if word]
    meant = {_SYNONYMS[word] for word in words if word in _SYNONYMS}
    rest = [word for word in words if word not in _SYNONYMS and word not in _FILLERS]
    return meant.pop() if len(meant) == 1 and not rest else None


def find_parts(root: Path) -> tuple[dict[str, Path], list[str]]:
    """Return the folders of a data set's parts, and what is worth saying of them.

    Folders are parts where every folder with images bears the name of one and at least the
    training part holds class folders; else they are classes, and there are no parts.

    Args:
        root: the folder that the user named.

    Returns:
        Folders by ``train``, ``val`` and ``test``, empty where the folders are classes; and notes.

    Raises:
        DataError: the names look like parts, but cannot be used as such.
    """
    folders = [folder for folder in sub_folders(root) if find_images(folder).files]
    meanings = {folder: _meaning(folder.name) for folder in folders}
    if not folders or None in meanings.values():
        _refuse_parts_among_classes(root, folders)
        return {}, []
    if odd := [folder.name for folder in folders if part_of(folder.name) is None]:
        raise DataError(
            f"{root}: {', '.join(odd)} look like parts of the data: rename {_renamed(odd)}"
        )
    parts: dict[str, Path] = {}
    notes = []
    for folder in folders:
        name = str(part_of(folder.name))
        inner = _unwrapped(folder, name)
        if len([f for f in sub_folders(inner) if find_images(f).files]) < 1:
            if name != "test":
                raise DataError(
                    f"{folder}: looks like a {name} part, but holds no class folders; "
                    f"expected {folder.name}/CLASS/image.png"
                )
            notes.append(f"{folder.name}/ holds images without class folders: it is left out")
        elif name in parts:
            raise DataError(
                f"{root}: {parts[name].name}/ and {folder.name}/ both look like the {name} part; "
                "keep one"
            )
        else:
            parts[name] = inner
    if "train" not in parts:
        names = ", ".join(f"{folder.name}/" for folder in folders)
        raise DataError(f"{root}: has no train/ beside {names}: expected train/, val/ and test/")
    return parts, notes


def _refuse_parts_among_classes(root: Path, folders: Sequence[Path]) -> None:
    """Refuse parts beside folders of other names, which would make classes of the parts.

    A class may well be named train; a part holds folders and no image, and beside it is another
    part, or a folder that holds folders of the same names.

    Raises:
        DataError: there are such.
    """
    inner = {folder: {each.name for each in sub_folders(folder)} for folder in folders}
    named = [folder for folder in folders if part_of(folder.name)]
    parts = [folder for folder in named if inner[folder] and not _holds_images(folder)]
    others = [folder for folder in folders if folder not in named]
    alike = any(inner[part] & inner[other] for part in parts for other in others)
    if parts and (len(named) > 1 or alike):
        shown = ", ".join(f"{folder.name}/" for folder in named)
        beside = ", ".join(f"{folder.name}/" for folder in others[:4])
        raise DataError(
            f"{root}: {shown} look like parts of the data beside {beside}: move {beside} "
            "elsewhere, or rename to train/, val/ or test/ what is a part"
        )


def _holds_images(folder: Path) -> bool:
    """Return whether images lie in a folder itself, in none below it."""
    return any(path.parent == folder for path in find_images(folder).files)


def _renamed(names: Sequence[str]) -> str:
    """Return which folder to rename to what; of two that validate the second may well test."""
    wanted: dict[str, str] = {}
    for name in names:
        part = str(_meaning(name))
        wanted[name] = "test" if part == "val" and part in wanted.values() else part
    return ", ".join(f"{name}/ to {part}/" for name, part in wanted.items())


def _unwrapped(folder: Path, part: str) -> Path:
    """Return the folder one level deeper where a part holds nothing but itself again."""
    inner = sub_folders(folder)
    if len(inner) == 1 and part_of(inner[0].name) == part and sub_folders(inner[0]):
        return inner[0]
    return folder


def refuse_inner_classes(root: Path, folders: Sequence[Path]) -> None:
    """Refuse class folders that all hold two or more of the same folders and no image of their own.

    The classes are most likely one level deeper, or the classes and the parts change places.

    Raises:
        DataError: they do.
    """
    inner = [{folder.name for folder in sub_folders(each)} for each in folders]
    names = sorted(set.intersection(*inner))
    if len(names) < 2 or any(map(_holds_images, folders)):
        return
    shown, outer = ", ".join(names[:4]), ", ".join(folder.name for folder in folders[:4])
    if all(_meaning(name) for name in names):
        hint = f"expected {names[0]}/{folders[0].name}/image.png, the parts above the classes"
    else:
        hint = f"where {shown} are the classes, expected {names[0]}/image.png without {outer} above"
    raise DataError(f"{root}: {outer} each hold the same folders {shown}: {hint}")
