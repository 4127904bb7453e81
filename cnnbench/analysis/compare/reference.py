"""Recorded results of others beside ours, as the ``reference`` of a preset names them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cnnbench.rendering import text as render
from cnnbench.rendering.text import setting_text
from cnnbench.runs.columns import finite_number

if TYPE_CHECKING:
    from cnnbench.analysis.compare.rows import Row

_NUMBERS = ("test_accuracy", "train_accuracy", "num_epochs", "epoch_seconds")
_HEADS = ("row", "reference", "epochs", "s/epoch", "test acc", "ours", "Δ")


def read_reference(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a recorded config says of a result of others; empty where it names none.

    Args:
        config: as ``run.json`` has it, from a file: anything may be in it.

    Returns:
        ``source``, and ``test_accuracy``, ``train_accuracy``, ``num_epochs`` and
        ``epoch_seconds``, None where they were not recorded.
    """
    node = config.get("reference")
    if not isinstance(node, Mapping) or not isinstance(node.get("source"), str):
        return {}
    return {"source": node["source"], **{name: finite_number(node.get(name)) for name in _NUMBERS}}


def reference_text(rows: Sequence[Row], output_format: str) -> str:
    """Return a table of the rows that have a reference; empty without any.

    Args:
        rows: of all tables.
        output_format: text, markdown or latex.
    """
    found = [row for row in rows if row.records[0].reference]
    if not found:
        return ""
    table = render.render_table(
        [_cells(row) for row in found], _HEADS, output_format, (_HEADS[0], *_HEADS[2:])
    )
    head = "Recorded elsewhere, beside ours (one number each, not tested):"
    blank = "\n" if output_format == "markdown" else ""
    return f"{'% ' if output_format == 'latex' else ''}{head}\n{blank}{table}"


def _cells(row: Row) -> dict[str, str]:
    reference = row.records[0].reference
    theirs, ours = reference["test_accuracy"], row.metric("test/accuracy")["mean"]

    def shown(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    gap = None if theirs is None or ours is None else ours - theirs
    return dict(
        zip(
            _HEADS,
            (
                str(row.number),
                setting_text(reference["source"]),
                shown(reference["num_epochs"], "g"),
                shown(reference["epoch_seconds"], "g"),
                shown(theirs, ".4f"),
                shown(ours, ".4f"),
                shown(gap, "+.4f"),
            ),
            strict=True,
        )
    )
