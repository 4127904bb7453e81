"""Settings as Python writes them are those of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnnbench.config.command import is_sweep, read_settings, single_config
from cnnbench.config.compose import Composer
from cnnbench.config.run_config import to_tree
from cnnbench.config.schema import ConfigError

COMPOSER = Composer()


def tree(words: Any, **keys: Any) -> dict[str, Any]:
    return to_tree(single_config(COMPOSER, read_settings(COMPOSER, words, keys=keys)))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"model": "mlp", "seed": 3}, ["model=mlp", "seed=3"]),
        ({"optimizer__lr": 0.01}, ["optimizer.lr=0.01"]),
        ({"optimizer__lr": np.float64(0.01), "seed": np.int64(2)}, ["optimizer.lr=.01", "seed=2"]),
        ({"optimizer.lr": 1}, ["optimizer.lr=1"]),
        ({"max_seconds": None}, ["max_seconds=null"]),
        ({"device__channels_last": True}, ["device.channels_last=true"]),
        ({"model": "mlp", "model__hidden": (32, 16)}, ["model=mlp", "model.hidden=[32,16]"]),
        ({"output_root": Path("~/a, b")}, ["output_root=~/a, b"]),
        ({"output_root": "~/a, b"}, ["output_root=~/a, b"]),
    ],
)  # fmt: skip
def test_keywords_are_settings(keys: dict[str, Any], words: list[str]) -> None:
    assert tree((), **keys) == tree(words)


def test_one_text_is_split_as_a_shell_does() -> None:
    assert tree("model=mlp  'output_root=/a b' seed=1") == tree(
        ["model=mlp", "output_root=/a b", "seed=1"]
    )
    assert tree("seed=1", seed=2) == tree(["seed=2"])


@pytest.mark.parametrize("values", [[0, 1], range(2), np.arange(2)])
def test_lists_sweep(values: Any) -> None:
    [found] = read_settings(COMPOSER, (), keys={"seed": values})
    assert (found.key, found.values, found.is_sweep) == ("seed", (0, 1), True)
    assert all(type(value) is int for value in found.values)
    assert is_sweep([found])
    assert is_sweep(read_settings(COMPOSER, "seed=0,1"))
    assert is_sweep(read_settings(COMPOSER, (), keys={"study": "family"}))
    assert not is_sweep(read_settings(COMPOSER, "seed=0", keys={"model": "lenet"}))


def test_all_mistakes_come_together() -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings(COMPOSER, "model", keys={"seed": [], "optimizer__lr": object()})
    text = str(caught.value)
    assert "model: expected key=value" in text
    assert "seed=[]: a list sweeps over its values, and has none" in text
    assert "optimizer.lr: a value of type object" in text
    with pytest.raises(ConfigError, match=r"did you mean 'optimizer\.lr'"):
        tree((), optimzer__lr=0.1)
