"""The self-test: runs of one recipe give few false calls; runs that differ by image, many."""

from __future__ import annotations

import numpy as np
import pytest

from cnnbench.analysis.statistics.self_test import FalseCalls, self_test
from cnnbench.errors import UsageError


def test_runs_of_one_recipe_are_seldom_called_different() -> None:
    rng = np.random.default_rng(0)
    values = dict(enumerate(rng.normal(0.95, 0.004, 16).tolist()))
    found = self_test(values, num_rows=(4,), tables=80)
    assert {(f.basis, f.num_rows, f.num_seeds) for f in found} == {
        *(("seeds", 2, n) for n in (6, 8)),
        ("seeds", 4, 8),
        *(("seeds-normal", rows, n) for rows in (2, 4) for n in (3, 5)),
    }
    assert {f.repeated for f in found if f.num_rows * f.num_seeds > 16} == {True}
    assert {f.repeated for f in found if f.num_rows * f.num_seeds <= 16} == {False}
    for figure in found:
        assert figure.rate <= 0.14
        assert figure.rate <= figure.upper <= 1
    assert found == self_test(values, num_rows=(4,), tables=80)


def test_images_alone_cry_wolf_about_recipes() -> None:
    rng = np.random.default_rng(1)
    rates = rng.normal(0.9, 0.02, 12)
    correct = {seed: rng.random(5_000) < rate for seed, rate in enumerate(rates)}
    values = {seed: float(right.mean()) for seed, right in correct.items()}
    found = self_test(values, correct, num_rows=(), tables=100)
    images = [figure for figure in found if figure.basis == "images"]
    assert [figure.num_seeds for figure in images] == [1, 2]
    assert min(figure.rate for figure in images) > 0.3
    assert max(figure.rate for figure in found if figure.basis == "seeds") <= 0.14


def test_the_bound_is_exact() -> None:
    assert FalseCalls("seeds", 2, 6, 100, 0, False).upper == pytest.approx(1 - 0.05 ** (1 / 100))
    assert FalseCalls("seeds", 2, 6, 10, 10, False).upper == 1


def test_too_few_runs() -> None:
    with pytest.raises(UsageError, match="11 runs"):
        self_test(dict.fromkeys(range(11), 0.5))
