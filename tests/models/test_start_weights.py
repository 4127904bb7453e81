"""`model.weights` and `model.freeze`: a run that starts from what another one learned."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import torchvision
from published import publish
from tiny import differences, info, same, tiny, train, weights

import cnnbench
from cnnbench.cli.main import run as cli
from cnnbench.errors import CheckpointError, UsageError
from cnnbench.runs.checkpoint import Checkpoints

# So small a learning rate leaves the weights as they start.
STILL = ("num_epochs=1", "optimizer.lr=1e-30", "optimizer=sgd", "optimizer.weight_decay=0")


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> Path:
    return train(tmp_path_factory.mktemp("first"), "scheduler=constant", "num_epochs=3")


def test_it_starts_from_a_runs_selected_epoch_or_from_a_file(first, tmp_path):
    checkpoints = Checkpoints(first / "checkpoints")
    best = checkpoints.load("best")["model"]
    run = train(tmp_path, f"model.weights={first}", *STILL)
    assert same(weights(run), best)
    file = first / "checkpoints" / "epoch_0001.pt"
    run = train(tmp_path, f"model.weights={file}", *STILL)
    assert same(weights(run), checkpoints.load("epoch_0001")["model"])
    assert not same(weights(train(tmp_path, *STILL)), best)


def test_other_classes_get_a_new_head_and_one_line_says_so(first, tmp_path, capsys):
    more = ("data.num_classes=5", *STILL)
    run = train(tmp_path, f"model.weights={first}", *more)
    said = capsys.readouterr().out
    assert (
        "model.weights: made for 3 classes; starts from random weights: head.weight, head.bias"
        in said
    )
    ours, theirs = weights(run), weights(first, "best")
    assert {name for name in ours if not same(ours[name], theirs[name])} == {
        "head.weight",
        "head.bias",
    }
    plain = weights(train(tmp_path, *more))
    assert all(same(ours[name], plain[name]) for name in ("head.weight", "head.bias"))


@pytest.mark.parametrize(
    "more",
    [
        ("model=lenet", "data.native_size=28"),
        ("data.in_channels=3",),
        ("data.image_size=20",),
        ("data.image_size=20", "data.num_classes=4"),
    ],
)
def test_weights_of_another_network(first, tmp_path, capsys, more):
    with pytest.raises(CheckpointError, match="weights of another network") as caught:
        train(tmp_path, f"model.weights={first}", *more)
    message = str(caught.value)
    assert 0 < message.count(", here ") <= 3
    assert caught.value.exit_code == 65


def bad_weights(first, folder) -> dict[str, tuple[int, str]]:
    """Return settings that name weights no run can start from, with exit code and message."""
    broken, empty = folder / "broken.pt", folder / "empty"
    broken.write_bytes(b"PK garbage")
    empty.mkdir()
    state = first / "checkpoints" / "epoch_0003.state.pt"
    shutil.copytree(first, folder / "cut")
    for file in (folder / "cut" / "checkpoints").glob("epoch_*.pt"):
        file.write_bytes(file.read_bytes()[:-9])
    lenet = "model=lenet data.native_size=28"
    torchvision = "model=torchvision model.arch=resnet18 data.native_size=32 model.pretrained="
    return {
        f"model.weights={broken}": (65, "holds no weights"),
        f"model.weights={state}": (65, "holds no weights"),
        f"model.weights={folder / 'cut'}": (65, "damaged"),
        f"model.weights={folder / 'nothing'}": (2, "cannot be read"),
        f"model.weights={empty}": (2, "no run with checkpoints"),
        f"{lenet} model.weights={first}": (65, "weights of another network"),
        f"{torchvision}DEFAULT": (66, "are not on this machine and cannot be fetched"),
        f"{torchvision}DEFAUL": (2, "did you mean 'DEFAULT'"),
    }


def test_bad_weights_are_found_before_anything_is_written(first, tmp_path, monkeypatch, capsys):
    def fail(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("torch.hub.urlopen", fail)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    output_root = tmp_path / "outputs"
    for settings, (code, text) in bad_weights(first, tmp_path).items():
        assert cli(["train", *tiny(output_root, *settings.split(" "))]) == code, settings
        assert text in capsys.readouterr().err
    assert not output_root.exists()


def test_a_sweep_finds_bad_weights_of_any_job_before_the_first(first, tmp_path, capsys):
    settings = tiny(tmp_path / "outputs", f"model.weights={first}", "data.in_channels=1,3")
    assert cli(["train", "-m", *settings]) == 65
    assert "conv1.weight is (10, 1, 5, 5), here (10, 3, 5, 5)" in capsys.readouterr().err
    assert not (tmp_path / "outputs").exists()


def test_what_it_starts_from_is_part_of_what_a_run_is(first, tmp_path):
    files = [first / "checkpoints" / f"epoch_000{n}.pt" for n in (1, 2)]
    runs = [train(tmp_path, f"model.weights={file}", "num_epochs=1") for file in files]
    copy = tmp_path / "copy.pt"
    copy.write_bytes(files[0].read_bytes())
    runs.append(train(tmp_path, f"model.weights={copy}", "num_epochs=1"))
    keys = [info(run)["provenance"]["run_key"] for run in runs]
    assert keys[0] == keys[2] != keys[1]
    assert differences(runs[0], runs[2]) == []


def test_a_run_goes_on_without_the_file_it_started_from(first, tmp_path):
    copy = tmp_path / "copy.pt"
    copy.write_bytes((first / "checkpoints" / "epoch_0002.pt").read_bytes())
    run = train(tmp_path, f"model.weights={copy}", "num_epochs=1", "scheduler=constant")
    key = info(run)["provenance"]["run_key"]
    copy.unlink()
    assert cnnbench.train([f"resume={run}", "extend_epochs=1"]) == run
    assert info(run)["status"] == "done"
    assert info(run)["provenance"]["run_key"] != key  # one epoch more is another run


def test_a_frozen_backbone_needs_weights_and_keeps_them(tmp_path, monkeypatch, capsys):
    settings = ("model=torchvision", "model.arch=resnet18", "data.native_size=32")
    with pytest.raises(UsageError, match=r"model\.freeze=backbone: would keep random weights"):
        train(tmp_path, *settings, "model.freeze=backbone")
    theirs = torchvision.models.resnet18(weights=None)
    file = publish(monkeypatch, tmp_path / "home", theirs.state_dict())
    small = ("num_epochs=1", "data.num_train=20", "data.num_test=6", "data.batch_size=8")
    run = train(tmp_path, *settings, *small, "model.pretrained=DEFAULT", "model.freeze=backbone")
    ours = weights(run)
    kept = {name.removeprefix("network."): tensor for name, tensor in ours.items()}
    summed = theirs.conv1.weight.detach().sum(1, keepdim=True)
    assert same(kept["conv1.weight"], summed)
    changed = [name for name, tensor in theirs.state_dict().items() if not same(kept[name], tensor)]
    assert changed == ["conv1.weight", "fc.weight", "fc.bias"]
    # The run says itself what it is: neither loading nor going on needs the file.
    file.unlink()
    assert cnnbench.load(run)(torch.zeros(1, 1, 32, 32)).shape == (1, 3)
    capsys.readouterr()
    assert cli(["summary", str(run), "--format", "json"]) == 0
    assert '"num_trainable": 1539' in capsys.readouterr().out
