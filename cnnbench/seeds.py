"""Random numbers counted, not consumed: a draw depends on its position in the run alone."""

from __future__ import annotations

import hashlib
import random


def derive_seed(*parts: int | str) -> int:
    """Return a seed that depends on all parts, so that no two purposes share random numbers.

    Args:
        parts: such as the run's seed, what is drawn, and the step.

    Returns:
        An integer in [0, 2**63).
    """
    text = "/".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def seed_python(seed: int) -> None:
    """Seed the global generators of Python and NumPy, from which a user's own network may draw.

    Args:
        seed: in [0, 2**63).
    """
    import numpy as np  # not where --help needs this file

    random.seed(seed)
    np.random.seed(seed % 2**32)
