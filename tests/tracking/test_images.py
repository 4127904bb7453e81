from __future__ import annotations

import numpy as np
import pytest
import torch

from cnnbench.tracking import confusion_image


def test_a_cell_is_as_dark_as_its_share_of_its_row() -> None:
    counts = np.array([[8, 0, 0], [0, 1, 1], [0, 0, 0]])
    image = confusion_image(counts)
    assert image.dtype == torch.uint8
    assert image.shape == (1, 108, 108)
    corners = image[0, 2::36, 2::36]
    assert corners.tolist() == [[0, 255, 255], [255, 127, 127], [255, 255, 255]]
    cells = image[0].unfold(0, 36, 36).unfold(1, 36, 36)[:, :, 1:, 1:].flatten(2)
    has_number = [[len(cell.unique()) > 1 for cell in row] for row in cells]
    assert has_number == (counts > 0).tolist()


@pytest.mark.parametrize("num_classes", [2, 30, 31, 200])
def test_any_number_of_classes_fits(num_classes: int) -> None:
    image = confusion_image(np.eye(num_classes, dtype=np.int64) * 99_999)
    assert image.shape[1] == image.shape[2] <= 1080
    assert (image[0].diagonal() == 0).any()
