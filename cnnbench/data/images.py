"""Single images: decoding a file of any size and mode, and a grid of many for the eye."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

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
# The largest values of the usual depths; images have the smallest of them that holds theirs.
_DEPTHS = (255, 1023, 4095, 16383, 65535)
# How far resizing may carry fractions beyond 0 and 1.
_OVERSHOOT = 0.1
# With a largest value below this, rounding to whole numbers would leave few grey levels.
_FEW_LEVELS = 32
_MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True)
class Decoding:
    """How image files become bytes, alike for all of a data set.

    Attributes:
        background: grey value behind transparent pixels, 0 to 255.
        integer_white: what becomes 255 in files of integers of more than 8 bits: the largest value
            of 8, 10, 12, 14 or 16 bits. None: each image has the depth that holds it.
        float_white: what becomes 255 in files of floating-point values, 1 or 255; likewise.

    Raises:
        ValueError: they are no such values.
    """

    background: int = 255
    integer_white: int | None = None
    float_white: int | None = None

    def __post_init__(self) -> None:
        if (
            self.background not in range(256)
            or self.integer_white not in (None, *_DEPTHS)
            or self.float_white not in (None, 1, 255)
        ):
            raise ValueError(f"{self} decodes no image")


ON_WHITE = Decoding()


def decoding_of(paths: Iterable[Path]) -> Decoding:
    """Return how image files that belong together are decoded.

    A dark image among those of more than 8 bits is not made brighter than the others.

    Raises:
        DataError: each has a usual range, and no one range holds the values of all.
    """
    from PIL import Image

    spans: dict[bool, list[Span]] = {False: [], True: []}
    for path in paths:
        # Decoders raise nearly anything on a damaged file; whoever decodes it says what.
        with suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if not _may_be_deep(path):
                continue
            with Image.open(path, formats=_FORMATS) as file:
                if _is_deep(file) and file.width * file.height <= _MAX_VALUES:
                    span = span_of(np.asarray(file))
                    _check_values(span)
                    spans[file.mode == "F"].append(span)
    integer, floating = (white_of(its) if its else None for its in spans.values())
    return Decoding(integer_white=integer, float_white=floating)


def _may_be_deep(path: Path) -> bool:
    """Tell by a file's first bytes whether it may have values of more than 8 bits."""
    with open(path, "rb") as file:
        head = file.read(26)
    if head.startswith(b"\x89PNG"):
        return head[24:26] == b"\x10\0"  # 16 bits, grey
    return head.startswith((b"II", b"MM", b"P2", b"P5", b"Pf"))  # TIFF, PGM and PFM


def _is_deep(image: Image.Image) -> bool:
    return image.mode == "F" or image.mode.startswith("I")


