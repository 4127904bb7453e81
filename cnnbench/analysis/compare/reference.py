"""Recorded results of others beside ours, as the ``reference`` of a preset names them."""

from __future__ import annotations

from collections.abc import Sequence

from cnnbench.analysis.compare.rows import Row
from cnnbench.rendering import text as render
from cnnbench.rendering.text import setting_text

HEADS = ("row", "reference", "epochs", "s/epoch", "test acc", "ours", "Δ")
LEAD = "Recorded elsewhere, beside ours (one number each, not tested):"


def reference_cells(rows: Sequence[Row]) -> list[dict[str, str]]:
    """Return what is shown of each row that has a reference, by ``HEADS``.

    Args:
        rows: of all tables.
    """
    return [_cells(row) for row in rows if row.records[0].reference]


def reference_text(rows: Sequence[Row], output_format: str) -> str:
    """Return a table of the rows that have a reference; empty without any.

    Args:
        rows: of all tables.
        output_format: text, markdown or latex.
    """
    found = reference_cells(rows)
    if not found:
        return ""
    table = render.render_table(found, HEADS, output_format, (HEADS[0], *HEADS[2:]))
    blank = "\n" if output_format == "markdown" else ""
    return f"{'% ' if output_format == 'latex' else ''}{LEAD}\n{blank}{table}"


def _cells(row: Row) -> dict[str, str]:
    reference = row.records[0].reference
    theirs, ours = reference["test_accuracy"], row.metric("test/accuracy")["mean"]

    def shown(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    gap = None if theirs is None or ours is None else ours - theirs
    return dict(
        zip(
            HEADS,
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
