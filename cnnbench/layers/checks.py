"""Checks of constructor arguments, with messages for the person who typed them."""

from __future__ import annotations

from collections.abc import Sequence

from cnnbench.errors import UsageError, did_you_mean


def check_counts(in_channels: int, num_classes: int) -> None:
    """Check the two arguments that every network has.

    Raises:
        UsageError: `in_channels` is below 1 or `num_classes` below 2.
    """
    if in_channels < 1:
        raise UsageError(f"in_channels={in_channels}: expected at least 1")
    if num_classes < 2:
        raise UsageError(f"num_classes={num_classes}: expected at least 2")


def check_choice(argument: str, value: str, choices: Sequence[str]) -> None:
    """Check that a value is one of a few words.

    Raises:
        UsageError: it is not; the message has the nearest one.
    """
    if value not in choices:
        expected = ", ".join(choices)
        raise UsageError(
            f"{argument}={value}: expected one of {expected}{did_you_mean(str(value), choices)}"
        )


def check_positive(argument: str, values: Sequence[float], *, min_count: int = 0) -> None:
    """Check a list of widths.

    Raises:
        UsageError: there are fewer than `min_count` values, or one is not above 0.
    """
    if len(values) < min_count or any(value <= 0 for value in values):
        least = f"at least {min_count} numbers" if min_count else "numbers"
        shown = ",".join(str(value) for value in values)
        raise UsageError(f"{argument}=[{shown}]: expected {least}, each above 0")


def check_fraction(argument: str, value: float) -> None:
    """Check a dropout probability.

    Raises:
        UsageError: it is outside [0, 1).
    """
    if not 0 <= value < 1:
        raise UsageError(f"{argument}={value}: expected 0 or more, and less than 1")
