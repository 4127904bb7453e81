"""The networks of the notes as presets: each composes, at its own architecture and image size."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import TINY

import cnnbench
from cnnbench.cli.main import run as command
from cnnbench.config.command import single_config
from cnnbench.config.compose import Composer
from cnnbench.config.groups import conf_dir
from cnnbench.config.run_config import RunConfig
from cnnbench.training.data import describe_data
from cnnbench.training.network import describe_network

COMPOSER = Composer()
# Parameters as the notes print them or as counted by hand, pixels, and the recorded accuracy.
NOTES = {
    "alexnet": (46_764_746, 224, 0.886),
    "alexnet_small": (28_655_946, 224, 0.894),
    "vgg11_224": (506_234, 224, 0.764),
    "vgg11_96": (178_554, 96, 0.856),
    "googlenet": (5_977_530, 96, 0.905),
    "googlenet_norm_block": (5_989_146, 96, 0.909),
    "googlenet_3x3": (6_263_210, 96, 0.885),
    "googlenet_asymmetric": (6_072_730, 96, None),
    "googlenet_residual": (11_760_218, 96, 0.636),
    "basic_cnn": (8_490, 28, None),
    "inception_cnn": (97_298, 28, None),
    "cifar_quick": (145_578, 32, None),
}


def composed(*settings: str) -> RunConfig:
    return single_config(COMPOSER, COMPOSER.parse(settings))


def test_every_preset_of_the_notes_is_checked() -> None:
    folder = conf_dir() / "experiment" / "notes"
    assert {file.stem for file in folder.glob("*.yaml")} == NOTES.keys()


@pytest.mark.parametrize("name", NOTES)
def test_a_preset_has_the_notes_architecture(name: str) -> None:
    num_params, image_size, accuracy = NOTES[name]
    config = composed(f"experiment=notes/{name}")
    network = describe_network(config, describe_data(config))
    assert (network.num_params, network.image_size) == (num_params, image_size)
    assert config.reference.test_accuracy == accuracy
    assert config.reference.source is not None
    assert config.selection == "last"


@pytest.mark.parametrize(
    ("name", "momentum", "num_epochs"),
    [("basic_cnn", 0.5, 10), ("inception_cnn", 0.5, 10), ("cifar_quick", 0.0, 30)],
)
def test_small_networks_train_as_in_the_notes(name: str, momentum: float, num_epochs: int) -> None:
    config = composed(f"experiment=notes/{name}")
    optimizer = config.optimizer
    assert (optimizer.name, optimizer.lr, optimizer.weight_decay) == ("sgd", 0.01, 0)
    assert optimizer.args["momentum"] == momentum
    assert (config.scheduler.name, config.num_epochs) == ("constant", num_epochs)
    assert (config.data.batch_size, config.loss.args["label_smoothing"]) == (64, 0)


def test_a_choice_in_a_folder_is_the_users_too(tmp_path: Path) -> None:
    folder = tmp_path / "experiment" / "mine"
    folder.mkdir(parents=True)
    (folder / "quick.yaml").write_text("# @package _global_\n# A quick one\nnum_epochs: 3\n")
    composer = Composer(tmp_path)
    assert composer.groups.choices("experiment")["mine/quick"] == "A quick one"
    config = single_config(composer, composer.parse(["experiment=mine/quick"]))
    assert config.num_epochs == 3


def test_compare_shows_the_recorded_result_beside_ours(tmp_path: Path) -> None:
    named = ("reference.source='a note'", "reference.test_accuracy=0.25")
    run = cnnbench.train([*TINY, f"output_root={tmp_path}", *named, "num_epochs=1"])
    found = cnnbench.compare(run)
    accuracy = run.test_accuracy
    assert found["rows"][0]["reference"] == {
        "source": "a note",
        "test_accuracy": 0.25,
        "train_accuracy": None,
        "num_epochs": None,
        "epoch_seconds": None,
    }
    [line] = [line for line in str(found).splitlines() if "a note" in line]
    numbers = ["0.2500", f"{accuracy:.4f}", f"{accuracy - 0.25:+.4f}"]
    assert line.split()[-3:] == numbers
    assert command(["compare", str(run), "--html", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "<td>a note</td>" in page
    assert "".join(f"<td>{number}</td>" for number in numbers) in page


def test_a_run_without_a_reference_has_no_such_table(tmp_path: Path) -> None:
    run = cnnbench.train([*TINY, f"output_root={tmp_path}", "num_epochs=1"])
    assert "Recorded elsewhere" not in str(cnnbench.compare(run))
    assert command(["compare", str(run), "--html", str(tmp_path / "page.html")]) == 0
    assert "Recorded elsewhere" not in (tmp_path / "page.html").read_text()
