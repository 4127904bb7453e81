"""How often the referee is wrong, and how often it sees a real difference, on simulated runs.

    python benchmarks/referee.py [--format text|markdown|csv|json] [--quick] [--jobs N]
    python benchmarks/referee.py --real DIR [--slots N]

Every figure is of `judge` itself, handed runs that are drawn from a known distribution. On two
cores it takes about 10 minutes; `--quick` draws a tenth of the tables, too few to judge by.

`--real` trains 1,200 LeNets of one recipe in DIR instead, and judges 100 pairs of six seeds a side,
no seed in two of them. Run again, it trains those that are missing.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from cnnbench.analysis.compare.records import read_runs
from cnnbench.analysis.statistics.verdicts import RowScores, Verdict, judge
from cnnbench.rendering.text import FORMATS, render_table

COLUMNS = ("what", "measured", "target", "met", "how")
LIMIT, LARGEST, MANY = 0.05, 0.055, 10_000
DIFFERENT = ("better", "worse")
REAL_PAIRS, REAL_SIDE, REAL_MOST = 100, 6, 10
# Short, so that 1,200 of them are trained in a quarter of an hour of one core.
RECIPE = (
    *("model=lenet", "data=digits", "num_epochs=2", "data.batch_size=64"),
    *("device=cpu", "device.num_threads=1", "checkpoint.keep_last=1"),
)
Draw = Callable[[np.random.Generator, tuple[int, ...]], NDArray[np.float64]]


def heavy_left(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Draw accuracies of which a few fall far below the others; standard deviation 1."""
    return -rng.exponential(size=shape)


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Draw from the normal distribution; standard deviation 1."""
    return rng.normal(size=shape)


SPREADS: dict[str, Draw] = {"normal": normal, "skewed": heavy_left}


@dataclass(frozen=True)
class Rate:
    """How often something happened among independent tries."""

    hits: int
    tries: int

    @property
    def share(self) -> float:
        """The fraction of the tries."""
        return self.hits / self.tries

    @property
    def upper(self) -> float:
        """The exact one-sided upper bound at 95 % (Clopper and Pearson)."""
        if self.hits == self.tries:
            return 1.0
        return float(stats.beta.ppf(0.95, self.hits + 1, self.tries - self.hits))

    @property
    def lower(self) -> float:
        """The exact one-sided lower bound at 95 %."""
        return (
            float(stats.beta.ppf(0.05, self.hits, self.tries - self.hits + 1)) if self.hits else 0.0
        )

    def __str__(self) -> str:
        return f"{self.share:.4f} (95 %: below {self.upper:.4f})"


def table_of(values: NDArray[np.float64]) -> list[RowScores]:
    """Return rows of a table; values of shape (rows, seeds)."""
    return [RowScores(dict(enumerate(row.tolist()))) for row in values]


def row(what: str, rate: Rate, how: str) -> dict[str, Any]:
    """Return the line of a rate of false calls, which must be 5 % at most.

    A test that is exact at 5 % shows more than that in half of all simulations. It misses where
    the figure is above 5 % by more than chance, or where so many tries leave room for over 5.5 %.
    """
    met = rate.lower <= LIMIT and (rate.tries < MANY or rate.upper <= LARGEST)
    return {"what": what, "measured": str(rate), "target": "at most .05", "met": met, "how": how}


def any_call(verdicts: Sequence[Verdict]) -> bool:
    """Return whether any row is called different."""
    return any(verdict.verdict in DIFFERENT for verdict in verdicts)


def pairs(tries: int, spread: str) -> Iterator[dict[str, Any]]:
    """Yield false calls and coverage for two equal recipes."""
    draw = SPREADS[spread]
    for n in (3, 5, 6, 8, 10):
        rng = np.random.default_rng(n)
        called = covered = 0
        fifth = tries // 5
        for index in range(tries):
            base, other = draw(rng, (2, n))
            called += any_call(judge(table_of(np.stack([base, other]))))
            if index < fifth:
                moved = judge(table_of(np.stack([base, other + 1])), 0)[1]
                low, high = moved.interval or (0, 0)
                covered += low <= 1 <= high
        what = f"equal pair called different, {spread}, n = {n}"
        yield row(what, Rate(called, tries), f"{tries} pairs")
        share = covered / fifth
        yield {
            "what": f"seed interval covers the difference, {spread}, n = {n}",
            "measured": f"{share:.4f}",
            "target": ".94 to .975",
            "met": 0.94 <= share <= 0.975,
            "how": f"{fifth} pairs",
        }


def tables(tries: int, spread: str) -> Iterator[dict[str, Any]]:
    """Yield false calls in tables of equal recipes."""
    draw = SPREADS[spread]
    for num_rows, n in itertools.product((6, 12), (3, 5, 6, 8, 10)):
        rng = np.random.default_rng([num_rows, n])
        calls = sum(any_call(judge(table_of(draw(rng, (num_rows, n))))) for _ in range(tries))
        what = f"table of {num_rows} equal, best as baseline, {spread}, n = {n}: any false call"
        yield row(what, Rate(calls, tries), f"{tries} tables")
    for n in (6, 10):
        rng = np.random.default_rng([6, n, 1])
        calls = sum(any_call(judge(table_of(draw(rng, (6, n))), 0)) for _ in range(tries))
        what = f"table of 6 equal, first as baseline, {spread}, n = {n}: any false call"
        yield row(what, Rate(calls, tries), f"{tries} tables")


def some_differ(tries: int) -> Iterator[dict[str, Any]]:
    """Yield false calls among equal rows of tables in which other rows differ."""
    for n in (6, 10):
        rng = np.random.default_rng([n, 2])
        false = 0
        for _ in range(tries):
            values = normal(rng, (6, n))
            values[3:] -= np.array([1.0, 3.0, 6.0])[:, None]
            verdicts = judge(table_of(values))
            best = next(i for i, v in enumerate(verdicts) if v.verdict == "best")
            false += best < 3 and any_call(verdicts[:3])
        what = f"table of 3 equal and 3 worse rows, n = {n}: any false call among the equal"
        yield row(what, Rate(false, tries), f"{tries} tables")


def unequal(tries: int) -> Iterator[dict[str, Any]]:
    """Yield false calls where rows have other numbers of seeds."""
    for spread, draw in SPREADS.items():
        for counts in ((3, 6), (3, 10), (5, 6), (6, 10)):
            rng = np.random.default_rng(counts)
            calls = 0
            for _ in range(tries):
                rows = [RowScores(dict(enumerate(draw(rng, (n,))))) for n in counts]
                calls += any_call(judge(rows))
            what = f"equal pair called different, {spread}, {counts[0]} and {counts[1]} seeds"
            yield row(what, Rate(calls, tries), f"{tries} pairs")
        rng = np.random.default_rng(7)
        calls = 0
        for _ in range(tries // 5):
            rows = table_of(draw(rng, (6, 6)))
            rows[2] = RowScores(dict(list(rows[2].values.items())[:5]))
            calls += any_call(judge(rows))
        what = f"table of 6 equal, one row with a seed less, {spread}: any false call"
        yield row(what, Rate(calls, tries // 5), f"{tries // 5} tables")


def coarse(tries: int) -> Iterator[dict[str, Any]]:
    """Yield false calls where accuracies move in steps that are large beside their spread."""
    for n in (3, 5, 6):
        rng = np.random.default_rng([n, 3])
        calls = 0
        for _ in range(tries):
            values = np.round((0.95 + 0.005 * normal(rng, (2, n))) * 360) / 360
            calls += any_call(judge(table_of(values), resolution=1 / 360))
        what = f"equal pair called different, accuracies on 360 images, n = {n}"
        yield row(what, Rate(calls, tries), f"{tries} pairs")


def images(tries: int) -> Iterator[dict[str, Any]]:
    """Yield false calls of networks that are equally good on the population of images."""
    for num_images, n in itertools.product((100, 360, 10_000), (1, 2)):
        rng = np.random.default_rng([num_images, n])
        calls = 0
        for _ in range(tries // 5):
            rate = np.clip(rng.beta(9, 0.5, num_images), 0, 1)
            correct = rng.random((2, n, num_images)) < rate
            rows = [
                RowScores(
                    {seed: float(right[seed].mean()) for seed in range(n)},
                    {seed: right[seed] for seed in range(n)},
                )
                for right in correct
            ]
            calls += any_call(judge(rows))
        what = f"equal networks called different over {num_images} images, {n} a side"
        yield row(what, Rate(calls, tries // 5), f"{tries // 5} pairs")


def equivalence(tries: int) -> Iterator[dict[str, Any]]:
    """Yield how often rows that differ by just the margin are called equivalent."""
    margin = 3.0
    for named, n in itertools.product((True, False), (3, 6, 10)):
        rng = np.random.default_rng([n, named])
        false = 0
        for _ in range(tries):
            values = normal(rng, (6, n))
            values[1:] -= margin
            verdicts = judge(table_of(values), 0 if named else None, margin)
            best = next(i for i, v in enumerate(verdicts) if v.verdict in ("best", "baseline"))
            wrong = verdicts[1:] if best == 0 else verdicts[:1]
            false += any(v.within_margin for v in wrong)
        how = f"{tries} tables"
        base = "first" if named else "best"
        what = f"table of 6, 5 of them off by the margin, {base} as baseline, n = {n}"
        yield row(f"{what}: any called within it", Rate(false, tries), how)


def brute_force_p(differences: NDArray[np.float64]) -> float:
    """Return the sign-flip p of a mean, by enumeration."""
    observed = abs(differences.sum())
    flips = np.array(list(itertools.product((1, -1), repeat=len(differences))))
    return float(np.mean(np.abs(flips @ differences) >= observed - 1e-12))


def power(tries: int) -> Iterator[dict[str, Any]]:
    """Yield the power beside that of enumerated flips and of the paired t-test."""
    for n, size in itertools.product((6, 8, 10), (1, 2, 3)):
        rng = np.random.default_rng([n, size])
        ours = flips = student = 0
        for _ in range(tries):
            values = normal(rng, (2, n))
            values[1] += size
            ours += any_call(judge(table_of(values)))
            flips += int(brute_force_p(values[1] - values[0]) <= 0.05)
            student += int(stats.ttest_rel(*values).pvalue <= 0.05)
        ours_share, flips_share, t_share = (hits / tries for hits in (ours, flips, student))
        near = abs(ours_share - flips_share) < 0.002 if n == 6 else ours_share >= t_share - 0.05
        yield {
            "what": f"power at {size} run standard deviations, n = {n}",
            "measured": f"{ours_share:.3f} (flips {flips_share:.3f}, paired t {t_share:.3f})",
            "target": "as flips" if n == 6 else "paired t less .05",
            "met": near,
            "how": f"{tries} pairs",
        }


def promised(tries: int) -> Iterator[dict[str, Any]]:
    """Yield how often the number of seeds that a verdict asks for would decide."""
    for num_rows, size in itertools.product((2, 6), (1.0, 1.5, 2.5)):
        # With the mean and spread of these, the answer asks for the number that is then tried.
        gaps = np.array([-1.0, -0.6, 0.1, 1.5]) * 2**0.5
        gaps = (gaps - gaps.mean()) / gaps.std(ddof=1) * 2**0.5 - size
        base = np.zeros(4)
        rows = [base, *[base + gaps] * (num_rows - 1)]
        needed = next(v.seeds_needed for v in judge(table_of(np.stack(rows)))[1:])
        if not isinstance(needed, int):
            continue
        rng = np.random.default_rng([num_rows, needed])
        hits = 0
        for _ in range(tries):
            values = normal(rng, (num_rows, needed))
            values[1:] -= size
            hits += judge(table_of(values), None)[1].verdict == "worse"
        share = hits / tries
        yield {
            "what": f"power at the {needed} seeds asked for, {num_rows} rows, {size} deviations",
            "measured": f"{share:.3f}",
            "target": ".75 to .92",
            "met": 0.75 <= share <= 0.92,
            "how": f"{tries} tables",
        }


def train_real(directory: Path, slots: int) -> None:
    """Train the runs of one recipe that are not there yet, seeds from 0."""
    count = 2 * REAL_PAIRS * REAL_SIDE
    how = (f"output_root={directory}", "sweep.name=pairs", f"hydra.launcher.slots={slots}")
    command = (sys.executable, "-m", "cnnbench", "train", "-m", *RECIPE, f"seed=range({count})")
    subprocess.run([*command, *how], check=True, stdout=sys.stderr)


def real_pairs(directory: Path) -> dict[str, Any]:
    """Return how many pairs of equal recipes are called different.

    Twelve seeds in order are a pair, the first six of them one side; sides are paired in order.
    """
    records, _ = read_runs([directory])
    by_seed = {record.seed: record for record in records}
    accuracies = [by_seed[seed].accuracy for seed in sorted(by_seed)]
    values = np.array(accuracies, dtype=np.float64)
    of_pair = 2 * REAL_SIDE
    number = min(REAL_PAIRS, len(values) // of_pair)
    sides = values[: number * of_pair].reshape(number, 2, REAL_SIDE)
    resolution = 1 / (records[0].num_test or 1)
    hits = sum(any_call(judge(table_of(pair), resolution=resolution)) for pair in sides)
    return {
        "what": f"real pairs of equal recipes called different, n = {REAL_SIDE}",
        "measured": str(Rate(hits, number)),
        "target": f"at most {REAL_MOST} of {REAL_PAIRS}",
        "met": hits <= REAL_MOST and number == REAL_PAIRS,
        "how": f"{hits} of {number} pairs; accuracy {values.mean():.4f} ± {values.std(ddof=1):.4f}",
    }


def run_part(part: Callable[..., Iterator[dict[str, Any]]], *how: Any) -> list[dict[str, Any]]:
    """Return the lines of a part, each told as soon as it is known."""
    lines = []
    for line in part(*how):
        print(f"{line['what']}: {line['measured']}", file=sys.stderr, flush=True)
        lines.append(line)
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; the exit code is 1 where a figure misses its target."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--format", choices=FORMATS, default="text")
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of the tables; too few to judge by"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--real", metavar="DIR", type=Path, help="train real runs there")
    parser.add_argument("--slots", type=int, default=1, help="real runs at once")
    options = parser.parse_args(arguments)
    if options.real is not None:
        train_real(options.real, options.slots)
        line = real_pairs(options.real)
        print(render_table([line], COLUMNS, options.format), end="")
        return 0 if line["met"] else 1
    scale = 10 if options.quick else 1
    parts = (
        *((pairs, 20_000, spread) for spread in SPREADS),
        *((tables, 2_000, spread) for spread in SPREADS),
        (some_differ, 2_000),
        (unequal, 10_000),
        (coarse, 40_000),
        (images, 10_000),
        (equivalence, 2_000),
        (power, 2_000),
        (promised, 1_000),
    )
    rows: list[dict[str, Any]] = []
    with ProcessPoolExecutor(options.jobs) as pool:
        futures = [pool.submit(run_part, part, tries // scale, *how) for part, tries, *how in parts]
        for future in futures:
            rows += future.result()
    print(render_table(rows, COLUMNS, options.format), end="")
    return 0 if all(line["met"] for line in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
