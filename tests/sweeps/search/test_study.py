"""The journal of a search survives a kill at any byte, and draws go on as if nothing had been."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import optuna
import pytest

from cnnbench.config.compose import Composer
from cnnbench.config.sweeper import SweeperConfig
from cnnbench.errors import CheckpointError, UsageError
from cnnbench.sweeps.search.space import read_space
from cnnbench.sweeps.search.study import Study, check_engine

COMPOSER = Composer()
SPACE = read_space(
    COMPOSER,
    COMPOSER.parse(
        [
            "optimizer.lr=tag(log,interval(1e-4,1e-1))",
            "data.batch_size=int(interval(2,64))",
            "scheduler=cosine,linear,constant",
        ]
    ),
)


def opened(file: Path, **more: Any) -> Study:
    settings = {"sampler": "tpe", "pruner": "median", "seed": 0, **more}
    config = SweeperConfig(num_trials=99, objective=None, **settings)
    return Study(file, SPACE.dimensions, config, is_maximized=True)


def value_of(values: Any) -> float:
    """A made-up objective with its best at small rates."""
    return 1 - values["optimizer.lr"] - values["data.batch_size"] / 1000


def test_a_study_reads_back_what_was_told(tmp_path: Path) -> None:
    file = tmp_path / "journal.log"
    study = opened(file)
    first, second, third = study.ask(), study.ask(), study.ask()
    study.tell(first.number, "complete", 0.5)
    study.tell(second.number, "pruned", None)
    again = opened(file)
    assert list(again.finished()) == [
        (0, dict(first.values), "complete", 0.5),
        (1, dict(second.values), "pruned", None),
    ]
    assert again.unfinished() == [third]
    again.tell(0, "complete", 0.9)  # told before: it stays
    assert next(iter(again.finished()))[3] == 0.5
    # Optuna itself reads it.
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(file)))
    trials = optuna.load_study(study_name="search", storage=storage).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "PRUNED", "RUNNING"]


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_search_goes_on_after_a_kill_at_any_byte(tmp_path: Path, sampler: str) -> None:
    def go_on(file: Path, trials: int) -> list[dict[str, Any]]:
        study = opened(file, sampler=sampler)
        for asked in study.unfinished():
            study.tell(asked.number, "complete", value_of(asked.values))
        while len(study.trials) < trials:
            asked = study.ask()
            study.tell(asked.number, "complete", value_of(asked.values))
        assert not study.unfinished()
        return [values for _, values, _, _ in study.finished()]

    whole = tmp_path / "whole.log"
    expected = go_on(whole, 13)
    content = whole.read_bytes()
    lines = content.splitlines(keepends=True)
    # After the start of a trial, after each of its values, and in the middle of a line.
    for kept in range(len(lines) - 12, len(lines)):
        for torn in (b"", lines[kept][: len(lines[kept]) // 2]):
            cut = tmp_path / "cut.log"
            cut.write_bytes(b"".join(lines[:kept]) + torn)
            drawn = go_on(cut, 13)
            # The engine's model of a trial that is drawn in part is another one.
            if sampler == "random" or b'"op_code":5' not in lines[kept]:
                assert drawn == expected, (kept, torn)
            assert all(values.keys() == expected[0].keys() for values in drawn)
            assert len(drawn) == 13


def test_a_torn_line_alone_is_an_empty_journal(tmp_path: Path) -> None:
    file = tmp_path / "journal.log"
    file.write_bytes(b'{"op_code":0,"work')
    assert not opened(file).trials


@pytest.mark.parametrize("content", [b"nonsense\n", b"[]\n", b'{"op_code": 0}\n'])
def test_a_foreign_journal(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "journal.log"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="not a journal"):
        opened(file)


def test_a_lock_that_a_killed_process_left_does_not_hold_for_long(tmp_path: Path) -> None:
    file = tmp_path / "journal.log"
    opened(file).ask()
    (tmp_path / "journal.log.lock").touch()
    study = opened(file)  # 3 s, not the engine's 30
    assert len(study.unfinished()) == 1


def test_the_median_of_earlier_trials_decides(tmp_path: Path) -> None:
    study = opened(tmp_path / "journal.log")
    for value in (0.5, 0.6, 0.7, 0.8, 0.9):
        asked = study.ask()
        assert not study.report(asked.number, 1, value)  # fewer than five before it
        study.tell(asked.number, "complete", value)
    good, bad = study.ask(), study.ask()
    assert not study.report(good.number, 1, 0.75)
    assert study.report(bad.number, 1, 0.65)
    assert study.report(bad.number, 1, 0.99)  # what was reported stays
    assert not study.report(good.number, 2, float("nan"))
    kept = opened(tmp_path / "kept.log", pruner="none")
    for value in (0.5, 0.6, 0.7, 0.8, 0.9, 0.0):
        asked = kept.ask()
        assert not kept.report(asked.number, 1, value)
        kept.tell(asked.number, "complete", value)


def test_wilcoxon_gives_a_point_up_that_loses_on_every_seed(tmp_path: Path) -> None:
    study = opened(tmp_path / "journal.log", pruner="wilcoxon")
    best = study.ask()
    for seed in range(5):
        study.report(best.number, seed, 0.9 + seed / 100)
    study.tell(best.number, "complete", 0.92)
    worse = study.ask()
    given_up = [study.report(worse.number, seed, 0.7 + seed / 90) for seed in range(5)]
    # One-sided, of n losses on n seeds p is 2^-n: below .1 from the fourth on.
    assert given_up == [False, False, False, True, True]


def test_importances_find_the_key_that_matters(tmp_path: Path) -> None:
    study = opened(tmp_path / "journal.log", sampler="random")
    assert study.importances() == {}
    for _ in range(30):
        asked = study.ask()
        study.tell(asked.number, "complete", float(asked.values["data.batch_size"]))
    shares = study.importances()
    assert next(iter(shares)) == "data.batch_size"
    assert sum(shares.values()) == pytest.approx(1)


def test_an_engine_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'cnnbench\[optuna\]'") as caught:
        check_engine()
    assert caught.value.exit_code == 2
