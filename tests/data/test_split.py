"""Splits: exact, stratified, and the same for ever."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnbench.data import stratified_sample, stratified_split

TARGETS = st.lists(st.integers(0, 5), min_size=1, max_size=200).map(
    lambda labels: np.unique(labels, return_inverse=True)[1].astype(np.int64)
)

GOLDEN = [0, 2, 11, 17, 20, 21, 35, 38]


@given(TARGETS, st.integers(0, 99), st.integers(0, 2**64 - 1))
def test_parts_make_the_whole_in_proportion(targets, percent: int, seed: int) -> None:
    first, second = stratified_split(targets, percent / 100, seed)
    assert sorted([*first, *second]) == list(range(len(targets)))
    assert (np.diff(first) > 0).all()
    assert (np.diff(second) > 0).all()
    sizes = np.bincount(targets)
    taken = np.bincount(targets[second], minlength=len(sizes))
    assert (taken < sizes).all()
    # Smaller classes keep their last image, and others give one in its location.
    if sizes.min() * (100 - percent) >= 200:
        assert (np.abs(taken - sizes * percent / 100) < 1 + 1e-9).all()
        assert len(second) == (len(targets) * percent + 50) // 100


def test_the_fraction_is_taken_at_its_word() -> None:
    targets = np.zeros(100, dtype=np.int64)
    for percent in range(99):
        assert len(stratified_split(targets, percent / 100, 0)[1]) == percent
    for fraction in (1.0, -0.1, 1.5):
        with pytest.raises(ValueError, match="fraction"):
            stratified_split(targets, fraction, 0)


def test_remainders_go_to_the_largest() -> None:
    targets = np.repeat([0, 1, 2], [17, 14, 19])
    _, second = stratified_split(targets, 0.1, 0)
    assert np.bincount(targets[second]).tolist() == [2, 1, 2]


def test_seeds_differ_and_numbers_never_change() -> None:
    targets = np.arange(40, dtype=np.int64) % 4
    _, second = stratified_split(targets, 0.2, 0)
    assert second.tolist() == GOLDEN
    assert stratified_split(targets, 0.2, 1)[1].tolist() != GOLDEN


def test_every_picture_may_be_drawn() -> None:
    targets = np.arange(20, dtype=np.int64) % 2
    drawn = {int(i) for seed in range(60) for i in stratified_split(targets, 0.1, seed)[1]}
    assert drawn == set(range(20))


def test_samples() -> None:
    targets = np.arange(100, dtype=np.int64) % 10
    assert stratified_sample(targets, 100, 0).tolist() == list(range(100))
    assert stratified_sample(targets, 0, 0).tolist() == []
    some = stratified_sample(targets, 30, 0)
    assert np.bincount(targets[some]).tolist() == [3] * 10
