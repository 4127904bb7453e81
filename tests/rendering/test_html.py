"""Pieces of HTML for notebooks: whole, escaped, and without anything that runs or is fetched."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from cnnbench.rendering.html import html_table, svg_curves

EVIL = "<script>alert('x')</script>&\x1b[2J"


def test_a_table_has_its_cells_and_no_tag_of_a_stranger() -> None:
    text = html_table([{"name": EVIL, EVIL: 0.123456}, {"name": None}], caption=EVIL)
    tree = ElementTree.fromstring(text)
    assert [cell.text for cell in tree.iter("th")] == ["name", EVIL.replace("\x1b", "\\u001b")]
    assert [cell.text for cell in tree.iter("td")][1:] == ["0.1235", None, None]
    assert "script" not in {part.tag for part in tree.iter()}


def test_a_long_table_says_how_much_is_left_out() -> None:
    text = html_table([{"row": number} for number in range(1000)])
    assert text.count("<tr>") == 201
    assert "800 more rows" in text


@pytest.mark.parametrize(
    "points",
    [
        [(1, 0.5)],
        [(1, 0.5), (2, 0.5)],
        [(1, -2.0), (2, float("nan")), (3, 1e9)],
        [(1, 1e99), (2, 1e99), (10**400, 0.5), (3, float("inf"))],
    ],
)
def test_curves_lie_in_their_image(points: list[tuple[float, float]]) -> None:
    text = svg_curves(EVIL, {EVIL: points, "other": [(1, 0.1)], "none": []})
    tree = ElementTree.fromstring(text)
    names = [part.text for part in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert names.count(EVIL.replace("\x1b", "\\u001b")) == 2
    assert "none" not in names
    width, height = float(tree.attrib["width"]), float(tree.attrib["height"])
    lines = [part.attrib["points"] for part in tree.iter("{http://www.w3.org/2000/svg}polyline")]
    places = [tuple(map(float, point.split(","))) for line in lines for point in line.split()]
    assert all(0 <= x <= width and 0 <= y <= height for x, y in places)
    assert not re.search(r"href|url\(|<script|<image", text)


def test_nothing_to_draw_is_no_image() -> None:
    assert svg_curves("loss", {}) == svg_curves("loss", {"a": []}) == ""