def decode_image(
    path: Path, in_channels: int, image_size: int, decoding: Decoding = ON_WHITE
) -> Images:
    """Read an image file as the networks see it.

    The camera's rotation is applied; transparency is laid on the background; values of more than
    8 bits are scaled to 8 by the usual depth that holds them (10, 12, 14 or 16 bits;
    floating-point ones lie in [0, 1] or [0, 255]); the largest centred square is cropped and
    resized bilinearly with antialias.

    Args:
        path: a JPEG, PNG, PPM/PGM, BMP, TIFF, WebP or GIF file (the first frame).
        in_channels: 1 (grey) or 3 (colour).
        image_size: pixels of a side.
        decoding: of the images that it belongs to; by default it is one alone, on white.

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
                image = _upright(file, in_channels, decoding)
    # Decoders raise nearly anything on a damaged file.
    except Exception as error:
        reason = "unknown format" if isinstance(error, UnidentifiedImageError) else error
        raise DataError(f"{path}: not an image that can be read: {reason}") from error
    return _square(image, image_size)


def convert_image(
    image: Image.Image, in_channels: int, image_size: int, decoding: Decoding = ON_WHITE
) -> Images:
    """Return an opened image as the networks see it, as ``decode_image`` does of a file.

    Raises:
        DataError: it cannot be read.
    """
    _check_channels("a Pillow image", in_channels)
    try:
        return _square(_upright(image, in_channels, decoding), image_size)
    except DataError:
        raise
    except Exception as error:  # the pixels of an opened file are read here
        raise DataError(f"a Pillow image: cannot be read: {error}") from error


def _check_channels(what: str, in_channels: int) -> None:
    if in_channels not in _MODES:
        raise DataError(
            f"{what}: an image file has 1 or 3 channels, the network takes {in_channels}"
        )


def _upright(image: Image.Image, in_channels: int, decoding: Decoding) -> Image.Image:
    """Return an image as the camera was held, of as many channels as the network takes."""
    from PIL import ImageOps

    return _eight_bit(ImageOps.exif_transpose(image), decoding).convert(_MODES[in_channels])


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


def _eight_bit(image: Image.Image, decoding: Decoding) -> Image.Image:
    """Return the image in mode L, RGB or CMYK, without transparency."""
    from PIL import Image

    if _is_deep(image):
        white = decoding.float_white if image.mode == "F" else decoding.integer_white
        return Image.fromarray(scale_to_bytes(np.asarray(image), white))
    if image.has_transparency_data:
        background = decoding.background
        layers = image.convert("RGBA")
        behind = Image.new("RGBA", layers.size, (background, background, background, 255))
        return Image.alpha_composite(behind, layers).convert("RGB")
    if image.mode == "P":
        return image.convert("RGB")
    return image


class Span(NamedTuple):
    """Which values an array has.

    Attributes:
        is_float: whether they are of a floating-point type.
        low: the least.
        high: the greatest.
        has_levels: whether rounding them to whole numbers keeps what they show.
    """

    is_float: bool
    low: float
    high: float
    has_levels: bool = True


def span_of(values: NDArray[Any]) -> Span:
    """Return which values an array of at least one has."""
    low, high = float(values.min()), float(values.max())
    is_float = values.dtype.kind == "f"
    may_lose = is_float and 1 + _OVERSHOOT < high < _FEW_LEVELS
    has_levels = not may_lose or all(np.array_equal(np.rint(part), part) for part in values)
    return Span(is_float, low, high, has_levels)


def white_of(spans: Iterable[Span]) -> int:
    """Return the value that becomes 255 where arrays of one kind belong together.

    Raises:
        DataError: no usual range holds their values.
    """
    found = list(spans)
    is_float = found[0].is_float
    low, high = min(span.low for span in found), max(span.high for span in found)
    if is_float and low >= -_OVERSHOOT and high <= 1 + _OVERSHOOT:
        return 1
    has_levels = high >= _FEW_LEVELS or all(span.has_levels for span in found)
    white = next((depth for depth in ((255,) if is_float else _DEPTHS) if high <= depth), None)
    if white is None or not low >= 0 or not has_levels:
        kind = "floating-point" if is_float else "integer"
        expected = "0 to 1 or 0 to 255" if is_float else "0 to 65535"
        why = "; leave Normalize out, which data.normalize is for" if -10 < low < 0 else ""
        raise DataError(f"{kind} values from {low:g} to {high:g}; expected {expected}{why}")
    return white


def _check_values(span: Span) -> None:
    """Refuse what no image has, whatever else it belongs to; others have the levels it may lack.

    Raises:
        DataError: there is such a value, or one that is no number.
    """
    white_of([span._replace(has_levels=True)])


def scale_to_bytes(values: NDArray[Any], white: int | None = None) -> Images:
    """Return values of more than 8 bits as 8 bits, by the range that they use.

    Args:
        values: of any shape, numbers or truth values.
        white: the value that becomes 255, of all that belong together; by default of these.

    Raises:
        DataError: no usual range holds them, or they are beyond it.
    """
    if values.dtype.kind == "b":
        return values.astype(np.uint8) * np.uint8(255)
    span = span_of(values)
    if white is None:
        white = white_of([span])
    _check_values(span)
    if span.high > white * (1 + _OVERSHOOT):
        raise DataError(f"values to {span.high:g}, where those of training are from 0 to {white}")
    if values.dtype.kind == "f":
        return np.asarray(np.rint(np.clip(values * (255 / white), 0, 255)), dtype=np.uint8)
    if values.dtype == np.uint8 and white == 255:
        return values
    exact = values.astype(np.int64).clip(max=white) * 255
    return np.asarray((exact + white // 2) // white, dtype=np.uint8)


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
