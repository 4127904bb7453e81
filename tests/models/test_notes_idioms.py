"""Networks as course notes write them, each with its outcome: it trains, or a sentence teaches."""

from __future__ import annotations

import json
import math
import textwrap
from pathlib import Path

import pytest
import torch
from tiny import differences, info, same, train, weights

import cnnbench
from cnnbench.errors import UsageError

# 3 classes of 16 x 16 grey images: a 3x3 convolution leaves 14 x 14, a pool of it 7 x 7.
HEAD = """
import torch
import torch.nn.functional as F
from torch import nn
"""

# A network by name: its source, and what is said of it before the first epoch; nothing where empty.
TRAINS = {
    "view after a convolution": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv = nn.Conv2d(1, 4, 3)
                self.fc = nn.Linear(4 * 7 * 7, 3)

            def forward(self, x):
                x = F.max_pool2d(F.relu(self.conv(x)), 2)
                return self.fc(x.view(x.size(0), -1))
        """,
        "images are laid out channels first",
    ),
    "view with minus one first": (
        """
        class Net(nn.Module):
            def __init__(self, in_channels, num_classes):
                super(Net, self).__init__()
                self.pool = nn.MaxPool2d(2, 2)
                self.conv1 = nn.Conv2d(in_channels, 4, 5)
                self.fc1 = nn.Linear(4 * 6 * 6, num_classes)

            def forward(self, x):
                x = self.pool(F.relu(self.conv1(x)))
                return self.fc1(x.view(-1, 4 * 6 * 6))
        """,
        "images are laid out channels first",
    ),
    "flatten, and a constructor without arguments": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2))
                self.fc = nn.Linear(4 * 7 * 7, 3)

            def forward(self, x):
                return self.fc(torch.flatten(self.body(x), 1))
        """,
        "",
    ),
    "only the classes are asked for": (
        """
        class Net(nn.Module):
            def __init__(self, num_classes=1000, width=4):
                super().__init__()
                self.features = nn.Sequential(nn.Conv2d(1, width, 3), nn.ReLU(inplace=True))
                self.classifier = nn.Linear(width, num_classes)

            def forward(self, x):
                return self.classifier(self.features(x).mean((2, 3)))
        """,
        "",
    ),
    "a Sequential": (
        "Net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),"
        " nn.Linear(4, 3))",
        "draws its layers' weights anew from the seed",
    ),
    "a function that returns a module": (
        """
        def Net(num_classes):
            return nn.Sequential(nn.Flatten(), nn.Linear(256, 8), nn.Sigmoid(),
                                 nn.Linear(8, num_classes))
        """,
        "",
    ),
    "logits with two auxiliary ones": (
        """
        class Net(nn.Module):
            def __init__(self, num_classes):
                super().__init__()
                self.body = nn.Linear(256, 8)
                self.main, self.aux1, self.aux2 = (nn.Linear(8, num_classes) for _ in range(3))

            def forward(self, x):
                x = torch.tanh(self.body(x.flatten(1)))
                return self.main(x), self.aux1(x), self.aux2(x)
        """,
        "",
    ),
    "a named tuple in training alone": (
        """
        from collections import namedtuple
        Outputs = namedtuple("Outputs", ["logits", "aux_logits2", "aux_logits1"])

        class Net(nn.Module):
            def __init__(self, num_classes):
                super().__init__()
                self.main, self.aux = nn.Linear(256, num_classes), nn.Linear(256, num_classes)

            def forward(self, x):
                x = x.flatten(1)
                return Outputs(self.main(x), self.aux(x), None) if self.training else self.main(x)
        """,
        "",
    ),
    "a residual block": (
        """
        class Residual(nn.Module):
            def __init__(self, channels):
                super().__init__()
                self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
                self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

            def forward(self, x):
                return F.relu(x + self.conv2(F.relu(self.conv1(x))))

        class Net(nn.Module):
            def __init__(self, in_channels, num_classes):
                super().__init__()
                self.conv = nn.Conv2d(in_channels, 4, 5)
                self.block = Residual(4)
                self.fc = nn.Linear(4, num_classes)

            def forward(self, x):
                return self.fc(self.block(self.conv(x)).amax((2, 3)))
        """,
        "",
    ),
    "branches that are concatenated": (
        """
        class Net(nn.Module):
            def __init__(self, in_channels, num_classes):
                super().__init__()
                self.branches = nn.ModuleList(
                    nn.Conv2d(in_channels, 3, k, padding=k // 2) for k in (1, 3, 5))
                self.fc = nn.Linear(9, num_classes)

            def forward(self, x):
                x = torch.cat([branch(x) for branch in self.branches], dim=1)
                return self.fc(F.adaptive_avg_pool2d(x, (1, 1)).flatten(1))
        """,
        "",
    ),
    "its own loss among its layers": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.linear = nn.Linear(256, 3)
                self.criterion = nn.CrossEntropyLoss()

            def forward(self, x):
                return self.linear(x.reshape(-1, 256))
        """,
        "",
    ),
    "log-softmax on the logits, which changes nothing": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc = nn.Linear(256, 3)

            def forward(self, x):
                return F.log_softmax(self.fc(x.flatten(1)), dim=1)
        """,
        "",
    ),
    "softmax on the logits": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc = nn.Linear(256, 3)

            def forward(self, x):
                return F.softmax(self.fc(x.flatten(1)), dim=1)
        """,
        "forward ends in softmax",
    ),
    "softmax in evaluation alone": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc = nn.Linear(256, 3)

            def forward(self, x):
                x = self.fc(x.flatten(1))
                return x if self.training else x.softmax(1)
        """,
        "forward ends in softmax",
    ),
    "ReLU on the logits": (
        "Net = nn.Sequential(nn.Flatten(), nn.Linear(256, 3), nn.ReLU())",
        "forward ends in ReLU",
    ),
    "ReLU before the global average": (
        """
        Net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        """,
        "forward ends in ReLU",
    ),
    "dropout that ignores eval()": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc1, self.fc2 = nn.Linear(256, 32), nn.Linear(32, 3)

            def forward(self, x):
                return self.fc2(F.dropout(F.relu(self.fc1(x.flatten(1))), 0.5))
        """,
        "two evaluations of the same images differ, from forward on",
    ),
    "a norm of its own that ignores eval()": (
        """
        class Norm(nn.Module):
            def forward(self, x):
                return (x - x.mean(0)) / (x.var(0) + 1e-5).sqrt()

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc1, self.norm, self.fc2 = nn.Linear(256, 8), Norm(), nn.Linear(8, 3)

            def forward(self, x):
                return self.fc2(torch.relu(self.norm(self.fc1(x.flatten(1)))))
        """,
        "depend on the other images of its batch, from norm (Norm) on",
    ),
    "batch norm without running statistics": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.bn, self.fc = nn.BatchNorm2d(1, track_running_stats=False), nn.Linear(256, 3)

            def forward(self, x):
                return self.fc(self.bn(x).flatten(1))
        """,
        "depend on the other images of its batch, from bn (BatchNorm2d) on",
    ),
    "softmax over the batch inside": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc1, self.fc2 = nn.Linear(256, 8), nn.Linear(8, 3)

            def forward(self, x):
                return self.fc2(4 * F.softmax(self.fc1(x.flatten(1)), dim=0))
        """,
        "depend on the other images of its batch, from forward on",
    ),
    "a layer that is never called": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc1, self.fc2, self.fc3 = nn.Linear(256, 8), nn.Linear(8, 8), nn.Linear(8, 3)
                self.drop = nn.Dropout(0.5)

            def forward(self, x):
                return self.fc3(F.relu(self.fc1(x.flatten(1))))
        """,
        "forward never calls fc2 (Linear), drop (Dropout)",
    ),
    ".data where a weight is used": (
        """
        class Own(nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = nn.Parameter(torch.randn(256, 8) / 16)

            def forward(self, x):
                return x @ self.weight.data

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.own, self.fc = Own(), nn.Linear(8, 3)

            def forward(self, x):
                return self.fc(self.own(x.flatten(1)))
        """,
        "no gradient reaches own.weight",
    ),
    "all weights alike": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc1, self.fc2 = nn.Linear(256, 8), nn.Linear(8, 3)
                for parameter in self.parameters():
                    nn.init.constant_(parameter, 0.01)

            def forward(self, x):
                return self.fc2(torch.sigmoid(self.fc1(x.flatten(1))))
        """,
        "all classes get the same logits",
    ),
    "a network that is dead from the start": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc1, self.fc2 = nn.Linear(256, 8), nn.Linear(8, 3)
                nn.init.constant_(self.fc1.bias, -1e3)

            def forward(self, x):
                return self.fc2(F.relu(self.fc1(x.flatten(1))))
        """,
        "all images get the same logits",
    ),
    "a last layer of zeros, which learns": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc1, self.fc2 = nn.Linear(256, 8), nn.Linear(8, 3)
                nn.init.zeros_(self.fc2.weight)
                nn.init.zeros_(self.fc2.bias)

            def forward(self, x):
                return self.fc2(torch.relu(self.fc1(x.flatten(1))))
        """,
        "",
    ),
    "weights that are too large": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc = nn.Linear(256, 3)
                nn.init.normal_(self.fc.weight, 0, 2)

            def forward(self, x):
                return self.fc(x.flatten(1))
        """,
        "log(3) = 1.10 is that of a network that knows nothing",
    ),
    "lazy layers, auxiliary logits among them": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.body = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.ReLU())
                self.fc, self.aux = nn.LazyLinear(3), nn.LazyLinear(3)

            def forward(self, x):
                x = self.body(x).flatten(1)
                return (self.fc(x), self.aux(x)) if self.training else self.fc(x)
        """,
        "",
    ),
    "a lazy Sequential": (
        "Net = nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))",
        "is a module, not a class",
    ),
    "layers in a plain list": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.hidden = [nn.Linear(256, 8), nn.ReLU()]
                self.fc = nn.Linear(8, 3)

            def forward(self, x):
                x = x.flatten(1)
                for layer in self.hidden:
                    x = layer(x)
                return self.fc(x)
        """,
        "uses weights of shape (8, 256), (8,) that are not the network's own",
    ),
    "a layer made inside forward": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv = nn.Conv2d(1, 2, 3)

            def forward(self, x):
                x = self.conv(x).flatten(1)
                return nn.Linear(x.shape[1], 3)(x)
        """,
        "layers made inside forward",
    ),
}

# A network by name: its source, and what the refusal says.
REFUSED = {
    "made for other images": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv, self.fc = nn.Conv2d(1, 4, 5), nn.Linear(4 * 24 * 24, 3)

            def forward(self, x):
                return self.fc(self.conv(x).flatten(1))
        """,
        r"it takes images of 1 x 28 x 28, so set data\.image_size=28",
    ),
    "a lazy layer that forward never calls": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc, self.other = nn.LazyLinear(3), nn.LazyLinear(3)

            def forward(self, x):
                return self.fc(x.flatten(1))
        """,
        r"forward never calls other, which takes its size from its first images",
    ),
    "a lazy layer behind one for colour": (
        "Net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(3))",
        r"fails on images of shape \(1, 16, 16\).*to have 3 channels",
    ),
    "made for colour": (
        "Net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(784, 3))",
        r"it takes images of 3 x 16 x 16\. To fit any data, write it with in_channels",
    ),
    "squeeze, which takes a batch of one image away": (
        """
        class Net(nn.Module):
            def __init__(self, num_classes):
                super().__init__()
                self.conv = nn.Conv2d(1, num_classes, 3)

            def forward(self, x):
                return F.adaptive_avg_pool2d(self.conv(x), (1, 1)).squeeze()
        """,
        r"gives \(\) for one image.*x\.squeeze\(\) takes a batch of one image away",
    ),
    "values that forward looks at": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc = nn.Linear(256, 3)

            def forward(self, x):
                return self.fc(x.flatten(1)) / max(1, x.max().item())
        """,
        r"expected a forward that does not ask for the values of tensors",
    ),
    "made for ten classes": (
        "Net = nn.Sequential(nn.Flatten(), nn.Linear(256, 10))",
        r"gives \(2, 10\) for 2 images, expected \(2, 3\).*write it with num_classes",
    ),
    "the batch folded into the features": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv, self.fc = nn.Conv2d(1, 4, 3), nn.Linear(98, 3)

            def forward(self, x):
                return self.fc(self.conv(x).contiguous().view(-1, 98))
        """,
        r"gives 16 rows of logits for 2 images.*folds the batch.*x\.flatten\(1\)",
    ),
    "all features averaged away": (
        """
        class Net(nn.Module):
            def __init__(self, num_classes):
                super().__init__()
                self.fc = nn.Linear(256, num_classes)

            def forward(self, x):
                return self.fc(x.flatten(1)).mean(0, keepdim=True)
        """,
        r"gives 1 row of logits for 2 images",
    ),
    "a forward without return": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc = nn.Linear(256, 3)

            def forward(self, x):
                self.fc(x.flatten(1))
        """,
        "forward returns None: it lacks its return",
    ),
    "features beside the logits": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc1, self.fc2 = nn.Linear(256, 8), nn.Linear(8, 3)

            def forward(self, x):
                x = self.fc1(x.flatten(1))
                return self.fc2(x), x
        """,
        r"forward returns tensors of shapes \(2, 3\) and \(2, 8\).*return the logits alone",
    ),
    "logits cut off from the weights": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc = nn.Linear(256, 3)

            def forward(self, x):
                return torch.tensor(self.fc(x.flatten(1)).tolist())
        """,
        "no parameter gets a gradient",
    ),
    "a layer that returns a module": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc = nn.Linear(256, 3)

            def forward(self, x):
                return nn.ReLU(self.fc(x.flatten(1)))
        """,
        "forward returns ReLU, expected a tensor of logits",
    ),
    "super() of another class": (
        """
        class Other(nn.Module):
            pass

        class Net(nn.Module):
            def __init__(self):
                super(Other, self).__init__()
                self.fc = nn.Linear(256, 3)
        """,
        "its constructor fails with no arguments: .*net.py, line 11, in __init__: TypeError",
    ),
    "super() forgotten": (
        """
        class Net(nn.Module):
            def __init__(self):
                self.fc = nn.Linear(256, 3)
        """,
        r"its constructor fails .*__init__\(\) call",
    ),
    "an argument without default": (
        """
        class Net(nn.Module):
            def __init__(self, in_channels, num_classes, hidden):
                super().__init__()
        """,
        r"give model\.args\.hidden=VALUE, which has no default",
    ),
    "a function that returns nothing": (
        "def Net(num_classes): nn.Linear(256, num_classes)",
        r"returns NoneType, expected a torch\.nn\.Module",
    ),
    "a loop that trains at import": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc = nn.Linear(256, 3)

            def forward(self, x):
                return self.fc(x.flatten(1))

        open("ran", "a").write("x")
        model = Net()
        for epoch in range(2):
            loss = model(torch.rand(1, 1, 16, 16)).sum()
            loss.backward()
        """,
        r'line \d+: the file trains when it is imported \(loss\.backward\).*__name__ == "__main__"',
    ),
    "a function that trains, called at import": (
        """
        open("ran", "a").write("x")
        def step(loss):
            loss.backward()

        def train(model):
            step(model(torch.rand(1, 256)).sum())

        Net = nn.Sequential(nn.Flatten(), nn.Linear(256, 3))
        train(Net)
        """,
        r"line \d+: the file trains when it is imported \(train\)",
    ),
}


