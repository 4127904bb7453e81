"""The 1,797 handwritten digits of 8x8 pixels that scikit-learn carries in its package."""

from __future__ import annotations

import gzip
import importlib.util
import zlib
from pathlib import Path

import numpy as np

from cnnbench.data.arrays import ImageArrays
from cnnbench.data.split import stratified_split
from cnnbench.errors import DataError

_NUM_IMAGES = 1797
_SIDE = 8
_MAX_BYTES = 1024**2
_TEST_FRACTION = 0.2


def digits_path() -> Path:
    """Return where scikit-learn keeps the file.

    Raises:
        DataError: scikit-learn is not installed.
    """
    # Importing sklearn.datasets takes over a second; its file alone reads in hundredths.
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise DataError("data=digits: scikit-learn carries these images and is not installed")
    return Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"


def read_digits(path: Path) -> tuple[ImageArrays, ImageArrays]:
    """Read the file and split it: a fixed stratified fifth is the test part.

    Its ink levels 0..16 become grey levels 0..255.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        with gzip.open(path, "rb") as file:
            text = file.read(_MAX_BYTES + 1)
        values = np.array(text.decode("ascii").strip().replace("\n", ",").split(","), dtype=float)
        table = values.reshape(_NUM_IMAGES, _SIDE * _SIDE + 1)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise DataError(f"{path}: damaged: {error}. Reinstall scikit-learn.") from error
    pixels, targets = table[:, :-1], table[:, -1].astype(np.int64)
    if not (pixels.min() >= 0 and pixels.max() <= 16):
        raise DataError(f"{path}: damaged: ink levels beyond 0..16. Reinstall scikit-learn.")
    images = np.rint(pixels * (255 / 16)).astype(np.uint8).reshape(-1, 1, _SIDE, _SIDE)
    train, test = stratified_split(targets, _TEST_FRACTION, seed=0)
    return ImageArrays(images[train], targets[train]), ImageArrays(images[test], targets[test])
