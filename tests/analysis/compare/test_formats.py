"""What a row says in each format."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from cnnbench.analysis.compare.formats import comparison_text
from cnnbench.analysis.compare.report import render_report
from cnnbench.analysis.compare.tables import compare_runs
from tests.recorded_runs import write_run


def test_a_verdict_is_in_every_format_and_an_interval_is_two_columns_of_csv(tmp_path: Path) -> None:
    for model in ("lenet", "mlp"):
        write_run(tmp_path, model=model)
    found = compare_runs([tmp_path])
    first, second = found.tables[0].rows
    first.verdict = {"verdict": "best"}
    verdict = {"verdict": "worse", "verdict_basis": "seeds", "interval": (-0.03, -0.01), "p": 0.02}
    second.verdict = verdict
    for kind in ("text", "markdown", "latex"):
        text = comparison_text(found, kind)
        assert "verdict" in text
        assert "best" in text
        assert "worse" in text
    rows = json.loads(comparison_text(found, "json"))["rows"]
    assert rows[0]["verdict"] == "best"
    assert {key: rows[1][key] for key in verdict} == {**verdict, "interval": [-0.03, -0.01]}
    best, worse = csv.DictReader(io.StringIO(comparison_text(found, "csv")))
    assert (best["verdict"], best["interval_low"], best["p"]) == ("best", "", "")
    assert worse["verdict_basis"] == "seeds"
    assert (float(worse["interval_low"]), float(worse["interval_high"])) == (-0.03, -0.01)
    assert 'data-column="verdict"' in render_report(found)


def test_a_row_has_the_same_columns_in_csv_and_json(tmp_path: Path) -> None:
    write_run(tmp_path, settings={"optimizer.lr": 0.5})
    write_run(tmp_path)
    write_run(tmp_path, data="digits")
    found = compare_runs([tmp_path], group="data")
    rows = json.loads(comparison_text(found, "json"))["rows"]
    lines = list(csv.DictReader(io.StringIO(comparison_text(found, "csv"))))
    assert len(rows) == len(lines) == 3
    plain = [key for key, value in rows[0].items() if not isinstance(value, (dict, list))]
    assert {"row", "group", "model", "data", "n", "num_params", "optimizer.lr"} <= {*plain}
    plain = [key for key in plain if not key.endswith("interval")]
    for row, line in zip(rows, lines, strict=True):
        for key in plain:
            assert line[key] == ("" if row[key] is None else str(row[key])), key