def write(folder: Path, source: str) -> str:
    file = folder / "net.py"
    file.write_text(HEAD + textwrap.dedent(source))
    return f"model.path={file}:Net"


@pytest.mark.parametrize("name", TRAINS)
def test_it_trains(name, tmp_path, capsys):
    source, said = TRAINS[name]
    run = train(tmp_path, "model=custom", write(tmp_path, source), "num_epochs=1")
    captured = capsys.readouterr()
    assert info(run)["status"] == "done"
    before_epoch = captured.out.partition("epoch 1/1")[0]
    told = [*captured.err.splitlines(), *before_epoch.splitlines()]
    told = [line for line in told if "model=custom: " in line or "is a module" in line]
    if said:
        assert any(said in line for line in told), told
    else:
        assert not told


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_with_what_to_write(name, tmp_path, monkeypatch):
    source, message = REFUSED[name]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message):
        train(tmp_path / "outputs", "model=custom", write(tmp_path, source))
    assert not (tmp_path / "outputs").exists()
    assert not (tmp_path / "ran").exists()


def test_a_guarded_file_and_one_that_only_acts_at_import_run_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = """
    with open("ran", "a") as file:
        file.write("x")
    def Net(num_classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(256, num_classes))
    if __name__ == "__main__":
        Net(3)(torch.rand(1, 1, 16, 16)).sum().backward()
    """
    path = write(tmp_path, source)
    run = train(tmp_path, "model=custom", path, "num_epochs=1")
    cnnbench.evaluate(run, model_path=path.removeprefix("model.path="))
    assert (tmp_path / "ran").read_text() == "x"


