"""What a run computes: image sizes that grow, and budgets that count every phase."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import info, tiny, train

import cnnbench
from cnnbench.config.command import single_config
from cnnbench.config.compose import Composer
from cnnbench.errors import CnnbenchError
from cnnbench.training import estimates, launch
from cnnbench.training.setup import set_up

COMPOSER = Composer()
# Without a hidden layer over flattened maps; 16 is its smallest image.
AVERAGES = ("model=small_resnet", "model.widths=[4,8,8]", "data.image_size=24")


def ready(*settings: str):
    plan = launch.check(single_config(COMPOSER, COMPOSER.parse(settings)))
    return set_up(plan, launch.read(plan))


def sizes_seen(setup) -> list[int]:
    """Return the size of the images of each step, as the network saw them."""
    seen = []
    setup.state.model.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[-1]))
    for _ in setup.steps():
        pass
    return seen


def test_images_grow_over_the_first_part_of_the_run(tmp_path: Path) -> None:
    more = ("data.progressive_sizes=[16,20]", "data.progressive_fraction=0.5")
    setup = ready(*tiny(tmp_path, *AVERAGES, *more, "num_epochs=2"))
    assert setup.num_steps == 10
    assert sizes_seen(setup) == [16] * 2 + [20] * 3 + [24] * 5


def test_each_phase_counts_at_its_size(tmp_path: Path) -> None:
    more = ("data.progressive_sizes=[12]", "data.progressive_fraction=0.4", "num_epochs=2")
    run = train(tmp_path, *AVERAGES, *more)
    record = info(run)
    macs = [
        cnnbench.summary(
            [*AVERAGES, "data=synthetic", "data.num_classes=3", f"data.image_size={n}"]
        )
        for n in (12, 24)
    ]
    small, full = (found["macs"] for found in macs)
    images = 4 * 16, 2 * record["data"]["num_train"] - 4 * 16
    expected = 6e-12 * (small * images[0] + full * images[1])
    assert record["results"]["train_tflop"] == pytest.approx(expected)


def test_a_budget_buys_more_steps_on_smaller_images(tmp_path: Path) -> None:
    budget = ("budget.tflop=0.004", "num_epochs=5")
    plain = ready(*tiny(tmp_path, *AVERAGES, *budget))
    grown = ready(*tiny(tmp_path, *AVERAGES, *budget, "data.progressive_sizes=[12]"))
    assert grown.num_steps > plain.num_steps
    for setup in (plain, grown):
        assert setup.tflop(setup.num_steps) <= 0.004
        longer = setup.plan.work.tflop(setup.data, setup.num_steps + 1, setup.num_steps + 1)
        assert longer > 0.004


def test_seconds_are_timed_at_each_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = ready(*tiny(tmp_path, *AVERAGES, "data.progressive_sizes=[12,16]"))
    seconds = {12: 0.1, 16: 0.2, 24: 0.45}
    monkeypatch.setattr(estimates, "step_seconds", lambda setup, size: seconds[size])
    assert estimates.affordable_steps(setup, 30.1) == 100  # a quarter, a quarter and a half


def test_a_step_is_timed_on_images_of_its_size(tmp_path: Path) -> None:
    setup = ready(*tiny(tmp_path, *AVERAGES))
    seen: set[int] = set()
    compute = setup.compute_loss

    def watched(model, images, targets):
        seen.add(images.shape[-1])
        return compute(model, images, targets)

    setup.compute_loss = watched
    assert estimates.step_seconds(setup, 12) > 0
    assert seen == {12}
    assert setup.state.global_step == 0


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (("model=lenet", "data.progressive_sizes=[20]"), "flattens its maps"),
        (("data.progressive_sizes=[28]",), "rising sizes below data.image_size=28"),
        (("data.progressive_sizes=[20,16]",), "rising sizes below"),
        (
            ("model=nin_cifar", "data.progressive_sizes=[5]"),
            r"progressive_sizes=\[5\]: .*too small",
        ),
        (("data=diabetes", "model=linear", "loss=mse", "data.progressive_sizes=[1]"), "no sides"),
        (("data.progressive_fraction=0.2",), "set it too"),
    ],
)
def test_sizes_that_cannot_be_are_refused(settings: tuple[str, ...], reason: str) -> None:
    with pytest.raises(CnnbenchError, match=reason) as caught:
        ready(*settings)
    assert "\n" not in str(caught.value)


def test_a_run_that_grows_resumes_in_the_same_weights(tmp_path: Path) -> None:
    more = (*AVERAGES, "data.progressive_sizes=[16]", "num_epochs=2")
    whole = train(tmp_path / "whole", *more)
    with pytest.raises(cnnbench.errors.Interrupted):
        train(tmp_path / "stopped", *more, "max_seconds=1e-9")
    [stopped] = [file.parent for file in (tmp_path / "stopped").rglob("run.json")]
    cnnbench.train([f"resume={stopped}", "max_seconds=null"])
    assert info(stopped)["results"]["test/loss"] == info(whole)["results"]["test/loss"]
