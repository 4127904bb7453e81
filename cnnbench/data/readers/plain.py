"""Images and labels as plain arrays, whoever made them: which axis is what, which class is which.

Values are read as those of image files are (``images.scale_to_bytes``); the largest centred square
is kept, as of those.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnbench.data.arrays import (
    DRAWS_NOTHING,
    IS_TEST_PART,
    MEMORY_LIMIT_BYTES,
    DatasetArrays,
    ImageArrays,
    Targets,
    combine_hashes,
    hash_targets,
    survey,
)
from cnnbench.data.images import Images, Span, scale_to_bytes, span_of, white_of
from cnnbench.data.readers.sources import Facts
from cnnbench.data.split import stratified_split
from cnnbench.errors import DataError, shape_text

_TEST_FRACTION = 0.2
_CHUNK = 4096
_CHANNELS = (1, 3)
# So far beyond 0 and 1 nothing is worth a line.
_ROUNDING = 1e-3
_SHAPES = "expected (N, H, W), (N, H, W, C) or (N, C, H, W) with C 1 or 3"
# Parts and what they hold, by the words that names of arrays are made of.
_PARTS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
_PARTS |= {"val": "val", "valid": "val", "validation": "val", "dev": "val"}
_KINDS = dict.fromkeys(("x", "image", "images", "data", "img", "imgs"), "images")
_KINDS |= dict.fromkeys(("y", "label", "labels", "target", "targets"), "labels")
_CLASS_NAMES = ("class_names", "classes", "label_names")
NAMES = "x and y, images and labels, or x_train, y_train, x_test and y_test"


@dataclass(frozen=True)
class Layout:
    """Which axis of an array is what.

    Attributes:
        channels: 1 or 3.
        side: pixels of the largest centred square.
        is_last: whether the channels are the last axis; of three axes none is.
    """

    channels: int
    side: int
    is_last: bool = False


@dataclass(frozen=True)
class Targeted:
    """The labels of all parts as classes, and how the parts are drawn.

    Attributes:
        class_names: of the classes, in the order of their labels.
        targets: of each part that came, and of ``test``.
        rows: where no test part came, which images of ``train`` are in ``train`` and ``test``.
    """

    class_names: tuple[str, ...]
    targets: Mapping[str, Targets]
    rows: Mapping[str, NDArray[np.int64]]


def name_arrays(names: Iterable[str], where: str) -> dict[tuple[str, str], str]:
    """Return which array is which: ``("train", "images")`` and so on to its name.

    Args:
        names: of the arrays.
        where: they came from, for messages.

    Raises:
        DataError: images or labels are missing, or two arrays could be the same.
    """
    found: dict[tuple[str, str], str] = {}
    listed = list(names)
    for name in listed:
        words = _words(name)
        parts = [_PARTS[word] for word in words if word in _PARTS]
        kinds = [_KINDS[word] for word in words if word in _KINDS]
        if len(kinds) != 1 or len(parts) + len(kinds) != len(words) or len(parts) > 1:
            continue
        key = ((*parts, "train")[0], kinds[0])
        if key in found:
            raise DataError(f"{where}: both {found[key]} and {name} may be its {' '.join(key)}")
        found[key] = name
    parts_found = {part for part, _ in found} | {"train"}
    for part in sorted(parts_found, key=("train", "val", "test").index):
        for kind in ("images", "labels"):
            if (part, kind) not in found:
                raise DataError(
                    f"{where}: holds {', '.join(listed) or 'no arrays'}, without {part} {kind}; "
                    f"expected arrays named {NAMES}"
                )
    return found


def _words(name: str) -> list[str]:
    """Return the words of an array's name: x and train of x_train, xtrain and trainX."""
    words: list[str] = []
    for word in name.lower().split("_"):
        pairs = [(word[:at], word[at:]) for at in range(1, len(word))]
        known = (pair for pair in pairs if {*pair} & {*_PARTS} and {*pair} & {*_KINDS})
        words += next(known, (word,))
    return words


def unread_note(names: Iterable[str], used: Iterable[str]) -> tuple[str, ...]:
    """Return what to say of arrays that are neither images nor labels nor the classes' names."""
    passed = sorted({*names} - {*used})
    return (f"arrays passed over: {', '.join(passed)}",) if passed else ()


def name_of_classes(names: Iterable[str]) -> str | None:
    """Return the name of the array that has the classes' names, if there is one."""
    return next((name for name in names if name.lower() in _CLASS_NAMES), None)


