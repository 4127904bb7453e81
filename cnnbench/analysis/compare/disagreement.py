"""Images that one run gets right and another wrong, and whether that is more than chance."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnnbench.analysis.evaluate.measure import OpenSplit, measure, open_split
from cnnbench.analysis.evaluate.plots import mistakes_grid
from cnnbench.analysis.statistics.image_tests import mcnemar
from cnnbench.errors import UsageError
from cnnbench.rendering.figures import save, style
from cnnbench.rendering.text import render_json, render_table
from cnnbench.runs.directory import RunDir

_LETTERS = ("A", "B")


def compare_errors(
    run_a: RunDir,
    run_b: RunDir,
    plots: Path | None = None,
    model_path: str | None = None,
    data_path: str | None = None,
) -> tuple[dict[str, Any], list[Path]]:
    """Compare two runs image by image on the test split that both have.

    Args:
        run_a: an existing run.
        run_b: another one, trained on the same data.
        plots: where the images that only one gets right are drawn; made where it is missing.
        model_path: ``FILE:CLASS`` of a custom network, whose code no run may name itself.
        data_path: as ``open_split`` takes it.

    Returns:
        A dictionary of ``runs``, ``split``, ``num_images``, ``both_right``, ``only_a_right``,
        ``only_b_right``, ``both_wrong``, ``p`` (``mcnemar``) and ``images``: those that only one
        gets right, with ``index`` in the split, ``class``, ``right`` (A or B), and what ``a`` and
        ``b`` took them for. And the files written.

    Raises:
        UsageError: their test images are not the same.
        CheckpointError: a run is damaged or foreign.
        DataError: the data is missing or damaged, or not the data they were trained on.
        DiskError: a file cannot be written.
    """
    opened = [
        open_split(run, "test", model_path=model_path, data_path=data_path)
        for run in (run_a, run_b)
    ]
    _check_same_images(opened)
    measured = [measure(split) for split in opened]
    a_right, b_right = (found.correct for found in measured)
    only = {"A": np.flatnonzero(a_right & ~b_right), "B": np.flatnonzero(b_right & ~a_right)}
    names = measured[0].class_names
    images = [
        {
            "index": index,
            "class": names[measured[0].targets[index]],
            "right": right,
            "a": names[measured[0].predictions[index]],
            "b": names[measured[1].predictions[index]],
        }
        for right, indices in only.items()
        for index in indices.tolist()
    ]
    result = {
        "runs": [found.result["run"] for found in measured],
        "split": "test",
        "num_images": len(a_right),
        "both_right": int((a_right & b_right).sum()),
        "only_a_right": len(only["A"]),
        "only_b_right": len(only["B"]),
        "both_wrong": int((~a_right & ~b_right).sum()),
        "p": mcnemar(len(only["A"]), len(only["B"])),
        "images": images,
    }
    files: list[Path] = []
    if plots is not None:
        models = [
            f"{letter} ({found.result['model']})"
            for letter, found in zip(_LETTERS, measured, strict=True)
        ]
        with style():
            for right, wrong in ((0, 1), (1, 0)):
                letter = _LETTERS[right]
                title = f"test, {models[right]} right and {models[wrong]} wrong"
                grid = mistakes_grid(measured[wrong], only[letter], opened[wrong].images, title)
                files += save(grid, plots / f"only_{letter.lower()}_right", ("png",))
    return result, files


def _check_same_images(opened: Sequence[OpenSplit]) -> None:
    """Refuse runs that were not measured on the same images.

    Raises:
        UsageError: their data, or the images of it that are their test split, differ.
    """
    a, b = (split.data.sha256 for split in opened)
    if a != b:
        raise UsageError(
            f"--errors: A and B have other data (SHA-256 {a[:12]} and {b[:12]}); "
            "expected two runs of the same data"
        )
    configs = [split.run.config.data for split in opened]
    draws = {(data.limit, data.split_seed, data.num_folds, data.fold) for data in configs}
    if len(draws) > 1 and len({_digest(split) for split in opened}) > 1:
        raise UsageError(
            "--errors: A and B have other test images of the same data; "
            "expected two runs with the same data.limit, data.split_seed and data.fold"
        )


def _digest(opened: OpenSplit) -> str:
    digest = hashlib.sha256()
    for images, _targets in opened.data.batches(opened.name, opened.batch_size):
        digest.update(images.cpu().numpy().tobytes())
    return digest.hexdigest()


def errors_text(result: Mapping[str, Any], output_format: str) -> str:
    """Return what the command prints.

    Args:
        result: as ``compare_errors`` returned it.
        output_format: text, markdown, csv (the images alone), latex or json.
    """
    if output_format == "json":
        return render_json(result)
    if output_format == "csv":
        columns = ("index", "class", "right", "a", "b")
        return render_table(result["images"], columns, "csv")
    counts = [
        {"": "A right", "B right": result["both_right"], "B wrong": result["only_a_right"]},
        {"": "A wrong", "B right": result["only_b_right"], "B wrong": result["both_wrong"]},
    ]
    table = render_table(counts, ("", "B right", "B wrong"), output_format)
    if output_format == "latex":
        return table
    a, b = result["runs"]
    return (
        f"A {a}\nB {b}\n\n{table}\n"
        f"{result['num_images']} test images; McNemar's exact test, two-sided: "
        f"p = {result['p']:.3g}\n"
        "csv and json list the images that only one gets right; --plots DIR draws them\n"
    )
