"""Single images: decoding a file of any size and mode, and a grid of many for the eye."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cnnbench.errors import DataError
from cnnbench.files import why_no_file

if TYPE_CHECKING:
    from PIL import Image

Images = NDArray[np.uint8]

# Those that torchvision's ImageFolder takes for images, GIF, and the other names of JPEG.
SUFFIXES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".ppm",
        ".bmp",
        ".pgm",
        ".tif",
        ".tiff",
        ".webp",
        ".gif",
    ]
)
# Formats whose decoders start no other program.
_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")
# Of one decoded image, all channels together: a few hundred kilobytes of PNG can hold gigabytes.
_MAX_VALUES = 192_000_000
# The largest values of the usual depths; an image has the smallest of them that holds its own.
_FULL_SCALES = (255, 1023, 4095, 16383, 65535)
_MODES = {1: "L", 3: "RGB"}


def decode_image(path: Path, in_channels: int, image_size: int, background: int = 255) -> Images:
    """Read an image file as the networks see it.

    The camera's rotation is applied; transparency is laid on the background; values of more than
    8 bits are scaled to 8 by the usual depth that holds them (10, 12, 14 or 16 bits;
    floating-point ones lie in [0, 1] or [0, 255]); the largest centred square is cropped and
    resized bilinearly with antialias.

    Args:
        path: a JPEG, PNG, PPM/PGM, BMP, TIFF, WebP or GIF file (the first frame).
        in_channels: 1 (grey) or 3 (colour).
        image_size: pixels of a side.
        background: grey value behind transparent pixels, 0 to 255.

    Returns:
        uint8, (in_channels, image_size, image_size).

    Raises:
        DataError: there is no such file, or it is no image.
    """
    from PIL import Image, UnidentifiedImageError

    _check_channels(str(path), in_channels)
    if why := why_no_file(path):
        raise DataError(f"{path}: {why}")
    try:
        with warnings.catch_warnings():
            # Broken metadata and size warnings: the pixels decide, and the limit below.
            warnings.simplefilter("ignore")
            with Image.open(path, formats=_FORMATS) as file:
                if file.width * file.height * len(file.getbands()) > _MAX_VALUES:
                    raise DataError(f"{file.width}x{file.height} pixels are too many")
                image = _upright(file, in_channels, background)
    # Decoders raise nearly anything on a damaged file.
    except Exception as error:
        reason = "unknown format" if isinstance(error, UnidentifiedImageError) else error
        raise DataError(f"{path}: not an image that can be read: {reason}") from error
    return _square(image, image_size)


def convert_image(
    image: Image.Image, in_channels: int, image_size: int, background: int = 255
) -> Images:
    """Return an opened image as the networks see it, as ``decode_image`` does of a file.

    Raises:
        DataError: it cannot be read.
    """
    _check_channels("a Pillow image", in_channels)
    try:
        return _square(_upright(image, in_channels, background), image_size)
    except DataError:
        raise
    except Exception as error:  # the pixels of an opened file are read here
        raise DataError(f"a Pillow image: cannot be read: {error}") from error


def _check_channels(what: str, in_channels: int) -> None:
    if in_channels not in _MODES:
        raise DataError(
            f"{what}: an image file has 1 or 3 channels, the network takes {in_channels}"
        )


def _upright(image: Image.Image, in_channels: int, background: int) -> Image.Image:
    """Return an image as the camera was held, of as many channels as the network takes."""
    from PIL import ImageOps

    return _eight_bit(ImageOps.exif_transpose(image), background).convert(_MODES[in_channels])


def _square(image: Image.Image, image_size: int) -> Images:
    """Return the largest centred square, resized: uint8, (C, image_size, image_size)."""
    from PIL import Image

    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    pixels = np.asarray(square.resize((image_size, image_size), Image.Resampling.BILINEAR))
    return np.array(pixels.reshape(image_size, image_size, -1).transpose(2, 0, 1))


def is_transparent(path: Path) -> bool:
    """Tell whether an image file has transparent pixels to lay on something; False for no image."""
    from PIL import Image

    try:
        with Image.open(path, formats=_FORMATS) as file:
            return file.has_transparency_data
    except Exception:  # decoders raise nearly anything; whoever decodes it says what
        return False


def border_brightness(images: Images) -> float:
    """Return the mean of the outermost pixels of images (N, C, H, W), from 0 to 1.

    It tells the background of most drawings and product images: near 0 for white ink on black.
    """
    edges = (images[:, :, 0], images[:, :, -1], images[:, :, :, 0], images[:, :, :, -1])
    return float(np.mean([edge.mean(dtype=np.float64) for edge in edges]) / 255)


def _eight_bit(image: Image.Image, background: int) -> Image.Image:
    """Return the image in mode L, RGB or CMYK, without transparency."""
    from PIL import Image

    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(scale_to_bytes(np.asarray(image)))
    if image.has_transparency_data:
        layers = image.convert("RGBA")
        behind = Image.new("RGBA", layers.size, (background, background, background, 255))
        return Image.alpha_composite(behind, layers).convert("RGB")
    if image.mode == "P":
        return image.convert("RGB")
    return image


def scale_to_bytes(
    values: NDArray[Any], low: float | None = None, high: float | None = None
) -> Images:
    """Return values of more than 8 bits as 8 bits, by the range that they use.

    Args:
        values: of any shape, numbers or truth values.
        low: the least of all that belong together, perhaps of more than these; by default of
            these.
        high: the greatest, likewise.

    Raises:
        DataError: no usual range holds them.
    """
    if values.dtype.kind == "b":
        return values.astype(np.uint8) * np.uint8(255)
    low = values.min() if low is None else low
    high = values.max() if high is None else high
    if values.dtype.kind == "f" and 0 <= low <= high <= 1:
        return np.asarray(np.rint(values * 255), dtype=np.uint8)
    limits = (255,) if values.dtype.kind == "f" else _FULL_SCALES
    full = next((scale for scale in limits if high <= scale), None)
    if full is None or not low >= 0:
        kind = "floating-point" if values.dtype.kind == "f" else "integer"
        expected = "0 to 1 or 0 to 255" if kind == "floating-point" else "0 to 65535"
        why = "; leave Normalize out, which data.normalize is for" if -10 < low < 0 else ""
        raise DataError(f"{kind} values from {low:g} to {high:g}; expected {expected}{why}")
    if values.dtype.kind == "f":
        return np.asarray(np.rint(values), dtype=np.uint8)
    if values.dtype == np.uint8 and full == 255:
        return values
    exact = values.astype(np.int64) * 255
    return np.asarray((exact + full // 2) // full, dtype=np.uint8)


def sample_grid(images: Images, columns: int, gap: int = 2) -> Images:
    """Lay images out in rows, on white.

    Args:
        images: uint8, (N, C, H, W), N >= 1.
        columns: images in a row, >= 1.
        gap: white pixels around each image.

    Returns:
        uint8, (C, rows * (H + gap) + gap, columns * (W + gap) + gap).
    """
    images = np.asarray(images)
    count, channels, height, width = images.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    shape = (channels, rows * (height + gap) + gap, columns * (width + gap) + gap)
    grid: np.ndarray[Any, np.dtype[np.uint8]] = np.full(shape, 255, dtype=np.uint8)
    for index, image in enumerate(images):
        top = index // columns * (height + gap) + gap
        left = index % columns * (width + gap) + gap
        grid[:, top : top + height, left : left + width] = image
    return grid
