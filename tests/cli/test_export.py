"""Exported files give the network's logits in other programs, or are not kept."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny, train
from torch import Tensor, nn

import cnnbench
from cnnbench.analysis import export as exports
from cnnbench.cli.main import run as cli
from cnnbench.data.transforms import InputTransform
from cnnbench.errors import DiskError, UsageError
from cnnbench.models import MODELS, create_model
from cnnbench.models.densenet import DenseNet
from cnnbench.runs.directory import RunDir
from cnnbench.runs.network import LoadedNetwork
from cnnbench.training.data import read_splits


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    settings = ("model=lenet", "data=digits", "data.limit=256", "num_epochs=2")
    return cnnbench.train([*settings, f"output_root={root}", "device=cpu", "device.num_threads=1"])


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "run")


def answers(file: Path, images: Tensor) -> np.ndarray:
    """Return an exported file's logits by the program that it is for."""
    if file.suffix == ".pt2":
        with torch.no_grad():
            return torch.export.load(file).module()(images).numpy()
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    [given], [taken] = session.get_outputs(), session.get_inputs()
    assert (taken.name, taken.type, taken.shape[0]) == ("images", "tensor(uint8)", "batch")
    assert (given.name, given.type) == ("logits", "tensor(float)")
    return session.run(None, {"images": images.numpy()})[0]


def metadata(file: Path, keys: list[str]) -> dict[str, str]:
    if file.suffix == ".pt2":
        known = dict.fromkeys(keys, "")
        torch.export.load(file, extra_files=known)
        return {key: known[key] for key in keys}
    import onnx

    found = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    return {key: found[key] for key in keys}


