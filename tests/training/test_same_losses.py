"""The first twenty losses of four networks, against those recorded in ``goldens/losses.json``.

On the kind of CPU, torch and number of threads of the recording the bits are equal; elsewhere
kernels may add in another order. Who changes kernels records anew, on a machine of the kind
recorded, and says so::

    python tests/training/test_same_losses.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from cnnbench.device.precision import has_native_bf16

GOLDENS = Path(__file__).parents[1] / "goldens" / "losses.json"
SHARED = (
    "data=synthetic",
    "data.num_train=200",
    "data.num_test=20",
    "data.native_size=28",
    "data.batch_size=8",
    "data.val_fraction=0.2",
    "num_epochs=1",
    "optimizer=sgd",
    "optimizer.lr=0.001",
    "log_every_steps=1",
    "device=cpu",
    "device.num_threads=2",
)
GOOGLENET = (
    "model=googlenet",
    "model.width_multiplier=1/8",
    "data.num_train=800",
    "data.batch_size=32",
    "optimizer.lr=0.0001",
)
CASES = {
    "lenet": ("model=lenet", "device.precision=fp32"),
    "googlenet": (*GOOGLENET, "device.precision=fp32"),
    "resnet18": ("model=resnet18", "device.precision=fp32"),
    "small_resnet": ("model=small_resnet", "augment=crop_flip", "device.precision=fp32"),
    "googlenet in bf16": (*GOOGLENET, "device.precision=bf16"),
    "small_resnet in bf16": ("model=small_resnet", "device.precision=bf16"),
}


def measured(root: Path, cases: Iterable[str] = CASES) -> dict[str, dict[str, Any]]:
    """Train in a process of their own, whose threads and environment are those that a user has."""
    settings = [[*SHARED, *CASES[case]] for case in cases]
    code = f"import cnnbench\nfor each in {settings!r}: print('run', cnnbench.train(each))"
    environment = {key: v for key, v in os.environ.items() if key != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    runs = [line.removeprefix("run ") for line in done.stdout.splitlines() if line[:4] == "run "]
    return {case: _read(root / run) for case, run in zip(cases, runs, strict=True)}


def _read(run: Path) -> dict[str, Any]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    [process] = json.loads((run / "run.json").read_text())["provenance"]["processes"]
    computed = process.get("effective", process.get("in_force"))
    return {
        "machine": {
            "cpu": computed["device_name"],
            "instructions": computed["cpu_capability"],
            "bfloat16": computed["native_bf16"],
            "torch": process["machine"]["torch"],
            "num_threads": computed["num_threads"],
        },
        "losses": [line["train/step_loss"] for line in lines if "train/step_loss" in line],
    }


# Emulated bfloat16 is no kernel's, and slow.
HERE = [case for case in CASES if "bf16" not in case or has_native_bf16(torch.device("cpu"))]


@pytest.mark.parametrize(
    "cases", [("lenet",), tuple(case for case in HERE if case != "lenet")], ids=["lenet", "others"]
)
def test_the_losses_are_those_recorded(cases: tuple[str, ...], tmp_path: Path) -> None:
    goldens = json.loads(GOLDENS.read_text())
    for case, found in measured(tmp_path, cases).items():
        recorded = goldens[case]
        assert len(found["losses"]) == 20
        if found["machine"] == recorded["machine"]:
            assert found["losses"] == recorded["losses"], case
        elif "bf16" not in case:
            # Rounding grows from step to step where batch norm sees maps of few pixels.
            near = pytest.approx(recorded["losses"][:10], rel=1e-3)
            assert found["losses"][:10] == near, case
            assert found["losses"] == pytest.approx(recorded["losses"], rel=1e-2), case
        else:
            near = pytest.approx(recorded["losses"], rel=5e-2, abs=5e-2)
            assert found["losses"] == near, case


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        goldens = measured(Path(directory))
    GOLDENS.write_text(f"{json.dumps(goldens, indent=1)}\n")
