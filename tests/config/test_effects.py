"""Settings that others leave without effect are refused with the reason, in new runs alone."""

from __future__ import annotations

import pytest
from key_effects import COMPOSER, composed

from cnnbench.config.command import single_config
from cnnbench.config.effects import RULES
from cnnbench.config.run_config import to_tree
from cnnbench.config.settings import settings_of
from cnnbench.errors import CnnbenchError

# What leaves each rule's key without effect, and what lets it act. Of a strict rule the default is
# refused too.
RULED = {
    "model.image_size=50": ("model=alexnet data.image_size=80", "model=alexnet"),
    "model.adam_lr=0.1": ("model=nin optimizer=sgd", "model=nin"),
    "model.init=normal": ("model.weights=/a/run", ""),
    "model.zero_init=false": ("model=resnet18 model.weights=/a/run", "model=resnet18"),
    "model.whiten=true": ("model.weights=/a/run", ""),
    "model.pretrained=DEFAULT": ("model=torchvision model.weights=/a/run", "model=torchvision"),
    "model.init_layers=linear": ("", "model.init=normal"),
    "model.init_layers=linear ": ("model=vgg11 model.weights=/a/run", "model=vgg11"),
    "model.factorize=3x3": ("model=googlenet model.factorize_stages=[]", "model=googlenet"),
    "model.factorize_stages=[3]": ("model=googlenet", "model=googlenet model.factorize=3x3"),
    "model.residual_scale=0.5": ("model=googlenet", "model=googlenet model.residual=true"),
    "model.hidden=[9]": ("model=alexnet model.head=gap", "model=alexnet"),
    "model.hidden=[8]": ("model=vgg11 model.head=conv1x1", "model=mlp"),
    "model.head_size=2": ("model=vgg11 model.head=gap", "model=vgg11"),
    "model.dropout_position=before": ("model=vgg11 model.dropout=0", "model=vgg11"),
    "model.norm=hidden": ("model=mlp model.hidden=[]", "model=mlp"),
    "model.aux_weight=0.5": ("model=googlenet", "model=googlenet model.aux=true"),
    "model.dropout=0.1": ("model=alexnet_small model.head=gap", "model=alexnet_small"),
    "model.dropout=0.2": ("model=vgg11 model.hidden=[]", "model=vgg11"),
    "model.activation=tanh": ("model=mlp model.hidden=[]", "model=alexnet model.hidden=[]"),
    "data.root=/a/folder": ("data=digits", "data=mnist"),
    "data.root=/a/place": ("data=synthetic", "data=folder"),
    "data.image_size=28": ("data=diabetes", "data=mnist"),
    "loss.selection=test": ("data=diabetes loss=mse selection=last", "data=diabetes loss=mse"),
    "data.split_seed=1": ("data.val_fraction=0 selection=last", "data.limit=9"),
    "augment.crop_padding=28": ("", "data.image_size=29"),
    "augment.erase_fraction=0.5": ("augment=none", "augment=none augment.erase_probability=0.1"),
    "augment.randaugment_magnitude=3": ("augment=none", "augment.randaugment_ops=1"),
    "augment.mixup_alpha=0.5": ("data.batch_size=1", "data.batch_size=2"),
    "augment.cutmix_alpha=0.5": ("data.batch_size=1", "data.batch_size=2"),
    "data.progressive_sizes=[1]": ("data=diabetes", ""),
    "data.progressive_fraction=0.2": ("", "data.progressive_sizes=[8]"),
    "loss.label_smoothing=0.1": ("loss.teacher=/a/run loss.teacher_weight=1", ""),
    "loss.class_weights=balanced": ("loss.teacher=/a/run loss.teacher_weight=1", ""),
    "loss.teacher_weight=0.5": ("", "loss.teacher=/a/run"),
    "loss.teacher_temperature=2.5": ("", "loss.teacher=/a/run"),
    "optimizer.decay_norms_and_biases=true": ("optimizer=adam", "optimizer=adamw"),
    "optimizer.decoupled_weight_decay=true": (
        "optimizer=sgd optimizer.weight_decay=0",
        "optimizer=sgd",
    ),
    "optimizer.accumulate_steps=4": ("data.batch_size=3", "data.batch_size=4"),
    "optimizer.accumulate_steps=2": (
        "loss.teacher=/a/run loss.class_weights=balanced",
        "loss.teacher=/a/run",
    ),
    "scheduler.gamma=0.5": ("scheduler=step scheduler.milestones=[1]", "scheduler=step"),
    "scheduler.milestones=[0.2]": ("scheduler=step scheduler.gamma=1", "scheduler=step"),
    "scheduler.peak_fraction=0.5": (
        "scheduler=onecycle scheduler.warmup_fraction=1",
        "scheduler=onecycle",
    ),
    "scheduler.start_factor=0.5": (
        "scheduler=onecycle scheduler.peak_fraction=0",
        "scheduler=onecycle",
    ),
    "scheduler.final_factor=0.5": ("scheduler.warmup_fraction=1", "scheduler=linear"),
    "scheduler.final_factor=0.6": (
        "scheduler=onecycle scheduler.peak_fraction=1",
        "scheduler=onecycle",
    ),
    "eval_every_epochs=2": ("data.val_fraction=0 selection=last", "selection=last"),
    "num_epochs=7": ("budget.tflop=1", ""),
    "patience=5": ("num_epochs=5", "num_epochs=6"),
    "patience=2": ("selection=last", ""),
    "histograms_every_epochs=6": ("", "num_epochs=6"),
}


def test_every_rule_has_a_case() -> None:
    assert {rule.key for rule in RULES} == {text.partition("=")[0] for text in RULED}


@pytest.mark.parametrize("setting", RULED)
def test_what_has_no_effect_is_refused_with_the_reason(setting: str) -> None:
    beside, right = (text.split() for text in RULED[setting])
    composed(*right, setting.strip())
    with pytest.raises(CnnbenchError) as caught:
        composed(*beside, setting.strip())
    [line] = str(caught.value).splitlines()
    assert line.startswith(f"{setting.strip()}: ")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "settings",
    [
        "model=vgg16 model.weights=/a/run optimizer=sgd",  # has an init and a learning rate
        "model=resnet18 model.weights=/a/run model.zero_init=true",
        "model=alexnet model.head=gap",
        "model=googlenet model.residual_scale=1",
        "augment=none augment.erase_fraction=0.33",
        "scheduler=onecycle scheduler.peak_fraction=1",
    ],
)
def test_a_default_without_effect_is_nobodys_mistake(settings: str) -> None:
    composed(*settings.split())


@pytest.mark.parametrize("setting", ["augment=mixup", "augment=cutmix"])
def test_a_choice_that_is_mostly_without_effect_is_refused(setting: str) -> None:
    with pytest.raises(CnnbenchError, match="batch_size=1 has one"):
        composed(setting, "data=synthetic", "data.batch_size=1")


def test_a_recorded_run_keeps_what_had_no_effect() -> None:
    tree = to_tree(composed("model.weights=/a/run"))
    tree["model"]["init"] = "normal"
    tree["data"]["root"] = "/a/folder"
    settings = [*settings_of(tree), *COMPOSER.parse(["resume=/a/run"])]
    assert single_config(COMPOSER, settings).model.init == "normal"


@pytest.mark.parametrize("group", ["experiment", "debug"])
def test_what_a_preset_makes_can_be_repeated_from_its_file(group: str) -> None:
    for name in COMPOSER.groups.choices(group):
        config = composed(f"{group}={name}")
        assert single_config(COMPOSER, settings_of(to_tree(config))) == config
