"""Values as text."""

from __future__ import annotations

from cnnbench.rendering.text import setting_text


def test_settings_are_shown_as_they_are_typed() -> None:
    values = [(1, 2.5), True, None, 1e-4, "a\x1b[3m", {"a": [1, {}]}]
    texts = ["[1,2.5]", "true", "null", "0.0001", "a\\u001b[3m", "{a:[1,{}]}"]
    assert list(map(setting_text, values)) == texts