@pytest.mark.parametrize(("to", "suffix"), [("onnx", ".onnx"), ("torch", ".pt2")])
def test_it_answers_like_the_run_on_test_images(
    to: str, suffix: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(["export", str(run), "--to", to, "--format", "json"]) == 0
    result = json.loads(capsys.readouterr().out)
    file = run / f"lenet{suffix}"
    assert (result["file"], result["num_bytes"]) == (str(file), file.stat().st_size)
    assert result["batch_sizes"] == [1, 7]
    assert result["largest_difference"] <= result["tolerance"] == 1e-4
    assert result["compared_on"].startswith("training images of scikit-learn")
    assert result["input"] == {"dtype": "uint8", "shape": ["batch", 1, 28, 28]}
    assert not list(run.glob("*.tmp-*"))

    data = read_splits(RunDir(run).config, print)
    images, targets = next(iter(data.batches("test")))
    with torch.no_grad():
        expected = cnnbench.load(run)(data.prepare(images, targets)[0]).numpy()
    images = InputTransform(image_size=28, mean=data.mean, std=data.std).resize(images)
    for count in (1, 2, len(images)):
        np.testing.assert_allclose(
            answers(file, images[:count]), expected[:count], rtol=1e-4, atol=1e-4
        )
    known = metadata(file, ["class_names", "preprocessing", "model", "data", "run"])
    assert (known["model"], known["data"], known["run"]) == ("lenet", "digits", "run")
    assert json.loads(known["class_names"]) == result["class_names"] == list(data.class_names)
    preprocessing = json.loads(known["preprocessing"])
    assert (preprocessing["image_size"], preprocessing["in_channels"]) == (28, 1)
    assert preprocessing["mean"] == pytest.approx(list(data.mean))
    assert preprocessing["std"] == pytest.approx(list(data.std))


def test_every_format_and_an_output_of_ones_own(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "neu é" / "a.bin"
    for output_format in ("text", "markdown", "csv"):
        words = ["--output", str(file), "--format", output_format]
        assert cli(["export", str(run), "--to", "torch", *words]) == 0
        out = capsys.readouterr().out
        assert str(file) in out
        assert "training images of scikit-learn" in out
    assert [path.name for path in file.parent.iterdir()] == ["a.bin"]
    assert not list(run.glob("*.pt2"))


def test_bad_input(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, code, message in (
        ([str(run)], 2, "--to"),
        ([str(run), "--to", "onx"], 2, "did you mean 'onnx'?"),
        ([str(tmp_path), "--to", "torch"], 2, f"a run below it is {run}"),
        ([str(run), "--to", "torch", "--output", str(tmp_path)], 2, "a directory; name the file"),
        ([str(run), "--to", "torch", "--output", "/proc/x/y"], 74, "cannot be written"),
    ):
        assert cli(["export", *words]) == code
        out, err = capsys.readouterr()
        assert message in err
        assert "Traceback" not in err
        assert not out


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_extra_names_what_to_install(
    missing: str, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    assert cli(["export", str(run), "--to", "onnx"]) == 2
    err = capsys.readouterr().err
    assert f"{missing} is missing: pip install 'cnnbench[export]'" in err
    assert not list(run.glob("*.onnx"))


def network_of(module: nn.Module, size: int, in_channels: int = 3) -> LoadedNetwork:
    stats = {"mean": [0.4] * in_channels, "std": [0.2] * in_channels}
    transform = InputTransform(image_size=size, **stats)
    return LoadedNetwork(module.eval(), transform, in_channels, ("a", "b", "c"))


def pictures_for(network: LoadedNetwork, count: int = 7, seed: int = 1) -> Tensor:
    size = network.transform.image_size
    draw = torch.Generator().manual_seed(seed)
    shape = (count, network.in_channels, size, size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=draw)


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1))


class Branches(Linear):
    """Does what no exporter can follow."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1)) if x.sum() > 0 else self.head(-x.flatten(1))


class Forgets(Linear):
    """Takes a number from the images while it is traced, so that the file is wrong on others."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            return self.head(x.flatten(1)) + 1
        return self.head(x.flatten(1))


class NotANumber(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1)) * torch.nan


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Branches, "torch cannot follow this network"),
        (Forgets, r"its logits differ from the network's by .* allowed are 1e-04"),
        (NotANumber, "by inf of the largest"),
    ],
)
def test_what_is_not_the_network_is_not_kept_and_the_old_file_stands(
    module: type[nn.Module], message: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = network_of(module(), 2)
    file = tmp_path / "a.pt2"
    file.write_bytes(b"old")
    with pytest.raises(UsageError, match=message):
        exports.export_network(network, pictures_for(network), "torch", file, {})
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt2"]
    assert file.read_bytes() == b"old"


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    network = network_of(Linear(), 2)
    monkeypatch.setattr("cnnbench.analysis.export.os.fsync", full)
    with pytest.raises(DiskError, match="the disk is full"):
        exports.export_network(network, pictures_for(network), "torch", tmp_path / "a.pt2", {})
    assert not list(tmp_path.iterdir())


def test_without_its_data_a_run_is_compared_on_random_pictures(tmp_path: Path) -> None:
    root = tmp_path / "data"
    draw = np.random.default_rng(0)
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        for number in range(8):
            pixels = draw.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    shared = [
        setting
        for setting in tiny(tmp_path, "model=softmax", "num_epochs=1")
        if not setting.startswith(("data.num_", "data.native")) and "synthetic" not in setting
    ]
    data = ["data=folder", f"data.root={root}", "data.image_size=16", "data.batch_size=4"]
    run = cnnbench.train([*shared, *data])
    with_data = cnnbench.export(run, to="torch")
    assert with_data["compared_on"] == f"training images of folder {root}"
    root.rename(tmp_path / "moved")
    without = cnnbench.export(run, to="torch")
    assert without["compared_on"].startswith("random images, for want of the run's data")


@pytest.mark.parametrize("to", ["torch", pytest.param("onnx", marks=pytest.mark.slow)])
def test_auxiliary_heads_stay_behind(to: str, tmp_path: Path) -> None:
    args = {"aux": True, "width_multiplier": 1 / 16}
    sizes = {"in_channels": 1, "num_classes": 3, "image_size": 16}
    network = network_of(create_model("googlenet", **sizes, args=args), 16, 1)
    assert any("aux" in key for key in network.module.state_dict())
    file = tmp_path / "a"
    exports.export_network(network, pictures_for(network), to, file, {})
    if to == "onnx":
        import onnx

        names = [tensor.name for tensor in onnx.load(file).graph.initializer]
    else:
        names = list(torch.export.load(file).state_dict)
    assert any("inception4a" in name for name in names)
    assert not any("aux" in name for name in names)


# One row for each family: size of the image, and arguments that make it small.
FAMILIES: dict[str, tuple[int, dict[str, Any]]] = {
    "softmax": (8, {}),
    "mlp": (8, {}),
    "basic_cnn": (16, {}),
    "inception_cnn": (16, {}),
    "cifar_quick": (8, {}),
    "lenet": (12, {}),
    "alexnet": (65, {"width_multiplier": 1 / 16}),
    "vgg11": (32, {"width_multiplier": 1 / 16}),
    "nin": (67, {}),
    "nin_cifar": (7, {}),
    "googlenet": (16, {"width_multiplier": 1 / 16}),
    "small_resnet": (8, {}),
    "resnet18": (8, {}),
    "densenet121": (8, {"growth_rate": 4}),
    "mobilenet_v1": (8, {"width_multiplier": 0.25}),
    "mobilenet_v2": (8, {"width_multiplier": 0.5}),
    "torchvision": (33, {"arch": "squeezenet1_1"}),
}
LONG = ("googlenet", "densenet121", "mobilenet_v2")


def test_every_family_has_a_row() -> None:
    ours = {MODELS[name].constructor for name in FAMILIES}
    assert ours == {row.constructor for row in MODELS.values()}


def check(module: nn.Module, size: int, to: str, tmp_path: Path) -> None:
    network = network_of(module, size)
    file = tmp_path / f"a{exports.KINDS[to].suffix}"
    kept = exports.export_network(network, pictures_for(network), to, file, {"k": "é"})
    assert kept.num_bytes == file.stat().st_size
    assert metadata(file, ["k"]) == {"k": "é"}
    images = pictures_for(network, count=3, seed=2)
    with torch.no_grad():
        expected = network.module(network.transform(images)).numpy()
    np.testing.assert_allclose(answers(file, images), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "name",
    # tests/models exports every network; here are the file and what goes before the network.
    [
        pytest.param(n, marks=() if n in ("lenet", "torchvision") else pytest.mark.slow)
        for n in FAMILIES
    ],
)
def test_every_family_as_a_torch_program(name: str, tmp_path: Path) -> None:
    size, args = FAMILIES[name]
    torch.manual_seed(0)
    module = create_model(name, in_channels=3, num_classes=3, image_size=size, args=args)
    check(module, size, "torch", tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "mobilenet_v1",
        *[pytest.param(name, marks=pytest.mark.slow) for name in LONG],
    ],
)
def test_families_as_onnx(name: str, tmp_path: Path) -> None:
    size, args = FAMILIES[name]
    torch.manual_seed(0)
    module = create_model(name, in_channels=3, num_classes=3, image_size=size, args=args)
    check(module, size, "onnx", tmp_path)