def test_the_layout_is_recorded_and_taken_again(tmp_path):
    path = write(tmp_path, TRAINS["view after a convolution"][0])
    settings = ("model=custom", path, "scheduler=constant", "optimizer=adam")
    whole = train(tmp_path / "whole", *settings)
    process = json.loads((whole / "run.json").read_text())["provenance"]["processes"][-1]
    assert process["effective"]["channels_last"] is False
    assert info(whole)["model"]["takes_channels_last"] is False
    code = path.removeprefix("model.path=")
    accuracy = cnnbench.evaluate(whole, model_path=code)["accuracy"]
    assert accuracy == info(whole)["results"]["test/accuracy"]
    assert len(cnnbench.predict(whole, torch.zeros(2, 1, 16, 16).byte(), model_path=code)) == 2
    part = train(tmp_path / "part", *settings, "num_epochs=1")
    assert cnnbench.train([f"resume={part}", "extend_epochs=1", path]) == part
    assert same(weights(whole), weights(part))
    with pytest.raises(UsageError, match=r"device\.channels_last=true: .*x\.flatten\(1\)"):
        train(tmp_path, *settings, "device.channels_last=true")


def test_a_plain_network_stays_channels_last(tmp_path):
    path = write(tmp_path, TRAINS["a residual block"][0])
    run = train(tmp_path, "model=custom", path, "num_epochs=1")
    process = info(run)["provenance"]["processes"][-1]
    assert process["effective"]["channels_last"] is True


