"""Images that a program has in its memory, as a network takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnnbench.data.images import Images, convert_image, scale_to_bytes
from cnnbench.errors import DataError, UsageError
from cnnbench.runs.network import LoadedNetwork

# Grey, colour, and colour with transparency.
_CHANNELS = (1, 3, 4)
_SHAPES = "(H, W), (H, W, C), (C, H, W), (N, H, W), (N, C, H, W) or (N, H, W, C)"


def read_objects(network: LoadedNetwork, images: Any) -> Images:
    """Return images as uint8, (N, C, S, S).

    Args:
        network: whose images they become: cropped to a square, resized, grey or colour.
        images: a Pillow image, an array or tensor of images, or a list of these. In three
            dimensions a last one of 1, 3 or 4 is channels; else a first one as the network takes
            them is; else it counts grey images. In four, channels come second where they are
            those of the network, else last where these are 1, 3 or 4, else second.

    Raises:
        UsageError: they are of another type or shape, or of other values than 0 to 255 and, as
            fractions, 0 to 1.
    """
    if isinstance(images, Sequence) and not all(map(np.isscalar, _leaf(images))):
        parts = [_one(network, image) for image in images]
        return np.concatenate(parts) if parts else _none(network)
    return _one(network, images)


def _leaf(images: Sequence[Any]) -> Sequence[Any]:
    """Return the innermost first list of nested lists."""
    while images and isinstance(images[0], (list, tuple)):
        images = images[0]
    return images or [None]


def _none(network: LoadedNetwork) -> Images:
    size = network.transform.image_size
    return np.zeros((0, network.in_channels, size, size), np.uint8)


def _one(network: LoadedNetwork, image: Any) -> Images:
    from PIL import Image

    try:
        if isinstance(image, Image.Image):
            return _converted(network, image)
        return _of_array(network, _array(image))
    except DataError as error:
        raise UsageError(str(error)) from None


def _array(image: Any) -> NDArray[Any]:
    """Return the numbers of an array, a tensor or nested lists.

    Raises:
        UsageError: it has none.
    """
    if isinstance(image, Tensor):
        image = image.detach().cpu()
        # NumPy has no bfloat16.
        return np.asarray(image.float() if image.is_floating_point() else image)
    try:
        array = np.asarray(image)
    except ValueError as error:
        raise UsageError(f"a list is no image: {error}") from None
    if array.dtype.kind not in "buif" or isinstance(image, (str, bytes)):
        raise UsageError(
            f"a value of type {type(image).__name__} is no image; expected image files alone, or "
            "Pillow images, arrays and tensors"
        )
    return array


def _of_array(network: LoadedNetwork, array: NDArray[Any]) -> Images:
    batch = _channels_second(array, network.in_channels)
    if not batch.size:
        return _none(network)
    if batch.dtype.kind == "b":
        batch = batch.astype(np.uint8) * 255
    if batch.dtype.kind == "f" and not (np.isfinite(batch).all() and batch.min() >= 0):
        raise UsageError(
            f"images have values from {batch.min():g} to {batch.max():g}; expected 0 to 255, or "
            "fractions from 0 to 1, as they are before normalisation"
        )
    pixels = batch if batch.dtype == np.uint8 else scale_to_bytes(batch)
    if pixels.shape[1] == network.in_channels:
        # A copy in any case: torch warns of read-only arrays.
        return np.asarray(network.transform.resize(torch.from_numpy(np.array(pixels, order="C"))))
    from PIL import Image

    rows = pixels.transpose(0, 2, 3, 1)
    rows = rows[:, :, :, 0] if rows.shape[3] == 1 else rows
    converted = [_converted(network, Image.fromarray(np.ascontiguousarray(row))) for row in rows]
    return np.concatenate(converted)


def _channels_second(array: NDArray[Any], in_channels: int) -> NDArray[Any]:
    """Return an array of images as (N, C, H, W).

    Raises:
        UsageError: it has no such shape.
    """
    shape, known = array.shape, {*_CHANNELS, in_channels}
    if array.ndim == 2:
        return array[None, None]
    if array.ndim == 3:
        if shape[0] == in_channels:
            return array[None]
        if shape[2] in known:
            return array.transpose(2, 0, 1)[None]
        return array[:, None]
    if array.ndim == 4:
        if shape[1] == in_channels:
            return array
        if shape[3] in known:
            return array.transpose(0, 3, 1, 2)
        if shape[1] in known:
            return array
    raise UsageError(
        f"images of shape {shape}: expected {_SHAPES} with {in_channels} channels, or 1, 3 or 4"
    )


def _converted(network: LoadedNetwork, image: Any) -> Images:
    size = network.transform.image_size
    return convert_image(image, network.in_channels, size, network.decoding)[None]
