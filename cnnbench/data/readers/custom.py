"""``data=custom``: what a file of the user's own makes, a torch ``Dataset`` or arrays.

Whatever is called here runs someone's code, so the file may only be named by the person at the
keyboard: a settings argument or a flag, never a recorded config.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnbench.data.arrays import MEMORY_LIMIT_BYTES, DatasetArrays
from cnnbench.data.readers.plain import (
    check_size,
    dataset_of,
    find_targets,
    layout_of,
    name_arrays,
    name_of_classes,
    same_layout,
)
from cnnbench.data.readers.sources import Facts
from cnnbench.errors import UsageError, error_text, expected_names, user_code_error
from cnnbench.files import code_sha256, read_code, split_code_path
from cnnbench.registry import load_plugin
from cnnbench.user_code import run_user_file

_EXPECTED = (
    "expected a Dataset, a pair of two (train, test), images and labels as arrays, "
    "or a dict of arrays named x_train, y_train, x_test and y_test"
)
_FOUR = (("train", "images"), ("train", "labels"), ("test", "images"), ("test", "labels"))
_FROZEN = (
    "each image was read once: what is random in its transforms is not drawn anew; use augment="
)
_Arrays = dict[tuple[str, str], Any]


@contextmanager
def _seeded() -> Iterator[None]:
    """Let the user's code draw the same numbers in each process, and training its own.

    A random crop or ``random_split`` without a generator would make other data each time.
    """
    torch = sys.modules.get("torch")
    states = random.getstate(), np.random.get_state(), torch and torch.get_rng_state()
    random.seed(0)
    np.random.seed(0)
    if torch:
        torch.manual_seed(0)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        if torch:
            torch.set_rng_state(states[2])


def _make(value: Any, root: Path | None, label: str) -> Any:
    """Return what a class, a function or an object stands for."""
    parameters: Mapping[str, inspect.Parameter] = {}
    is_made = callable(value) and not _is_dataset(value)
    if is_made:
        with suppress(ValueError):  # what is written in C may not say
            parameters = inspect.signature(value).parameters
    if root is not None and "root" not in parameters:
        raise UsageError(f"{label}: takes no root, so data.root={root} has no effect; leave it out")
    if not is_made:
        return value
    keywords: dict[str, Any] = {}
    if root is not None:
        keywords["root"] = str(root)
    for name, parameter in parameters.items():
        is_open = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if parameter.default is parameter.empty and not is_open and name not in ("train", "root"):
            raise UsageError(
                f"{label}: takes {name}, which has no default; it may take train (True or "
                "False) and root (data.root)"
            )
        if name == "root" and parameter.default is parameter.empty and root is None:
            raise UsageError(f"{label}: takes root; name it: data.root=FOLDER")
    if isinstance(value, type) and "train" in parameters:
        return value(train=True, **keywords), value(train=False, **keywords)
    return value(**keywords)


def _is_dataset(value: Any) -> bool:
    """Whether it has a length and items, and is no array, list, dict or class."""
    is_plain = isinstance(value, (type, np.ndarray, Sequence, Mapping)) or hasattr(value, "detach")
    return not is_plain and hasattr(value, "__len__") and hasattr(value, "__getitem__")


def _arrays_in(made: Any, label: str) -> tuple[_Arrays, Any]:
    """Return the arrays of each part and the names of the classes, or None."""
    if isinstance(made, Mapping):
        names = name_arrays(map(str, made), label)
        classes = name_of_classes(map(str, made))
        return {key: made[name] for key, name in names.items()}, classes and made[classes]
    if _is_dataset(made):
        images, labels = _items(made, label)
        return dict(zip(_FOUR, (images, labels), strict=False)), _class_names(made)
    parts = made if isinstance(made, (tuple, list)) else ()
    if len(parts) == 2 and all(map(_is_dataset, parts)):
        images, labels = _items(parts[1], f"{label}: test")
        names = _class_names(parts[0])
        labels = _numbered_like(labels, _class_names(parts[1]), names, label)
        both = (*_items(parts[0], f"{label}: train"), images, labels)
        return dict(zip(_FOUR, both, strict=True)), names
    if len(parts) == 2 and all(isinstance(p, (tuple, list)) and len(p) == 2 for p in parts):
        return dict(zip(_FOUR, (*parts[0], *parts[1]), strict=True)), None
    if len(parts) in (2, 4) and not any(map(_is_dataset, parts)):
        return dict(zip(_FOUR, parts, strict=False)), None
    if hasattr(made, "dataset"):
        raise UsageError(f"{label}: makes batches of a Dataset; name the Dataset in it (.dataset)")
    came = f"{type(made).__name__} of {len(parts)}" if parts else type(made).__name__
    raise UsageError(f"{label}: is {came}; {_EXPECTED}")


def _class_names(dataset: Any) -> Any:
    names = getattr(dataset, "classes", None)
    is_list = isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)
    return list(names) if names and is_list else None


def _numbered_like(
    labels: NDArray[Any], theirs: list[str] | None, ours: list[str] | None, label: str
) -> NDArray[Any]:
    """Return a test part's labels as the training part numbers its classes, by their names.

    Two folders number their own classes each, of which one may lack some.

    Raises:
        UsageError: a class of theirs is none of training's.
    """
    if theirs is None or ours is None or theirs == ours or labels.dtype.kind not in "iu":
        return labels
    if strange := sorted({*theirs} - {*ours}):
        raise UsageError(f"{label}: test: class {strange[0]} is none of the training classes")
    if labels.size and not 0 <= labels.min() <= labels.max() < len(theirs):
        raise UsageError(f"{label}: test: has label {labels.max()} of {len(theirs)} classes")
    return np.take([ours.index(name) for name in theirs], labels)


def _items(dataset: Any, label: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Read each item of a Dataset once."""
    images: NDArray[Any] | None = None
    labels = []
    for index in range(len(dataset)):
        item = dataset[index]
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise UsageError(
                f"{label}: item {index} is {type(item).__name__}, expected (image, label)"
            )
        image = _pixels(item[0])
        if images is None:
            if len(dataset) * image.nbytes > 4 * MEMORY_LIMIT_BYTES:
                raise UsageError(
                    f"{label}: {len(dataset)} images of {image.shape} do not fit into memory; "
                    "write them as image files: data=folder"
                )
            images = np.empty((len(dataset), *image.shape), dtype=image.dtype)
        if (image.shape, image.dtype) != (images.shape[1:], images.dtype):
            raise UsageError(
                f"{label}: item {index} is {image.dtype} {image.shape}, item 0 "
                f"{images.dtype} {images.shape[1:]}; resize them in the Dataset, or use data=folder"
            )
        images[index] = image
        labels.append(np.asarray(item[1]))
    if images is None:
        raise UsageError(f"{label}: has no items")
    return images, np.array(labels)


