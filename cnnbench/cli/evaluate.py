"""``cnnbench evaluate``: exact metrics of trained runs on one split."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from cnnbench import api
from cnnbench.notices import cell_width, notice, visible, warn
from cnnbench.rendering.text import render_json, render_table
from cnnbench.runs.directory import open_run

DESCRIPTION = """\
Accuracy, loss, calibration error (ECE), precision, recall and F1 of each class,
and the confusion matrix, of the selected epoch's weights. A command that reads
the test split adds one to the run's test_reads, however often it goes over the
images."""


# Of text: columns of a terminal, classes that are all listed, and rows of those that are not.
_WIDTH = 80
_MAX_LISTED = 60
_MAX_WORST = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run directories")
    parser.add_argument(
        "--split", choices=api.SPLITS, default="test", help="which images; test by default"
    )
    parser.add_argument(
        "--plots",
        action="store_true",
        help="into RUN/plots: confusion matrix, accuracy by class, calibration diagram, surest "
        "mistakes",
    )
    parser.add_argument(
        "--robustness",
        action="store_true",
        help="accuracy on images that are moved, rotated, made noisy, blurred and of less "
        "contrast: a table with a column for each run (CSV is this table alone), with --plots "
        "also curves, those of all runs in the first one's plots",
    )
    parser.add_argument(
        "--tta",
        action="store_true",
        help="also accuracy and loss of probabilities averaged over shifted views of each image, "
        "and mirrored ones where training had flips; reported apart, in text and JSON",
    )
    parser.add_argument(
        "--without-duplicates",
        action="store_true",
        help="leave out images that are also among those seen in training, equal or nearly, as "
        "'cnnbench data check' lists them",
    )
    parser.add_argument(
        "--data-root", metavar="DIR", help="where the data is now, with the recorded content"
    )
    parser.add_argument(
        "--model-path",
        metavar="FILE:CLASS",
        help="the code of a network of your own; a run's is never run",
    )
    parser.add_argument(
        "--data-path", metavar="FILE:NAME", help="the code of data of your own, likewise"
    )


def epilog() -> str:
    """Return examples."""
    return (
        "Examples:\n"
        "  cnnbench evaluate outputs/digits/lenet/RUN --plots\n"
        "  cnnbench evaluate RUN_A RUN_B --robustness --split val\n"
    )


def main(args: argparse.Namespace) -> int:
    """Run the verb."""
    results = [
        api.evaluate(
            run,
            split=args.split,
            robustness=args.robustness,
            plots=args.plots,
            tta=args.tta,
            without_duplicates=args.without_duplicates,
            model_path=args.model_path,
            data_root=args.data_root,
            data_path=args.data_path,
        )
        for run in args.runs
    ]
    recorded = {open_run(run).record.data.sha256 for run in args.runs}
    if args.robustness and len(recorded) > 1:
        warn("the runs have different images; do not compare their columns")
    if args.robustness and args.plots and len(results) > 1:
        from cnnbench.analysis.evaluate.plots import plot_robustness_of

        for file in plot_robustness_of(results):
            notice(str(file))
    if args.format == "json":
        print(render_json(results[0] if len(results) == 1 else results), end="")
    elif args.format == "csv" and args.robustness:
        print(_robustness_table(results, "csv"), end="")
    elif args.format == "csv" and "per_class" not in results[0]:
        columns = tuple(results[0])
        print(render_table(results, columns, "csv"), end="")
    elif args.format == "csv":
        rows = [{**row, "run": result["run"]} for result in results for row in result["per_class"]]
        columns = ("run", "class", "precision", "recall", "f1", "support")
        print(render_table(rows, columns, "csv"), end="")
    else:
        parts = [_text(result, args.format) for result in results]
        if args.robustness:
            head = f"{results[0]['split']} accuracy on corrupted images"
            parts.append(f"{head}\n\n{_robustness_table(results, args.format)}")
        print("\n".join(parts), end="")
    return 0


def _robustness_table(results: Sequence[Mapping[str, Any]], output_format: str) -> str:
    from cnnbench.analysis.evaluate.plots import UNITS, run_names

    names = run_names(results)
    rows = [
        {
            "corruption": cells[0]["corruption"],
            "severity": f"{cells[0]['severity']:g}",
            "unit": UNITS[cells[0]["corruption"]],
            **{name: cell["accuracy"] for name, cell in zip(names, cells, strict=True)},
        }
        for cells in zip(*(result["robustness"] for result in results), strict=True)
    ]
    return render_table(
        rows, ("corruption", "severity", "unit", *names), output_format, ("severity",)
    )


def _text(result: Mapping[str, Any], output_format: str) -> str:
    if "per_class" not in result:
        return (
            f"{visible(result['run'])}\n{result['split']} R2 {result['r2']:.4f}, mean absolute "
            f"error {result['mae']:.4f}, loss {result['loss']:.4f} [{result['num_images']} rows]\n"
        )
    top5 = f"top-5 {result['top5_accuracy']:.4f}, " if "top5_accuracy" in result else ""
    head = (
        f"{visible(result['run'])}\n{result['split']} accuracy {result['accuracy']:.4f} "
        f"[{result['num_correct']}/{result['num_images']}], {top5}"
        f"loss {result['loss']:.4f}, ECE {result['ece']:.4f}\n"
    )
    if "tta" in result:
        tta = result["tta"]
        head += (
            f"apart from it, averaged over {tta['num_views']} views of each image: accuracy "
            f"{tta['accuracy']:.4f} [{tta['num_correct']}/{result['num_images']}], "
            f"loss {tta['loss']:.4f}\n"
        )
    if "num_duplicates" in result:
        head += f"without {result['num_duplicates']} images that training or choosing has seen\n"
    head += "\n"
    columns = ("class", "precision", "recall", "f1", "support")
    rows, names = result["per_class"], [row["class"] for row in result["per_class"]]
    if output_format == "text" and len(names) > _MAX_LISTED:
        # What many classes hide is where the network fails.
        worst = sorted(rows, key=lambda row: (not row["support"], row["recall"]))[:_MAX_WORST]
        worst = [{**row, "class": _cut(row["class"])} for row in worst]
        return (
            f"{head}the {len(worst)} of {len(names)} classes with the lowest recall\n"
            f"{render_table(worst, columns, 'text')}\n"
            f"{_most_confused(names, result['confusion_matrix'])}\n"
            "--format json has all classes and the whole confusion matrix\n"
        )
    if output_format == "text":
        rows = [{**row, "class": _cut(row["class"])} for row in rows]
    classes = render_table(rows, columns, output_format)
    # Class names may repeat a column's, so the matrix has columns by number.
    rows = [
        {
            "target": f"{index} {_cut(name, 24) if output_format == 'text' else name}",
            **{str(p): count for p, count in enumerate(counts)},
        }
        for index, (name, counts) in enumerate(zip(names, result["confusion_matrix"], strict=True))
    ]
    numbers = [str(index) for index in range(len(names))]
    matrix = render_table(rows, ("target", *numbers), output_format, width=None)
    if output_format == "text" and max(map(cell_width, matrix.splitlines())) > _WIDTH:
        return f"{head}{classes}\n{_most_confused(names, result['confusion_matrix'])}"
    return f"{head}{classes}\nconfusion matrix (columns: predicted class)\n{matrix}"


def _most_confused(names: Sequence[str], matrix: Sequence[Sequence[int]]) -> str:
    """Return the most frequent mistakes: what of a matrix that is too wide matters."""
    mistakes: list[dict[str, Any]] = [
        {"target": _cut(names[target]), "predicted": _cut(names[predicted]), "images": count}
        for target, counts in enumerate(matrix)
        for predicted, count in enumerate(counts)
        if count and target != predicted
    ]
    mistakes.sort(key=lambda row: -row["images"])
    table = render_table(mistakes[:_MAX_WORST], ("target", "predicted", "images"), "text")
    return (
        f"the {min(len(mistakes), _MAX_WORST)} most frequent of {len(mistakes)} kinds of mistakes "
        f"(--format json: the whole matrix)\n{table}"
    )


def _cut(name: str, most: int = 30) -> str:
    """Return a class name that leaves room for numbers beside it."""
    text = visible(name)
    if cell_width(text) <= most:
        return text
    while cell_width(text) >= most:
        text = text[:-1]
    return f"{text}…"
