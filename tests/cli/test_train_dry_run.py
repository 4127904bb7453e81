"""``train --dry-run``: what a run would take, without a run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from tiny import tiny

from cnnbench.cli.main import run as cli


def test_one_batch_the_layers_and_what_is_expected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(["train", "--dry-run", *tiny(tmp_path), "num_epochs=3"]) == 0
    text = capsys.readouterr().out
    assert "8,490 parameters" not in text  # of 16 pixels, not 28
    for words in (
        "basic_cnn on",
        "receptive_field",
        "the first batch: 16 examples, loss ",
        "of memory, up to",
        "per epoch",
        "nothing was written",
    ):
        assert words in text
    assert list(tmp_path.iterdir()) == []


def test_in_a_terminal_no_line_is_wider_than_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert cli(["train", "--dry-run", *tiny(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "expected: about" in text
    assert max(map(len, text.splitlines())) <= 80


def test_json_agrees_with_the_run_that_follows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["train", *tiny(tmp_path), "num_epochs=2", "--format", "json"]
    assert cli([*argv, "--dry-run"]) == 0
    expected = json.loads(capsys.readouterr().out)
    assert expected["num_epochs"] == 2
    assert expected["total_seconds"] == pytest.approx(2 * expected["epoch_seconds"])
    assert list(tmp_path.iterdir()) == []
    assert cli([*argv, "log_every_steps=1"]) == 0
    run = Path(json.loads(capsys.readouterr().out)["run"])
    first = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    assert first["train/step_loss"] == pytest.approx(expected["loss"], rel=1e-6)
    record = json.loads((run / "run.json").read_text())
    assert record["model"]["num_params"] == expected["num_params"]
    written = sum(file.stat().st_size for file in (run / "checkpoints").iterdir())
    assert 0.5 * written < expected["disk_bytes"] < 4 * written


def test_a_sweep_is_a_table_of_jobs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["train", "--dry-run", "-m", *tiny(tmp_path), "seed=0,1", "data.batch_size=8,16"]
    assert cli(argv) == 0
    text, said = capsys.readouterr()
    assert text.count("data.batch_size=16") == 2
    assert "4 jobs, about" in text
    # A job of another seed alone takes the same.
    assert ["[1/4]" in said, "[2/4]" in said, "[3/4]" in said] == [True, True, False]
    assert list(tmp_path.iterdir()) == []


def test_jobs_warn_of_the_same_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["train", "--dry-run", "-m", *tiny(tmp_path), "data.batch_size=256"]
    assert cli([*argv, "optimizer.lr=0.001,0.002"]) == 0
    said = capsys.readouterr().err
    assert "[2/2] optimizer.lr=0.002" in said
    assert said.count("each epoch is one step") == 1


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("resume=latest", "leave resume= out"),
        ("model=lenett", "lenet"),
        ("num_epochs=0", "expected a whole number"),
    ],
)
def test_mistakes(
    setting: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(["train", "--dry-run", *tiny(tmp_path), setting]) == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