@pytest.mark.parametrize("to", exports.KINDS)
def test_a_short_densenet(to: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = DenseNet(in_channels=3, num_classes=3, num_layers=(2, 1), growth_rate=4)
    check(module, 8, to, tmp_path)


def test_a_network_of_ones_own_needs_its_code_named(tmp_path: Path) -> None:
    code = tmp_path / "mine.py"
    code.write_text(
        "from torch import nn\n"
        "class Mine(nn.Module):\n"
        "    def __init__(self, *, in_channels, num_classes):\n"
        "        super().__init__()\n"
        "        self.conv = nn.Conv2d(in_channels, 4, 3)\n"
        "        self.head = nn.Linear(4, num_classes)\n"
        "    def forward(self, x):\n"
        "        return self.head(self.conv(x).relu().mean((2, 3)))\n"
    )
    run = train(tmp_path, "model=custom", f"model.path={code}:Mine", "num_epochs=1")
    with pytest.raises(UsageError, match="--model-path"):
        cnnbench.export(run, to="torch")
    result = cnnbench.export(run, to="torch", model_path=f"{code}:Mine")
    assert Path(result["file"]).name == "custom.pt2"
    image = tmp_path / "a.png"
    Image.fromarray(np.eye(16, dtype=np.uint8) * 255).save(image)
    with pytest.raises(UsageError, match="--model-path"):
        cnnbench.features(run, image)
    [row] = cnnbench.features(run, image, model_path=f"{code}:Mine")
    assert [stage["name"] for stage in row["stages"]] == ["conv"]
