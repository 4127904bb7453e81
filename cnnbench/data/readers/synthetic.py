"""Made images of any shape, for tests and timing: each class is a pattern under noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnbench.data.arrays import ImageArrays
from cnnbench.data.images import Images
from cnnbench.errors import DataError

# A generator is asked for images of at most this size at once.
_BLOCK_BYTES = 64 * 1024**2
_PATTERN_CELLS = 4


def make_synthetic(args: Mapping[str, Any]) -> tuple[ImageArrays, ImageArrays]:
    """Make the training and the test part.

    Classes take turns, so that each has as many images as any other, give or take one. Only raw
    generator output and integer arithmetic is used: the bytes are the same everywhere.

    Args:
        args: ``num_train``, ``num_test``, ``num_classes``, ``in_channels``, ``native_size`` and
            ``data_seed``.

    Raises:
        DataError: there are fewer training images than classes.
    """
    num_train, num_test = int(args["num_train"]), int(args["num_test"])
    num_classes, channels = int(args["num_classes"]), int(args["in_channels"])
    size = int(args["native_size"])
    if num_train < num_classes:
        raise DataError(
            f"data.num_train={num_train}: expected at least one image for each of the "
            f"data.num_classes={num_classes} classes"
        )
    bits = np.random.Philox(key=int(args["data_seed"]))
    cells = _raw_bytes(bits, num_classes * channels * _PATTERN_CELLS**2)
    patterns = cells.reshape(num_classes, channels, _PATTERN_CELLS, _PATTERN_CELLS)
    indices = np.arange(size) * _PATTERN_CELLS // size
    patterns = patterns[:, :, indices[:, None], indices[None, :]]
    return _part(bits, patterns, num_train), _part(bits, patterns, num_test)


def _part(bits: np.random.Philox, patterns: Images, count: int) -> ImageArrays:
    targets = np.arange(count, dtype=np.int64) % len(patterns)
    images = np.empty((count, *patterns.shape[1:]), dtype=np.uint8)
    block = max(1, _BLOCK_BYTES // patterns[0].size)
    for start in range(0, count, block):
        chunk = images[start : start + block]
        noise = _raw_bytes(bits, chunk.size).reshape(chunk.shape)
        np.add(patterns[targets[start : start + block]] // 2, noise // 2, out=chunk)
    return ImageArrays(images, targets)


def _raw_bytes(bits: np.random.Philox, count: int) -> NDArray[np.uint8]:
    words = bits.random_raw(-(-count // 8)).astype("<u8")
    return np.frombuffer(words.tobytes(), dtype=np.uint8)[:count]
