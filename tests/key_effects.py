"""How the effect of each key is observed, as a table; see ``test_every_key_acts.py``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from published import publish
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import TINY, info, records
from torch import nn
from torch.utils.data import DataLoader

import cnnbench
from cnnbench.config.command import single_config
from cnnbench.config.compose import Composer
from cnnbench.config.run_config import RunConfig
from cnnbench.data import DATASETS
from cnnbench.data.readers.sources import data_root, locations
from cnnbench.device.device import configure
from cnnbench.engine.loop import training_loss
from cnnbench.errors import Interrupted
from cnnbench.models.build import build_meta
from cnnbench.runs.checkpoint import Checkpoints
from cnnbench.sweeps.jobs import expand
from cnnbench.training import launch
from cnnbench.training.data import build_augment, describe_data, read_splits
from cnnbench.training.network import build_model, describe_network, load_initial_weights
from cnnbench.training.setup import optimizer_of, schedule_of, set_up

COMPOSER = Composer()


def composed(*settings: str) -> RunConfig:
    return single_config(COMPOSER, COMPOSER.parse(settings))


def content(value: Any) -> Any:
    """Return a value that ``==`` compares by content."""
    if isinstance(value, torch.Tensor):
        return value.dtype, value.shape, value.detach().contiguous().numpy().tobytes()
    if isinstance(value, dict):
        return {key: content(part) for key, part in value.items()}
    return [content(part) for part in value] if isinstance(value, (list, tuple)) else value


# How an effect is observed: from a config, and a folder to write to.


def structure(config: RunConfig, _: Path) -> Any:
    """The layers, their shapes, what is trainable, and what it costs."""
    network = describe_network(config, describe_data(config))
    module = build_meta(network.name, config.model.args, **network.sizes)
    parameters = [(p.shape, p.requires_grad) for p in module.parameters()]
    return repr(module), parameters, network.macs, network.receptive_field


def logits(config: RunConfig, _: Path) -> Any:
    """What the network says of two images."""
    network = describe_network(config, describe_data(config))
    model = build_model(config, network)
    size = config.data.image_size
    images = torch.linspace(-1, 1, 2 * network.in_channels * size**2)
    with torch.no_grad():
        return model(images.view(2, network.in_channels, size, size))


def loss(config: RunConfig, _: Path) -> Any:
    """What training makes smaller."""
    network = describe_network(config, describe_data(config))
    model = build_model(config, network)
    torch.manual_seed(0)
    images = torch.rand(2, network.in_channels, config.data.image_size, config.data.image_size)
    return training_loss(model, images, torch.tensor([0, 1]))[0]


def beginning(config: RunConfig, _: Path) -> Any:
    """The weights that training begins with."""
    return build_model(config, describe_network(config, describe_data(config))).state_dict()


def norms(config: RunConfig, _: Path) -> Any:
    """The first weights of the norms alone; the others are left as memory has them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.init, "kaiming_uniform_", lambda tensor, *args, **keywords: tensor)
        model = build_model(config, describe_network(config, describe_data(config)))
    return [m.weight for m in model.modules() if isinstance(m, nn.BatchNorm2d)]


def rate(config: RunConfig, _: Path) -> Any:
    """The base learning rate."""
    return optimizer_of(config, nn.Linear(1, 1)).param_groups[0]["lr"]


def size(config: RunConfig, _: Path) -> Any:
    """Pixels of a side of the network's input."""
    return read_splits(config, print).prepare(torch.zeros(1, 1, 8, 8).byte(), torch.zeros(1))[0]


def batches(config: RunConfig, _: Path) -> Any:
    """Two epochs of training batches, and the other splits, as the network sees them."""
    splits = read_splits(config, print)
    loader = splits.train_batches(1, 0)
    if isinstance(loader, DataLoader):
        return loader.num_workers
    seen = [splits.prepare(*batch) for part in ("val", "test") for batch in splits.batches(part)]
    for epoch in (1, 2):
        seen += [splits.prepare(*batch) for batch in splits.train_batches(epoch, 0)]
    return seen, splits.mean


def searched(config: RunConfig, _: Path) -> Any:
    """Where the files of a data set are looked for."""
    row = DATASETS[config.data.name]
    if row.published is None:
        return batches(config, _)
    root = Path(config.data.root) if config.data.root else None
    return [location.paths for location in locations(row.published, data_root(root))]


def named(config: RunConfig, _: Path) -> Any:
    """The classes that are told apart."""
    return describe_data(config).class_names


