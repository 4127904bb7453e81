"""A run's network as one file that takes images, for ONNX or `torch.export`.

The file is compared with the network before it gets its name, on the images of the run's data.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cnnbench.analysis.evaluate.measure import open_split
from cnnbench.data.transforms import InputTransform, RowTransform
from cnnbench.errors import DataError, UsageError, reason_of
from cnnbench.files import sync_directory, writing
from cnnbench.runs.directory import RunDir
from cnnbench.runs.network import LoadedNetwork, load_run
from cnnbench.version import __version__

# Largest difference of a logit from the network's, as a fraction of its largest logit (or of 1).
TOLERANCE = 1e-4
BATCH_SIZES = (1, 7)
_EXTRA = ("onnx", "onnxscript", "onnxruntime")

# From uint8 images (N, C, H, W) to logits.
Program = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class _Kind:
    """A kind of file.

    Attributes:
        suffix: of its name.
        content: of a file with a program and what is to be known of it.
        load: reads both back from a file, of the latter what has these keys.
    """

    suffix: str
    content: Callable[[torch.export.ExportedProgram, Mapping[str, str]], bytes]
    load: Callable[[Path, Iterable[str]], tuple[Program, dict[str, str]]]


class _FromImages(nn.Module):
    """A network with its preprocessing before it."""

    def __init__(self, network: nn.Module, transform: InputTransform | RowTransform) -> None:
        super().__init__()
        if hasattr(network, "aux_heads"):
            # They are for training alone, but torch would write their weights.
            network = copy.deepcopy(network)
            network.aux_heads = nn.ModuleDict()
        self.network = network
        self._transform = transform

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, num_classes) for uint8 images (N, C, image_size, image_size)."""
        logits: Tensor = self.network(self._transform(images))
        return logits


@dataclass(frozen=True)
class Export:
    """A file that was kept.

    Attributes:
        num_bytes: of the file.
        largest_difference: of a logit, as a fraction of the largest one, or of 1.
    """

    num_bytes: int
    largest_difference: float


def export_run(
    run: RunDir,
    to: str,
    output: Path | None = None,
    model_path: str | None = None,
    data_path: str | None = None,
) -> dict[str, Any]:
    """Write a run's network to a file; `cnnbench.export` says what comes back.

    Args:
        run: an existing run.
        to: a key of `KINDS`.
        output: the file; None for one in the run directory, named after the network.
        model_path: as ``load_run`` takes it.
        data_path: as ``open_split`` takes it.

    Raises:
        UsageError: as `export_network`, or ``output`` is a directory.
        CheckpointError: the run is damaged or foreign.
        DiskError: the file cannot be written.
    """
    model = run.config.model.name
    file = output or run.path / f"{model}{KINDS[to].suffix}"
    if file.is_dir():
        raise UsageError(f"--output {file}: a directory; name the file")
    if to == "onnx":
        _check_extra()
    network, images, source = _network_and_images(run, model_path, data_path)
    network.check_images()
    facts = {"run": run.path.name, "model": model, "data": run.config.data.name}
    kept = export_network(network, images, to, file, facts)
    return {
        "run": str(run.path),
        "to": to,
        "file": str(file),
        "num_bytes": kept.num_bytes,
        "input": {"dtype": "uint8", "shape": ["batch", *images.shape[1:]]},
        "class_names": list(network.class_names),
        "compared_on": source,
        "batch_sizes": list(BATCH_SIZES),
        "largest_difference": kept.largest_difference,
        "tolerance": TOLERANCE,
    }


def export_network(
    network: LoadedNetwork, images: Tensor, to: str, file: Path, facts: Mapping[str, str]
) -> Export:
    """Write a network, preprocessing included, to a file, if that gives the network's logits.

    Args:
        network: on the CPU.
        images: to compare on, uint8 (N, C, image_size, image_size), as many as the largest of
            `BATCH_SIZES`.
        to: a key of `KINDS`.
        file: is replaced.
        facts: for the file's metadata, beside class names and preprocessing.

    Raises:
        UsageError: torch cannot follow the network, or the file differs from it; none is left.
        DiskError: the file cannot be written.
    """
    kind = KINDS[to]
    module = _FromImages(network.module, network.transform).eval()
    with torch.inference_mode():
        expected = [module(images[:size]) for size in BATCH_SIZES]
    known = {**facts, **_known(network)}
    with _refusals(to):
        # Two images: a batch of one would be taken for a constant.
        dynamic = ({0: torch.export.Dim("batch", min=1)},)
        program = torch.export.export(module, (images[:2],), dynamic_shapes=dynamic)
        content = kind.content(program, known)
    with _kept_if_whole(file, kind.suffix, content) as written:
        answer, read = kind.load(written, known)
        if read != known:
            raise UsageError(f"{file}: not kept: class names and preprocessing do not read back")
        difference = max(
            _difference(answer(images[:size]), logits)
            for size, logits in zip(BATCH_SIZES, expected, strict=True)
        )
        if difference > TOLERANCE:
            raise UsageError(
                f"{file}: not kept: its logits differ from the network's by {difference:.1e} of "
                f"the largest, allowed are {TOLERANCE:.0e}"
            )
    return Export(len(content), difference)


