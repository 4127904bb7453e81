"""The loops against loops written out by hand."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnbench.data.augment import Augment
from cnnbench.engine import Step, TrainState, evaluate, fit
from cnnbench.engine.loop import loss_of
from cnnbench.errors import NonFiniteError
from cnnbench.losses import CROSS_ENTROPY
from cnnbench.metrics import Sums
from cnnbench.models import create_model
from cnnbench.optim import build_optimizer, build_schedule
from cnnbench.optim.average import MovingAverage
from cnnbench.seeds import derive_seed

CPU = torch.device("cpu")
NUM_CLASSES = 4
OPTIMIZER_ARGS = {
    "sgd": {"momentum": 0.9},
    "adamw": {"betas": (0.9, 0.99), "eps": 1e-8},
}


def random_images(count: int = 20, size: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 1, size, size, generator=generator)
    return images, torch.arange(count) % NUM_CLASSES


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        # A bias before batch norm has no gradient but rounding, which Adam would blow up.
        nn.Conv2d(1, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(144, NUM_CLASSES),
    )


def new_state(model: nn.Module, name: str = "sgd", lr: float = 0.05) -> TrainState:
    optimizer = build_optimizer(
        name,
        model,
        lr=lr,
        weight_decay=0.01,
        decay_norms_and_biases=True,
        args=OPTIMIZER_ARGS[name],
    )
    for group in optimizer.param_groups:
        group["initial_lr"] = lr
    return TrainState(model=model, optimizer=optimizer, sums=Sums())


def batches_of(images: Tensor, targets: Tensor, batch_size: int = 6):
    """Return what gives an epoch's batches: in order, but each epoch starts one further on."""
    rows = torch.arange(len(images)).split(batch_size)

    def epoch_batches(epoch: int, first_batch: int) -> list[tuple[Tensor, Tensor]]:
        turned = [row.roll(epoch) for row in rows]
        return [(images[row], targets[row]) for row in turned[first_batch:]]

    return epoch_batches, len(rows)


def unchanged(images: Tensor, targets: Tensor, generator: torch.Generator | None):
    return images, targets


SCHEDULE = build_schedule("cosine", warmup_fraction=0.25, args={"final_factor": 0.1})


def fitted(
    state: TrainState, epoch_batches, steps: int, *, num_epochs: int = 2, prepare=unchanged, **more
):
    return fit(
        state,
        epoch_batches,
        prepare,
        SCHEDULE,
        num_steps=more.pop("num_steps", num_epochs * steps),
        steps_per_epoch=steps,
        seed=0,
        device=CPU,
        autocast=contextlib.nullcontext,
        **more,
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 4.0, 0.5, 9.0])])
@pytest.mark.parametrize("parts", [2, 3, 6])
def test_parts_of_a_batch_add_up_to_its_gradient(
    parts: int, weights: Tensor | None, smoothing: float
) -> None:
    images, targets = random_images()
    epoch_batches, steps = batches_of(images.double(), targets)
    mean = loss_of(CROSS_ENTROPY, weights=weights, label_smoothing=smoothing)
    how = {"compute_loss": mean, "class_weights": weights}

    def new() -> TrainState:
        torch.manual_seed(1)
        # Batch norm would see the parts as batches.
        return new_state(nn.Sequential(nn.Flatten(), nn.Linear(64, NUM_CLASSES)).double())

    whole, split = new(), new()
    ours = list(fitted(split, epoch_batches, steps, accumulate_steps=parts, **how))
    for one, other in zip(ours, fitted(whole, epoch_batches, steps, **how), strict=True):
        torch.testing.assert_close(one.loss, other.loss)
        torch.testing.assert_close(one.grad_norm, other.grad_norm)
    torch.testing.assert_close(split.model[1].weight, whole.model[1].weight)
    assert split.sums.read().correct == whole.sums.read().correct


