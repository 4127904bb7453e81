"""The classes that a trained run sees in images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnnbench.analysis.image_arrays import read_objects
from cnnbench.data import decode_image
from cnnbench.data.images import Images, border_brightness, is_transparent
from cnnbench.data.readers.rows import read_values
from cnnbench.data.readers.walk import find_images
from cnnbench.errors import DataError, UsageError
from cnnbench.notices import notice, warn
from cnnbench.rendering.text import counted
from cnnbench.runs.directory import RunDir
from cnnbench.runs.network import LoadedNetwork, load_run

Invert = Literal["never", "always", "auto"]
INVERT: tuple[Invert, ...] = ("never", "always", "auto")
_BATCH_SIZE = 256
# How much nearer a border's brightness must be to the training images' once it is inverted.
_MARGIN = 0.3
# Of 255 grey values: what an image shows at all.
_LEAST_SPREAD = 8


def image_files(paths: Sequence[str | Path]) -> list[Path]:
    """Return the image files that paths name; a folder gives those in it and below.

    What a folder holds beside images is passed over, and said.

    Raises:
        DataError: a path does not exist, or a folder holds no image.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        walk = find_images(path.expanduser())
        if not walk.files:
            raise DataError("; ".join([f"{path}: holds no images", *walk.notes()]))
        for note in walk.notes():
            notice(f"{path}: {note}")
        files += walk.files
    return files


@dataclass(frozen=True)
class ReadImages:
    """Image files as a network takes them.

    Attributes:
        files: those that could be read.
        images: uint8, (N, C, S, S).
        unreadable: a sentence for each of the others.
    """

    files: list[Path]
    images: Images
    unreadable: list[str]


def read_images(network: LoadedNetwork, files: Sequence[Path]) -> ReadImages:
    """Decode image files for a network, transparency laid on its training images' background.

    Raises:
        DataError: none of them can be read.
    """
    network.check_images()
    read, images, unreadable = [], [], []
    for file in files:
        try:
            pixels = decode_image(
                file, network.in_channels, network.transform.image_size, network.decoding
            )
        except DataError as error:
            unreadable.append(str(error))
        else:
            read.append(file)
            images.append(pixels)
    if not images:
        more = f" (and {len(unreadable) - 1} more)" if len(unreadable) > 1 else ""
        raise DataError(f"{unreadable[0]}{more}")
    if transparent := sum(map(is_transparent, read)):
        shade = "white" if network.decoding.background else "black"
        notice(f"{transparent} images have transparent pixels, which are laid on {shade}")
    return ReadImages(read, np.stack(images), unreadable)


def say_unreadable(unreadable: Sequence[str]) -> None:
    """Name the files that could not be read, after the results of the others."""
    if unreadable:
        warn(f"{counted(len(unreadable), 'file')} could not be read:")
        for sentence in unreadable:
            notice(sentence)


def predict_files(
    run: RunDir,
    paths: Sequence[str | Path],
    top: int = 3,
    model_path: str | None = None,
    invert: Invert = "never",
) -> list[dict[str, Any]]:
    """Return the classes that a run sees in image files; `cnnbench.predict` says what comes back.

    A file that cannot be read is named at the end.

    Raises:
        CheckpointError: the run is damaged or foreign.
        DataError: a path does not exist, or none of the files can be read.
    """
    network = load_run(run, model_path)
    if not paths:
        return []
    if network.columns:
        return [row for path in paths for row in predict_rows(network, Path(path), top)]
    files = image_files(paths)
    results: list[dict[str, Any]] = []
    unreadable: list[str] = []
    is_unlike: list[NDArray[np.bool_]] = []
    is_blank: list[NDArray[np.bool_]] = []
    for start in range(0, len(files), _BATCH_SIZE):
        try:
            read = read_images(network, files[start : start + _BATCH_SIZE])
        except DataError as error:
            if len(files) <= _BATCH_SIZE:
                raise
            unreadable.append(str(error))
            continue
        unreadable += read.unreadable
        is_blank.append(_is_blank(read.images))
        images, unlike = _inverted(network, read.images, invert)
        is_unlike.append(unlike)
        rows = _ranked(network, torch.from_numpy(images), top)
        results += [{"file": str(file), **row} for file, row in zip(read.files, rows, strict=True)]
    if not results:
        raise DataError(unreadable[0])
    _say_unlike(np.concatenate(is_unlike), invert)
    _say_blank(np.concatenate(is_blank))
    say_unreadable(unreadable)
    return results


def predict_objects(
    run: RunDir,
    images: Any,
    top: int = 3,
    model_path: str | None = None,
    invert: Invert = "never",
) -> list[dict[str, Any]]:
    """Return the classes that a run sees in images of a program; as ``predict_files``.

    Args:
        run: an existing run.
        images: as `read_objects` takes them; of a table's run rows of numbers, (N, columns).
        top: how many classes to list.
        model_path: of a custom network.
        invert: which images to invert.

    Raises:
        UsageError: they have another shape or other values.
    """
    network = load_run(run, model_path)
    if network.columns:
        return _of_rows(network, _numbers(_ordered(images, network.columns)), top)
    network.check_images()
    pixels = read_objects(network, images)
    if not len(pixels):
        return []
    _say_blank(_is_blank(pixels))
    pixels, unlike = _inverted(network, pixels, invert)
    _say_unlike(unlike, invert)
    return _ranked(network, torch.from_numpy(pixels), top)


