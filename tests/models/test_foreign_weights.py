"""`model.weights` from anyone's file: what fits is taken, and the rest is said or refused."""

from __future__ import annotations

import pickle
import re
import struct
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from tiny import same, tiny, train, weights
from torch import nn

from cnnbench.cli.main import run as cli
from cnnbench.errors import CheckpointError, UsageError
from cnnbench.models import create_model

# So small a learning rate leaves the weights as they start.
STILL = ("num_epochs=1", "optimizer.lr=1e-30", "optimizer=sgd", "optimizer.weight_decay=0")


class Whole(nn.Module):
    """A network that is pickled whole."""


def basic_cnn(num_classes=3) -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    return dict(
        create_model(
            "basic_cnn", in_channels=1, num_classes=num_classes, image_size=16
        ).state_dict()
    )


def prefixed(state, prefix):
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


# How people save a state dict, by what is special about it.
FORMS = {
    "plain": lambda state: state,
    "ordered": OrderedDict,
    "under model": lambda state: {"model": state, "epoch": 3, "args": {"lr": 0.1}},
    "under net": lambda state: {"net": state, "acc": 0.9},
    "under state_dict": lambda state: {"state_dict": state, "best": 1.0},
    "under model_state_dict": lambda state: {
        "epoch": 1,
        "model_state_dict": state,
        "optimizer_state_dict": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": []},
    },
    "DataParallel": lambda state: prefixed(state, "module."),
    "compiled": lambda state: prefixed(state, "_orig_mod."),
    "both, nested": lambda state: {"state_dict": prefixed(state, "module._orig_mod.")},
    "a part compiled": lambda state: {
        name.replace("conv1.", "conv1._orig_mod."): tensor for name, tensor in state.items()
    },
    "Lightning": lambda state: {"state_dict": prefixed(state, "model.")},
    "AveragedModel": lambda state: {"n_averaged": torch.tensor(3), **prefixed(state, "module.")},
    "half precision": lambda state: {name: tensor.half() for name, tensor in state.items()},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("is_legacy", [False, True])
def test_a_plain_state_dict_is_taken_whole(form, is_legacy, tmp_path):
    from cnnbench.config.command import single_config
    from cnnbench.config.compose import Composer
    from cnnbench.training.data import describe_data
    from cnnbench.training.network import build_model, describe_network, load_initial_weights

    state = basic_cnn()
    file = tmp_path / "theirs.pth"
    torch.save(FORMS[form](state), file, _use_new_zipfile_serialization=not is_legacy)  # noqa: TID251
    composer = Composer()
    config = single_config(composer, composer.parse(tiny(tmp_path, f"model.weights={file}")))
    facts = describe_data(config)
    network = describe_network(config, facts)
    model = build_model(config, network)
    note = load_initial_weights(model, config, network, facts.class_names)
    assert note == (
        "model.weights: the file does not name its classes, so that its last layer is taken as it "
        "is: head.weight, head.bias"
    )
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, state[name], atol=1e-3, rtol=1e-2)


def test_safetensors(tmp_path, capsys):
    state = basic_cnn()
    file = tmp_path / "theirs.safetensors"
    save_file(prefixed(state, "module."), file)
    run = train(tmp_path, f"model.weights={file}", *STILL)
    assert same(weights(run), state)
    file.write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    assert cli(["train", *tiny(tmp_path, f"model.weights={file}")]) == 65
    assert "theirs.safetensors: damaged" in capsys.readouterr().err


def test_without_safetensors_a_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "safetensors", None)
    file = tmp_path / "theirs.safetensors"
    file.write_bytes(b"x")
    with pytest.raises(UsageError, match=r"pip install 'cnnbench\[safetensors\]'"):
        train(tmp_path, f"model.weights={file}")


def test_other_classes_get_a_new_head(tmp_path, capsys):
    state = basic_cnn(num_classes=7)
    file = tmp_path / "theirs.pth"
    torch.save(state, file)  # noqa: TID251
    run = train(tmp_path, f"model.weights={file}", *STILL)
    said = capsys.readouterr().out
    assert "made for 7 classes; starts from random weights: head.weight, head.bias" in said
    ours = weights(run)
    assert all(same(ours[name], state[name]) for name in state if not name.startswith("head"))
    plain = weights(train(tmp_path, *STILL))
    assert same(ours["head.weight"], plain["head.weight"])