def test_auxiliary_logits_train_with_their_weight(tmp_path):
    """The auxiliary heads learn, and with weight 0 they keep what they began with."""
    path = write(tmp_path, TRAINS["logits with two auxiliary ones"][0])
    settings = ("model=custom", path, "num_epochs=1", "optimizer=sgd", "optimizer.weight_decay=0")
    started, off, on, more = (
        cnnbench.load(
            train(tmp_path, *settings, *setting), model_path=path.removeprefix("model.path=")
        ).state_dict()
        for setting in (
            ("optimizer.lr=1e-30",),
            ("model.aux_weight=0",),
            (),
            ("model.aux_weight=0.9",),
        )
    )
    assert torch.equal(off["aux1.weight"], started["aux1.weight"])
    assert not torch.equal(off["main.weight"], started["main.weight"])
    moved = [(state["aux2.weight"] - started["aux2.weight"]).norm() for state in (on, more)]
    assert 0 < moved[0] < moved[1]
    plain = write(tmp_path, TRAINS["a residual block"][0])
    with pytest.raises(UsageError, match=r"model\.aux_weight=0\.5: has no effect"):
        train(tmp_path, "model=custom", plain, "model.aux_weight=0.5")


def test_a_module_begins_anew_with_each_seed(tmp_path):
    path = write(tmp_path, TRAINS["a Sequential"][0])
    still = ("model=custom", path, "num_epochs=1", "optimizer=sgd", "optimizer.lr=1e-30")
    states = [
        cnnbench.load(
            train(tmp_path, *still, f"seed={seed}"), model_path=path.removeprefix("model.path=")
        ).state_dict()["0.weight"]
        for seed in (0, 1, 0)
    ]
    assert torch.equal(states[0], states[2])
    assert not torch.equal(states[0], states[1])


