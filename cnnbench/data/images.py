"""Single pictures: decoding a file of any size and mode, and a grid of many for the eye."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cnnbench.errors import DataError

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
_MAX_PIXELS = 100_000_000
_MODES = {1: "L", 3: "RGB"}


def decode_image(path: Path, in_channels: int, image_size: int) -> Images:
    """Read a picture file as the networks see it.

    The camera's rotation is applied; transparency is laid on white; 16-bit levels are scaled to 8;
    the largest centred square is cut out and resized bilinearly with antialias.

    Args:
        path: a JPEG, PNG, PPM/PGM, BMP, TIFF, WebP or GIF file (the first frame).
        in_channels: 1 (grey) or 3 (colour).
        image_size: pixels of a side.

    Returns:
        uint8, (in_channels, image_size, image_size).

    Raises:
        DataError: there is no such file, or it is no picture.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if in_channels not in _MODES:
        raise DataError(
            f"{path}: a picture file has 1 or 3 channels, the network takes {in_channels}"
        )
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    try:
        with warnings.catch_warnings():
            # Broken metadata and size warnings: the pixels decide, and the limit below.
            warnings.simplefilter("ignore")
            with Image.open(path, formats=_FORMATS) as file:
                if file.width * file.height > _MAX_PIXELS:
                    raise DataError(f"{file.width}x{file.height} pixels are too many")
                upright = ImageOps.exif_transpose(file)
                picture = _eight_bit(upright).convert(_MODES[in_channels])
    # Decoders raise nearly anything on a damaged file.
    except Exception as error:
        reason = "unknown format" if isinstance(error, UnidentifiedImageError) else error
        raise DataError(f"{path}: not a picture that can be read: {reason}") from error
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    square = picture.crop((left, top, left + side, top + side))
    pixels = np.asarray(square.resize((image_size, image_size), Image.Resampling.BILINEAR))
    return np.array(pixels.reshape(image_size, image_size, in_channels).transpose(2, 0, 1))


def _eight_bit(picture: Image.Image) -> Image.Image:
    """Return the picture in mode L, RGB or CMYK, without transparency."""
    from PIL import Image

    if picture.mode.startswith("I"):
        # 32-bit integers are how Pillow holds some 16-bit files.
        levels = np.clip(np.asarray(picture, dtype=np.int64), 0, 65535)
        return Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    if picture.mode == "F":
        return Image.fromarray(np.rint(np.clip(np.asarray(picture), 0, 255)).astype(np.uint8))
    if picture.has_transparency_data:
        layers = picture.convert("RGBA")
        white = Image.new("RGBA", layers.size, "white")
        return Image.alpha_composite(white, layers).convert("RGB")
    if picture.mode == "P":
        return picture.convert("RGB")
    return picture


def sample_grid(images: Images, columns: int, gap: int = 2) -> Images:
    """Lay pictures out in rows, on white.

    Args:
        images: uint8, (N, C, H, W), N >= 1.
        columns: pictures in a row, >= 1.
        gap: white pixels around each picture.

    Returns:
        uint8, (C, rows * (H + gap) + gap, columns * (W + gap) + gap).
    """
    images = np.asarray(images)
    count, channels, height, width = images.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    shape = (channels, rows * (height + gap) + gap, columns * (width + gap) + gap)
    grid: np.ndarray[Any, np.dtype[np.uint8]] = np.full(shape, 255, dtype=np.uint8)
    for place, image in enumerate(images):
        top = place // columns * (height + gap) + gap
        left = place % columns * (width + gap) + gap
        grid[:, top : top + height, left : left + width] = image
    return grid
