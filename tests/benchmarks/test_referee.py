"""What the referee's benchmark makes of real runs, which are written here without training."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from scipy import stats

from tests.recorded_runs import write_run

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CODE = "import sys, pathlib, referee; print(referee.real_pairs(pathlib.Path(sys.argv[1])))"


def test_pairs_of_real_runs_are_twelve_seeds_in_order(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    values = np.round(0.9 + 0.01 * draw.normal(size=(3, 2, 6)), 4)
    values[1, 1] += 0.1  # one pair that no chance explains
    for seed, value in enumerate(values.ravel().tolist()):
        write_run(tmp_path, data="digits", seed=seed, test=value)
    expected = 0
    for first, second in values:
        gaps = second - first
        flips = np.array(np.meshgrid(*[(-1, 1)] * 6)).reshape(6, -1).T
        p = np.mean(np.abs(flips @ gaps) >= abs(gaps.sum()) - 1e-12)
        expected += p <= 0.05
    assert expected >= 1
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path)],
        cwd=BENCHMARKS,
        capture_output=True,
        text=True,
        check=True,
    )
    upper = stats.binomtest(int(expected), 3, alternative="less").proportion_ci(0.95).high
    assert f"{expected} of 3 pairs" in done.stdout
    assert f"(95 %: below {upper:.4f})" in done.stdout
    assert "'met': False" in done.stdout  # 3 pairs are no 100