def test_looking_at_the_first_batch_leaves_training_as_it_was(tmp_path, monkeypatch):
    """The same network, once looked at and once not: the same bits."""
    source = """
    def Net(num_classes):
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3),
                             nn.Flatten(), nn.Linear(784, num_classes))
    """
    settings = ("model=custom", write(tmp_path, source), "optimizer=adam")
    looked_at = train(tmp_path, *settings)
    monkeypatch.setattr("cnnbench.training.first_batch.findings", lambda setup: [])
    assert differences(looked_at, train(tmp_path, *settings)) == []


def test_a_network_of_torchvision_is_a_network_of_ones_own(tmp_path):
    """GoogLeNet gives GoogLeNetOutputs in training: the loss is that of torchvision's reference."""
    source = """
    from torchvision.models import GoogLeNet
    def Net(num_classes):
        return GoogLeNet(num_classes, aux_logits=True, init_weights=False)
    """
    from torchvision.models import GoogLeNetOutputs

    from cnnbench.engine.loop import training_loss
    from cnnbench.models.custom import load_custom

    path = write(tmp_path, source).removeprefix("model.path=")
    model = load_custom(path).constructor(in_channels=3, num_classes=4, image_size=64)
    images, targets = torch.rand(3, 3, 64, 64), torch.tensor([0, 3, 1])
    torch.manual_seed(0)
    loss, logits = training_loss(model.train(), images, targets)
    torch.manual_seed(0)
    theirs = type(model).__mro__[1].forward(model, images)
    assert isinstance(theirs, GoogLeNetOutputs)
    parts = [torch.nn.functional.cross_entropy(part, targets).item() for part in theirs]
    assert loss.item() == pytest.approx(parts[0] + 0.3 * (parts[1] + parts[2]), rel=1e-4)
    torch.testing.assert_close(logits, theirs.logits)
    assert model.eval()(images).shape == (3, 4)
    assert math.isfinite(loss.item())