def _pixels(image: Any) -> NDArray[Any]:
    """Return one image as an array; a PIL image of a palette or with transparency as colour."""
    mode = getattr(image, "mode", None)
    if mode in ("1", "P", "PA", "LA", "RGBA", "CMYK", "YCbCr"):
        image = image.convert("L" if mode in ("1", "LA") else "RGB")
    return np.asarray(image)


def _array(value: Any, label: str) -> NDArray[Any]:
    """Return what came as an array, or as a list of PIL images."""
    if isinstance(value, (list, tuple)) and value and hasattr(value[0], "mode"):
        return _items([(image, 0) for image in value], label)[0]
    return np.asarray(value)


def _data_of(made: Any, label: str, source: str) -> DatasetArrays:
    arrays, classes = _arrays_in(made, label)
    plain = {key: _array(value, label) for key, value in arrays.items()}
    images = {part: array for (part, kind), array in plain.items() if kind == "images"}
    layouts = {p: layout_of(array.shape, f"{label}: {p} images") for p, array in images.items()}
    check_size(sum(map(len, images.values())), same_layout(layouts, label), label)
    labels = {part: (plain[part, "labels"], len(array)) for part, array in images.items()}
    names = None if classes is None else np.asarray(classes)
    targeted = find_targets(labels, names, label)
    arrays_read = dataset_of(images, layouts, targeted, where=label, source=source)
    is_read_once = any(map(_is_dataset, made if isinstance(made, (tuple, list)) else (made,)))
    notes = (*arrays_read.notes, *((_FROZEN,) if is_read_once else ()))
    return dataclasses.replace(arrays_read, notes=notes)


