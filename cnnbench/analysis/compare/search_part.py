"""What the page says of a search, with its trials as lines over parallel axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 650, 52, 300


def _opacity(share: float) -> float:
    return round(0.15 + 0.75 * share**2, 2)


@dataclass(frozen=True)
class Axis:
    """One axis of the picture.

    Attributes:
        name: above it.
        texts: of a choice, from below; empty where it has numbers.
        low: of numbers, the lower end.
        high: the upper end.
        is_log: whether equal factors are equally far apart; then ``low`` is above 0.
    """

    name: str
    texts: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 1.0
    is_log: bool = False

    def height(self, value: Any) -> float:
        """Return where a value is, from 0 below to 1 above."""
        if self.texts:
            return (self.texts.index(value) + 0.5) / len(self.texts)
        low, high, at = self.low, self.high, float(value)
        if self.is_log:
            low, high, at = math.log(low), math.log(high), math.log(max(at, low))
        return 0.5 if high <= low else min(1.0, max(0.0, (at - low) / (high - low)))

    def ticks(self) -> list[tuple[float, str]]:
        """Return heights and texts beside the axis."""
        if self.texts:
            return [(self.height(text), text) for text in self.texts]
        middle = math.sqrt(self.low * self.high) if self.is_log else (self.low + self.high) / 2
        ends = (self.low, middle, self.high) if self.high > self.low else (self.low,)
        return [(self.height(value), f"{value:.4g}") for value in ends]


@dataclass(frozen=True)
class Line:
    """One trial of the picture.

    Attributes:
        name: shown where the pointer is.
        values: on the axes, in their order; fewer where it never came to the last.
        share: 0 for the worst of the finished trials to 1 for the best; None of one given up.
        is_best: whether it is drawn on top.
    """

    name: str
    values: tuple[Any, ...]
    share: float | None
    is_best: bool = False


@dataclass(frozen=True)
class SearchPart:
    """What the page shows of a search.

    Attributes:
        sentences: what was found.
        command: to copy.
        importances: by key the share of what moves the objective.
        axes: of the picture; the last is the objective's.
        lines: of the picture.
    """

    sentences: Sequence[str]
    command: str
    importances: Mapping[str, float]
    axes: Sequence[Axis]
    lines: Sequence[Line]

    def shown(self) -> dict[str, Any]:
        """Return what the template names; nothing in it is safe to be no text."""
        step = (_RIGHT - _LEFT) / max(1, len(self.axes) - 1)

        def down(height: float) -> float:
            return round(_BOTTOM - height * (_BOTTOM - _TOP), 1)

        def path(line: Line) -> str:
            points = [
                f"{round(_LEFT + number * step, 1)} {down(axis.height(value))}"
                for number, (axis, value) in enumerate(zip(self.axes, line.values, strict=False))
            ]
            return f"M{'L'.join(points)}"

        order = sorted(self.lines, key=lambda line: (line.is_best, line.share or -1.0))
        return {
            "sentences": self.sentences,
            "command": self.command,
            "importances": [(key, f"{share:.3f}") for key, share in self.importances.items()],
            "top": _TOP,
            "bottom": _BOTTOM,
            "axes": [
                {
                    "x": round(_LEFT + number * step, 1),
                    # Long names of neighbours stand at two heights.
                    "y": 14 if number % 2 else 32,
                    "name": axis.name,
                    "ticks": [(down(height), text) for height, text in axis.ticks()],
                }
                for number, axis in enumerate(self.axes)
            ],
            "lines": [
                {
                    "name": line.name,
                    "path": path(line),
                    "kind": "best" if line.is_best else "pruned" if line.share is None else "trial",
                    "opacity": 1 if line.share is None or line.is_best else _opacity(line.share),
                }
                for line in order
            ],
        }
