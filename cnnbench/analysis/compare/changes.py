"""What sets rows apart where they differ in more settings than a table has room for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from cnnbench.analysis.compare.rows import Row
from cnnbench.rendering.text import setting_text

COLUMN = "settings"
NOTE = f"{COLUMN}: those that are not as in most rows."
_USUAL = "as most rows"
# Up to so many settings have a column each.
_MOST_COLUMNS = 6


def changes(rows: Sequence[Row], settings: Sequence[str]) -> dict[int, str]:
    """Return by each row's number its settings that are not the usual ones, as ``key=value``.

    The usual value of a setting is the commonest of the rows that have it, of equally common ones
    the first.

    Args:
        rows: that are shown together.
        settings: the keys in which they differ; few of them give nothing, for they have columns.
    """
    if len(settings) <= _MOST_COLUMNS:
        return {}
    texts = {
        key: {row.number: setting_text(row.values[key]) for row in rows if key in row.values}
        for key in settings
    }
    usual = {key: Counter(of.values()).most_common(1)[0][0] for key, of in texts.items()}
    return {
        row.number: " ".join(
            f"{key}={of[row.number]}"
            for key, of in texts.items()
            if of.get(row.number, usual[key]) != usual[key]
        )
        or _USUAL
        for row in rows
    }
