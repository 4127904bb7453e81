"""Networks of torchvision by name: fitted, appended to, frozen, and given published weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import torchvision
from published import publish
from torch import nn

from cnnbench.errors import DataError, UsageError
from cnnbench.models import create_model

ARCHS = torchvision.models.list_models(module=torchvision.models)
# One of each of torchvision's classes; the others are wider or deeper.
FAMILIES = (
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "googlenet",
    "inception_v3",
    "maxvit_t",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "regnet_x_400mf",
    "resnet18",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "swin_t",
    "swin_v2_t",
    "vgg11_bn",
    "vit_b_32",
)


def build(arch="resnet18", *, in_channels=3, num_classes=10, image_size=64, meta=False, **args):
    with torch.device("meta" if meta else "cpu"):
        return create_model(
            "torchvision",
            in_channels=in_channels,
            num_classes=num_classes,
            image_size=image_size,
            args={"arch": arch, **args},
        )


def test_families_cover_every_class_of_torchvision():
    builders = {arch: torchvision.models.get_model_builder(arch) for arch in ARCHS}
    modules = {arch: builder.__module__ for arch, builder in builders.items()}
    assert {modules[arch] for arch in FAMILIES} == set(modules.values())


@pytest.mark.parametrize("arch", FAMILIES)
def test_grey_images_and_any_number_of_classes(arch):
    module = build(arch, in_channels=1, num_classes=7, image_size=224, meta=True)
    assert all(tensor.is_meta for tensor in [*module.parameters(), *module.buffers()])
    images = torch.empty(2, 1, 224, 224, device="meta")
    for mode in (True, False):
        assert module.train(mode)(images).shape == (2, 7)


def test_export_and_state_dict_round_trip():
    module = build("squeezenet1_1", in_channels=1).eval()
    images = torch.rand(3, 1, 64, 64)
    again = build("squeezenet1_1", in_channels=1).eval()
    again.load_state_dict(module.state_dict())
    batch = torch.export.Dim("batch", min=1, max=1024)
    program = torch.export.export(module, (images[:2],), dynamic_shapes=({0: batch},))
    with torch.inference_mode():
        logits = module(images)
        assert torch.equal(again(images), logits)
        torch.testing.assert_close(program.module()(images), logits)


def test_googlenet_gives_logits_alone_while_training():
    module = build("googlenet")
    assert module.train()(torch.rand(2, 3, 64, 64)).shape == (2, 10)
    assert not any("aux" in name for name in module.state_dict())


def test_a_frozen_backbone_keeps_weights_and_statistics():
    torch.manual_seed(0)
    module = build(freeze="backbone", pretrained="DEFAULT")
    trainable = [name for name, p in module.named_parameters() if p.requires_grad]
    assert trainable == ["network.fc.weight", "network.fc.bias"]
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    module.train()(torch.rand(4, 3, 64, 64)).sum().backward()
    assert all(torch.equal(before[name], t) for name, t in module.state_dict().items())
    appended = build(freeze="backbone", pretrained="DEFAULT", head="append")
    trainable = [name for name, p in appended.named_parameters() if p.requires_grad]
    assert trainable == ["appended.weight", "appended.bias"]


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Put ResNet-18's weights where torchvision looks for them."""
    torch.manual_seed(1)
    theirs = torchvision.models.resnet18(weights=None)
    return theirs, publish(monkeypatch, tmp_path, theirs.state_dict())


def test_published_weights_with_the_head_appended_give_torchvisions_logits(published):
    theirs, _ = published
    module = build(pretrained="DEFAULT", head="append").eval()
    module.load_pretrained()
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        expected = module.appended(theirs.eval()(images))
        torch.testing.assert_close(module(images), expected)


def test_published_weights_with_a_new_head_and_grey_images(published):
    theirs, _ = published
    module = build(pretrained="IMAGENET1K_V1", in_channels=1, num_classes=3).eval()
    head = module.network.fc.weight.clone()
    module.load_pretrained()
    assert torch.equal(module.network.fc.weight, head)
    grey = torch.rand(2, 1, 64, 64)
    theirs.fc = nn.Identity()
    module.network.fc = nn.Identity()
    with torch.inference_mode():
        # A grey image is a colour image whose channels are equal.
        expected = theirs.eval()(grey.expand(-1, 3, -1, -1))
        torch.testing.assert_close(module(grey), expected, rtol=1e-4, atol=1e-5)