def augmented(config: RunConfig, _: Path) -> Any:
    """A training batch after augmentation and mixing."""
    generator = torch.Generator().manual_seed(0)
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (40, 1, 16, 16), np.uint8))
    augment = build_augment(config)
    changed = augment.images(images, generator)
    return augment.mix(changed.float(), torch.arange(40) % 3, 3, generator)


def trained(config: RunConfig, _: Path) -> Any:
    """The weights after a few steps."""
    plan = launch.check(config)
    setup = set_up(plan, launch.read(plan))
    for _step in setup.steps():
        pass
    return setup.state.evaluated_model.state_dict()


def selected(config: RunConfig, _: Path) -> Any:
    """What an epoch is selected on."""
    return config.selection


def prepared(config: RunConfig, _: Path) -> Any:
    """The weights that training begins with, once it has seen images."""
    plan = launch.check(config)
    return set_up(plan, launch.read(plan)).state.model.state_dict()


def rates(config: RunConfig, _: Path) -> Any:
    """The learning rate over the run."""
    return [schedule_of(config)(at / 50) for at in range(50)]


def computed(config: RunConfig, _: Path) -> Any:
    """What computes, in which precision and layout, and with which kernels."""
    threads = torch.get_num_threads()
    # As on a CPU that gains, whatever this one is.
    plan = replace(launch.check(config), suits_winograd=True)
    configure(plan.device, config.device.num_threads)
    effective = torch.get_num_threads()
    torch.set_num_threads(threads)
    model = set_up(plan, launch.read(plan)).state.model
    kinds = [type(module).__name__ for module in model.modules()]
    return plan.precision.name, plan.channels_last, effective, kinds


