"""What ``benchmarks/study_figure.py`` reads in the studies' tables."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
STUDIES = ROOT / "docs" / "studies"
# Pages with its figure, how many differences each has, and a column drawn beside them.
PAGES = {"alexnet": (8, "images/s"), "vgg": (1, "computing, s an epoch"), "ingredients": (23, None)}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("study_figure")


def test_signs_and_intervals_are_read_as_they_stand(script: Any) -> None:
    text = "| a | Δ, all |\n|---|---|\n| base | |\n| `x=1` | -.01 (-.025 to +.005) |\n"
    base, other = script.read_table(f"| no | such |\n|---|---|\n| 1 | 2 |\n\n{text}")
    assert script.difference(base) == (0, 0, 0)
    assert other["a"] == "x=1"
    assert script.difference(other) == (-0.01, -0.025, 0.005)
    with pytest.raises(ValueError, match="expected a difference"):
        script.difference({"Δ": "-.01"})


@pytest.mark.parametrize("name", PAGES)
def test_every_difference_of_a_study_is_inside_its_interval(
    script: Any, name: str, tmp_path: Path
) -> None:
    count, beside = PAGES[name]
    page = tmp_path / f"{name}.md"
    shutil.copy(STUDIES / page.name, page)
    found = [script.difference(row) for row in script.read_table(page.read_text("utf-8"))]
    assert sum(low < mean < high for mean, low, high in found) == count
    assert f"({name}.png)" in page.read_text("utf-8")
    with Image.open(script.draw(page, beside)) as now, Image.open(STUDIES / f"{name}.png") as then:
        assert now.size == then.size