def _ordered(rows: Any, columns: Sequence[str]) -> Any:
    """Return a data frame with a table's own columns, found by name as those of a CSV file are.

    Rows without names, such as an array's, are as they came.

    Raises:
        UsageError: a column is missing.
    """
    frame = rows.to_frame().T if hasattr(rows, "to_frame") else rows  # one row, a series
    names = [name for name in getattr(frame, "columns", ()) if isinstance(name, str)]
    if not names:
        return rows
    for column in columns:
        if column not in names:
            raise UsageError(f"rows of type {type(rows).__name__}: no column is named '{column}'")
    return frame[list(columns)]


def _numbers(rows: Any) -> Tensor:
    """Return rows of numbers as a tensor; one row alone is one of them."""
    try:
        # A copy, as torch takes no array that is read backwards, and warns of read-only ones.
        values = (
            rows if isinstance(rows, Tensor) else torch.from_numpy(np.array(rows, float, order="C"))
        )
    except (TypeError, ValueError) as error:
        raise UsageError(f"rows of type {type(rows).__name__} are no numbers: {error}") from None
    return values[None] if values.ndim == 1 else values


def predict_rows(network: LoadedNetwork, path: Path, top: int) -> list[dict[str, Any]]:
    """Return what a table's network says of the rows of a CSV file.

    A line of names tells which columns are its own; without one, each row has just those.

    Raises:
        DataError: the file is missing, lacks a column, or something in it is no number.
    """
    file = path.expanduser()
    lines, values = read_values(file, network.columns)
    rows = _of_rows(network, torch.from_numpy(values), top)
    return [{"file": str(file), "line": line, **row} for line, row in zip(lines, rows, strict=True)]


def _of_rows(network: LoadedNetwork, values: Tensor, top: int) -> list[dict[str, Any]]:
    """Return what a network says of rows of numbers, (N, columns).

    Raises:
        UsageError: they have another shape.
    """
    if values.ndim != 2 or values.shape[1] != len(network.columns):
        raise UsageError(
            f"rows are {tuple(values.shape)}, expected (N, {len(network.columns)}): "
            f"{', '.join(network.columns[:12])}"
        )
    rows = values[:, :, None, None]
    if not network.loss.is_number:
        return _ranked(network, rows, top)
    with torch.inference_mode():
        numbers = network.outputs(network.transform(rows)).double()
    scaled = numbers * network.target_std + network.target_mean
    return [{network.class_names[0]: number} for number in scaled.tolist()]


def _inverted(
    network: LoadedNetwork, images: Images, invert: Invert
) -> tuple[Images, NDArray[np.bool_]]:
    """Return images as asked for, and which of them look inverted beside the training images."""
    nowhere = np.zeros(len(images), dtype=bool)
    if invert == "always":
        return 255 - images, nowhere
    if network.border is None:
        return images, nowhere
    borders = np.array([border_brightness(image[None]) for image in images])
    as_they_are = np.abs(borders - network.border)
    unlike = as_they_are > np.abs(1 - borders - network.border) + _MARGIN
    if invert == "auto":
        images = np.where(unlike[:, None, None, None], 255 - images, images)
    return images, unlike


def _say_unlike(unlike: NDArray[np.bool_], invert: Invert) -> None:
    count = int(unlike.sum())
    if count and invert == "auto":
        notice(f"{count} of {len(unlike)} images were inverted, as the training images are")
    elif count and invert == "never":
        warn(
            f"{count} of {len(unlike)} images have a light background where the training images' "
            "is dark, or the other way round, as ink on paper has; the classes are then of little "
            "worth: --invert (in Python invert=True) inverts them, --invert-auto only such"
        )


def _is_blank(images: Images) -> NDArray[np.bool_]:
    """Tell which images, uint8 (N, C, H, W), have hardly more than one value."""
    flat = images.reshape(len(images), -1)
    blank: NDArray[np.bool_] = np.ptp(flat, axis=1) < _LEAST_SPREAD
    return blank


def _say_blank(blank: NDArray[np.bool_]) -> None:
    if count := int(blank.sum()):
        warn(
            f"{count} of {len(blank)} images have the same value nearly everywhere, as black ink "
            "on a transparent or a covered photo has; their classes mean nothing"
        )


def _ranked(network: LoadedNetwork, images: Tensor, top: int) -> list[dict[str, Any]]:
    """Return the likeliest classes of uint8 images (N, C, H, W), or of rows like that."""
    with torch.inference_mode():
        probabilities = network.outputs(network.transform(images)).softmax(dim=1)
    ranked = []
    for values, classes in zip(*probabilities.topk(min(top, probabilities.shape[1])), strict=True):
        best = [
            {"class": network.class_names[label], "probability": value}
            for value, label in zip(values.tolist(), classes.tolist(), strict=True)
        ]
        ranked.append({**best[0], "top": best})
    return ranked