def read_custom(root: Path | None, args: Mapping[str, Any]) -> DatasetArrays:
    """Run the user's file and read what it makes.

    Args:
        root: given to what takes ``root``.
        args: ``path``, ``FILE:NAME``: a Dataset or its class, which is asked for ``train=True``
            and ``train=False`` where it takes that, a function, or what such a function returns:
            a Dataset, a pair (train, test), arrays, or a dict of arrays by name.

    Raises:
        UsageError: the file cannot be run, or what it makes is no data set.
        DataError: its arrays are no images and labels.
    """
    text = str(args["path"])
    return _read(text, code_sha256("data.path", text), root)


@lru_cache(maxsize=2)
def _read(text: str, _: str, root: Path | None) -> DatasetArrays:
    """Read once what is described and then read."""
    path, name = split_code_path("data.path", text)
    label = f"data.path={text}"
    with _seeded():
        module, digest = run_user_file(path, read_code(path))
        if not hasattr(module, name):
            known = [key for key, value in vars(module).items() if _is_own(value, module)]
            raise UsageError(f"{label}: the file has no {name}{expected_names(name, known)}")
        try:
            made = _make(getattr(module, name), root, label)
            return _data_of(made, label, f"custom {path}:{name}, SHA-256 {digest[:12]}")
        except Exception as error:
            if (reason := user_code_error(error)) is None:
                raise
            raise UsageError(f"{label}: {reason}") from error
        except SystemExit as error:
            raise UsageError(f"{label}: {error_text(error)}") from error


@lru_cache(maxsize=2)
def read_packaged(name: str, root: Path | None) -> DatasetArrays:
    """Read what another package's entry point names, which may be whatever a file may hold.

    Args:
        name: of the data set.
        root: given to what takes ``root``.

    Raises:
        UsageError: it cannot be imported, or is no data set.
        DataError: its arrays are no images and labels.
    """
    label = f"data={name}"
    with _seeded():
        value = load_plugin("data", name)
        try:
            return _data_of(_make(value, root, label), label, f"the package's {name}")
        except Exception as error:
            if (reason := user_code_error(error)) is None:
                raise
            raise UsageError(f"{label}: {reason}") from error


def _is_own(value: Any, module: Any) -> bool:
    return bool(getattr(value, "__module__", None) == module.__name__)


def custom_facts(root: Path | None, args: Mapping[str, Any]) -> Facts:
    """Return what is known of the data, which is read for it.

    Raises:
        UsageError: as ``read_custom``.
        DataError: likewise.
    """
    return facts_of(read_custom(root, args))


def facts_of(arrays: DatasetArrays) -> Facts:
    """Return what is known of images that were read."""
    num_classes = len(arrays.class_names)
    counts = [
        tuple(np.bincount(part.targets, minlength=num_classes).tolist())
        for part in (arrays.train, arrays.test)
    ]
    image = next(arrays.train.chunks(1))[0]
    return Facts(
        num_classes=num_classes,
        in_channels=image.shape[0],
        image_size=image.shape[1],
        class_names=arrays.class_names,
        train_counts=counts[0],
        test_counts=counts[1],
    )


def custom_fingerprint(root: Path | None, args: Mapping[str, Any]) -> str:
    """Return a hash of what is read.

    Raises:
        UsageError: as ``read_custom``.
        DataError: likewise.
    """
    return fingerprint_of(read_custom(root, args))


def fingerprint_of(arrays: DatasetArrays) -> str:
    """Return a hash of what was read."""
    return hashlib.sha256(json.dumps([arrays.sha256, arrays.class_names]).encode()).hexdigest()
