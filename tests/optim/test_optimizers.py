from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cnnbench.errors import UsageError
from cnnbench.optim import OPTIMIZERS, build_optimizer, supports_found_inf, update
from cnnbench.optim.muon import orthogonalize

FUSED = ["sgd", "sgd_nesterov", "adam", "adamw"]
# Arguments that take another way through an optimizer's step.
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "without momentum": ("sgd", {"momentum": 0.0}),
    "decoupled": ("sgd", {"decoupled_weight_decay": True}),
    "decoupled, Nesterov": ("sgd_nesterov", {"decoupled_weight_decay": True}),
}


class TorchMuon:
    """torch's Muon on the convolution, whose filters are rows, and its AdamW on the rest."""

    def __init__(self, params: Any, lr: float, wd: float) -> None:
        self.filters, *rest = params
        self.rows = nn.Parameter(self.filters.detach().flatten(1))
        self.parts = (
            torch.optim.Muon([self.rows], lr, wd, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(rest, lr, betas=(0.9, 0.95), weight_decay=wd),
        )

    def zero_grad(self) -> None:
        self.filters.grad = None
        self.parts[1].zero_grad()

    def step(self) -> None:
        self.rows.grad = self.filters.grad.flatten(1)
        for part in self.parts:
            part.step()
        self.filters.data.copy_(self.rows.data.view_as(self.filters))


# torch's own optimizer for each row, one parameter group, not fused: the oracle.
TORCH: dict[str, Any] = {
    "sgd": lambda p, lr, wd: torch.optim.SGD(
        p, lr=lr, weight_decay=wd, momentum=0.9, foreach=False
    ),
    "sgd_nesterov": lambda p, lr, wd: torch.optim.SGD(
        p, lr=lr, weight_decay=wd, momentum=0.9, nesterov=True, foreach=False
    ),
    "adam": lambda p, lr, wd: torch.optim.Adam(p, lr=lr, weight_decay=wd, foreach=False),
    "adamw": lambda p, lr, wd: torch.optim.AdamW(p, lr=lr, weight_decay=wd, foreach=False),
    "rmsprop": lambda p, lr, wd: torch.optim.RMSprop(p, lr=lr, weight_decay=wd, foreach=False),
    "muon": TorchMuon,
}
# torch's Muon multiplies in bfloat16.
TOLERANCE = {"muon": {"rtol": 0, "atol": 1e-3}}


def small_network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    # No bias before the batch norm: its gradient is rounding noise, which Adam would blow up.
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * 4 * 4, 3),
    )


