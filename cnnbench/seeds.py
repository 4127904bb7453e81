"""Random numbers counted, not consumed: a draw depends on its position in the run alone."""

from __future__ import annotations

import hashlib


def derive_seed(*parts: int | str) -> int:
    """Return a seed that depends on all parts, so that no two purposes share random numbers.

    Args:
        parts: such as the run's seed, what is drawn, and the step.

    Returns:
        An integer in [0, 2**63).
    """
    text = "/".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1