class Marker:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def refused(folder: Path) -> dict[str, tuple[object, str]]:
    """Return what a file holds, by name, and the message that says why it is not taken."""
    state = basic_cnn()
    less = {name: tensor for name, tensor in state.items() if name != "conv2.bias"}
    return {
        "a whole module": (Whole(), r"whole pickled module.*torch\.save\(model\.state_dict\(\)"),
        "code": ({"model": state, "x": Marker(folder / "ran")}, "could run code"),
        "a list": ([1, 2], "holds list, expected a state dict"),
        "no weights": ({"epoch": 3, "lr": 0.1}, "holds no weights, but epoch, lr"),
        "nothing": ({}, "holds no weights, but nothing"),
        "one is missing": (less, r"5 of 6 tensors fit.*conv2\.bias is absent, here \(20,\)"),
        "one is too many": (
            {**state, "conv3.weight": torch.zeros(1)},
            r"6 of 6 tensors fit; these do not: conv3\.weight is \(1,\), here absent",
        ),
        "other layers": (
            dict(create_model("lenet", in_channels=1, num_classes=3, image_size=28).state_dict()),
            r"\d of 6 tensors fit; these do not: .*, here ",
        ),
        "another image size": (
            dict(
                create_model("basic_cnn", in_channels=1, num_classes=5, image_size=28).state_dict()
            ),
            r"5 of 6 tensors fit; these do not: head\.weight is \(5, 320\), here \(3, 20\)",
        ),
        "whole numbers": (
            {name: tensor.long() for name, tensor in state.items()},
            "0 of 6 tensors fit",
        ),
        "a sparse tensor": (
            {**state, "head.bias": torch.zeros(3).to_sparse()},
            "holds no weights",
        ),
        "a tensor that is larger than its memory": (
            {**state, "head.weight": torch.zeros(1).expand(3, 1 << 28)},
            "larger than what it stores",
        ),
    }


@pytest.mark.parametrize("name", refused(Path()))
def test_what_does_not_fit_is_refused(name, tmp_path):
    content, message = refused(tmp_path)[name]
    file = tmp_path / "theirs.pth"
    torch.save(content, file)  # noqa: TID251
    with pytest.raises(CheckpointError, match=message):
        train(tmp_path / "outputs", f"model.weights={file}")
    assert not (tmp_path / "outputs").exists()
    assert not (tmp_path / "ran").exists()


def test_a_bare_pickle_is_never_run(tmp_path):
    file = tmp_path / "theirs.pkl"
    file.write_bytes(pickle.dumps(Marker(tmp_path / "ran")))
    with pytest.raises(CheckpointError):
        train(tmp_path / "outputs", f"model.weights={file}")
    assert not (tmp_path / "ran").exists()


# Ours, with the arguments that make it torchvision's, and the prefix of its names in ours.
PEERS = {
    "resnet18": ("model=resnet18", "model.stem=imagenet"),
    "mobilenet_v2": ("model=mobilenet_v2", "model.stem=imagenet"),
    "densenet121": ("model=densenet121", "model.stem=imagenet"),
    "vgg11_bn": ("model=vgg11", "model.norm=conv", "model.head_size=7"),
    "alexnet": (
        "model=alexnet",
        "model.conv_channels=[64,192,384,256,256]",
        "model.padding=2",
        "data.image_size=224",
    ),
}


# What only `pytest -m slow` tests: some .5 GB of weights each.
LARGE = ("vgg11_bn", "alexnet")


@pytest.mark.parametrize(
    "arch",
    [pytest.param(arch, marks=pytest.mark.slow if arch in LARGE else ()) for arch in PEERS],
)
def test_torchvisions_files_fit_our_networks(arch, tmp_path, monkeypatch):
    """The logits of both are the same, but for the head, which is for other classes."""
    from cnnbench.config.command import single_config
    from cnnbench.config.compose import Composer
    from cnnbench.training.data import describe_data
    from cnnbench.training.network import build_model, describe_network, load_initial_weights

    with torch.device("meta"):
        theirs = torchvision.models.get_model(arch, weights=None, num_classes=12)
    generator = torch.Generator().manual_seed(0)
    state = {
        name: torch.rand(t.shape, generator=generator) * (24 / t[0].numel() if t.ndim > 1 else 1)
        if t.is_floating_point()
        else torch.zeros(t.shape, dtype=t.dtype)
        for name, t in theirs.state_dict().items()
    }
    # As old published files are: without counters, DenseNet's with one point more.
    file = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    if arch == "densenet121":
        file = {
            re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", k): v for k, v in file.items()
        }
    if arch == "resnet18":
        file = {"epoch": 3, "state_dict": prefixed(file, "module._orig_mod.")}
    path = tmp_path / f"{arch}.pth"
    torch.save(file, path)  # noqa: TID251
    composer = Composer()
    settings = [*PEERS[arch], f"model.weights={path}", "data=synthetic", "data.in_channels=3"]
    settings += ["data.num_classes=12"]
    if arch != "alexnet":
        settings += ["data.native_size=32"]
    config = single_config(composer, composer.parse(settings))
    facts = describe_data(config)
    network = describe_network(config, facts)
    model = build_model(config, network)
    note = load_initial_weights(model, config, network, facts.class_names)
    assert note is not None
    assert "torchvision's names, matched by their order" in note
    theirs.load_state_dict(state, assign=True)
    images = torch.rand(2, 3, config.data.image_size, config.data.image_size)
    with torch.inference_mode():
        expected, logits = theirs.eval()(images), model.eval()(images)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"layer2.0.conv1.weight": None},
            r"121 of 122 tensors fit; these do not: stages\.1\.0\.conv1\.weight is absent",
        ),
        (
            {"extra.weight": torch.zeros(3)},
            r"122 of 122 tensors fit; these do not: extra\.weight is \(3,\), here absent",
        ),
    ],
)
def test_what_torchvisions_file_lacks_is_named(change, message, tmp_path):
    state = {**torchvision.models.resnet18(num_classes=3).state_dict(), **change}
    state = {name: tensor for name, tensor in state.items() if tensor is not None}
    file = tmp_path / "theirs.pth"
    torch.save(prefixed(state, "module."), file)  # noqa: TID251
    settings = ("model=resnet18", "model.stem=imagenet", f"model.weights={file}")
    with pytest.raises(CheckpointError, match=message):
        train(tmp_path / "outputs", *settings)