def build(name: str, model: nn.Module, **changes: Any) -> torch.optim.Optimizer:
    settings: dict[str, Any] = {
        "lr": 0.01,
        "weight_decay": 0.1,
        "decay_norms_and_biases": True,
        "args": {},
    }
    return build_optimizer(name, model, **{**settings, **changes})


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, first: int = 0) -> None:
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(step)
        images = torch.randn(8, 2, 6, 6, generator=generator)
        targets = torch.randint(3, (8,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(images), targets).backward()
        optimizer.step()


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_every_row_has_an_oracle() -> None:
    assert set(TORCH) == set(OPTIMIZERS)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_equal_torchs_own_unfused_optimizer(name: str) -> None:
    ours, theirs = small_network(), small_network()
    train(ours, build(name, ours), 5)
    train(theirs, TORCH[name](theirs.parameters(), 0.01, 0.1), 5)
    assert not torch.equal(weights(ours), weights(small_network()))
    tolerance = TOLERANCE.get(name, {"rtol": 1e-5, "atol": 1e-6})
    torch.testing.assert_close(weights(ours), weights(theirs), **tolerance)


@pytest.mark.parametrize("is_nesterov", [False, True])
def test_decoupled_decay_leaves_the_momentum_alone(is_nesterov: bool) -> None:
    """The oracle is torch's SGD without decay, between whose steps weights are made smaller."""
    ours, theirs = small_network(), small_network()
    name, args = FORMS["decoupled, Nesterov" if is_nesterov else "decoupled"]
    train(ours, build(name, ours, args=args, decay_norms_and_biases=False), 5)
    plain = torch.optim.SGD(theirs.parameters(), lr=0.01, momentum=0.9, nesterov=is_nesterov)
    decayed = {id(theirs[0].weight), id(theirs[4].weight)}

    def shrink(*_: object) -> None:
        for parameter in theirs.parameters():
            if id(parameter) in decayed:
                parameter.data.mul_(1 - 0.01 * 0.1)

    plain.register_step_pre_hook(shrink)
    train(theirs, plain, 5)
    torch.testing.assert_close(weights(ours), weights(theirs), rtol=1e-5, atol=1e-6)
    coupled = small_network()
    train(coupled, build(name, coupled, decay_norms_and_biases=False), 5)
    assert not torch.allclose(weights(ours), weights(coupled), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("lacks_gradient", [False, True])
@pytest.mark.parametrize("name", [*OPTIMIZERS, *FORMS])
def test_the_short_way_to_the_kernel_updates_bit_for_bit(name: str, lacks_gradient: bool) -> None:
    name, args = FORMS.get(name, (name, {}))
    ours, theirs = small_network(), small_network()
    optimizers = [
        build(name, model, args=args, decay_norms_and_biases=False) for model in (ours, theirs)
    ]
    for step in range(4):
        draws = torch.Generator().manual_seed(step)
        images = torch.randn(8, 2, 6, 6, generator=draws)
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = 0.01 / (step + 1)
            optimizer.zero_grad()
            model(images).square().mean().backward()
            if lacks_gradient:
                model[1].bias.grad = None
        update(optimizers[0])
        optimizers[1].step()
    assert torch.equal(weights(ours), weights(theirs))
    states = [optimizer.state_dict() for optimizer in optimizers]
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_norms_and_biases_do_not_decay_unless_asked(name: str) -> None:
    model = small_network()
    model.append(nn.LayerNorm((3, 1)))
    plain = build(name, model, decay_norms_and_biases=False)
    decayed, kept = plain.param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    assert [id(p) for p in decayed["params"]] == [id(model[0].weight), id(model[4].weight)]
    assert len(kept["params"]) == 2 + 1 + 2  # batch norm, bias, two-dimensional layer norm
    everything = build(name, small_network(), decay_norms_and_biases=True)
    assert [group["weight_decay"] for group in everything.param_groups] == [0.1]


def test_weight_decay_alone_shrinks_only_the_decayed_group() -> None:
    model = small_network()
    optimizer = build("sgd", model, decay_norms_and_biases=False)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        factor = 1 - 0.01 * 0.1 if parameter.ndim > 1 else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * factor)


def test_frozen_parameters_are_left_out() -> None:
    model = small_network()
    model[0].requires_grad_(False)
    optimizer = build("adamw", model)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for part in model[1:] for p in part.parameters()}
    with pytest.raises(UsageError, match="nothing to train"):
        build("adamw", model.requires_grad_(False))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_fused_wherever_torch_has_a_fused_kernel(name: str) -> None:
    assert supports_found_inf(build(name, small_network())) == (name in FUSED)


@pytest.mark.parametrize("skipped", [0, 2])
@pytest.mark.parametrize("name", [*FUSED, *FORMS])
def test_found_inf_skips_a_step_as_if_it_had_not_been(name: str, skipped: int) -> None:
    name, args = FORMS.get(name, (name, {}))
    model, expected = small_network(), small_network()
    optimizer = build(name, model, args=args)
    for step in range(4):
        if step == skipped:
            optimizer.found_inf = torch.ones(())
            for parameter in model.parameters():
                parameter.grad = torch.full_like(parameter, float("nan"))
            optimizer.step()
            del optimizer.found_inf
        optimizer.found_inf = torch.zeros(())
        train(model, optimizer, 1, first=step)
        del optimizer.found_inf
    train(expected, build(name, expected, args=args), 4)
    torch.testing.assert_close(weights(model), weights(expected), rtol=0, atol=0)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("layouts", [(True, False), (False, True)])