@pytest.mark.parametrize("count", range(2, 12))
@pytest.mark.parametrize("parts", [2, 3, 4, 11])
def test_no_part_of_a_batch_is_one_image_alone(count: int, parts: int) -> None:
    images, targets = random_images(count)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, NUM_CLASSES), nn.BatchNorm1d(NUM_CLASSES))
    sizes: list[int] = []
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    list(fitted(new_state(model), *batches_of(images, targets, count), accumulate_steps=parts))
    assert sum(sizes) == 2 * count
    assert min(sizes) >= 2
    assert len(sizes) <= 2 * parts
    assert max(sizes) <= max(2, -(-count // parts)) + 1


def test_long_gradients_are_shortened_to_the_norm_given() -> None:
    epoch_batches, steps = batches_of(*random_images())
    clipped, plain = new_state(network(), "sgd"), new_state(network(), "sgd")
    first = next(fitted(clipped, epoch_batches, steps, clip_norm=0.01))
    next(fitted(plain, epoch_batches, steps))
    theirs = [p.grad for p in plain.model.parameters()]
    total = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in theirs]))
    torch.testing.assert_close(first.grad_norm, total)
    norms = [torch.linalg.vector_norm(p.grad) for p in clipped.model.parameters()]
    assert torch.linalg.vector_norm(torch.stack(norms)).item() == pytest.approx(0.01, rel=1e-3)


def test_a_run_may_end_within_an_epoch() -> None:
    epoch_batches, steps = batches_of(*random_images())
    state = new_state(network(), "sgd")
    ends = [step.ends_epoch for step in fitted(state, epoch_batches, steps, num_steps=steps + 1)]
    assert ends == [*(n == steps - 1 for n in range(steps)), True]
    assert (state.epoch, state.epoch_step, state.global_step) == (2, 0, steps + 1)


@pytest.mark.parametrize("name", OPTIMIZER_ARGS)
def test_training_is_the_plain_loop(name: str) -> None:
    epoch_batches, steps = batches_of(*random_images())
    ours = new_state(network(), name)
    theirs = network()
    optimizer = (
        torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
        if name == "sgd"
        else torch.optim.AdamW(theirs.parameters(), lr=0.05, betas=(0.9, 0.99), weight_decay=0.01)
    )
    run = fitted(ours, epoch_batches, steps)
    theirs.train()
    count = 0
    for epoch in (1, 2):
        loss_sum, num_correct, num_images = 0.0, 0, 0
        for images, targets in epoch_batches(epoch, 0):
            lr = 0.05 * SCHEDULE(count / (2 * steps))
            optimizer.param_groups[0]["lr"] = lr
            optimizer.zero_grad()
            logits = theirs(images)
            loss = F.cross_entropy(logits, targets)
            loss.backward()
            norm = torch.cat([p.grad.flatten() for p in theirs.parameters()]).norm()
            optimizer.step()
            count += 1
            step = next(run)
            assert step.loss.item() == pytest.approx(loss.item(), rel=1e-5)
            assert step.grad_norm.item() == pytest.approx(norm.item(), rel=1e-4)
            assert step.lr == pytest.approx(lr)
            assert (step.epoch, ours.global_step) == (epoch, count)
            for left, right in zip(ours.model.parameters(), theirs.parameters(), strict=True):
                torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)
            loss_sum += loss.item() * len(targets)
            num_correct += int((logits.argmax(1) == targets).sum())
            num_images += len(targets)
        scores = ours.sums.read()
        assert (scores.correct, scores.count) == (num_correct, num_images) == (num_correct, 20)
        assert scores.loss == pytest.approx(loss_sum / num_images, rel=1e-5)
        assert scores.accuracy == num_correct / 20
    assert next(run, None) is None


def test_the_state_is_consistent_after_every_update() -> None:
    epoch_batches, steps = batches_of(*random_images())
    state = new_state(network())
    before = copy.deepcopy(state.model.state_dict())
    places = []
    for step in fitted(state, epoch_batches, steps):
        assert isinstance(step, Step)
        places.append((state.epoch, state.epoch_step, state.global_step, step.ends_epoch))
        after = state.model.state_dict()
        assert not torch.equal(before["0.weight"], after["0.weight"])
        assert after["1.num_batches_tracked"] == state.global_step
        before = copy.deepcopy(after)
    assert steps == 4
    assert places == [
        *((0, n, n, False) for n in (1, 2, 3)),
        (1, 0, 4, True),
        *((1, n, n + 4, False) for n in (1, 2, 3)),
        (2, 0, 8, True),
    ]