def layout_of(shape: tuple[int, ...], where: str) -> Layout:
    """Tell the axes of images apart.

    Raises:
        DataError: they are no images, or both readings fit.
    """
    text = shape_text(shape)
    if 0 in shape:
        raise DataError(f"{where}: holds {text} values, which are no images")
    if len(shape) == 3:
        return Layout(1, min(shape[1:]))
    if len(shape) == 2:
        raise DataError(
            f"{where}: holds rows of {shape[1]} numbers ({text}), {_SHAPES}; reshape them, or "
            "write them as a table: data=csv"
        )
    if len(shape) != 4:
        raise DataError(f"{where}: holds {text} values, {_SHAPES}")
    readings = [
        (is_last, channels, sides)
        for is_last, channels, sides in (
            (False, shape[1], shape[2:]),
            (True, shape[3], shape[1:3]),
        )
        if channels in _CHANNELS
    ]
    if len(readings) > 1:
        readings = [reading for reading in readings if reading[2][0] == reading[2][1]]
    if len(readings) != 1:
        raise DataError(f"{where}: holds {text} values, {_SHAPES}, and one way alone to read it")
    is_last, channels, sides = readings[0]
    return Layout(channels, min(sides), is_last)


def check_size(count: int, layout: Layout, where: str) -> None:
    """Refuse images that do not fit into memory.

    Raises:
        DataError: they take more than the limit.
    """
    if count * layout.channels * layout.side**2 > MEMORY_LIMIT_BYTES:
        raise DataError(
            f"{where}: {count} images of {layout.side}x{layout.side} take more than "
            f"{MEMORY_LIMIT_BYTES / 1024**3:g} GiB; write them as image files: data=folder"
        )