def test_state_saved_in_one_memory_layout_goes_on_in_another(
    name: str, layouts: tuple[bool, bool]
) -> None:
    formats = [torch.channels_last if last else torch.contiguous_format for last in layouts]
    uninterrupted = small_network()
    train(uninterrupted, build(name, uninterrupted), 6)
    first = small_network().to(memory_format=formats[0])
    saved = build(name, first)
    train(first, saved, 3)
    second = small_network(seed=1).to(memory_format=formats[1])
    second.load_state_dict(first.state_dict())
    restored = build(name, second)
    restored.load_state_dict(saved.state_dict())
    train(second, restored, 3, first=3)
    torch.testing.assert_close(weights(second), weights(uninterrupted), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_own_arguments_reach_torch(name: str) -> None:
    own: dict[str, Any] = {
        parameter: value
        for parameter, value in {
            "momentum": 0.5,
            "betas": (0.8, 0.9),
            "eps": 1e-3,
            "alpha": 0.7,
            "centered": True,
        }.items()
        if parameter in inspect.signature(OPTIMIZERS[name]).parameters
    }
    assert own
    group = build(name, small_network(), args=own, lr=0.5).param_groups[0]
    assert {key: group[key] for key in own} == own
    assert group["lr"] == 0.5


def test_bad_values_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="did you mean 'adamw'"):
        build("adamww", small_network())
    with pytest.raises(UsageError, match="two numbers"):
        build("adam", small_network(), args={"betas": (0.9,)})
    with pytest.raises(UsageError, match="optimizer=sgd without"):
        build("sgd_nesterov", small_network(), args={"momentum": 0.0})


def test_every_optimizer_learns_with_its_defaults() -> None:
    for name in OPTIMIZERS:
        torch.manual_seed(0)
        images = torch.randn(64, 2, 6, 6)
        targets = (images.mean(dim=(1, 2, 3)) > 0).long()
        model = small_network()
        optimizer = OPTIMIZERS[name]([{"params": list(model.parameters())}])
        losses = []
        for _ in range(60):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images), targets)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.8 * losses[0], name


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_biases_may_have_a_rate_of_their_own(name: str) -> None:
    model = small_network()
    optimizer = build(name, model, decay_norms_and_biases=False, bias_lr_factor=8.0)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert {key: rates[id(parameter)] for key, parameter in model.named_parameters()} == {
        "0.weight": 0.01,
        "1.weight": 0.01,
        "1.bias": 0.08,
        "4.weight": 0.01,
        "4.bias": 0.08,
    }
    decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert [decays[id(p)] for p in model.parameters()] == [0.1, 0.0, 0.0, 0.1, 0.0]


@pytest.mark.parametrize("shape", [(3, 20, 20), (2, 8, 30), (2, 30, 8)])
def test_muons_directions_are_nearly_orthogonal(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    matrices = torch.randn(shape)
    found = orthogonalize(matrices)
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.4
    assert values.max() < 1.3
    # The singular vectors stay: what is left of the nearest orthogonal matrix is its scale.
    inner = left.mT @ found @ right.mT
    torch.testing.assert_close(inner, torch.diag_embed(inner.diagonal(dim1=1, dim2=2)),
                               rtol=0, atol=1e-4)  # fmt: skip


def test_muon_updates_equal_shapes_as_if_alone() -> None:
    together = [nn.Linear(6, 5, bias=False) for _ in range(3)]
    alone = [copy.deepcopy(layer) for layer in together]
    for layer in (*together, *alone):
        layer.weight.grad = layer.weight.detach().sin()
    heads = [nn.Parameter(torch.ones(2, 2)) for _ in range(4)]
    args = {"lr": 0.1, "weight_decay": 0.0}
    OPTIMIZERS["muon"]([{"params": [*(x.weight for x in together), heads[0]]}], **args).step()
    for layer, head in zip(alone, heads[1:], strict=True):
        OPTIMIZERS["muon"]([{"params": [layer.weight, head]}], **args).step()
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one.weight, other.weight)
