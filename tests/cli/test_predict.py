"""Classes of images by a run, and the runs that are refused."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny, train

import cnnbench
from cnnbench.cli.main import run as cli
from cnnbench.errors import CheckpointError, DataError, UsageError
from cnnbench.runs.directory import RunDir
from cnnbench.training.data import read_splits


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("run"), "num_epochs=4")


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def images(run: Path, tmp_path: Path) -> list[Path]:
    """Write the test images as files of their own size."""
    [(images, _)] = read_splits(RunDir(run).config, print).batches("test")
    folder = tmp_path / "images"
    folder.mkdir()
    for number, image in enumerate(images.numpy()):
        Image.fromarray(image[0]).save(folder / f"{number:02d}.png")
    return sorted(folder.iterdir())


def test_files_folders_and_tensors_agree_with_the_module(run: Path, images: list[Path]) -> None:
    data = read_splits(RunDir(run).config, print)
    [(tensor, targets)] = data.batches("test")
    with torch.no_grad():
        expected = cnnbench.load(run)(data.prepare(tensor, targets)[0]).softmax(1)
    for answers in (
        cnnbench.predict(run, images),
        cnnbench.predict(run, images[0].parent),
        cnnbench.predict(run, tensor),
    ):
        assert len(answers) == 30
        for answer, row in zip(answers, expected, strict=True):
            assert answer["class"] == data.class_names[int(row.argmax())]
            assert answer["probability"] == pytest.approx(row.max().item(), rel=1e-4)
            assert [top["probability"] for top in answer["top"]] == pytest.approx(
                row.sort(descending=True).values.tolist(), abs=1e-5
            )
    accuracy = np.mean([a["class"] == str(t) for a, t in zip(answers, targets, strict=True)])
    names_are_numbers = list(data.class_names) == ["0", "1", "2"]
    if names_are_numbers:
        assert accuracy == pytest.approx(cnnbench.evaluate(run)["accuracy"])


@pytest.mark.parametrize("size", [(1, 1), (5, 9), (640, 480)])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "CMYK", "1", "I;16"])
def test_any_size_and_colour(size: tuple[int, int], mode: str, run: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    if mode == "I;16":
        image = Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257)
    else:
        image = Image.fromarray(pixels).convert(mode)
    file = tmp_path / ("a.tif" if mode in ("CMYK", "I;16") else "a.png")
    image.save(file)
    [answer] = cnnbench.predict(run, file, top=99)
    assert len(answer["top"]) == 3
    assert sum(top["probability"] for top in answer["top"]) == pytest.approx(1, abs=1e-5)


def test_every_format(run: Path, images: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["predict", str(run), str(images[3]), str(images[4]), "--top", "2"]
    assert cli([*words, "--format", "json"]) == 0
    answers = json.loads(capsys.readouterr().out)
    assert answers == cnnbench.predict(run, images[3:5], top=2)
    for output_format in ("text", "markdown", "csv"):
        assert cli([*words, "--format", output_format]) == 0
        out = capsys.readouterr().out
        for answer in answers:
            [line] = [line for line in out.splitlines() if answer["file"] in line]
            assert answer["class"] in line
            assert answer["top"][1]["class"] in line
    assert cli(["predict", str(run), str(images[0]), "--top", "0"]) == 2


def test_what_is_no_picture(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.png"
    text.write_text("not an image")
    empty = tmp_path / "empty"
    empty.mkdir()
    cut = tmp_path / "cut.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)).save(cut)
    cut.write_bytes(cut.read_bytes()[:300])
    for path, words in (
        (text, "not an image"),
        (cut, "not an image"),
        (tmp_path / "missing.png", "there is no such file"),
        (empty, "holds no images"),
    ):
        assert cli(["predict", str(run), str(path)]) == 66
        err = capsys.readouterr().err
        assert words in err
        assert str(path) in err
        assert "Traceback" not in err


def test_images_of_a_program_are_those_of_its_files(run: Path, images: list[Path]) -> None:
    expected = [
        {key: value for key, value in row.items() if key != "file"}
        for row in cnnbench.predict(run, images[:3])
    ]
    pillow = [Image.open(file) for file in images[:3]]
    grey = np.stack([np.asarray(image) for image in pillow])
    colour = np.repeat(grey[..., None], 3, axis=3)
    opaque = np.concatenate([colour, np.full_like(colour[..., :1], 255)], axis=3)
    for name, given in {
        "Pillow": pillow,
        "Pillow in colour": [image.convert("RGB") for image in pillow],
        "(N, H, W)": grey,
        "(N, 1, H, W)": grey[:, None],
        "(N, H, W, 1)": grey[..., None],
        "(N, H, W, 3)": colour,
        "(N, 3, H, W)": colour.transpose(0, 3, 1, 2),
        "(N, H, W, 4)": opaque,
        "list of (H, W)": list(grey),
        "tuple of (H, W, 3)": tuple(colour),
        "nested lists": grey.tolist(),
        "fractions": grey / 255,
        "float32 to 255": grey.astype(np.float32),
        "int64": grey.astype(np.int64),
        "a tensor of fractions": torch.from_numpy(grey / 255),
        "tensors, one with a gradient": [*map(torch.tensor, (grey / 255)[:2]), torch.tensor(
            grey[2] / 255, requires_grad=True)],
        "mixed": [pillow[0], grey[1], torch.from_numpy(colour[2])],
    }.items():  # fmt: skip
        found = cnnbench.predict(run, given)
        assert [row["class"] for row in found] == [row["class"] for row in expected], name
        for row, other in zip(found, expected, strict=True):
            assert row["probability"] == pytest.approx(other["probability"], rel=2e-2), name
    for one in (pillow[0], grey[0], colour[0], colour[0].transpose(2, 0, 1)[:1], images[0]):
        [row] = cnnbench.predict(run, one)
        assert row["class"] == expected[0]["class"]
    assert len(cnnbench.predict(run, torch.zeros(2, 9, 9, dtype=torch.bfloat16))) == 2
    assert len(cnnbench.predict(run, np.zeros((2, 9, 30), bool))) == 2
    assert cnnbench.predict(run, np.zeros((0, 8, 8))) == []


def test_a_home_directory_is_found(
    run: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(images[0].parent))
    assert len(cnnbench.predict(run, "~/00.png")) == len(cnnbench.predict(run, ["~/00.png"])) == 1


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (torch.randn(2, 1, 16, 16), "before normalisation"),
        (np.full((8, 8), np.nan), "before normalisation"),
        (np.full((8, 8), 300.0), "expected 0 to 1 or 0 to 255"),
        (np.zeros((2, 2, 16, 16)), r"images of shape \(2, 2, 16, 16\): expected \(H, W\)"),
        (np.zeros(64), r"images of shape \(64,\)"),
        (np.array(["a"]), "no image"),
        ([[1, 2], [3]], "a list is no image"),
        (["a.png", np.zeros((8, 8))], "expected image files alone"),
        (None, "type NoneType is no image"),
        ({"image": 1}, "type dict is no image"),
    ],
)  # fmt: skip
def test_what_is_no_image_is_refused(run: Path, given: object, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        cnnbench.predict(run, given)


@pytest.mark.parametrize("verb", ["evaluate", "predict"])
def test_a_directory_that_is_no_run_names_the_nearest(
    verb: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = ["x.png"] if verb == "predict" else []
    assert cli([verb, str(tmp_path), *image]) == 2
    assert f"a run below it is {run}" in capsys.readouterr().err
    assert cli([verb, str(tmp_path / "absent"), *image]) == 2
    assert "there is no such directory" in capsys.readouterr().err


def damage_checkpoint(run: Path) -> None:
    for file in run.glob("checkpoints/epoch_*.pt"):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)


def damage_manifest(run: Path) -> None:
    (run / "checkpoints" / "manifest.json").write_text("{")


def remove_checkpoints(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")


@pytest.mark.parametrize("damage", [damage_checkpoint, damage_manifest, remove_checkpoints])
@pytest.mark.parametrize("verb", ["evaluate", "predict", "load"])
def test_a_damaged_run_is_refused(damage, verb: str, run: Path, images: list[Path]) -> None:
    damage(run)
    calls = {
        "evaluate": lambda: cnnbench.evaluate(run),
        "predict": lambda: cnnbench.predict(run, images),
        "load": lambda: cnnbench.load(run),
    }
    with pytest.raises(CheckpointError) as caught:
        calls[verb]()
    assert caught.value.exit_code == 65


@pytest.mark.parametrize("content", ["{}", "[]", '{"format": 1, "status": "done", "config": {}}'])
def test_a_foreign_run_json_is_refused(content: str, run: Path) -> None:
    (run / "run.json").write_text(content)
    with pytest.raises(CheckpointError) as caught:
        cnnbench.evaluate(run)
    assert caught.value.exit_code == 65


def rewrite(run: Path, change) -> None:
    """Save a run's weights again with something changed, hash and all."""
    from cnnbench.runs.checkpoint import Checkpoints

    checkpoints = Checkpoints(run / "checkpoints")
    name = checkpoints.manifest()["best"]
    content = checkpoints.load(name)
    change(content)
    content.pop("format")
    checkpoints.save(name, content, {}, epoch=9, global_step=999, is_best=True, keep_last=None)


