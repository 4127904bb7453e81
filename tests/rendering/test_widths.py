"""Columns that a terminal has room for, and further tables for those that were asked for."""

from __future__ import annotations

import pytest

from cnnbench.rendering.text import render_table
from cnnbench.rendering.widths import fitting_columns

RANKS = {"row": 0, "model": 0, "wide": 1, "wider": 1, "small": 2, "last": 4}
ROWS = [
    {"row": "1", "model": "lenet", "wide": "x" * 20, "wider": "y" * 25, "small": "1", "last": "z"}
]


@pytest.mark.parametrize("width", [12, 30, 36, 40, 62, 90])
def test_what_was_asked_for_is_shown_and_the_rest_where_there_is_room(width: int) -> None:
    tables = fitting_columns(RANKS, ROWS, width)
    assert tables[0][:2] == ["row", "model"]
    assert all(heads[:2] == ["row", "model"] for heads in tables)
    shown = [head for heads in tables for head in heads[2:]]
    assert len(shown) == len(set(shown))
    assert {"wide", "wider"} <= set(shown)
    for heads in tables:
        table = render_table(ROWS, heads, "text")
        # Only one that no table of this width could hold is wider.
        is_alone = len(heads) == 3 and heads[2] in ("wide", "wider")
        assert is_alone or max(map(len, table.splitlines())) <= width


def test_without_a_width_one_table_has_all() -> None:
    assert fitting_columns(RANKS, ROWS, None) == [list(RANKS)]
