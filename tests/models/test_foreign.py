"""A network that was not written here computes in training what calling it computes."""

from __future__ import annotations

import functools
import textwrap
from pathlib import Path

import pytest
import torch
from tiny import differences, info, same, series, train, weights

import cnnbench
from cnnbench.errors import UsageError

# 3 classes of 16 x 16 grey images.
HEAD = """
import random
import types

import numpy as np
import torch
from torch import nn

class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(256, 3)

    def forward(self, x):
        return self.fc(x.flatten(1))

class Scaled(Plain):
    def forward(self, x):
        return 3 * super().forward(x)

def times(self, x):
    return 3 * self.fc(x.flatten(1))
"""

# Each computes what Scaled does.
SCALED = {
    "a hook before": """
        class Net(Plain):
            def __init__(self):
                super().__init__()
                nn.init.zeros_(self.fc.bias)
                self.register_forward_pre_hook(lambda module, args: (3 * args[0],))
        """,
    "a hook behind": """
        class Net(Plain):
            def __init__(self):
                super().__init__()
                self.register_forward_hook(lambda module, args, output: 3 * output)
        """,
    "a hook that takes one of several": """
        class Net(Plain):
            def __init__(self):
                super().__init__()
                self.register_forward_hook(lambda module, args, output: 3 * output["logits"])

            def forward(self, x):
                return {"logits": super().forward(x), "images": x}
        """,
    "a __call__": """
        class Net(Plain):
            def __call__(self, x):
                return 3 * super().__call__(x)
        """,
    "a forward of the instance": """
        def Net():
            net = Plain()
            net.forward = types.MethodType(times, net)
            return net
        """,
    "a forward named in the constructor": """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc = nn.Linear(256, 3)
                self.forward = self.other

            def other(self, x):
                return 3 * self.fc(x.flatten(1))
        """,
}


def write(folder: Path, source: str) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / "net.py"
    file.write_text(HEAD + textwrap.dedent(source))
    return file


def trained(folder: Path, source: str, *more: str) -> Path:
    file = write(folder, source)
    return train(folder / "o", "model=custom", f"model.path={file}:Net", *more)


def refused(folder: Path, source: str, *more: str) -> str:
    with pytest.raises(UsageError) as caught:
        trained(folder, source, *more)
    assert not (folder / "o").exists()
    return str(caught.value)


