"""Every key of every choice, set to another value, changes something or is refused by its name.

``ROWS`` says of each key how its effect is observed; a new key without a row fails here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from key_effects import (
    BESIDE,
    CHOSEN,
    COMPOSER,
    FOREIGN,
    NARROW,
    ROWS,
    beginning,
    composed,
    content,
)
from PIL import Image
from shipped import shipped
from tiny import train

from cnnbench.config.groups import conf_dir
from cnnbench.config.run_config import GROUPS, all_keys
from cnnbench.config.settings import leaves
from cnnbench.data import DATASETS
from cnnbench.data.arrays import DatasetArrays, ImageArrays
from cnnbench.errors import CnnbenchError

# The keys of train.yaml, and what shows each: a run, or the group's own observer.
COMMON = {
    "model.init": "lenet",
    "model.init_layers": "lenet",
    "model.whiten": "lenet",
    "optimizer.accumulate_steps": "adamw",
    "optimizer.bias_lr_factor": "adamw",
    "optimizer.clip_norm": "sgd",
    "data.limit": "synthetic",
    "data.progressive_sizes": "synthetic",
    "data.progressive_fraction": "synthetic",
    "loss.teacher": "cross_entropy",
    "loss.teacher_weight": "cross_entropy",
    "loss.teacher_temperature": "cross_entropy",
    "optimizer.ema_decay": "adamw",
}


def cases() -> list[tuple[str, str]]:
    """Return every key with each choice that has it; keys of the whole run with none."""
    found = [
        (f"{group}.{key}", name)
        for group in GROUPS
        for name in COMPOSER.groups.choices(group)
        for key in shipped(group, name)
        # The other devices' keys are those of the processor, which is here.
        if key != "name" and name not in ("cuda", "mps")
    ]
    tree = yaml.safe_load((conf_dir() / "train.yaml").read_text(encoding="utf-8"))
    del tree["defaults"]
    return found + [(key, COMMON.get(key, "")) for key, _ in leaves(tree)]


CASES = cases()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of what some choices need: images, networks, and a run."""
    root = tmp_path_factory.mktemp("given")
    draw = np.random.default_rng(0)
    for part in ("images", "other"):
        for index in range(36):
            path = root / part / "abc"[index % 3] / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw.integers(0, 256, (8, 8, 3), np.uint8)).save(path)
    code = (
        "from torch import nn\n"
        "class MyNet(nn.Sequential):\n"
        "    def __init__(self, in_channels, num_classes, image_size, width=2):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(image_size**2 * in_channels, width),\n"
        "                         nn.{act}(), nn.Linear(width, num_classes))\n"
    )
    several = "    def forward(self, x):\n        x = super().forward(x)\n        return x, x\n"
    rows = "".join(f"{i % 4},{i},{i % 3}\n" for i in range(5, 35))
    (root / "table.csv").write_text(rows)
    images = draw.integers(0, 256, (60, 8, 8), np.uint8)
    np.savez(root / "images.npz", x=images, y=np.arange(60) % 3)
    (root / "mydata.py").write_text(
        "import numpy as np\n"
        "x = np.random.default_rng(0).integers(0, 256, (60, 8, 8)).astype(np.uint8)\n"
        "def other(root=None): return (x if root is None else x // 2)[::-1], np.arange(60) % 3\n"
        "def make(root=None): return x if root is None else x // 2, np.arange(60) % 3\n"
    )
    (root / "mynet.py").write_text(code.replace("{act}", "ReLU") + several)
    (root / "other.py").write_text(code.replace("{act}", "Tanh"))
    train(root / "earlier", "num_epochs=1", "seed=7")
    return root


@pytest.fixture
def published_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the data sets that would be fetched a few images of noise."""
    from cnnbench.data import shared

    read_dataset = shared.read_dataset

    def read_small(name: str, **keywords: Any) -> DatasetArrays:
        if DATASETS[name].published is None:
            return read_dataset(name, **keywords)
        facts = DATASETS[name].facts(None, keywords["args"])
        shape = facts.in_channels, facts.image_size, facts.image_size
        draw = np.random.default_rng(0)
        train, test = (
            ImageArrays(draw.integers(0, 256, (n, *shape), np.uint8), np.arange(n) % 10)
            for n in (64, 20)
        )
        channels = facts.in_channels
        means = facts.mean or (0.5,) * channels, facts.std or (0.5,) * channels
        return DatasetArrays(train, test, facts.class_names, *means, sha256="0", source="noise")

    monkeypatch.setattr(shared, "read_dataset", read_small)


def settings_for(key: str, choice: str) -> list[str]:
    """Return the settings beside which a key is observed."""
    group = key.partition(".")[0] if choice else ""
    own = [f"{group}={choice}"] if choice else []
    # Another choice may have the key without those that it needs elsewhere.
    keys = shipped(group, choice) if choice else {}
    beside = [
        s
        for s in ROWS[key].beside
        if not s.startswith(f"{group}.") or s.partition("=")[0].partition(".")[2] in keys
    ]
    chosen = CHOSEN.get(f"{group}={choice}", CHOSEN.get(choice, ()))
    settings = [*BESIDE[group], *own, *chosen, *beside]
    if ROWS[key].observe is beginning and "width_multiplier" in shipped(group, choice):
        settings.append(NARROW)
    return [s for s in settings if key != "model.image_size" or "image_size" not in s]


def test_every_key_has_a_row() -> None:
    groups = {*GROUPS, "budget", "checkpoint", "reference", "sweep", "tuning"}
    every = all_keys().keys() - groups - {f"{group}.name" for group in GROUPS} - FOREIGN
    assert every == ROWS.keys() == {key for key, _ in CASES}


def test_the_devices_that_may_be_absent_have_the_same_keys() -> None:
    keys = [shipped("device", name).keys() for name in COMPOSER.groups.choices("device")]
    assert all(one == keys[0] for one in keys)


@pytest.mark.usefixtures("published_data")
@pytest.mark.parametrize(("key", "choice"), CASES)
def test_another_value_acts_or_is_refused(key: str, choice: str, folder: Path) -> None:
    [run] = (file.parent for file in (folder / "earlier").rglob("run.json"))

    def filled(text: str) -> str:
        return text.replace("{folder}", str(folder)).replace("{run}", str(run))

    row = ROWS[key]
    settings = list(map(filled, settings_for(key, choice)))
    config = composed(*settings)
    before = content(row.observe(config, folder))
    outcomes = []
    for value in map(filled, row.values):
        try:
            other = composed(*settings, f"{key}={value}")
            after = before if other == config else content(row.observe(other, folder))
        except CnnbenchError as error:
            outcomes.append(str(error))
            continue
        if other != config:
            assert after != before, value
            outcomes.append(key)
    assert outcomes
    assert all(key.rpartition(".")[2] in outcome for outcome in outcomes)
