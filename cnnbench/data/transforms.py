"""From a batch of uint8 images to the network's input: resize and normalise, on any device.

Training, evaluation and prediction go through ``InputTransform``, so an image is treated alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

_LEVELS = 255
# With 16-bit weights every sum of a resize is a whole number below 2**24, exact in float32.
_WEIGHT_ONE = 2**16
_CHUNK_BYTES = 64 * 1024**2


def resize(images: Tensor, size: int) -> Tensor:
    """Crop to the largest centred square and resize it, as ``decode_image`` does.

    Bilinear with antialias, as Pillow resizes, to within one grey level.

    All sums are of whole numbers without rounding, so the result is bit for bit the same for any
    batch, device and number of threads.

    Args:
        images: uint8, (N, C, H, W).
        size: pixels of a side.

    Returns:
        uint8, (N, C, size, size).
    """
    num_images, channels, height, width = images.shape
    if (height, width) == (size, size):
        return images
    if height != width:
        square = min(height, width)
        top, left = (height - square) // 2, (width - square) // 2
        images = images[:, :, top : top + square, left : left + square]
        height = width = square
    # Halves of float32 are what a GPU's tensor cores would take; float64 they leave alone.
    dtype = torch.float64 if images.is_cuda else torch.float32
    down = _weights(height, size, images.device, dtype)
    across = _weights(width, size, images.device, dtype).T
    resized = images.new_empty(num_images, channels, size, size)
    side = max(height, width, size)
    chunk = max(1, _CHUNK_BYTES // (channels * side * side * dtype.itemsize))
    with torch.autocast(images.device.type, enabled=False):
        for start in range(0, num_images, chunk):
            pixels = images[start : start + chunk].to(dtype)
            pixels = _round(pixels @ across)
            resized[start : start + chunk] = _round(down @ pixels)
    return resized


def _round(sums: Tensor) -> Tensor:
    return sums.add_(_WEIGHT_ONE // 2).mul_(1 / _WEIGHT_ONE).floor_()


@lru_cache(maxsize=16)
def _weights(source: int, size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return the (size, source) matrix of a triangle filter, each row summing to _WEIGHT_ONE."""
    scale = source / size
    reach = max(scale, 1.0)
    centers = (torch.arange(size, dtype=torch.float64) + 0.5) * scale
    pixels = torch.arange(source, dtype=torch.float64) + 0.5
    weights = (1 - (pixels - centers[:, None]).abs() / reach).clamp(min=0)
    weights = torch.round(weights / weights.sum(dim=1, keepdim=True) * _WEIGHT_ONE)
    largest = weights.argmax(dim=1)
    weights[torch.arange(size), largest] += _WEIGHT_ONE - weights.sum(dim=1)
    return weights.to(device=device, dtype=dtype)


class RowTransform:
    """Turn rows of numbers into a network's input: ``(row - mean) / std``, in float64.

    Args:
        mean: of each column; 0 for plain inputs.
        std: likewise; 1 for plain inputs.

    Attributes:
        mean: of each column, what is taken away.
        std: of each column, what is divided by; 1 for a column without any spread.
        image_size: a row is an image of one pixel.
    """

    image_size = 1

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean, self.std = tuple(mean), tuple(s if s > 0 else 1.0 for s in std)
        self._mean, self._std = (
            torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1)
            for values in (self.mean, self.std)
        )

    def resize(self, rows: Tensor) -> Tensor:
        """Return rows as they are."""
        return rows

    def __call__(self, rows: Tensor, image_size: int | None = None) -> Tensor:
        """Return the input for rows (N, columns, 1, 1), in float32, of the same shape."""
        return ((rows.double() - self._mean) / self._std).float()


class InputTransform:
    """Turn uint8 images into a network's input: ``(pixels / 255 - mean) / std``.

    Args:
        image_size: pixels of a side; images of another size are resized.
        mean: per channel, of pixels in [0, 1]; 0 for plain [0, 1] inputs.
        std: likewise; 1 for plain [0, 1] inputs.
        device: where the images will be.
        dtype: of the input.
        channels_last: whether the input is laid out channels last.

    Attributes:
        mean: per channel, what is taken away.
        std: per channel, what is divided by; 1 for a channel without any contrast.
    """

    def __init__(
        self,
        *,
        image_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
    ) -> None:
        self.image_size = image_size
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        means = torch.tensor(mean, dtype=torch.float64).view(1, -1, 1, 1)
        # A channel without any contrast is left as it is.
        self.mean, self.std = tuple(mean), tuple(s if s > 0 else 1.0 for s in std)
        stds = torch.tensor(self.std, dtype=torch.float64).view(1, -1, 1, 1)
        self._scale = (1 / (_LEVELS * stds)).to(device=device, dtype=torch.float32)
        self._offset = (-means / stds).to(device=device, dtype=torch.float32)
        self._dtype = dtype

    def resize(self, images: Tensor) -> Tensor:
        """Return uint8 images at the input's size."""
        return resize(images, self.image_size)

    def __call__(self, images: Tensor, image_size: int | None = None) -> Tensor:
        """Return the input for a batch.

        Args:
            images: uint8, (N, C, H, W).
            image_size: pixels of a side, where it is another one than the transform's.

        Returns:
            (N, C, image_size, image_size), normalised.
        """
        size = self.image_size if image_size is None else image_size
        pixels = resize(images, size).to(torch.float32, memory_format=self._format)
        return pixels.mul_(self._scale).add_(self._offset).to(self._dtype)