def _check_extra() -> None:
    for name in _EXTRA:
        try:
            importlib.import_module(name)
        except ImportError:
            raise UsageError(
                f"--to onnx needs {', '.join(_EXTRA)}, and {name} is missing: "
                "pip install 'cnnbench[export]'"
            ) from None


def _network_and_images(
    run: RunDir, model_path: str | None, data_path: str | None
) -> tuple[LoadedNetwork, Tensor, str]:
    """Return a run's network, uint8 images of its size, and what they are."""
    count = max(BATCH_SIZES)
    try:
        # Of the training split: the test images are left unseen.
        split = open_split(run, "train", "cpu", model_path, data_path=data_path)
    except DataError as error:
        network = load_run(run, model_path)
        size = network.transform.image_size
        draw = torch.Generator().manual_seed(0)
        shape = (count, network.in_channels, size, size)
        images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=draw)
        return network, images, f"random images, for want of the run's data ({error})"
    raw = torch.from_numpy(split.images(range(min(count, split.num_images))))
    images = split.network.transform.resize(raw)
    images = images.repeat(-(-count // len(images)), 1, 1, 1)[:count]
    return split.network, images, f"training images of {split.data.source}"


def _known(network: LoadedNetwork) -> dict[str, str]:
    """Return what a user of the file must know, each as text."""
    transform = network.transform
    preprocessing = {
        "input": "uint8 images (N, C, H, W), 0 to 255",
        "included": "(pixels / 255 - mean) / std",
        "in_channels": network.in_channels,
        "image_size": transform.image_size,
        "mean": list(transform.mean),
        "std": list(transform.std),
    }
    return {
        "producer": f"cnnbench {__version__}",
        "class_names": json.dumps(network.class_names, ensure_ascii=False),
        "preprocessing": json.dumps(preprocessing),
    }


def _difference(logits: Tensor, expected: Tensor) -> float:
    """Return the largest difference as a fraction of the largest logit, or of 1."""
    if logits.shape != expected.shape:
        return math.inf
    difference = float((logits - expected).abs().max() / expected.abs().max().clamp(min=1))
    return difference if math.isfinite(difference) else math.inf


@contextlib.contextmanager
def _kept_if_whole(file: Path, suffix: str, content: bytes) -> Iterator[Path]:
    """Write under another name, to be looked at inside the block; rename at its end.

    Whatever the block raises, nothing is left, and an older file stands.
    """
    # torch knows its archives by their ending.
    tmp = file.with_name(f"{file.name}.tmp-{os.getpid()}{suffix}")
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(tmp, "wb") as opened:
                opened.write(content)
                opened.flush()
                os.fsync(opened.fileno())
            yield tmp
            os.replace(tmp, file)
        finally:
            tmp.unlink(missing_ok=True)
        sync_directory(file.parent)


@contextlib.contextmanager
def _refusals(to: str) -> Iterator[None]:
    """Turn whatever torch raises on a network that it cannot follow into a plain message."""
    try:
        yield
    except Exception as error:
        raise UsageError(
            f"--to {to}: torch cannot follow this network, so it cannot be exported: "
            f"{type(error).__name__}: {reason_of(error)}"
        ) from error


def _torch_content(program: torch.export.ExportedProgram, known: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files=dict(known))
    return buffer.getvalue()


def _load_torch(file: Path, keys: Iterable[str]) -> tuple[Program, dict[str, str]]:
    known = dict.fromkeys(keys, "")
    # torch's reader unpickles some parts of an archive. This one was written a moment ago by this
    # process; cnnbench reads no other.
    module = torch.export.load(file, extra_files=known).module()

    def run(images: Tensor) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = module(images)
        return logits

    return run, known


def _onnx_content(program: torch.export.ExportedProgram, known: Mapping[str, str]) -> bytes:
    converted = torch.onnx.export(
        program,
        dynamo=True,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: "batch"},),
        verbose=False,
    )
    assert converted is not None
    converted.model.metadata_props.update(known)
    content: bytes = converted.model_proto.SerializeToString()
    return content


def _load_onnx(file: Path, keys: Iterable[str]) -> tuple[Program, dict[str, str]]:
    from onnxruntime import InferenceSession  # type: ignore[attr-defined]

    session = InferenceSession(file, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        [logits] = session.run(["logits"], {"images": images.numpy()})
        return torch.from_numpy(logits)

    known = session.get_modelmeta().custom_metadata_map
    return run, {key: known[key] for key in keys if key in known}


KINDS = {
    "onnx": _Kind(".onnx", _onnx_content, _load_onnx),
    "torch": _Kind(".pt2", _torch_content, _load_torch),
}
