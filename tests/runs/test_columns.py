"""The one table of facts and metrics: what it reads, and that one line of it is enough."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

import cnnbench
from cnnbench.analysis.compare.formats import comparison_text
from cnnbench.analysis.compare.plots import plot_comparison
from cnnbench.analysis.compare.report import render_report
from cnnbench.analysis.compare.tables import compare_runs
from cnnbench.cli import main as cli
from cnnbench.runs.columns import COLUMNS, Column, Source
from tests.recorded_runs import write_run

TOP5 = {"lenet": (0.970, 0.980), "mlp": (0.990, 0.994)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two networks of two seeds, whose results have a number that no column shows."""
    for model, values in TOP5.items():
        for seed, value in enumerate(values):
            results = {"test/top5_accuracy": value}
            write_run(tmp_path / "o", model=model, seed=seed, change={"results": results})
    return tmp_path / "o"


def add(monkeypatch: pytest.MonkeyPatch, column: Column) -> None:
    monkeypatch.setitem(COLUMNS, column.name, column)


def test_a_metric_is_one_line(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "test/top5_accuracy"
    assert name not in comparison_text(compare_runs([root]), "json")
    add(monkeypatch, Column(name, digits=3, better="higher", axis="top 5", is_paired=True))
    found = compare_runs([root], baseline="lenet")
    texts = {kind: comparison_text(found, kind) for kind in ("text", "markdown", "latex")}
    for kind, sign in (("text", "±"), ("markdown", "±"), ("latex", r"$\pm$")):
        assert f"0.975 {sign} 0.007" in texts[kind], kind
        assert f"+0.017 {sign} 0.004 " in texts[kind], kind
    head = next(line for line in texts["text"].splitlines() if line.startswith("row "))
    assert head.index(f" {name} ") < head.index(f"Δ {name}")
    rows = json.loads(comparison_text(found, "json"))["rows"]
    assert rows[0][name] == {"mean": pytest.approx(0.975), "std": pytest.approx(0.00707, abs=1e-5)}
    assert rows[1]["difference"][name]["mean"] == pytest.approx(0.017)
    lines = list(csv.DictReader(io.StringIO(comparison_text(found, "csv"))))
    assert float(lines[0][name]) == pytest.approx(0.975)
    assert float(lines[0][f"{name}_std"]) == pytest.approx(0.00707, abs=1e-5)
    assert float(lines[1][f"{name}_difference_mean"]) == pytest.approx(0.017)
    page = render_report(found)
    assert f'data-column="{name}"' in page
    assert "0.975 ± 0.007" in page
    assert f"<option>{name}</option>" in page
    files = plot_comparison(found, root / "plots")
    assert "accuracy_test_top5_accuracy.svg" in {file.name for file in files}
    assert cli.run(["compare", str(root), "--sort", name, "--descending"]) == 0
    out = capsys.readouterr().out.splitlines()
    first = next(n for n, line in enumerate(out) if line.startswith("row ")) + 1
    assert out[first].split()[1] == "mlp"
    kept = cnnbench.compare(root, where=f"{name}>0.98")["rows"]
    assert [row["model"] for row in kept] == ["mlp"]
    grouped = compare_runs([root], group=name)
    assert [table.title for table in grouped.tables] == [f"{name} = 0.975", f"{name} = 0.992"]


def test_a_fact_is_one_line_and_may_have_to_be_shared(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(root, model="nin", change={"model": {"num_layers": 1234}})
    write_run(root, model="nin", seed=1, change={"model": {"num_layers": 4321}})
    add(monkeypatch, Column("num_layers", "fact", is_shared=True))
    found = compare_runs([root])
    text = comparison_text(found, "text")
    assert "1,234" in text
    assert "num_layers 4321, not null" in text
    rows = json.loads(comparison_text(found, "json"))["rows"]
    assert [row["num_layers"] for row in rows] == [None, None, 1234, 4321]


def test_a_column_that_is_not_in_the_table_is_in_json_alone(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "test/top5_accuracy"
    add(monkeypatch, Column(name, in_table=False, in_runs=True, digits=2))
    found = compare_runs([root])
    for kind in ("text", "markdown", "latex", "csv"):
        assert name not in comparison_text(found, kind)
    assert name in comparison_text(found, "json")
    # For each single run, with its digits.
    page = render_report(found)
    assert f'<th scope="col" class="number">{name}</th>' in page
    assert re.findall(r'<td class="number">(0\.9[789])</td>', page) == [
        "0.97",
        "0.98",
        "0.99",
        "0.99",
    ]


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ({"x": 0.5}, 0.5),
        ({"x": 3}, 3),
        ({}, None),
        ({"x": None}, None),
        ({"x": True}, None),
        ({"x": "0.5"}, None),
        ({"x": float("nan")}, None),
        ({"x": float("inf")}, None),
        ({"x": 1e200}, None),
    ],
    ids=str,
)
def test_a_value_is_a_finite_number_or_none(
    results: dict[str, Any], expected: float | None
) -> None:
    assert Column("x").value(Source(results, {}, {})) == expected


def test_a_fact_is_a_whole_number_or_none() -> None:
    for value, expected in ((0, 0), (7, 7), (-1, None), (7.0, None), (2**63, None), ("7", None)):
        assert Column("x", "fact").value(Source({}, {"x": value}, {})) == expected


def test_a_derived_metric_is_none_where_its_parts_are_missing() -> None:
    gap = Column("gap", read=lambda run: run.results["a"] - run.results["b"])
    assert gap.value(Source({"a": 0.75, "b": 0.5}, {}, {})) == 0.25
    assert gap.value(Source({"a": 0.75}, {}, {})) is None
    assert gap.value(Source({"a": 0.75, "b": "half"}, {}, {})) is None
    curve = {"perf/epoch_seconds": {1: 2.0, 2: 4.0}}
    assert COLUMNS["epoch_seconds"].value(Source({}, {}, curve)) == 3.0
    assert COLUMNS["epoch_seconds"].value(Source({}, {}, {"perf/epoch_seconds": {}})) is None


def test_every_score_and_cost_says_which_end_is_better() -> None:
    for column in COLUMNS.values():
        if column.is_score or column.axis:
            assert column.better is not None, column.name
            is_high = column.name.endswith(("accuracy", "accuracy_unseen", "r2"))
            assert (column.better == "higher") == is_high, column.name
