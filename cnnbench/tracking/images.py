"""Images that a run draws of its numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

_CELL_PIXELS = 36
# With more classes than this, cells are dots, which no number fits into.
_MAX_NUMBERED = 30
_DOT_PIXELS = 4


def confusion_image(confusion: NDArray[np.int64]) -> torch.Tensor:
    """Draw a confusion matrix: a row for each target, a column for each prediction.

    The darker a cell, the larger its share of its row; each but an empty one shows its count.

    Args:
        confusion: counts ``[target, prediction]``, square.

    Returns:
        uint8 of shape ``(1, side, side)``.
    """
    import torch
    from PIL import Image, ImageDraw

    num_classes = len(confusion)
    is_numbered = num_classes <= _MAX_NUMBERED
    cell = _CELL_PIXELS if is_numbered else _DOT_PIXELS
    shares = confusion / np.maximum(1, confusion.sum(axis=1, keepdims=True))
    shades = (255 * (1 - shares)).astype(np.uint8)
    pixels = np.kron(shades, np.ones((cell, cell), np.uint8))
    if is_numbered:
        pixels[::cell], pixels[:, ::cell] = 200, 200
        image = Image.fromarray(pixels)
        draw = ImageDraw.Draw(image)
        for (row, column), count in np.ndenumerate(confusion):
            if count:
                center = ((column + 0.5) * cell, (row + 0.5) * cell)
                ink = 0 if shades[row, column] > 127 else 255
                draw.text(center, str(count), fill=ink, anchor="mm")
        pixels = np.array(image)
    return torch.from_numpy(pixels)[None]
