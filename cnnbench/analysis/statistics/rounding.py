"""What is equal but for rounding is equal: the same accuracies in another order have other sums."""

from __future__ import annotations

import numpy as np

from cnnbench.analysis.statistics.sign_flips import Floats

# Of the largest value, far above what sums lose and far below one image in any test set.
_DIGITS = 12


def differences(a: Floats, b: Floats, scale: float | Floats) -> Floats:
    """Return ``a - b``, zero where they are equal but for rounding.

    Args:
        a: finite values.
        b: likewise, of a shape that fits.
        scale: the largest size among the values, or among those that are compared.
    """
    scale = np.maximum(scale, 1e-300)
    found: Floats = np.round((a - b) / scale, _DIGITS) * scale
    return found
