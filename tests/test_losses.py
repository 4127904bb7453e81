"""The losses against torch's own, and what a run with each of them leaves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import mean_absolute_error, r2_score
from tiny import info, series, train
from torch.nn import functional as F

import cnnbench
from cnnbench.config.groups import conf_dir
from cnnbench.engine.loop import loss_of
from cnnbench.errors import UsageError
from cnnbench.losses import LOSSES
from cnnbench.metrics import NumberSums

GIVEN = torch.randn(40, 1, generator=torch.Generator().manual_seed(0)) * 3
CLASSES = torch.arange(40) % 3 % 2
NUMBERS = GIVEN[:, 0] + torch.linspace(-1, 1, 40)


def test_each_choice_has_its_row() -> None:
    assert {path.stem for path in (conf_dir() / "loss").glob("*.yaml")} == set(LOSSES)


def test_one_logit_is_binary_cross_entropy() -> None:
    bce = LOSSES["bce"]
    outputs = bce.outputs(GIVEN)
    expected = F.binary_cross_entropy_with_logits(GIVEN[:, 0], CLASSES.float())
    torch.testing.assert_close(bce.mean(outputs, CLASSES), expected)
    torch.testing.assert_close(bce.total(outputs, CLASSES), expected * 40)
    torch.testing.assert_close(outputs.softmax(1)[:, 1], GIVEN[:, 0].sigmoid())


def test_smoothing_and_weights_act_on_one_logit_as_torch_has_them() -> None:
    weights = torch.tensor([0.5, 2.0])
    loss, _ = loss_of(LOSSES["bce"], weights=weights, label_smoothing=0.1)(
        torch.nn.Identity(), GIVEN, CLASSES
    )
    targets = CLASSES.float() * 0.9 + 0.05
    each = F.binary_cross_entropy_with_logits(
        GIVEN[:, 0], targets, weight=None, pos_weight=None, reduction="none"
    )
    # Both classes' terms have the weight of their own class, as in torch's cross_entropy.
    z = GIVEN[:, 0]
    terms = -(0.5 * (1 - targets) * F.logsigmoid(-z) + 2.0 * targets * F.logsigmoid(z))
    torch.testing.assert_close(loss, terms.sum() / weights[CLASSES].sum())
    plain, _ = loss_of(LOSSES["bce"], label_smoothing=0.1)(torch.nn.Identity(), GIVEN, CLASSES)
    torch.testing.assert_close(plain, each.mean())


def test_numbers_are_scored_as_scikit_learn_scores_them() -> None:
    mse = LOSSES["mse"]
    outputs = mse.outputs(GIVEN)
    sums = mse.sums("cpu", target_std=7.0)
    for rows in (slice(0, 13), slice(13, 40)):
        sums.add(mse.total(outputs[rows], NUMBERS[rows]), outputs[rows], NUMBERS[rows])
    scores = sums.read()
    true, found = NUMBERS.double().numpy(), outputs.double().numpy()
    assert scores.loss == pytest.approx(float(np.mean((true - found) ** 2)))
    assert scores.metrics["r2"] == pytest.approx(r2_score(true, found))
    assert scores.metrics["mae"] == pytest.approx(7 * mean_absolute_error(true, found))
    again = NumberSums(target_std=7.0)
    again.load_state_dict(sums.state_dict())
    assert again.read().metrics == scores.metrics
    assert sums.empty().read().count == 0


def test_equal_targets_have_a_defined_score() -> None:
    for error, expected in ((0.0, 1.0), (1.0, 0.0)):
        sums = NumberSums()
        sums.add(torch.tensor(0.0), torch.full((3,), 2.0 + error), torch.full((3,), 2.0))
        assert sums.read().metrics["r2"] == expected == r2_score([2.0] * 3, [2.0 + error] * 3)


def test_two_classes_train_with_one_logit(tmp_path: Path) -> None:
    run = train(
        tmp_path, "data.num_classes=2", "loss=bce", "selection=val/loss", "loss.label_smoothing=0.1"
    )
    facts = info(run)
    assert facts["model"]["num_classes"] == 1
    assert facts["data"]["num_classes"] == 2
    losses = series(run, "val/loss")
    assert facts["results"]["val/loss"] == min(losses)
    assert facts["results"]["best_epoch"] == 1 + losses.index(min(losses))
    result = cnnbench.evaluate(run)
    assert result["accuracy"] == facts["results"]["test/accuracy"]
    assert np.sum(result["confusion_matrix"]) == 30
    [row] = cnnbench.predict(run, torch.zeros(1, 1, 16, 16, dtype=torch.uint8))
    logit = cnnbench.load(run)
    assert {pair["class"] for pair in row["top"]} == {"class 0", "class 1"}
    assert logit(torch.zeros(2, 1, 16, 16)).shape == (2, 1)
    assert json.dumps(cnnbench.compare(run)["rows"])


@pytest.mark.parametrize("loss", ["bce", "mse"])
def test_a_loss_that_does_not_fit_the_classes_is_refused(loss: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"loss={loss}: .*3 classes|has 3"):
        train(tmp_path, f"loss={loss}")
    assert not list(tmp_path.iterdir())


def test_balanced_weights_are_those_of_scikit_learn(tmp_path: Path) -> None:
    from sklearn.utils.class_weight import compute_class_weight
    from tiny import tiny

    from cnnbench.config.command import single_config
    from cnnbench.config.compose import Composer
    from cnnbench.training import launch
    from cnnbench.training.setup import set_up

    composer = Composer()
    settings = tiny(tmp_path, "data.num_train=40", "loss.class_weights=balanced")
    plan = launch.check(single_config(composer, composer.parse(settings)))
    setup = set_up(plan, launch.read(plan))
    targets = setup.data.parts["train"].targets
    weights = compute_class_weight("balanced", classes=np.arange(3), y=targets.numpy())
    logits = torch.randn(len(targets), 3, generator=torch.Generator().manual_seed(1))
    loss, _ = setup.compute_loss(torch.nn.Identity(), logits, targets)
    expected = F.cross_entropy(logits, targets, torch.tensor(weights, dtype=torch.float32))
    torch.testing.assert_close(loss, expected)


def test_class_weights_weigh_a_whole_batch_whatever_its_parts(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
    labels = np.array([0, 0, 0, 1, 0, 2, 0, 0, 1, 0] * 6)
    np.savez(tmp_path / "rare.npz", x=images, y=labels)
    settings = (
        *("model=softmax", "data=npz", f"data.root={tmp_path}/rare.npz", "data.image_size=8"),
        *("device=cpu", "num_epochs=1", "optimizer=sgd", "selection=last", "data.batch_size=10"),
    )
    whole, weighed, parts = (
        cnnbench.load(
            cnnbench.train(
                [*settings, f"output_root={tmp_path}"],
                loss__class_weights=weights,
                optimizer__accumulate_steps=number,
            )
        ).state_dict()
        for weights, number in (("none", 1), ("balanced", 1), ("balanced", 3))
    )
    torch.testing.assert_close(parts, weighed)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(weighed, whole)


def test_runs_recorded_before_there_was_a_choice_have_cross_entropy() -> None:
    from cnnbench.runs.directory import open_run

    run = open_run(Path(__file__).parent / "data" / "run_v1" / "done")
    assert run.config.loss.name == "cross_entropy"
    assert run.config.loss.args == {"label_smoothing": 0.0, "class_weights": "none"}
