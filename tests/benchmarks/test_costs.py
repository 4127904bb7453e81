"""The counted columns of ``benchmarks/costs.py``."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "costs.py"


@pytest.fixture(scope="module")
def costs():
    spec = importlib.util.spec_from_file_location("costs", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["costs"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["costs"]


# Worked out by hand: kernel area x channels in x channels out, plus biases; times the pixels.
EXPECTED = [
    (590_080, 589_824 * 784, 3),
    (25_920, (256 * 32 + 9 * 32 * 32 + 32 * 256) * 784, 3),
    (296, 288 * 784, 3),
    (152, 144 * 784, 3),
    (288, 288 * 784, 3),
    (68, 68 * 784, 3),
    (136, 136 * 784, 3),
    (153_632, 120_422_400, 5),
    (15_920, 12_443_648, 5),
    (25 * 64 * 64 + 64, 25 * 64 * 64 * 784, 5),
    (2 * (9 * 64 * 64 + 64), 18 * 64 * 64 * 784, 5),
    (4 * (3 * 64 * 64 + 64), 12 * 64 * 64 * 784, 5),
    (25_088 * 4096 + 4096 * 4096 + 40_960 + 8202, 25_088 * 4096 + 4096 * 4096 + 40_960, None),
    (250_890, 250_880, None),
    (5130, 512 * 10 * 49, 1),
    (5130, 5120, None),
]


def test_counts(costs):
    rows = costs.count(costs.all_rows())
    counted = [(row["num_params"], row["macs"], row["receptive_field"]) for row in rows]
    assert counted == EXPECTED
    ratios = [round(row["params_ratio"], 4) for row in rows[4:7]]
    assert ratios == [1.0, 0.2361, 0.4722]


def test_command():
    done = subprocess.run(
        [sys.executable, SCRIPT, "--format", "json", "--seconds", "0"],
        capture_output=True,
        text=True,
        check=True,
    )
    rows = json.loads(done.stdout)
    assert len(rows) == len(EXPECTED)
    assert all(0 < row["ms_per_image"] < math.inf for row in rows)
