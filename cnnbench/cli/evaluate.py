"""``cnnbench evaluate``: exact metrics of trained runs on one split."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cnnbench.errors import UsageError, did_you_mean
from cnnbench.rendering.text import render_json, render_table
from cnnbench.runs.directory import open_run

SPLITS = ("test", "val", "train")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--model-path", metavar="FILE:CLASS")
    parser.add_argument("--plots", action="store_true")
    parser.add_argument("--robustness", action="store_true")


def help_text(parser: argparse.ArgumentParser) -> str:
    """Return usage and flags."""
    return (
        "usage: cnnbench evaluate RUN... [flags] [--format text|markdown|csv|json]\n\n"
        "Accuracy, loss, calibration error (ECE), precision, recall and F1 of each class, and the\n"
        "confusion matrix, of the selected epoch's weights.\n\n"
        "  --split test|val|train  which images; a command that reads the test split adds one to\n"
        "                          the run's test_reads, however often it goes over the images\n"
        "  --plots                 into RUN/plots: confusion matrix, accuracy by class,\n"
        "                          calibration diagram, surest mistakes\n"
        "  --robustness            accuracy on pictures that are moved, turned, made noisy,\n"
        "                          blurred and paled: a table with a column for each run (CSV\n"
        "                          is this table alone), with --plots also curves of all runs,\n"
        "                          in the first one's plots\n"
        "  --model-path FILE:CLASS the code of a network of your own; a run's is never run\n"
    )


def main(args: argparse.Namespace) -> int:
    """Run the verb."""
    results = [
        _evaluate(run, args.split, args.robustness, args.plots, args.model_path)
        for run in args.runs
    ]
    recorded = {open_run(run).record.data.sha256 for run in args.runs}
    if args.robustness and len(recorded) > 1:
        print(
            "cnnbench: warning: the runs have other pictures; compare no columns", file=sys.stderr
        )
    if args.robustness and args.plots:
        _plot_robustness(results)
    if args.format == "json":
        print(render_json(results[0] if len(results) == 1 else results), end="")
    elif args.format == "csv" and args.robustness:
        print(_robustness_table(results, "csv"), end="")
    elif args.format == "csv":
        rows = [{**row, "run": result["run"]} for result in results for row in result["per_class"]]
        columns = ("run", "class", "precision", "recall", "f1", "support")
        print(render_table(rows, columns, "csv"), end="")
    else:
        parts = [_text(result, args.format) for result in results]
        if args.robustness:
            head = f"{results[0]['split']} accuracy on changed pictures"
            parts.append(f"{head}\n\n{_robustness_table(results, args.format)}")
        print("\n".join(parts), end="")
    return 0


def evaluate(
    run: str | Path,
    *,
    split: str = "test",
    robustness: bool = False,
    plots: bool = False,
    model_path: str | None = None,
) -> dict[str, Any]:
    """Return exact metrics of a run's selected weights on one split of its data.

    Args:
        run: a run directory.
        split: test, val or train.
        robustness: also measure on changed pictures; about 25 times the work.
        plots: also write pictures into the run's ``plots`` directory.
        model_path: ``FILE:CLASS`` of a network of your own, which no run may name itself.

    Returns:
        ``run``, ``model``, ``split``, ``accuracy`` (a fraction in [0, 1]), ``loss``,
        ``top5_accuracy``, ``ece`` (expected calibration error, a fraction, over 15 bins),
        ``num_images``, ``num_correct``, ``per_class`` (``class``, ``precision``, ``recall``,
        ``f1``, ``support``) and ``confusion_matrix`` ([target][prediction]); with ``robustness``
        a list of ``kind``, ``level`` and ``accuracy``, where level 0 is the plain accuracy.

    Raises:
        UsageError: it is no run, or the split is empty or unknown.
        CheckpointError: the run is damaged or foreign.
        DataError: its data is missing, damaged, or not what it was trained on.
        DiskError: a picture cannot be written.
    """
    if split not in SPLITS:
        raise UsageError(
            f"split '{split}': expected {', '.join(SPLITS)}{did_you_mean(split, SPLITS)}"
        )
    result = _evaluate(run, split, robustness, plots, model_path)
    if robustness and plots:
        _plot_robustness([result])
    return result


def _evaluate(
    run: str | Path, split: str, robustness: bool, plots: bool, model_path: str | None
) -> dict[str, Any]:
    directory = open_run(run)
    from cnnbench.analysis.evaluate.evaluation import measure, open_split

    opened = open_split(directory, split, model_path=model_path)
    measured = measure(opened)
    if plots:
        from cnnbench.analysis.evaluate.plots import plot_evaluation

        _tell(plot_evaluation(measured, opened.pictures, directory.path / "plots"))
    if not robustness:
        return measured.result
    from cnnbench.analysis.evaluate.robustness import measure_robustness

    rows = measure_robustness(opened, measured.result["accuracy"])
    return {**measured.result, "robustness": rows}


def _plot_robustness(results: Sequence[Mapping[str, Any]]) -> None:
    from cnnbench.analysis.evaluate.plots import plot_robustness

    split = results[0]["split"]
    curves = {
        name: result["robustness"]
        for name, result in zip(_run_names(results), results, strict=True)
    }
    stem = Path(results[0]["run"]) / "plots" / f"{split}_robustness"
    _tell(plot_robustness(curves, f"{split} accuracy on changed pictures", stem))


def _tell(files: Sequence[Path]) -> None:
    for file in files:
        print(f"cnnbench: {file}", file=sys.stderr)


def _run_names(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a short name for each run: its network's, numbered where that is not enough."""
    names = [str(result["model"]) for result in results]
    if len(set(names)) == len(names):
        return names
    return [f"{number} {name}" for number, name in enumerate(names, start=1)]


def _robustness_table(results: Sequence[Mapping[str, Any]], output_format: str) -> str:
    from cnnbench.analysis.evaluate.plots import UNITS

    names = _run_names(results)
    rows = [
        {
            "change": cells[0]["kind"],
            "level": f"{cells[0]['level']:g}",
            "unit": UNITS[cells[0]["kind"]],
            **{name: cell["accuracy"] for name, cell in zip(names, cells, strict=True)},
        }
        for cells in zip(*(result["robustness"] for result in results), strict=True)
    ]
    return render_table(rows, ("change", "level", "unit", *names), output_format, ("level",))


def _text(result: Mapping[str, Any], output_format: str) -> str:
    head = (
        f"{result['run']}\n{result['split']} accuracy {result['accuracy']:.4f} "
        f"[{result['num_correct']}/{result['num_images']}], top-5 {result['top5_accuracy']:.4f}, "
        f"loss {result['loss']:.4f}, ECE {result['ece']:.4f}\n\n"
    )
    columns = ("class", "precision", "recall", "f1", "support")
    classes = render_table(result["per_class"], columns, output_format)
    names = [row["class"] for row in result["per_class"]]
    # Class names may repeat a column's, so the matrix has columns by number.
    rows = [
        {"target": f"{place} {name}", **{str(p): count for p, count in enumerate(counts)}}
        for place, (name, counts) in enumerate(zip(names, result["confusion_matrix"], strict=True))
    ]
    numbers = [str(place) for place in range(len(names))]
    matrix = render_table(rows, ("target", *numbers), output_format)
    return f"{head}{classes}\nconfusion matrix (columns: predicted class)\n{matrix}"