def test_it_goes_on_from_any_state() -> None:
    epoch_batches, steps = batches_of(*random_images())
    whole = new_state(network(), "adamw")
    list(fitted(whole, epoch_batches, steps))
    for stop in range(1, 2 * steps):
        first = new_state(network(), "adamw")
        for _ in zip(range(stop), fitted(first, epoch_batches, steps), strict=False):
            pass
        saved = copy.deepcopy((first.model.state_dict(), first.state_dict()))
        second = new_state(network(), "adamw")
        second.load_state_dict(*saved)
        rest = list(fitted(second, epoch_batches, steps))
        assert len(rest) == 2 * steps - stop
        assert second.sums.read() == whole.sums.read()
        for name, tensor in whole.model.state_dict().items():
            assert torch.equal(tensor, second.model.state_dict()[name]), (stop, name)


def test_dropout_and_augmentation_depend_on_the_step_alone() -> None:
    images, targets = random_images()
    epoch_batches, steps = batches_of(images, targets)
    drawn: list[Tensor] = []

    def prepare(images: Tensor, targets: Tensor, generator: torch.Generator | None):
        assert generator is not None
        drawn.append(torch.rand(2, generator=generator))
        return images, targets

    def model() -> nn.Module:
        torch.manual_seed(2)
        return nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(64, NUM_CLASSES))

    quiet, noisy = new_state(model()), new_state(model())
    list(fitted(quiet, epoch_batches, steps, prepare=prepare))
    for _ in fitted(noisy, epoch_batches, steps, prepare=prepare):
        torch.rand(7)  # as a logger or an evaluation between steps might
    assert torch.equal(quiet.model[2].weight, noisy.model[2].weight)
    assert torch.equal(torch.stack(drawn[: 2 * steps]), torch.stack(drawn[2 * steps :]))
    assert len({tuple(pair.tolist()) for pair in drawn}) == 2 * steps


def test_auxiliary_heads_count_in_training_and_vanish_in_evaluation() -> None:
    torch.manual_seed(0)
    args = {"width_multiplier": 0.0625, "aux": True, "dropout": 0.0}
    model = create_model("googlenet", in_channels=1, num_classes=4, image_size=64, args=args)
    images, targets = random_images(8, 64)
    twin = copy.deepcopy(model).train()
    torch.manual_seed(derive_seed(0, "dropout", 0))  # the heads drop out in the paper's way
    main, aux = twin.forward_with_aux(images)
    assert len(aux) == 2
    expected = F.cross_entropy(main, targets) + 0.3 * sum(F.cross_entropy(a, targets) for a in aux)
    state = new_state(model)
    [step] = fitted(state, lambda epoch, first: [(images, targets)], 1, num_epochs=1)
    assert step.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert step.loss.item() > 1.5 * F.cross_entropy(main, targets).item()
    [(logits, _)] = evaluate(model, [(images, targets)], unchanged, autocast=contextlib.nullcontext)
    assert logits.shape == (8, 4)
    with torch.no_grad():
        torch.testing.assert_close(logits, model.eval()(images))


@pytest.mark.parametrize("bad", ["loss", "gradient"])
@pytest.mark.parametrize("name", OPTIMIZER_ARGS)
def test_a_number_that_is_not_finite_stops_before_the_update(bad: str, name: str) -> None:
    images, targets = random_images()
    epoch_batches, steps = batches_of(images, targets)

    class Fragile(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, x: Tensor) -> Tensor:
            logits = self.inner(x)
            if state.global_step == 2:
                if bad == "loss":
                    return logits * torch.nan
                # Finite going forward, infinite going back: the square root at 0.
                return logits + (logits * 0).sqrt()
            return logits

    model = Fragile()
    state = new_state(model, name)
    if bad == "gradient":
        for module in model.modules():
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.weight)
    run = fitted(state, epoch_batches, steps)
    next(run)
    next(run)
    weights = copy.deepcopy([p.detach() for p in model.parameters()])
    moments = copy.deepcopy(state.optimizer.state_dict()["state"])
    with pytest.raises(NonFiniteError, match=r"epoch 1, step 3.*learning rate 0\.0") as caught:
        next(run)
    assert caught.value.exit_code == 76
    assert state.global_step == 2
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
    after = state.optimizer.state_dict()["state"]
    for key, values in moments.items():
        assert all(torch.equal(values[k], after[key][k]) for k in values)