def left(config: RunConfig, folder: Path) -> Any:
    """What a run leaves: saves, files, numbers, results, and what TensorBoard shows."""
    saved: list[str] = []
    save = Checkpoints.save

    def told(self: Checkpoints, name: str, *args: Any, **keywords: Any) -> None:
        saved.append(name)
        save(self, name, *args, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", told)
        try:
            run = launch.start(config, ["a", "test"]).path
        except Interrupted:
            return "interrupted"
    kept = sorted(path.name for path in run.rglob("*.pt*"))
    unlike = ("train_seconds", "selection")
    results = {k: v for k, v in info(run)["results"].items() if k not in unlike}
    histograms = EventAccumulator(str(run)).Reload().Tags()["histograms"]
    is_elsewhere = run.is_relative_to(folder / "elsewhere")
    return is_elsewhere, saved, kept, records(run), results, histograms


def referred(config: RunConfig, folder: Path) -> Any:
    """What compare shows beside the run's own result."""
    return cnnbench.compare(launch.start(config, ["a", "test"]).path)["rows"][0]["reference"]


def published(config: RunConfig, folder: Path) -> Any:
    """The weights that training begins with, where some were published."""
    network = describe_network(config, describe_data(config))
    with pytest.MonkeyPatch.context() as patch:
        publish(patch, folder, torchvision.models.resnet18().state_dict())
        model = build_model(config, network)
        load_initial_weights(model, config, network, ())
    return model.state_dict()


def resumed(config: RunConfig, _: Path) -> Any:
    """Whether training ends in the directory of the run that was named."""
    return config.resume and cnnbench.train([f"resume={config.resume}"]) == Path(config.resume)


def directory(config: RunConfig, _: Path) -> Any:
    """The directory of a sweep."""
    named = [f"sweep.name={config.sweep.name}"] if config.sweep.name else []
    return expand(COMPOSER, COMPOSER.parse(["seed=0,1", *named])).name


FOLD = ("data.num_folds=3", "data.fold=0")


@dataclass(frozen=True)
class Row:
    """How a key's effect is observed.

    Attributes:
        observe: returns something that differs.
        values: the first that is not the choice's own is tried.
        beside: settings without which the key has no effect, or takes long to observe.
    """

    observe: Callable[[RunConfig, Path], Any]
    values: tuple[str, ...]
    beside: tuple[str, ...] = ()


NARROW = "model.width_multiplier=1/8"
_ON = ("true", "false")
GROWING = ("model=small_resnet", "model.widths=[4,4,4]", "data.image_size=16", "num_epochs=1")
# The data of the earlier run.
LEARNED = (*TINY, "model=softmax", "num_epochs=1")
ROWS: dict[str, Row] = {
    **{
        f"model.{key}": Row(structure, values)
        for key, values in {
            "activation": ("tanh",),
            "arch": ("mobilenet_v2",),
            "args": ("{width_per_group:32}", "{width:3}"),
            "aux": _ON,
            "conv_channels": ("[8,8,8]",),
            "dilation": ("2",),
            "dropout": ("0.7",),
            "dropout_position": ("before",),
            "factorize": ("3x3", "asymmetric_pad_first"),
            "final_relu": _ON,
            "groups": ("2",),
            "growth_rate": ("8",),
            "head": ("gap", "conv1x1", "append"),
            "head_size": ("2",),
            "hidden": ("[8]",),
            "norm": ("conv", "hidden", "none"),
            "padding": ("0",),
            "path": ("{folder}/other.py:MyNet",),
            "pool": ("avg",),
            "residual": _ON,
            "stem": ("imagenet",),
            "stem_stride": ("1",),
            "stride_in_1x1": _ON,
            "width_multiplier": ("1/2",),
            "widths": ("[8,8,8]",),
        }.items()
    },
    "model.image_size": Row(size, ("101",)),
    "model.adam_lr": Row(rate, ("0.0007",)),
    "model.factorize_stages": Row(structure, ("[3]",), ("model.factorize=3x3",)),
    "model.freeze": Row(structure, ("backbone",), ("model.pretrained=DEFAULT",)),
    "model.pretrained": Row(published, ("DEFAULT",)),
    "model.init": Row(beginning, ("xavier_uniform", "normal")),
    "model.init_layers": Row(beginning, ("linear",), ("model.init=normal",)),
    "model.aux_weight": Row(loss, ("0.7",), ("model.aux=true", NARROW)),
    "model.pool_ceil_mode": Row(structure, _ON, ("model.stem=imagenet",)),
    "model.residual_scale": Row(logits, ("0.5",), ("model.residual=true", NARROW)),
    "model.weights": Row(left, ("{run}",)),
    "model.zero_init": Row(norms, _ON),
    "data.root": Row(searched, ("{folder}/other",)),
    **{
        f"data.{key}": Row(batches, values)
        for key, values in {
            "batch_size": ("1",),
            "delimiter": ("tab",),
            "header": ("true",),
            "target": ("1",),
            "test_root": ("{folder}/table.csv",),
            "data_seed": ("1",),
            "drop_last": _ON,
            "image_size": ("9",),
            "in_channels": ("1", "2"),
            "limit": ("12",),
            "native_size": ("9",),
            "normalize": ("none",),
            "num_classes": ("4",),
            "num_test": ("11",),
            "num_train": ("47",),
            "num_workers": ("1",),
            "shuffle": _ON,
            "split_by": ("position",),
            "val_fraction": ("0.3",),
        }.items()
    },
    "data.path": Row(batches, ("{folder}/mydata.py:other",)),
    "data.split": Row(named, ("balanced",)),
    "data.num_folds": Row(batches, ("4",), FOLD),
    "data.fold": Row(batches, ("1",), FOLD),
    "data.split_seed": Row(batches, ("5",), ("data.val_fraction=0.3",)),
    **{
        f"augment.{key}": Row(augmented, values)
        for key, values in {
            "brightness": ("0.3",),
            "contrast": ("0.5",),
            "crop_padding": ("3",),
            "cutmix_alpha": ("0.5",),
            "erase_fraction": ("0.9",),
            "erase_probability": ("0.7",),
            "flip": _ON,
            "mixup_alpha": ("0.5",),
            "randaugment_ops": ("1",),
            "rotate_degrees": ("20",),
        }.items()
    },
    "augment.randaugment_magnitude": Row(augmented, ("25",), ("augment.randaugment_ops=2",)),
    "model.whiten": Row(prepared, _ON),
    **{
        f"optimizer.{key}": Row(trained, values)
        for key, values in {
            "accumulate_steps": ("3",),
            "alpha": ("0.5",),
            "bias_lr_factor": ("8",),
            "betas": ("[0.5,0.6]",),
            "centered": _ON,
            "clip_norm": ("0.01",),
            "ema_decay": ("0.9",),
            "eps": ("0.01",),
            "lr": ("0.02",),
            "momentum": ("0.5",),
            "weight_decay": ("0.3",),
        }.items()
    },
    "data.progressive_sizes": Row(trained, ("[8,12]",), GROWING),
    "data.progressive_fraction": Row(trained, ("0.9",), (*GROWING, "data.progressive_sizes=[8]")),
    "loss.class_weights": Row(trained, ("balanced",)),
    "loss.teacher": Row(trained, ("{run}",), LEARNED),
    "loss.teacher_weight": Row(trained, ("0.4",), (*LEARNED, "loss.teacher={run}")),
    "loss.teacher_temperature": Row(trained, ("1.5",), (*LEARNED, "loss.teacher={run}")),
    "loss.selection": Row(selected, ("last",)),
    "loss.label_smoothing": Row(trained, ("0.3",)),
    **{
        f"optimizer.{key}": Row(trained, _ON, ("optimizer.weight_decay=0.3",))
        for key in ("decay_norms_and_biases", "decoupled_weight_decay")
    },
    **{
        f"scheduler.{key}": Row(rates, values)
        for key, values in {
            "final_factor": ("0.2",),
            "gamma": ("0.3",),
            "milestones": ("[0.2]",),
            "peak_fraction": ("0.6",),
            "start_factor": ("0.3",),
            "warmup_fraction": ("0.4",),
        }.items()
    },
    "device.precision": Row(computed, ("bf16",)),
    "device.num_threads": Row(computed, ("31",)),
    "device.channels_last": Row(computed, ("false",)),
    "device.winograd": Row(
        computed,
        ("false",),
        ("model=vgg11", "model.width_multiplier=1/32", "data.image_size=32"),
    ),
    "device.compile": Row(computed, _ON, ("model=lenet", "data.native_size=28")),
    "budget.tflop": Row(left, ("1e-6",), ("num_epochs=5",)),
    "budget.seconds": Row(left, ("1e-9",), ("num_epochs=5",)),
    "reference.source": Row(referred, ("someone",)),
    **{
        f"reference.{key}": Row(referred, (value,), ("reference.source=someone",))
        for key, value in {
            "test_accuracy": "0.9",
            "train_accuracy": "0.9",
            "num_epochs": "3",
            "epoch_seconds": "7.5",
        }.items()
    },
    "patience": Row(left, ("1",), ("optimizer.lr=1e-9",)),
    "checkpoint.keep_last": Row(left, ("1",)),
    "eval_every_epochs": Row(left, ("2",)),
    "histograms_every_epochs": Row(left, ("1",)),
    "log_every_steps": Row(left, ("2",)),
    "max_seconds": Row(left, ("1e-9",)),
    "num_epochs": Row(left, ("1",)),
    "output_root": Row(left, ("{folder}/elsewhere",)),
    "profile_steps": Row(left, ("1",)),
    "save_every_steps": Row(left, ("2",)),
    "seed": Row(left, ("1",)),
    "selection": Row(left, ("test",)),
    "evaluate_test": Row(left, ("false",)),
    "tuning.trials": Row(left, ("7",)),
    "tuning.seconds": Row(left, ("7",)),
    "extend_epochs": Row(left, ("1",)),
    "resume": Row(resumed, ("{run}",)),
    "sweep.name": Row(directory, ("mine",)),
}
# Keys of another package's data set, which no shipped one has.
FOREIGN = {"data.args"}

# What makes each group's choices small and quick to observe; a row's own settings win.
BESIDE: dict[str, tuple[str, ...]] = {
    "model": ("data=synthetic", "data.image_size=99", "optimizer=adam"),
    "data": ("data.image_size=8", "data.batch_size=5"),
    "augment": ("data=synthetic",),
    "loss": (),
    "optimizer": (*TINY, "model=softmax", "num_epochs=1"),
    "scheduler": (),
    "device": TINY[:-3],
    "": (*TINY, "num_epochs=3", "output_root={folder}/outputs"),
}
# The data sets of other sizes are what their YAML says.
CHOSEN: dict[str, tuple[str, ...]] = {
    "mse": ("data=diabetes", "model=linear", "data.image_size=1"),
    "csv": ("data.root={folder}/table.csv", "data.image_size=1"),
    "data=custom": ("data.path={folder}/mydata.py:make",),
    "npz": ("data.root={folder}/images.npz",),
    "hours_to_pass": ("data.image_size=1", "data.batch_size=2"),
    "breast_cancer": ("data.image_size=1",),
    "diabetes": ("data.image_size=1",),
    # Of other counts in each class, which weights act on.
    "cross_entropy": (*TINY, "model=softmax", "num_epochs=1", "data.num_train=79"),
    "bce": (
        *(*TINY, "model=softmax", "num_epochs=1"),
        *("data.num_classes=2", "data.num_train=81"),
    ),
    "custom": ("model.path={folder}/mynet.py:MyNet",),
    "folder": ("data.root={folder}/images",),
    # The head's weights are AdamW's, and softmax has no others.
    "muon": ("model=basic_cnn",),
    "synthetic": (
        "data.num_train=40",
        "data.num_test=10",
        "data.num_classes=3",
        "data.native_size=8",
    ),
}
