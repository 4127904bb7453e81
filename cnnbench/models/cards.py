"""The page of all networks' cards: what the paper says, what is built here, how to undo the rest.

``python -m cnnbench.models.cards > docs/models.md`` writes it. The cards are in the families' own
files, in the rows of `MODELS`; the numbers are measured.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch

from cnnbench.geometry.trace import Geometry, analyze
from cnnbench.models import MODELS, create_model, model_arguments
from cnnbench.models.row import Card

_HEAD = """\
# The networks, and how true they are to their papers

Written by `python -m cnnbench.models.cards > docs/models.md`; do not edit.

Parameters and MACs (multiply-accumulates of convolutions and linear layers for one image) are
measured on the form that the paper describes, whose arguments are named. "Not stated" means that
the paper gives no such number. What differs from the paper by default is listed with the argument
that takes it back.
"""


CARDS: dict[str, Card] = {name: row.card for name, row in MODELS.items() if row.card is not None}


def measure(name: str) -> Geometry:
    """Return the sizes of the form that a network's card describes."""
    card = CARDS[name]
    in_channels, image_size, _ = card.input_shape
    with torch.device("meta"):
        module = create_model(
            name,
            in_channels=in_channels,
            num_classes=card.num_classes,
            image_size=image_size,
            args=card.args,
        )
    return analyze(module, card.input_shape)


def render(name: str) -> str:
    """Return one network's card as Markdown."""
    card, geometry = CARDS[name], measure(name)
    source = f"[{card.source}]({card.link})" if card.link else card.source
    settings = [f"model={name}", *(f"model.{key}={_text(v)}" for key, v in card.args.items())]
    shape = " x ".join(map(str, card.input_shape))
    lines = [
        f"## `{name}`: {card.title}",
        "",
        f"{source}{f', {card.rows}' if card.rows else ''}.",
        "",
        f"| `{' '.join(settings)}`, {shape}, {card.num_classes} classes | here | paper |",
        "| --- | ---: | ---: |",
        f"| parameters | {geometry.num_params:,} | {card.paper_params} |",
        f"| MACs | {geometry.macs:,} | {card.paper_macs} |",
        "",
    ]
    if card.departures:
        lines += ["Departures of the defaults:", ""]
        lines += [
            f"- {d.text}: {f'undone by `{d.undo}`' if d.undo else 'not undone by an argument'}"
            for d in card.departures
        ]
    else:
        lines.append("No departures.")
    arguments = ", ".join(f"`{key}={_text(v)}`" for key, v in model_arguments(name).items())
    lines += ["", f"Arguments and defaults: {arguments or 'none'}.", ""]
    return "\n".join(lines)


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_text(part)}" for key, part in value.items()) + "}"
    if isinstance(value, tuple):
        return f"[{','.join(map(_text, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def page() -> str:
    """Return ``docs/models.md``."""
    return "\n".join([_HEAD, *map(render, CARDS)])


if __name__ == "__main__":
    sys.stdout.write(page())