def test_the_moving_average_is_the_one_by_hand() -> None:
    epoch_batches, steps = batches_of(*random_images())
    state = new_state(network())
    state.average = MovingAverage(state.model, 0.2)
    expected: dict[str, Tensor] | None = None
    for count, _ in enumerate(fitted(state, epoch_batches, steps)):
        now = {name: value.detach().clone() for name, value in state.model.state_dict().items()}
        decay = min(0.2, (1 + count) / (10 + count))
        if expected is None:
            expected = now
        else:
            expected = {
                name: decay * expected[name] + (1 - decay) * now[name]
                if now[name].is_floating_point()
                else now[name]
                for name in now
            }
    assert expected is not None
    assert state.evaluated_model is state.average.module
    for name, value in state.evaluated_model.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)
    averaged = state.evaluated_model.state_dict()["0.weight"]
    assert not torch.allclose(averaged, state.model.state_dict()["0.weight"])


@pytest.mark.parametrize("mixing", ["mixup_alpha", "cutmix_alpha"])
def test_mixed_targets_train(mixing: str) -> None:
    images, targets = random_images()
    epoch_batches, steps = batches_of(images, targets)
    augment = Augment(**{mixing: 1.0})
    seen: list[tuple[Tensor, Tensor]] = []

    def prepare(images: Tensor, targets: Tensor, generator: torch.Generator | None):
        assert generator is not None
        seen.append(augment.mix(images, targets, NUM_CLASSES, generator))
        return seen[-1]

    state = new_state(network())
    twin = copy.deepcopy(state.model).train()
    first = next(fitted(state, epoch_batches, steps, prepare=prepare))
    mixed, soft = seen[0]
    assert soft.shape == (6, NUM_CLASSES)
    by_hand = -(soft * twin(mixed).log_softmax(1)).sum(1).mean()
    assert first.loss.item() == pytest.approx(by_hand.item(), rel=1e-5)


@pytest.mark.parametrize("mixing", ["mixup_alpha", "cutmix_alpha"])
def test_a_mixed_image_counts_for_its_heavier_class(mixing: str) -> None:
    images, targets = random_images()
    epoch_batches, steps = batches_of(images, targets)
    augment = Augment(**{mixing: 1.0})
    seen: list[tuple[Tensor, Tensor]] = []

    def prepare(images: Tensor, targets: Tensor, generator: torch.Generator | None):
        assert generator is not None
        seen.append(augment.mix(images, targets, NUM_CLASSES, generator))
        return seen[-1]

    class Knowing(nn.Module):
        """Says of each image of the batch the larger part of its mixture."""

        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            return self.scale * seen[-1][1]

    state = new_state(Knowing())
    for _ in fitted(state, epoch_batches, steps, num_epochs=1, prepare=prepare):
        pass
    scores = state.sums.read()
    assert (scores.accuracy, scores.count) == (1.0, len(targets))
    heavier = torch.cat([soft.argmax(1) for _, soft in seen])
    assert not torch.equal(heavier, targets)


def test_evaluation_is_exact_over_uneven_batches() -> None:
    images, targets = random_images(23)
    model = network()
    model.train()
    frozen = copy.deepcopy(model.state_dict())
    sums = Sums()

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(images.split(7), targets.split(7), strict=True)

    for logits, batch_targets in evaluate(
        model, batches(), unchanged, autocast=contextlib.nullcontext
    ):
        assert not logits.requires_grad
        assert not model.training
        sums.add(F.cross_entropy(logits, batch_targets, reduction="sum"), logits, batch_targets)
    assert model.training
    assert all(torch.equal(frozen[name], value) for name, value in model.state_dict().items())
    model.eval()
    losses, hits = [], 0
    with torch.no_grad():
        for image, target in zip(images, targets, strict=True):
            scores = model(image[None])[0].double()
            losses.append(float(-(scores[target] - scores.exp().sum().log())))
            hits += int(scores.argmax() == target)
    scores = sums.read()
    assert scores.accuracy == hits / 23
    assert scores.loss == pytest.approx(sum(losses) / 23, rel=1e-6)


def test_evaluation_brings_the_mode_back_when_it_is_left_early() -> None:
    images, targets = random_images()
    model = network().train()
    run = evaluate(model, [(images, targets)] * 2, unchanged, autocast=contextlib.nullcontext)
    next(run)
    assert not model.training
    run.close()
    assert model.training
