"""The weights of a run or a file: the selected epoch's, as data, with the file they came from."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from tiny import info, same, train, weights

from cnnbench.errors import CheckpointError, UsageError
from cnnbench.runs.directory import open_run
from cnnbench.runs.network import load_run, read_weights


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("run"), "num_epochs=3", "selection=last")


def test_a_runs_weights_are_the_selected_epochs(run: Path) -> None:
    loaded, file = read_weights(run)
    assert info(run)["results"]["best_epoch"] == 3
    assert file == run / "checkpoints" / "epoch_0003.pt"
    assert same(loaded["model"], weights(run, "best"))
    assert not same(loaded["model"], weights(run, "epoch_0001"))


def test_a_files_weights_are_what_is_in_it(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "a copy.pt"
    shutil.copy(run / "checkpoints" / "epoch_0001.pt", file)
    loaded, source = read_weights(file)
    assert source == file
    assert same(loaded["model"], weights(run, "epoch_0001"))


def test_a_loaded_run_is_ready_to_predict(run: Path) -> None:
    network = load_run(open_run(run))
    assert not network.module.training
    assert same(dict(network.module.state_dict()), weights(run, "best"))
    images = torch.zeros(2, network.in_channels, 5, 9, dtype=torch.uint8)
    assert network.module(network.transform(images)).shape == (2, len(network.class_names))


def test_what_holds_no_weights(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        read_weights(tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match="holds no weights; expected a file like epoch_0001"):
        read_weights(run / "checkpoints" / "epoch_0003.state.pt")
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(CheckpointError, match="holds no checkpoint yet"):
        read_weights(tmp_path)
