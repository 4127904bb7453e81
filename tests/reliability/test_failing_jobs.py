"""A sweep whose jobs fail in every way: the others are what they are alone, and all is told."""

from __future__ import annotations

import json
import time
from pathlib import Path

import yaml
from tiny import TINY, differences, info, train
from warmed import Forks

import cnnbench.training.launch
from cnnbench.config.compose import Composer
from cnnbench.sweeps.jobs import expand

NETWORKS = """
import torch
from torch import nn

class Late(nn.Module):
    def __init__(self, in_channels, num_classes, image_size):
        super().__init__()
        self.flatten = nn.Flatten()
        self.head = nn.Linear(in_channels * image_size**2, num_classes)
        self.num_batches = 0

    def forward(self, x):
        self.num_batches += self.training and not x.is_meta
        logits = self.head(self.flatten(x))
        return self.break_down(logits) if self.num_batches > 6 else logits

class Raises(Late):
    def break_down(self, logits):
        raise LookupError("a mistake of its author's")

class Nan(Late):
    def break_down(self, logits):
        return logits * float("nan")

class Hungry(Late):
    def break_down(self, logits):
        return logits + torch.empty(1 << 50).sum()
"""
ALONE = ("model=softmax", "data.native_size=8", "optimizer=sgd")


def test_jobs_fail_alone(forks: Forks, tmp_path: Path) -> None:
    networks = tmp_path / "networks.py"
    networks.write_text(NETWORKS)
    failing = {"Raises": "a mistake of its author's", "Nan": "nan", "Hungry": "out of memory"}
    custom = [["model=custom", f"model.path={networks}:{name}"] for name in failing]
    settings = [*TINY, *ALONE[1:], f"output_root={tmp_path}"]
    jobs = [["model=softmax"], *custom, ["model=softmax", "seed=1"]]
    study = tmp_path / "conf" / "study"
    study.mkdir(parents=True)
    text = yaml.safe_dump({"settings": settings, "jobs": jobs})
    (study / "failing.yaml").write_text(f"# jobs that fail\n{text}")
    answer = forks.run("train", "-m", "study=failing", "--config-dir", str(study.parent))
    assert answer["code"] == 1, answer["err"]
    root = Path(answer["out"].splitlines()[-1])
    record = json.loads((root / "sweep.json").read_text())
    runs = [root / job["run"] for job in record["jobs"]]
    assert [info(run)["status"] for run in runs] == ["done", "failed", "failed", "failed", "done"]
    for run, reason in zip(runs[1:4], failing.values(), strict=True):
        [told] = [line for line in answer["err"].splitlines() if str(run) in line]
        assert reason in told
        assert reason in info(run)["reason"]
    for run, more in ((runs[0], "seed=0"), (runs[-1], "seed=1")):
        assert differences(train(tmp_path / "alone", *ALONE, more), run) == []


def test_a_thousand_jobs_are_checked_in_seconds() -> None:
    composer = Composer()
    words = [*TINY, *ALONE, "seed=range(500)", "optimizer.lr=0.1,0.01"]
    started = time.process_time()
    sweep = expand(composer, composer.parse(words))
    for job in sweep.jobs:
        cnnbench.training.launch.check(job.config)
    seconds = time.process_time() - started
    assert len(sweep.jobs) == 1000
    assert seconds < 5