def _flat_labels(labels: NDArray[Any], count: int, where: str) -> list[Any]:
    """Return the label of each image, a number or a text."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2:
        raise DataError(
            f"{where}: has {labels.shape[1]} numbers for each image, expected one; of one-hot "
            "labels take labels.argmax(axis=1)"
        )
    if labels.shape != (count,):
        raise DataError(
            f"{where}: {count} images and {shape_text(labels.shape) or 'a single'} labels; "
            "expected one for each image"
        )
    if labels.dtype.kind == "U":
        return list(labels.tolist())
    is_whole = labels.dtype.kind in "biu" or (
        labels.dtype.kind == "f" and bool(np.equal(np.mod(labels, 1), 0).all())
    )
    if not is_whole:
        raise DataError(f"{where}: labels are {labels.dtype}, expected whole numbers or texts")
    return [int(label) for label in labels.tolist()]


def find_targets(
    labels: Mapping[str, tuple[NDArray[Any], int]], names: NDArray[Any] | None, where: str
) -> Targeted:
    """Return the classes of all images; without a test part, a fixed fifth of each class tests.

    Args:
        labels: of each part, with the number of its images; ``train`` is among them.
        names: of the classes, where they came.
        where: they came from, for messages.

    Raises:
        DataError: the labels are no classes, fewer than two, or those of training lack one.
    """
    flat = {part: _flat_labels(*of, f"{where}: {part}") for part, of in labels.items()}
    known = sorted(set(flat["train"]))
    class_names = tuple(map(str, known))
    if names is not None:
        if names.dtype.kind != "U" or names.ndim != 1 or len(set(names.tolist())) != len(names):
            raise DataError(f"{where}: the names of its classes are no list of different texts")
        if known != list(range(len(names))):
            raise DataError(
                f"{where}: names {len(names)} classes, and the training labels are "
                f"{_listed(known)}; expected 0 to {len(names) - 1}"
            )
        class_names = tuple(names.tolist())
    if len(known) < 2:
        raise DataError(f"{where}: all training images have label {known[0]}, expected two or more")
    index = {label: target for target, label in enumerate(known)}
    targets = {}
    for part, its in flat.items():
        if strange := sorted(set(its) - set(known)):
            raise DataError(f"{where}: {part} label {strange[0]} has no training image")
        targets[part] = np.array([index[label] for label in its], dtype=np.int64)
    if "test" in targets:
        return Targeted(class_names, targets, {})
    first, second = stratified_split(targets["train"], _TEST_FRACTION, seed=0)
    if not len(second):
        raise DataError(f"{where}: too few images of each class to test on some of them")
    rows = {"train": first, "test": second}
    drawn = {part: targets["train"][at] for part, at in rows.items()}
    return Targeted(class_names, {**targets, **drawn}, rows)


def _listed(known: list[Any]) -> str:
    return ", ".join(map(str, known[:6])) + (", ..." if len(known) > 6 else "")


def facts_of(layout: Layout, targeted: Targeted) -> Facts:
    """Return what labels and shapes tell."""
    num_classes = len(targeted.class_names)

    def counts(part: str) -> tuple[int, ...]:
        return tuple(np.bincount(targeted.targets[part], minlength=num_classes).tolist())

    return Facts(
        num_classes=num_classes,
        in_channels=layout.channels,
        image_size=layout.side,
        class_names=targeted.class_names,
        train_counts=counts("train"),
        test_counts=counts("test"),
    )


def same_layout(layouts: Mapping[str, Layout], where: str) -> Layout:
    """Return the layout that all parts have.

    Raises:
        DataError: their channels or sides differ.
    """
    first = layouts["train"]
    for part, layout in layouts.items():
        if (layout.channels, layout.side) != (first.channels, first.side):
            raise DataError(
                f"{where}: {part} images have {layout.channels} channels of {layout.side} pixels, "
                f"those of training {first.channels} of {first.side}"
            )
    return first


def _decode(values: NDArray[Any], layout: Layout, white: int) -> Images:
    """Return images as uint8, (N, C, S, S)."""
    if values.ndim == 3:
        values = values[:, None]
    elif layout.is_last:
        values = values.transpose(0, 3, 1, 2)
    side = layout.side
    top, left = ((length - side) // 2 for length in values.shape[2:])
    square = values[:, :, top : top + side, left : left + side]
    images = np.empty(square.shape, dtype=np.uint8)
    for start in range(0, len(images), _CHUNK):
        images[start : start + _CHUNK] = scale_to_bytes(square[start : start + _CHUNK], white)
    return images


def _one_white(spans: Mapping[str, Span], dtypes: Mapping[str, np.dtype[Any]]) -> int:
    """Return the value that becomes 255 in all parts: a dark test part is not made brighter.

    Raises:
        DataError: no usual range holds their values, or each part has its own.
    """
    white = white_of(spans.values())
    if not spans["train"].is_float and max(span.high for span in spans.values()) == 1:
        white = 1  # two levels
    for part, span in spans.items():
        # Of one type of integers the largest value of all decides.
        if (span.is_float or dtypes[part] != dtypes["train"]) and (
            (own := white_of([span])) != (train := white_of([spans["train"]]))
        ):
            raise DataError(
                f"{part} images are {dtypes[part]} to {span.high:g}, of 0 to {own}, those of "
                f"training of 0 to {train}; expected one range"
            )
    return white


def dataset_of(
    parts: Mapping[str, NDArray[Any]],
    layouts: Mapping[str, Layout],
    targeted: Targeted,
    *,
    where: str,
    source: str,
    notes: Sequence[str] = (),
) -> DatasetArrays:
    """Return plain arrays as a data set.

    Args:
        parts: the images of ``train``, and of ``val`` and ``test`` where they came.
        layouts: of each part.
        targeted: the classes.
        where: they came from, for messages.
        source: what the record says of that.
        notes: what else is worth a line.

    Raises:
        DataError: the values are of no range that images have.
    """
    for part, values in parts.items():
        if values.dtype.kind not in "bfiu":
            raise DataError(f"{where}: {part} images are {values.dtype}, expected numbers")
        if values.dtype.kind != parts["train"].dtype.kind:
            raise DataError(
                f"{where}: {part} images are {values.dtype}, those of training "
                f"{parts['train'].dtype}; expected one kind, in one range"
            )
    spans = {part: span_of(values) for part, values in parts.items()}
    try:
        white = _one_white(spans, {part: values.dtype for part, values in parts.items()})
        decoded = {name: _decode(values, layouts[name], white) for name, values in parts.items()}
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    targets = targeted.targets
    notes = list(notes)
    low, high = min(its.low for its in spans.values()), max(its.high for its in spans.values())
    if white == 1 and not -_ROUNDING <= low <= high <= 1 + _ROUNDING:
        notes.append(f"values from {low:.3g} to {high:.3g} are cut to 0 to 1")
    if targeted.rows:
        both = decoded["train"]
        decoded |= {part: both[rows] for part, rows in targeted.rows.items()}
        count = len(targets["test"])
        notes.append(f"no test images: a fixed fifth, {count} images, {IS_TEST_PART}")
    train = ImageArrays(decoded["train"], targets["train"])
    if "val" in decoded:
        train = ImageArrays(
            np.concatenate([train.images, decoded["val"]]),
            np.concatenate([train.targets, targets["val"]]),
        )
        notes.append(f"its validation images validate: {DRAWS_NOTHING}")
    test = ImageArrays(decoded["test"], targets["test"])
    surveys = [survey(part) for part in (train, test)]
    hashes = [
        text
        for seen, part in zip(surveys, (train, test), strict=True)
        for text in (seen.sha256, hash_targets(part.targets))
    ]
    return DatasetArrays(
        train=train,
        test=test,
        class_names=targeted.class_names,
        mean=surveys[0].mean,
        std=surveys[0].std,
        sha256=combine_hashes(hashes),
        source=source,
        notes=tuple(notes),
        num_val=len(decoded.get("val", ())),
        is_test_drawn=bool(targeted.rows),
    )