@pytest.mark.parametrize("how", SCALED)
def test_training_computes_what_a_call_computes(tmp_path, how):
    few = ("optimizer=sgd", "optimizer.weight_decay=0", "num_epochs=1", "optimizer.ema_decay=.9")
    source, expected = SCALED[how], "Net = Scaled"
    if how == "a hook before":  # which the bias comes behind
        expected = """
            class Net(Plain):
                def __init__(self):
                    super().__init__()
                    nn.init.zeros_(self.fc.bias)

                def forward(self, x):
                    return super().forward(3 * x)
            """
    ours, theirs = trained(tmp_path, source, *few), trained(tmp_path, expected, *few)
    losses = [series(run, "train/loss") for run in (ours, theirs)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for name, weight in weights(theirs).items():
        torch.testing.assert_close(weights(ours)[name], weight)
    code = f"{write(tmp_path, source)}:Net"
    evaluated = cnnbench.evaluate(ours, model_path=code)["accuracy"]
    assert evaluated == info(theirs)["results"]["test/accuracy"]


def test_compiled_training_computes_it_too(tmp_path, monkeypatch):
    # What is traced is the matter here; making C++ of it takes half a minute.
    eager = functools.partial(torch.compile, backend="aot_eager")
    monkeypatch.setattr(torch, "compile", eager)
    source = (
        SCALED["a hook before"]
        + """
            def __call__(self, x):
                return super().__call__(x) + x.mean((1, 2, 3))[:, None]
        """
    )
    plain, compiled = (
        series(trained(tmp_path, source, "num_epochs=1", setting), "train/loss")
        for setting in ("device.compile=false", "device.compile=true")
    )
    assert compiled == pytest.approx(plain, rel=1e-4)


UNSUITED = {
    "compiled": ("Net = lambda: torch.compile(Plain(), backend='eager')", "torch.compile"),
    "compiled within": (
        "Net = lambda: nn.Sequential(torch.compile(Plain(), backend='eager'))",
        "its part 0 is compiled",
    ),
    "TorchScript": ("Net = lambda: torch.jit.script(Plain())", "leave torch.jit away"),
    "a forward from outside": (
        """
        Net = Plain()
        before = Net.forward
        Net.forward = lambda x: before(3 * x)
        """,
        r"net.py, line \d+, in <lambda>: this forward was set on the module",
    ),
    "another module's forward": ("Net = Plain()\nNet.forward = Scaled().forward", "MethodType"),
}


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
@pytest.mark.parametrize("how", UNSUITED)
def test_what_cannot_be_looked_into_is_refused(tmp_path, how):
    source, message = UNSUITED[how]
    file = write(tmp_path, source)
    with pytest.raises(UsageError, match=message):
        train(tmp_path / "o", "model=custom", f"model.path={file}:Net")
    assert not (tmp_path / "o").exists()


OWN_NAMES = {
    "a parameter": "self.aux_weight = nn.Parameter(torch.tensor(3.0))",
    "a number": "self.aux_weight = 3.0",
    "a method": "self.aux_weight = lambda: 3",
}


@pytest.mark.parametrize("how", OWN_NAMES)
def test_a_network_may_use_the_name_of_the_weight_itself(tmp_path, how):
    used = "self.aux_weight()" if how == "a method" else "self.aux_weight"
    source = f"""
        class Net(Plain):
            def __init__(self):
                super().__init__()
                {OWN_NAMES[how]}

            def forward(self, x):
                return {used} * super().forward(x)
        """
    few = ("optimizer=sgd", "optimizer.lr=1e-30", "num_epochs=1")
    ours, theirs = trained(tmp_path, source, *few), trained(tmp_path, "Net = Scaled", *few)
    assert series(ours, "train/loss") == pytest.approx(series(theirs, "train/loss"), rel=1e-5)
    assert same(weights(ours)["fc.weight"], weights(theirs)["fc.weight"])


GROWN = {
    "alone": ("", "return self.late(x)"),
    "beside others": ("self.fc = nn.Linear(256, 256)", "return self.late(self.fc(x))"),
}


@pytest.mark.parametrize("how", GROWN)
def test_layers_made_in_forward_are_refused(tmp_path, how):
    made, used = GROWN[how]
    source = f"""
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.late = None
                {made}

            def forward(self, x):
                x = x.flatten(1)
                if self.late is None:
                    self.late = nn.Linear(x.shape[1], 3)
                {used}
        """
    said = refused(tmp_path, source)
    assert "forward makes late.weight, which would never train" in said
    assert "nn.LazyLinear" in said


def test_a_buffer_made_in_forward_is_refused_unless_no_checkpoint_has_it(tmp_path):
    source = """
        class Net(Plain):
            def forward(self, x):
                self.register_buffer("mask", torch.ones(16, 16))
                return super().forward(x * self.mask)
        """
    assert "forward makes mask" in refused(tmp_path, source)
    unsaved = source.replace("16, 16)", "16, 16), persistent=False")
    assert info(trained(tmp_path, unsaved, "num_epochs=1"))["status"] == "done"


DRAWN = {
    "Python": "random.random()",
    "NumPy": "float(np.random.rand())",
}


@pytest.mark.parametrize("where", DRAWN)
def test_a_run_repeats_and_resumes_whatever_forward_draws_from(tmp_path, where):
    source = f"""
        class Net(Plain):
            def __init__(self):
                super().__init__()
                nn.init.constant_(self.fc.weight, {DRAWN[where]})

            def forward(self, x):
                if self.training:
                    x = x * {DRAWN[where]}
                return super().forward(x)
        """
    settings = ("scheduler=constant", "optimizer=sgd")
    one, other = (trained(tmp_path / name, source, *settings) for name in ("one", "other"))
    assert not differences(one, other)
    part = trained(tmp_path / "part", source, *settings, "num_epochs=1")
    path = f"model.path={tmp_path / 'part' / 'net.py'}:Net"
    cnnbench.train([f"resume={part}", "extend_epochs=1", path])
    assert same(weights(one), weights(part))
    another = trained(tmp_path / "another", source, *settings, "seed=1")
    assert not same(weights(one), weights(another))


# What is said of a network with such an __init__ and forward; nothing where empty.
STATE = {
    "an average": (
        "self.ema = torch.zeros(256)",
        "self.ema = 0.9 * self.ema + 0.1 * x.detach().flatten(1).mean(0)",
        "ema changes in training steps",
    ),
    "an average in place": (
        "self.ema = torch.zeros(1)",
        "self.ema += x.detach().mean()",
        "ema changes in training steps",
    ),
    "an average that begins with the first batch": (
        "self.ema = None",
        "mean = x.detach().mean(); self.ema = mean if self.ema is None else self.ema / 2 + mean",
        "ema changes in training steps",
    ),
    "an array": ("self.seen = np.zeros(2)", "self.seen += 1", "seen changes in training steps"),
    "a counter": ("self.count = 0", "self.count += 1", "count changes in training steps"),
    "a counter inside": (
        "self.fc = Counting()",
        "pass",
        "fc.count changes in training steps",
    ),
    "a drawn number": ("self.scale = random.random()", "pass", "scale is drawn at random"),
    "a generator of torch": (
        "self.rng = torch.Generator()",
        "x = x * torch.rand((), generator=self.rng)",
        "rng is a generator of its own",
    ),
    "a generator of NumPy": ("self.rng = np.random.default_rng()", "pass", "rng is a generator"),
    "a buffer": (
        "self.register_buffer('ema', torch.zeros(256))",
        "self.ema = 0.9 * self.ema + 0.1 * x.detach().flatten(1).mean(0)",
        "",
    ),
    "the last features": ("self.last = None", "self.last = x.flatten(1)", ""),
    "sizes of the batch": ("self.height = 0", "self.height = x.shape[2]", ""),
    "a constant made once": (
        "self.mask = None",
        "self.mask = torch.ones(16) if self.mask is None else self.mask",
        "",
    ),
}


@pytest.mark.parametrize("how", STATE)
def test_state_that_no_checkpoint_holds_is_told(tmp_path, capsys, how):
    begin, step, message = STATE[how]
    source = f"""
        class Counting(nn.Linear):
            def __init__(self):
                super().__init__(256, 3)
                self.count = 0

            def forward(self, x):
                self.count += 1
                return super().forward(x)

        class Net(Plain):
            def __init__(self):
                super().__init__()
                {begin}

            def forward(self, x):
                if self.training:
                    {step}
                return super().forward(x)
        """
    trained(tmp_path, source, "num_epochs=1")
    said = [line for line in capsys.readouterr().err.splitlines() if "checkpoint" in line]
    if not message:
        assert not said
    else:
        assert len(said) == 1
        assert message in said[0]


COMPLEX = """
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(0.1 * torch.randn(256, 3, dtype=torch.cfloat))

        def forward(self, x):
            return (x.flatten(1).cfloat() @ self.weight){}
    """


@pytest.mark.parametrize("optimizer", ["sgd", "sgd_nesterov", "adam", "adamw", "rmsprop"])
def test_complex_parameters_train(tmp_path, optimizer):
    more = ("num_epochs=1", "optimizer.clip_norm=1", "optimizer.ema_decay=0.5")
    run = trained(tmp_path, COMPLEX.format(".abs()"), f"optimizer={optimizer}", *more)
    assert weights(run)["weight"].dtype == torch.cfloat
    assert info(run)["status"] == "done"


def test_complex_logits_are_refused(tmp_path):
    assert "gives complex numbers, expected real logits" in refused(tmp_path, COMPLEX.format(""))
