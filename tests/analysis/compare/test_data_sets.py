"""Recipes over several data sets: which rows belong together, and what is said of their ranks."""

from __future__ import annotations

from pathlib import Path

import pytest

from cnnbench.analysis.compare.data_sets import rank_over_data_sets, ranks_text
from cnnbench.analysis.compare.formats import comparison_text
from cnnbench.analysis.compare.plots import plot_comparison, work_by_epoch
from cnnbench.analysis.compare.tables import compare_runs
from tests.recorded_runs import write_run

ACCURACY = {
    "digits": {"lenet": 0.9, "mlp": 0.8, "nin": 0.7},
    "fashion_mnist": {"lenet": 0.6, "mlp": 0.7, "nin": 0.5},
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for data, accuracies in ACCURACY.items():
        for model, accuracy in accuracies.items():
            for seed in range(2):
                test = accuracy + 0.01 * seed
                write_run(tmp_path / "runs", data=data, model=model, seed=seed, test=test)
    return tmp_path / "runs"


def test_rows_of_equal_settings_are_ranked(root: Path) -> None:
    write_run(root, data="digits", model="vgg11", test=0.99)  # on one of them alone
    found = compare_runs([root])
    ranked = rank_over_data_sets(found)
    assert ranked is not None
    assert ranked.data_sets == ("digits", "fashion_mnist")
    ranks = dict(zip(ranked.names, ranked.ranks.mean_ranks, strict=True))
    assert ranks == {"lenet": 1.5, "mlp": 1.5, "nin": 3.0}
    assert "lenet 1.50, mlp 1.50, nin 3.00. Friedman's test" in ranks_text(ranked)
    text = " ".join(comparison_text(found, "text").split())
    assert ranks_text(ranked) in text
    assert "p is rough for so few" in text


def test_what_is_not_judged_in_its_table_has_no_rank(root: Path) -> None:
    before = rank_over_data_sets(compare_runs([root]))
    for model in ("lenet", "vgg11"):
        write_run(root, data="digits", model=model, test=0.99, settings={"data.limit": 100})
    write_run(root, data="fashion_mnist", model="vgg11", test=0.4)
    found = compare_runs([root])
    assert "Not judged: rows 1 and 2: other test images." in found.tables[0].notes
    assert rank_over_data_sets(found) == before


def test_two_recipes_or_one_data_set_have_no_ranks(root: Path) -> None:
    for where in ("model=lenet or model=mlp", "data=digits"):
        assert rank_over_data_sets(compare_runs([root], where=where)) is None
    write_run(root, data="digits", model="mlp", settings={"selection": "test"})
    assert rank_over_data_sets(compare_runs([root])) is None


def test_the_plot_is_drawn_beside_those_of_each_data_set(root: Path, tmp_path: Path) -> None:
    files = plot_comparison(compare_runs([root]), tmp_path / "plots")
    names = {str(file.relative_to(tmp_path / "plots")) for file in files}
    assert {"critical_difference.png", "critical_difference.svg"} <= names
    assert "01_data_=_digits/accuracy_dots.png" in names


def test_work_is_summed_over_epochs_and_averaged_over_seeds(tmp_path: Path) -> None:
    for seed in range(2):
        write_run(tmp_path, seed=seed, change={"results": {"train_tflop": 10.0}})
    [row] = compare_runs([tmp_path]).tables[0].rows
    # Each epoch took 2 seconds of seed 0 and 3 of seed 1.
    assert work_by_epoch(row, "seconds") == pytest.approx({n: 2.5 * n for n in range(1, 6)})
    assert work_by_epoch(row, "tflop") == pytest.approx({n: 2.0 * n for n in range(1, 6)})
