"""What the public functions return: plain paths, dicts and lists that can do a little more."""

from __future__ import annotations

import copy
import json
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from recorded_runs import write_run

import cnnbench
from cnnbench.analysis.compare.formats import to_dict
from cnnbench.analysis.compare.tables import compare_runs
from cnnbench.analysis.results import Result, Rows, Run, Sweep
from cnnbench.errors import CheckpointError, UsageError


@pytest.fixture
def pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for pandas: a frame is the list of its rows."""
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=list))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(write_run(tmp_path))


def test_a_run_is_its_path(run: Run) -> None:
    path = Path(run)
    assert run == path
    assert hash(run) == hash(path)
    assert {path: 1}[run] == 1
    assert str(run) == str(path)
    for below in (run / "run.json", run.parent, run.with_name("x"), next(iter(run.iterdir()))):
        assert type(below) is type(path)
    for same in (copy.deepcopy(run), pickle.loads(pickle.dumps(run))):
        assert isinstance(same, Run)
        assert same == run


def test_a_run_tells_what_was_measured(run: Run) -> None:
    recorded = json.loads((run / "run.json").read_text())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert run.results == recorded["results"]
    assert run.test_accuracy == recorded["results"]["test/accuracy"]
    assert run.config == recorded["config"]
    assert run.status == "done"
    for line in lines:
        del line["global_step"]
    assert run.metrics == lines
    html = run._repr_html_() or ""
    assert html.count("<svg") == 2  # loss and accuracy
    assert "test/accuracy" in html


def test_an_unfinished_run_has_no_accuracy_yet(tmp_path: Path) -> None:
    run = Run(write_run(tmp_path, status="interrupted", change={"results": {}}))
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "results": {}}))
    assert run.test_accuracy is None
    assert run.status == "interrupted"
    assert "interrupted" in (run._repr_html_() or "")


def test_latest_and_a_piece_of_a_path_are_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(write_run(tmp_path / "outputs"))
    monkeypatch.chdir(tmp_path)
    for name in ("latest", run.name[2:]):
        assert Run(name).test_accuracy == run.test_accuracy
        assert Run(name).metrics == run.metrics
        assert Run(name).status == run.status


def test_what_is_no_run_is_a_path_alone(tmp_path: Path) -> None:
    assert Run(tmp_path / "missing")._repr_html_() is None
    assert Sweep(tmp_path)._repr_html_() is None
    assert Sweep(tmp_path).runs == []
    with pytest.raises(CheckpointError):
        _ = Run(tmp_path).test_accuracy


def test_a_sweep_has_its_runs_in_order(tmp_path: Path) -> None:
    runs = [write_run(tmp_path, seed=seed, test=0.8 + seed / 100) for seed in (0, 1)]
    names = [str(run.relative_to(tmp_path)) for run in runs]
    root = tmp_path / "sweep"
    for run in runs:
        run.rename((root.mkdir(exist_ok=True), root / run.name)[1])
    jobs: list[Any] = [
        {"overrides": ["seed=1", "model=lenet"], "run": runs[1].name},
        {"overrides": ["seed=0", "model=lenet"], "run": runs[0].name},
        {"overrides": ["seed=2", "model=lenet"], "run": "not-begun"},
        *({"overrides": [], "run": run} for run in (f"../{names[0]}", "..", "", ".", "/")),
    ]
    (root / "sweep.json").write_text(json.dumps({"jobs": jobs}))
    sweep = Sweep(root)
    assert sweep.runs == [root / runs[1].name, root / runs[0].name]
    assert all(isinstance(run, Run) for run in sweep.runs)
    assert sweep.num_failed == 1
    rows = sweep.results
    assert [(row["seed"], row["model"], row["test/accuracy"]) for row in rows] == [
        (1, "lenet", 0.81),
        (0, "lenet", 0.8),
    ]
    assert "0.8050" in (sweep._repr_html_() or "")


@pytest.mark.usefixtures("pandas")
def test_results_are_equal_to_plain_ones_and_become_frames(run: Run) -> None:
    found = cnnbench.compare(run)
    plain = to_dict(compare_runs([run]))
    assert found == plain
    assert json.loads(json.dumps(found)) == json.loads(json.dumps(plain))
    [line] = found.to_dataframe()
    assert line["test/accuracy"] == 0.9  # a number, where the dict has mean and deviation
    assert line["model"] == "lenet"
    assert str(found) == repr(found)
    assert "0.9000" in str(found)
    assert "<svg" in (found._repr_html_() or "")
    assert run.metrics.to_dataframe() == run.metrics
    assert Result({"a": 1, "b": [[1]]}).to_dataframe() == [{"a": 1}]
    assert Result({"a": 1, "per_class": [{"c": 2}]}).to_dataframe() == [{"c": 2}]
    for value in (found, Rows([{"a": 1}])):
        same = pickle.loads(pickle.dumps(value))
        assert (same, type(same), same._repr_html_()) == (value, type(value), value._repr_html_())


def test_without_pandas_the_sentence_says_what_to_do(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UsageError, match="pip install pandas"):
        run.metrics.to_dataframe()


def test_a_summary_prints_as_the_command_does(capsys: pytest.CaptureFixture[str]) -> None:
    from cnnbench.cli.main import run as cli

    for words, found in (
        (["model=lenet"], cnnbench.summary("model=lenet data=digits")),
        (["model=lenet", "--against", "mlp"], cnnbench.summary("model=lenet", against="mlp")),
        (["--block", "conv 4 4 3"], cnnbench.summary(blocks=["conv 4 4 3"])),
    ):
        assert cli(["summary", *words]) == 0
        assert capsys.readouterr().out == f"{found}\n"
        assert "<table" in (found._repr_html_() or "")
    assert cnnbench.summary("model=lenet")["num_params"] == 61706


def test_names_of_strangers_are_escaped(tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>"
    run = Run(write_run(tmp_path, change={"results": {evil: evil}}))
    (run / "metrics.jsonl").write_text(
        json.dumps({"epoch": 1, "global_step": 1, "train/loss": 1.0, evil: 2.0}) + "\n"
    )
    for html in (run._repr_html_(), run.results._repr_html_(), run.metrics._repr_html_()):
        assert evil not in (html or "")
        assert "&lt;img" in (html or "")
