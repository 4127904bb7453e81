"""Tables of rows that differ in many settings, each in a few of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from recorded_runs import write_run
from tiny import TINY

import cnnbench
from cnnbench.analysis.compare.conclusion import row_names
from cnnbench.analysis.compare.tables import compare_runs
from cnnbench.cli.main import run as command

ONE_CHANGE = (
    (),
    ("optimizer.lr=0.02",),
    ("optimizer.clip_norm=1",),
    ("loss.label_smoothing=0.2",),
    ("data.batch_size=8",),
    ("augment.crop_padding=1",),
    ("augment.brightness=0.1", "augment.contrast=0.1"),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    for settings in ONE_CHANGE:
        cnnbench.train([*TINY, "num_epochs=1", f"output_root={root}", *settings])
    return root


def test_many_settings_are_told_row_by_row(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = {" ".join(settings) or "as most rows" for settings in ONE_CHANGE}
    page = tmp_path / "page.html"
    assert command(["compare", str(root), "--format", "markdown", "--html", str(page)]) == 0
    lines = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if " | " in line]
    assert lines[0][2] == "settings"
    assert {line[2].strip("*") for line in lines[2:]} == told
    text = page.read_text()
    assert all(f">{each}</td>" in text for each in told)


def test_plain_formats_keep_a_column_for_each_setting(root: Path) -> None:
    rows = cnnbench.compare(root)["rows"]
    assert sorted(row["optimizer.clip_norm"] or 0 for row in rows) == [0] * 6 + [1]
    assert sorted(row["data.batch_size"] for row in rows)[0] == 8
    assert not any("settings" in row for row in rows)


def test_names_say_what_sets_a_row_apart(root: Path) -> None:
    text = " ".join(str(cnnbench.compare(root)).split())
    assert "as in most rows" in text
    assert "augment.crop_padding=0" not in text  # what all but one have


def test_few_settings_have_a_column_each(root: Path) -> None:
    text = str(cnnbench.compare(root, where="augment.crop_padding=0 and optimizer.clip_norm=null"))
    heads = next(line.split() for line in text.splitlines() if line.startswith("row"))
    assert {"optimizer.lr", "loss.label_smoothing", "data.batch_size"} <= {*heads}
    assert "settings" not in heads


def test_long_names_are_told_apart(tmp_path: Path) -> None:
    long = {"augment.randaugment_magnitude": 5, "optimizer.decay_norms_and_biases": True}
    for rate in (0.1, 0.2):
        write_run(tmp_path, settings={**long, "optimizer.lr": rate})
    write_run(tmp_path, settings=dict.fromkeys(long, 0))
    [table] = compare_runs([tmp_path]).tables
    names = row_names(table.rows, [*long, "optimizer.lr"])
    assert len(set(names.values())) == 3
    assert all(len(name) < 80 for name in names.values())
    alike = [number for number, name in names.items() if "(row" in name]
    assert [names[number].endswith(f"(row {number})") for number in alike] == [True, True]


def test_nothing_is_said_of_scores_that_neither_row_has(tmp_path: Path) -> None:
    for rate in (0.1, 0.2):
        write_run(tmp_path, settings={"optimizer.lr": rate})
    text = str(cnnbench.compare(tmp_path, baseline="1"))
    assert "no common seed" not in text
    assert "r2" not in text