SIGMOIDS = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.sigmoid = nn.Linear(30, 6), nn.Linear(6, 1), nn.Sigmoid()

    def forward(self, x):
        return self.sigmoid(self.fc2(self.sigmoid(self.fc1({x}))))
"""


def test_the_notes_network_of_a_table_is_told_how_rows_come(tmp_path):
    path = write(tmp_path, SIGMOIDS.format(x="x"))
    with pytest.raises(UsageError, match=r"come as \(N, 30, 1, 1\): begin it with x = x.flatten"):
        cnnbench.train(["data=breast_cancer", "loss=bce", "model=custom", path])


def test_a_sigmoid_before_the_binary_loss_is_told(tmp_path, capsys):
    path = write(tmp_path, SIGMOIDS.format(x="x.flatten(1)"))
    words = ["data=breast_cancer", "loss=bce", "model=custom", path, "num_epochs=1"]
    cnnbench.train([*words, f"output_root={tmp_path}"])
    told = capsys.readouterr().err
    assert told.count("model=custom: ") == 1
    assert "ends in sigmoid: loss=bce takes a raw logit and applies sigmoid itself" in told


@pytest.mark.parametrize(
    ("data", "columns", "loss"), [("breast_cancer", 30, "bce"), ("diabetes", 10, "mse")]
)
def test_a_network_of_ones_own_on_a_table(data, columns, loss, tmp_path, capsys):
    path = write(tmp_path, f"Net = nn.Sequential(nn.Flatten(), nn.Linear({columns}, 1))")
    words = [f"data={data}", f"loss={loss}", "model=custom", path, "num_epochs=1"]
    run = cnnbench.train([*words, f"output_root={tmp_path}"])
    assert run.status == "done"
    assert "model=custom: " not in capsys.readouterr().err
