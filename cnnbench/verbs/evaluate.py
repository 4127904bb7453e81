"""``cnnbench evaluate``: exact metrics of trained runs on one split."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from cnnbench.analysis.render import render_json, render_table
from cnnbench.errors import UsageError, did_you_mean
from cnnbench.rundir import open_run

SPLITS = ("test", "val", "train")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--model-path", metavar="FILE:CLASS")


def help_text(parser: argparse.ArgumentParser) -> str:
    """Return usage."""
    return (
        "usage: cnnbench evaluate RUN... [--split test|val|train] [--format text|markdown|csv|json]"
        "\n\nAccuracy, loss, precision, recall and F1 of each class, and the confusion matrix, of\n"
        "the selected epoch's weights. Reading the test split adds to the run's test_reads.\n"
        "--model-path FILE:CLASS: the code of a network of your own; a run's is never run.\n"
    )


def main(args: argparse.Namespace) -> int:
    """Run the verb."""
    results = [evaluate(run, split=args.split, model_path=args.model_path) for run in args.runs]
    if args.format == "json":
        print(render_json(results[0] if len(results) == 1 else results), end="")
    elif args.format == "csv":
        rows = [{**row, "run": result["run"]} for result in results for row in result["per_class"]]
        columns = ("run", "class", "precision", "recall", "f1", "support")
        print(render_table(rows, columns, "csv"), end="")
    else:
        print("\n".join(_text(result, args.format) for result in results), end="")
    return 0


def evaluate(
    run: str | Path, *, split: str = "test", model_path: str | None = None
) -> dict[str, Any]:
    """Return exact metrics of a run's selected weights on one split of its data.

    Args:
        run: a run directory.
        split: test, val or train.
        model_path: ``FILE:CLASS`` of a network of your own, which no run may name itself.

    Returns:
        ``run``, ``split``, ``accuracy`` (a fraction in [0, 1]), ``loss``, ``top5_accuracy``,
        ``num_images``, ``num_correct``, ``per_class`` (``class``, ``precision``, ``recall``,
        ``f1``, ``support``) and ``confusion_matrix`` ([target][prediction]).

    Raises:
        UsageError: it is no run, or the split is empty or unknown.
        CheckpointError: the run is damaged or foreign.
        DataError: its data is missing, damaged, or not what it was trained on.
    """
    if split not in SPLITS:
        raise UsageError(
            f"split '{split}': expected {', '.join(SPLITS)}{did_you_mean(split, SPLITS)}"
        )
    directory = open_run(run)
    from cnnbench.analysis.evaluation import evaluate_run

    return evaluate_run(directory, split, model_path=model_path)


def _text(result: dict[str, Any], output_format: str) -> str:
    head = (
        f"{result['run']}\n{result['split']} accuracy {result['accuracy']:.4f} "
        f"[{result['num_correct']}/{result['num_images']}], top-5 {result['top5_accuracy']:.4f}, "
        f"loss {result['loss']:.4f}\n\n"
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
