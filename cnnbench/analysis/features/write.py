"""What networks of runs see in image files, written as figures and into TensorBoard."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cnnbench.analysis.features.extract import Features, look_at
from cnnbench.analysis.features.plots import Seen, draw_side_by_side, figures
from cnnbench.analysis.predict import image_files, read_images, say_unreadable
from cnnbench.errors import UsageError
from cnnbench.files import writing
from cnnbench.notices import notice
from cnnbench.rendering.figures import save, style
from cnnbench.runs.checkpoint import Checkpoints
from cnnbench.runs.directory import RunDir
from cnnbench.runs.network import LoadedNetwork, load_run
from cnnbench.tracking import TensorBoard

_TOP = 5


@dataclass(frozen=True)
class _Subject:
    """A run to look into.

    Attributes:
        run: an existing run.
        model: the network's name.
        label: that, with a number where there are several runs.
        network: with the selected epoch's weights.
        step: at which they were saved.
        directory: for its figures.
        images: as the network takes them.
    """

    run: RunDir
    model: str
    label: str
    network: LoadedNetwork
    step: int
    directory: Path
    images: list[NDArray[np.uint8]]


def write_features(
    runs: Sequence[RunDir],
    paths: Sequence[str | Path],
    output: Path | None = None,
    model_path: str | None = None,
) -> list[dict[str, Any]]:
    """Write what runs see in images; `cnnbench.features` says what comes back.

    Nothing is written before all runs and images were read.

    Args:
        runs: existing runs; their data sets are not needed.
        paths: image files, or folders of them.
        output: for everything that is written; None for the run directories, `features` below
            them for the figures, of which none may be written to by another process.
        model_path: as ``load_run`` takes it.

    Raises:
        UsageError: a run is named twice, or another process is writing to it.
        CheckpointError: a run is damaged or foreign.
        DataError: a file is missing or no image.
        DiskError: a file cannot be written.
    """
    if len({run.path.resolve() for run in runs}) < len(runs):
        raise UsageError("a run is given twice; once is enough")
    first = load_run(runs[0], model_path)
    first.check_images()
    files = image_files(paths)
    readable = read_images(first, files)
    files, unreadable = readable.files, readable.unreadable
    subjects = [
        _open(run, number if len(runs) > 1 else None, files, output, model_path)
        for number, run in enumerate(runs, 1)
    ]
    names = _names(files)
    rows = []
    with ExitStack() as stack, style():
        if output is None:
            for run in runs:
                stack.enter_context(run.lock())
        boards = [
            stack.enter_context(_board(s.run.path if output is None else s.directory))
            for s in subjects
        ]
        for index, (file, name) in enumerate(zip(files, names, strict=True)):
            seen = [_look(subject, index) for subject in subjects]
            beside = {}
            if len(subjects) > 1:
                stem = (output or subjects[0].directory) / name / "side_by_side"
                beside = {"side_by_side": [str(f) for f in save(draw_side_by_side(seen), stem)]}
            for subject, one, board in zip(subjects, seen, boards, strict=True):
                written = _write(subject, one, name, board)
                rows.append({**_row(subject, one, file), "files": written, **beside})
    say_unreadable(unreadable)
    return rows


def _open(
    run: RunDir,
    number: int | None,
    files: Sequence[Path],
    output: Path | None,
    model_path: str | None,
) -> _Subject:
    network = load_run(run, model_path)
    model = run.config.model.name
    manifest = Checkpoints(run.checkpoints).manifest()
    saved = manifest["saves"][manifest["best"] or manifest["last"]]
    directory = output or run.path / "features"
    if output is not None and number is not None:
        directory = output / f"{number}_{model}"
    return _Subject(
        run=run,
        model=model,
        label=model if number is None else f"{number} {model}",
        network=network,
        step=int(saved["global_step"]),
        directory=directory,
        images=list(read_images(network, files).images),
    )


def _names(files: Sequence[Path]) -> list[str]:
    """Return a directory name for each file, its name without the ending, and none twice."""
    names: list[str] = []
    for file in files:
        # A name that starts with a dot would be hidden.
        stem = re.sub(r"^\.+", "", file.stem) or "image"
        name, number = stem, 2
        while name in names:
            name, number = f"{stem}-{number}", number + 1
        names.append(name)
    return names


@contextmanager
def _board(directory: Path) -> Iterator[TensorBoard]:
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
    board = TensorBoard(directory, warn=notice)
    try:
        yield board
    finally:
        board.close()


def _look(subject: _Subject, index: int) -> Seen:
    image = subject.images[index]
    inputs = subject.network.transform(torch.from_numpy(image)[None])
    found = look_at(subject.network.module, inputs, subject.network.loss.outputs)
    values, labels = found.probabilities.topk(min(_TOP, len(found.probabilities)))
    top = [
        {"class": subject.network.class_names[number], "probability": value}
        for value, number in zip(values.tolist(), labels.tolist(), strict=True)
    ]
    return Seen(subject.label, image, found, top)


def _write(subject: _Subject, seen: Seen, name: str, board: TensorBoard) -> list[str]:
    written: list[str] = []
    for kind, figure in figures(seen).items():
        png, svg = save(figure, subject.directory / name / kind)
        written += [str(png), str(svg)]
        board.images(f"features/{name}/{kind}", _pixels(png), subject.step)
    return written


def _pixels(png: Path) -> torch.Tensor:
    from PIL import Image

    with Image.open(png) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def _row(subject: _Subject, seen: Seen, file: Path) -> dict[str, Any]:
    found = seen.features
    return {
        "run": str(subject.run.path),
        "model": subject.model,
        "file": str(file),
        **seen.top[0],
        "top": list(seen.top),
        "first_layer": found.filters.layer if found.filters is not None else None,
        "stages": [
            {
                "name": stage.name,
                "shape": list(stage.maps.shape),
                "receptive_field": stage.receptive_field,
                "measured_receptive_field": stage.measured_side,
                "seen": dict(stage.box._asdict()),
            }
            for stage in found.stages
        ],
        "note": _note(subject.model, found),
    }


def _note(model: str, found: Features) -> str | None:
    if found.stages:
        return None
    shown = "" if found.filters is None else "; the weights of its first layer are shown as images"
    return f"{model} has no convolution: there are no maps, no Grad-CAM, no receptive field{shown}"
