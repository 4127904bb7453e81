"""The page of all networks under one budget, from results that were committed.

``python -m cnnbench.analysis.leaderboard > docs/leaderboard.md`` writes it from
``results/leaderboard/*.json``, and ``--plot docs/leaderboard`` its figure. Networks of one run have
a table of their own, without verdicts.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cnnbench.analysis.recorded import RecordedResult, known_results, read_recorded
from cnnbench.analysis.statistics.families import RowScores
from cnnbench.analysis.statistics.verdicts import default_margin, judge
from cnnbench.config.settings import leaves
from cnnbench.errors import CnnbenchError, UsageError
from cnnbench.notices import notice
from cnnbench.rendering.figures import legend_below, plain, save, style
from cnnbench.rendering.text import counted, render_table

FOLDER = "leaderboard"
_HEAD = """\
# Leaderboard

Written by `python -m cnnbench.analysis.leaderboard > docs/leaderboard.md` from
`results/leaderboard/`, its figure with `--plot docs/leaderboard`; do not edit.

Every network of [conf/study/leaderboard.yaml](../conf/study/leaderboard.yaml) under one equal
budget of work on the 60,000 training images of Fashion-MNIST, with one recipe. Each network's rate
and batch were chosen in [eight trials](studies/leaderboard.md) on validation images alone. A
network whose run took more than 15 minutes has one seed. The test images are read once, at the end.
Seconds are of training beside other work on the machine.
"""
_FIGURE = "![The networks by accuracy, and the size of each](leaderboard.png)\n"
_NONE = "\nNo result is committed yet.\n"
# In which results of one page may differ: the network, what was tuned, and what the head names.
_MAY_DIFFER = (
    *("model.", "data.image_size", "optimizer.lr", "data.batch_size"),
    "device.precision",
)
_COLUMNS = (
    *("rank", "network", "test accuracy", "n", "verdict", "Δ"),
    *("rate", "batch", "params", "MACs", "TFLOP", "s", "machine"),
)
_NUMBERS = _COLUMNS[2:-1]


def page(results: Sequence[RecordedResult]) -> str:
    """Return the page as Markdown.

    Args:
        results: each of another network; none says so.

    Raises:
        UsageError: they are not of the same data, budget and test images.
    """
    if not results:
        return _HEAD + _NONE
    _check_alike(results)
    ordered = sorted(results, key=lambda result: -statistics.fmean(result.values))
    several = [result for result in ordered if len(result.runs) > 1]
    single = [result for result in ordered if len(result.runs) == 1]
    parts = [_HEAD, _machines(ordered), _FIGURE]
    one = len({result.device for result in results}) == 1
    columns = [name for name in _COLUMNS if not (one and name == "machine")]
    if several:
        rows = [_row(n, r) | v for n, (r, v) in enumerate(_judged(several), 1)]
        parts += [render_table(rows, columns, "markdown", _NUMBERS), _note(several)]
    if single:
        columns = [name for name in columns if name not in ("verdict", "Δ", "rank")]
        rows = [_row(0, result) for result in single]
        head = "## One run each\n\nWhat one seed gave; nothing is said of which is better.\n"
        parts += [head, render_table(rows, columns, "markdown", _NUMBERS)]
    return "\n".join(parts)


def _check_alike(results: Sequence[RecordedResult]) -> None:
    first = results[0]

    def held_equal(result: RecordedResult) -> dict[str, Any]:
        values = dict(leaves(dict(result.config)))
        return {key: value for key, value in values.items() if not key.startswith(_MAY_DIFFER)}

    expected = held_equal(first)
    for result in results[1:]:
        found = held_equal(result)
        odd = [k for k in {**expected, **found} if expected.get(k) != found.get(k)]
        if odd or result.num_test != first.num_test or result.metric != first.metric:
            why = ", ".join(odd[:3]) or "their test images"
            raise UsageError(
                f"{result.name} and {first.name}: differ in {why}; expected one recipe"
            )


def _judged(results: Sequence[RecordedResult]) -> list[tuple[RecordedResult, dict[str, str]]]:
    scores = [RowScores({run.seed: run.test for run in result.runs}) for result in results]
    size = results[0].num_test
    resolution = 1 / size if size else 0.0
    margin = default_margin(size) if size else 0.002
    found = []
    for result, verdict in zip(
        results, judge(scores, None, margin, resolution=resolution), strict=True
    ):
        gap = "" if verdict.difference is None else f"{verdict.difference:+.4f}"
        found.append((result, {"verdict": verdict.verdict, "Δ": gap}))
    return found


def _row(rank: int, result: RecordedResult) -> dict[str, str]:
    values = result.values
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    model = result.model
    return {
        "rank": str(rank),
        "network": f"`{model['name']}`",
        "test accuracy": f"{statistics.fmean(values):.4f}{spread}",
        "n": str(len(values)),
        "rate": f"{result.config['optimizer']['lr']:g}",
        "batch": str(result.config["data"]["batch_size"]),
        "params": f"{model['num_params']:,}",
        "MACs": f"{model['macs']:,}",
        "TFLOP": f"{statistics.fmean(run.tflop for run in result.runs):.1f}",
        "s": f"{statistics.median(run.seconds for run in result.runs):,.0f}",
        "machine": result.device or "",
    }


def _machines(results: Sequence[RecordedResult]) -> str:
    machines = sorted(set(map(_machine, results)))
    dates = sorted({result.date for result in results})
    span = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return (
        f"Measured on {'; '.join(machines)}; {span}. Each row: "
        f"`cnnbench reproduce {FOLDER}/NETWORK`.\n"
    )


def _machine(result: RecordedResult) -> str:
    threads = None if result.num_threads is None else counted(result.num_threads, "thread")
    parts = (result.device, f"torch {result.torch}", threads, result.precision)
    return ", ".join(f"{part}" for part in parts if part is not None)


def _note(results: Sequence[RecordedResult]) -> str:
    size = results[0].num_test
    images = f"{size:,}" if size else "unknown"
    return (
        "±: sample standard deviation over n seeds. Δ: difference from the best row; verdicts "
        f"are those of `cnnbench compare` over seeds ({images} test images), "
        "[docs/statistics.md](statistics.md). s: median seconds of training.\n"
    )


def plot(results: Sequence[RecordedResult], stem: Path) -> list[Path]:
    """Draw the accuracies of ``page``'s results beside the networks' sizes; return the file.

    Args:
        results: each of another network.
        stem: path of the file without its ending.
    """
    from matplotlib.figure import Figure

    ordered = sorted(results, key=lambda result: statistics.fmean(result.values))
    with style():
        figure = Figure(figsize=(7.2, 1.2 + 0.2 * len(ordered)), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
        for is_several, fill in ((True, "black"), (False, "white")):
            label = "mean of several seeds" if is_several else "one seed"
            look = {"color": "black", "markerfacecolor": fill, "linestyle": "none", "marker": "o"}
            rows = {
                number: result
                for number, result in enumerate(ordered)
                if (len(result.runs) > 1) == is_several
            }
            means = [statistics.fmean(result.values) for result in rows.values()]
            left.plot(means, list(rows), label=label, **look)
            right.plot([result.model["macs"] for result in rows.values()], list(rows), **look)
        left.set_yticks(range(len(ordered)), [plain(result.model["name"]) for result in ordered])
        left.set(xlabel="test accuracy after equal work")
        right.set(xscale="log", xlabel="multiply-accumulates of an image")
        legend_below(figure, left)
        return save(figure, stem, ["png"])


def committed() -> list[RecordedResult]:
    """Return the committed results that the page shows."""
    names = [name for name in known_results() if name.startswith(f"{FOLDER}/")]
    return [read_recorded(name) for name in names]


def main(args: Sequence[str] | None = None) -> int:
    """Print the page, or draw its figure."""
    parser = argparse.ArgumentParser(prog="python -m cnnbench.analysis.leaderboard")
    parser.add_argument("--plot", type=Path, metavar="STEM", help="draw the figure as STEM.png")
    stem = parser.parse_args(args).plot
    try:
        if stem is None:
            print(page(committed()), end="")
        else:
            plot(committed(), stem)
    except CnnbenchError as error:
        notice(str(error))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