CHANGES = {
    "another network": lambda content: content["network"].update(name="lenet"),
    "an unknown network": lambda content: content["network"].update(name="os.system"),
    "unknown arguments": lambda content: content["network"]["args"].update(evil=1),
    "other shapes": lambda content: content["network"].update(num_classes=4),
    "giant sizes": lambda content: content["network"].update(num_classes=10**12),
    "names are few": lambda content: content.update(class_names=["a"]),
    "no preprocessing": lambda content: content.pop("preprocessing"),
    "sizes are text": lambda content: content["network"].update(image_size="16"),
    "weights are no tensors": lambda content: content.update(model={"a": 1}),
    "no network": lambda content: content.update(network=None),
    "an image of no size": lambda content: content["preprocessing"].update(image_size=0),
    "means are few": lambda content: content["preprocessing"].update(mean=[]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_checkpoint_of_something_else_is_refused(
    change: str, run: Path, images: list[Path]
) -> None:
    rewrite(run, CHANGES[change])
    with pytest.raises(CheckpointError, match=r"not a checkpoint of ours|is unknown"):
        cnnbench.predict(run, images)


def test_a_run_predicts_without_its_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "data"
    draw = np.random.default_rng(0)
    for name in ("hell", "dunkel"):
        (root / name).mkdir(parents=True)
        for number in range(8):
            low = 160 if name == "hell" else 0
            pixels = draw.integers(low, low + 90, (12, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    settings = tiny(tmp_path, "num_epochs=12", "optimizer.lr=0.01")
    shared = [s for s in settings if "synthetic" not in s and not s.startswith("data.num_")]
    plain = [s for s in shared if "native" not in s]
    run = cnnbench.train(
        [*plain, "data=folder", f"data.root={root}", "data.image_size=16", "data.batch_size=4"]
    )
    moved = tmp_path / "moved"
    root.rename(moved)
    monkeypatch.chdir(tmp_path)
    answers = cnnbench.predict(run, [moved / "hell", moved / "dunkel"])
    right = [answer["class"] == Path(answer["file"]).parent.name for answer in answers]
    assert sum(right) >= 15
    with pytest.raises(DataError) as caught:
        cnnbench.evaluate(run)
    assert caught.value.exit_code == 66


def test_load_gives_a_module_ready_to_use(run: Path) -> None:
    module = cnnbench.load(str(run))
    assert not module.training
    assert not any(part.training for part in module.modules())
    assert {p.device.type for p in module.parameters()} == {"cpu"}
    assert module(torch.zeros(2, 1, 16, 16)).shape == (2, 3)


def test_create_model_gives_a_module_in_training_mode() -> None:
    module = cnnbench.create_model("lenet", in_channels=3, num_classes=7, activation="tanh")
    assert module.training
    assert module(torch.zeros(2, 3, 28, 28)).shape == (2, 7)
    assert any(isinstance(part, torch.nn.Tanh) for part in module.modules())
    with pytest.raises(UsageError, match="did you mean 'lenet'"):
        cnnbench.create_model("lenett")
    with pytest.raises(UsageError, match="activation"):
        cnnbench.create_model("lenet", activatoin="tanh")
    with pytest.raises(UsageError, match="image"):
        cnnbench.create_model("alexnet", image_size=16)


def test_a_path_may_be_relative_or_below_home(
    run: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parent)
    monkeypatch.setenv("HOME", str(run.parent))
    answers = [cnnbench.predict(path, images[0]) for path in (run, "run", "~/run")]
    assert answers[0] == answers[1] == answers[2]
    assert os.path.isabs(RunDir(run).path)
