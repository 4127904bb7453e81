"""Distillation: what a student learns from a run, what that costs, and who may teach whom."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from tiny import TINY, info, tiny, train
from torch import nn

import cnnbench
from cnnbench.config.command import single_config
from cnnbench.config.compose import Composer
from cnnbench.engine.loop import loss_of
from cnnbench.errors import CnnbenchError
from cnnbench.losses import CROSS_ENTROPY
from cnnbench.training import launch
from cnnbench.training.setup import set_up
from cnnbench.training.teacher import distilled

COMPOSER = Composer()
OWN = [setting for setting in TINY if setting.startswith("data.")]
STUDENT = ("model=softmax", "num_epochs=1")


def ready(*settings: str):
    plan = launch.check(single_config(COMPOSER, COMPOSER.parse(settings)))
    return set_up(plan, launch.read(plan))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("teacher"), "num_epochs=1", "seed=5")


def test_the_loss_is_hintons() -> None:
    draw = np.random.default_rng(0)
    student, taught = draw.normal(size=(2, 6, 4))
    targets, temperature, weight = draw.integers(0, 4, 6), 3.0, 0.7
    compute = distilled(
        loss_of(CROSS_ENTROPY),
        lambda images: torch.from_numpy(taught),
        weight=weight,
        temperature=temperature,
    )
    found, _ = compute(nn.Identity(), torch.from_numpy(student), torch.from_numpy(targets))
    p, q = (log_softmax(logits / temperature, axis=1) for logits in (taught, student))
    distance = (np.exp(p) * (p - q)).sum(axis=1).mean()
    plain = -log_softmax(student, axis=1)[np.arange(6), targets].mean()
    expected = (1 - weight) * plain + weight * temperature**2 * distance
    assert found.item() == pytest.approx(expected, rel=1e-6)


def test_the_teacher_is_asked_as_it_evaluates(teacher: Path, tmp_path: Path) -> None:
    """The student's input is another size and scale; the teacher gets what it was trained on."""
    more = ("data.normalize=none", "augment=none", f"loss.teacher={teacher}")
    setup = ready(*tiny(tmp_path, *STUDENT, *more))
    raw, targets = setup.data.first_images(8)
    images, _ = setup.data.prepare(raw, targets)
    asked = []

    def spy(module, args):
        asked.append(args[0])

    handle = nn.modules.module.register_module_forward_pre_hook(spy)
    try:
        setup.compute_loss(setup.state.model, images, targets)
    finally:
        handle.remove()
    own = ready(*tiny(tmp_path)).data.prepare(raw, targets)[0]
    assert any(x.shape == own.shape and torch.allclose(x, own, atol=1e-5) for x in asked)


def test_the_teacher_keeps_its_weights_and_the_student_comes_nearer(
    teacher: Path, tmp_path: Path
) -> None:
    more = (*STUDENT, "num_epochs=20", "selection=last", "optimizer.lr=0.01")
    before = [file.read_bytes() for file in sorted((teacher / "checkpoints").iterdir())]
    taught = train(tmp_path / "taught", *more, f"loss.teacher={teacher}", "loss.teacher_weight=1")
    plain = train(tmp_path / "plain", *more)
    after = [file.read_bytes() for file in sorted((teacher / "checkpoints").iterdir())]
    assert before == after
    images = torch.from_numpy(cnnbench.load_data("synthetic", OWN).train.images).float() / 255
    images = (images - images.mean()) / images.std()
    with torch.no_grad():
        wanted, learned, other = (
            cnnbench.load(run)(images).log_softmax(1) for run in (teacher, taught, plain)
        )

    def distance(found: torch.Tensor) -> float:
        return nn.functional.kl_div(found, wanted, reduction="batchmean", log_target=True).item()

    assert distance(learned) < distance(other)


def test_its_training_and_its_passes_are_work(teacher: Path, tmp_path: Path) -> None:
    run = train(tmp_path, *STUDENT, f"loss.teacher={teacher}")
    record, taught = info(run), info(teacher)
    own = 6 * record["model"]["macs"] + 2 * taught["model"]["macs"]
    expected = taught["results"]["train_tflop"] + 1e-12 * own * record["data"]["num_train"]
    assert record["results"]["train_tflop"] == pytest.approx(expected)


def test_the_teachers_hash_is_part_of_the_run(teacher: Path, tmp_path: Path) -> None:
    other = train(tmp_path / "other", "num_epochs=1", "seed=6")
    runs = [
        train(tmp_path / str(n), *STUDENT, f"loss.teacher={t}")
        for n, t in enumerate((teacher, other))
    ]
    keys = {info(run)["provenance"]["run_key"] for run in runs}
    assert len(keys) == 2
    rows = cnnbench.compare(runs)["rows"]
    assert len(rows) == 2


def test_who_cannot_teach_is_refused(teacher: Path, tmp_path: Path) -> None:
    def refused(reason: str, *more: str) -> None:
        with pytest.raises(CnnbenchError, match=reason) as caught:
            ready(*tiny(tmp_path, *STUDENT, *more))
        assert "\n" not in str(caught.value)

    named = f"loss.teacher={teacher}"
    refused("other classes", named, "data.num_classes=4")
    refused("3 channels|1 channels", named, "data.in_channels=3")
    refused("not a run", "loss.teacher=/no/where")
    refused("the training of loss.teacher", named, "budget.tflop=1e-9", "num_epochs=5")
    refused("has no effect: there is no teacher", "loss.teacher_weight=0.5")
    refused("leaves the targets out", named, "loss.teacher_weight=1", "loss.label_smoothing=.1")


def test_a_run_that_is_not_finished_cannot_teach(teacher: Path, tmp_path: Path) -> None:
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    record = json.loads((teacher / "run.json").read_text())
    (unfinished / "run.json").write_text(json.dumps({**record, "status": "interrupted"}))
    with pytest.raises(CnnbenchError, match="is interrupted; expected a finished one"):
        ready(*tiny(tmp_path, *STUDENT, f"loss.teacher={unfinished}"))