def test_grey_images_see_the_sum_over_colours(tmp_path, capsys):
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(num_classes=5)
    file = tmp_path / "resnet18.pth"
    torch.save({"state_dict": theirs.state_dict()}, file)  # noqa: TID251
    small = ("data.num_train=20", "data.num_test=6", "data.batch_size=8", "data.native_size=32")
    settings = ("model=resnet18", "model.stem=imagenet", f"model.weights={file}", *small, *STILL)
    ours = list(weights(train(tmp_path, *settings)).values())
    assert same(ours[0], theirs.conv1.weight.detach().sum(1, keepdim=True))
    said = capsys.readouterr().out
    assert "is summed over the colours" in said
    assert "made for 5 classes; starts from random weights" in said


def folder_of(root: Path, names: list[str]) -> str:
    from PIL import Image

    for index, name in enumerate(names):
        for number in range(8):
            file = root / name / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (16, 16), 20 * number + index).save(file)
    return f"data.root={root}"


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a", "b", "c"], ""),
        (["shirt", "dress", "bag"], "made for other classes (class 0 was 'a' and is 'bag')"),
        (["c", "b", "a", "d"], "made for 3 classes"),
    ],
)
def test_class_names_decide_whether_the_head_is_taken(names, said, tmp_path, capsys):
    own = ("data=folder", "model=basic_cnn", "num_epochs=1", "data.batch_size=8")

    def go(*more: str) -> Path:
        import cnnbench

        settings = [*own, "data.image_size=16", "device=cpu", f"output_root={tmp_path / 'o'}"]
        return cnnbench.train([*settings, *more])

    first = go(folder_of(tmp_path / "first", ["a", "b", "c"]))
    capsys.readouterr()
    second = go(folder_of(tmp_path / "second", names), f"model.weights={first}", *STILL)
    out = capsys.readouterr().out
    taken = same(weights(second)["head.bias"], weights(first, "best")["head.bias"])
    assert taken == (not said)
    assert said in out
    assert ("starts from random weights: head.weight, head.bias" in out) == bool(said)


def test_another_order_of_the_same_classes_is_another_head():
    from cnnbench.training.initial_weights import InitialWeights, head_note

    state = basic_cnn()
    head = ["head.weight", "head.bias"]
    takes, note = head_note(InitialWeights(state, ("a", "b", "c")), state, head, ["a", "c", "b"])
    assert not takes
    assert "the same classes in another order (class 1 was 'b' and is 'c')" in note


def test_the_head_of_code_that_is_made_for_one_number_of_classes(tmp_path, capsys):
    code = (
        "from torch import nn\n"
        "Net = nn.Sequential(nn.Flatten(), nn.Linear(256, 8), nn.ReLU(), nn.Linear(8, 3))\n"
    )
    (tmp_path / "net.py").write_text(code)
    theirs = nn.Sequential(nn.Flatten(), nn.Linear(256, 8), nn.ReLU(), nn.Linear(8, 9))
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")  # noqa: TID251
    path = f"model.path={tmp_path / 'net.py'}:Net"
    settings = ("model=custom", path, f"model.weights={tmp_path / 'theirs.pth'}", *STILL)
    ours = weights(train(tmp_path, *settings))
    assert same(ours["1.weight"], theirs[1].weight.detach())
    assert "made for 9 classes; starts from random weights: 3.weight, 3.bias" in (
        capsys.readouterr().out
    )