def test_a_file_with_code_is_refused(tmp_path, monkeypatch):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    publish(monkeypatch, tmp_path, {"fc.weight": Trap()})
    with pytest.raises(DataError, match=r"resnet18-\w+\.pth: damaged"):
        build(pretrained="DEFAULT").load_pretrained()
    assert not (tmp_path / "ran").exists()


def test_a_cached_file_must_have_the_published_hash(published):
    theirs, file = published
    build(pretrained="DEFAULT").load_pretrained()
    good = file.read_bytes()
    theirs.fc.weight.data.zero_()
    torch.save(theirs.state_dict(), file)  # noqa: TID251
    for content in (file.read_bytes(), good[:-1], b""):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"resnet18-\w+\.pth: damaged, or not the weights"):
            build(pretrained="DEFAULT").load_pretrained()
        assert file.exists()


@pytest.mark.parametrize("is_sound", [True, False])
def test_weights_are_fetched_once_and_must_have_the_published_hash(
    published, is_sound, tmp_path, monkeypatch
):
    theirs, cached = published
    offered = cached.rename(tmp_path / cached.name)
    weights = torchvision.models.ResNet18_Weights.DEFAULT
    value = dataclasses.replace(weights.value, url=offered.as_uri())
    monkeypatch.setattr(weights, "_value_", value)
    module = build(pretrained="DEFAULT")
    if not is_sound:
        offered.write_bytes(offered.read_bytes() + b"more")
        with pytest.raises(DataError, match=r"cannot be fetched .*hash"):
            module.load_pretrained()
        assert list(cached.parent.iterdir()) == []
        return
    module.load_pretrained()
    assert torch.equal(module.network.conv1.weight, theirs.conv1.weight)
    assert cached.is_file()
    offered.unlink()
    build(pretrained="DEFAULT").load_pretrained()


def test_without_internet_and_cache_the_message_says_which_file_goes_where(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def fail(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("torch.hub.urlopen", fail)
    with pytest.raises(DataError) as caught:
        build(pretrained="DEFAULT").load_pretrained()
    message = str(caught.value)
    assert "https://download.pytorch.org/models/resnet18-" in message
    assert f"put it at {tmp_path}/hub/checkpoints/resnet18-" in message


def test_weights_that_do_not_fit_the_arguments(published, tmp_path, monkeypatch):
    build(pretrained="DEFAULT", args={"width_per_group": 64, "groups": 1}).load_pretrained()
    state = published[0].state_dict()
    del state["bn1.weight"]
    publish(monkeypatch, tmp_path, state)
    with pytest.raises(UsageError, match=r"the weights of resnet18 do not fit bn1\.weight"):
        build(pretrained="DEFAULT").load_pretrained()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"arch": "resnet1"}, "arch=resnet1.*did you mean 'resnet18'"),
        ({"arch": "resnet18", "pretrained": "IMAGENET1K_V9"}, "no such weights.*IMAGENET1K_V1"),
        ({"arch": "resnet18", "head": "apend"}, "did you mean 'append'"),
        ({"arch": "resnet18", "freeze": "all"}, "freeze=all"),
        ({"arch": "vgg11", "args": {"dropuot": 0.1}}, r"args\.dropuot.*did you mean 'dropout'"),
        (
            {"arch": "vgg11", "args": {"dropout": "much"}},
            r"model\.args\.dropout=much: expected a number",
        ),
        ({"arch": "resnet18", "args": {"zero_init_residual": 1}}, "=1: expected true or false"),
        ({"arch": "vgg11", "args": {"features": 1}}, "vgg11 cannot be built"),
    ],
)
def test_wrong_arguments(args, message):
    with pytest.raises(UsageError, match=message):
        build(**{"image_size": 64, **args})


def test_arguments_reach_torchvision():
    module = build("vgg11", meta=True, args={"dropout": 0.25})
    rates = {layer.p for layer in module.modules() if isinstance(layer, nn.Dropout)}
    assert rates == {0.25}


@pytest.mark.parametrize(("arch", "smallest"), [("vgg11", 32), ("alexnet", 63)])
def test_smallest_image(arch, smallest):
    assert build(arch, image_size=smallest, meta=True)
    with pytest.raises(UsageError, match=f"{arch} needs at least {smallest} x {smallest}"):
        build(arch, image_size=smallest - 1, meta=True)


def test_a_size_that_patches_do_not_divide():
    with pytest.raises(UsageError, match=r"vit_b_32 .* images of 65 x 65"):
        build("vit_b_32", image_size=65, meta=True)
