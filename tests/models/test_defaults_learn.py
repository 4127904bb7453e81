"""Every network learns as its file and the other defaults have it; minutes, so `pytest -m slow`."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import info

import cnnbench
from cnnbench.models import MODELS

FASHION = Path("/usr/share/datasets/fashion-mnist")


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_few_images_teach_it_the_classes(name: str, tmp_path: Path) -> None:
    if not FASHION.is_dir():
        pytest.skip("no Fashion-MNIST on this machine")
    run = cnnbench.train(
        [
            f"model={name}",
            "data=fashion_mnist",
            "data.limit=2048",
            "data.batch_size=32",
            "num_epochs=1",
            "selection=last",
            f"output_root={tmp_path}",
        ]
    )
    assert info(run)["results"]["val/accuracy"] > 0.5
