"""Values as text."""

from __future__ import annotations

import unicodedata
from collections import Counter

import pytest

from cnnbench.rendering.text import render_table, setting_text


def cells(text: str) -> int:
    """Return the columns that a terminal shows a text in, by Unicode's own table."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def test_settings_are_shown_as_they_are_typed() -> None:
    values = [(1, 2.5), True, None, 1e-4, "a\x1b[3m", {"a": [1, {}]}]
    texts = ["[1,2.5]", "true", "null", "0.0001", "a\\u001b[3m", "{a:[1,{}]}"]
    assert list(map(setting_text, values)) == texts


def test_wide_characters_take_two_columns() -> None:
    rows = [{"class": "猫とネコ", "n": 3}, {"class": "🐈", "n": 12}, {"class": "cat", "n": 1}]
    lines = render_table(rows, ("class", "n"), "text").splitlines()
    assert {cells(line) for line in lines} == {len("猫とネコ") * 2 + 4}
    transposed = render_table(rows, ("class", "n"), "text", width=14).splitlines()
    assert all(cells(line) <= 14 for line in transposed)


def test_a_narrow_terminal_gets_folded_heads_and_paths_on_lines_of_their_own() -> None:
    rows = [
        {"model": "lenet", "test_accuracy": 0.9, "note": "two words", "run": f"/runs/{n}/a-b"}
        for n in ("first", "a_long_name_of_a_run")
    ]
    columns = ("model", "test_accuracy", "note", "run")
    assert len(render_table(rows, columns, "text", width=None).splitlines()) == 3
    text = render_table(rows, columns, "text", width=26)
    assert text.splitlines() == [
        "model      test  note",
        "       accuracy",
        "  run",
        "lenet    0.9000  two words",
        "  /runs/first/a-b",
        "lenet    0.9000  two words",
        "  /runs/a_long_name_of_a_run/a-b",
    ]


@pytest.mark.parametrize("width", range(8, 60))
def test_a_table_loses_nothing_at_any_width(width: int) -> None:
    rows = [
        {"name": "blocks.0.conv", "macs": "1,234,567", "words": "a few words to say 漢字漢字漢字"},
        {"name": "head", "macs": "9", "words": "x" * 40},
    ]
    text = render_table(rows, ("name", "macs", "words"), "text", ("macs",), width=width)
    for row in rows:
        for value in row.values():
            assert Counter(value.replace(" ", "")) <= Counter(text)
    if width >= 50:
        assert max(map(cells, text.splitlines())) <= width
