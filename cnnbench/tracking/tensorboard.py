"""TensorBoard event files: one writer, one directory.

Events are written by the thread that logs them. torch's ``SummaryWriter`` hands them to a thread
of its own, where a full disk ends in a traceback on the screen and an error at some later call.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import socket
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

# How long a number may stay out of sight of a TensorBoard that is looking.
FLUSH_SECONDS = 10.0

_writers = itertools.count()


class TensorBoard:
    """Writes scalars, pictures and the graph to an event file.

    Training never stops over this view of the run: if the file cannot be written, or the graph
    cannot be drawn, ``warn`` is told once and training goes on.

    Args:
        directory: exists; gets one ``events.out.tfevents.*`` file more.
        purge_step: the first step of a run that goes on; TensorBoard hides what earlier files of
            the directory have from this step on.
        warn: takes a message for the user.
    """

    def __init__(
        self, directory: Path, *, purge_step: int | None = None, warn: Callable[[str], None]
    ) -> None:
        self._warn = warn
        self._file: io.BufferedWriter | None = None
        self._last_flush = time.monotonic()
        # The readers know event files by this name, and read a directory's in its order.
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}"
        path = directory / f"{name}.{os.getpid()}.{next(_writers)}"
        with self._failures_reported():
            self._file = path.open("xb")
        self._write(file_version="brain.Event:2")
        if purge_step is not None:
            self._write(step=purge_step, session_log={"status": "START"})
        self.flush()

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write one point of each curve."""
        points = [
            {"tag": tag, "simple_value": float(value)}
            for tag, value in values.items()
            if tag != "epoch"  # a straight line, and the first chart of the page
        ]
        self._write(step=step, summary={"value": points})
        if time.monotonic() - self._last_flush > FLUSH_SECONDS:
            self.flush()

    def images(self, tag: str, image: torch.Tensor, step: int) -> None:
        """Write a picture as PNG."""
        from PIL import Image

        channels, height, width = image.shape
        pixels = image[0] if channels == 1 else image.permute(1, 2, 0)
        png = io.BytesIO()
        Image.fromarray(pixels.contiguous().numpy()).save(png, format="PNG")
        encoded = {
            "height": height,
            "width": width,
            "colorspace": channels,
            "encoded_image_string": png.getvalue(),
        }
        self._write(step=step, summary={"value": [{"tag": tag, "image": encoded}]})

    def graph(self, module: nn.Module, example: torch.Tensor) -> None:
        """Write the traced graph in evaluation mode; the module and all random state stay."""
        try:
            with _undisturbed(module):
                graph = _trace(module, example)
        except Exception as error:  # whatever a network does that tracing cannot follow
            reason = str(error).strip().split("\n")[0][:200]
            self._warn(f"TensorBoard shows no graph of this network: {reason}")
            return
        self._write(graph_def=graph)

    def flush(self) -> None:
        """Hand all events to the file system."""
        self._last_flush = time.monotonic()
        with self._failures_reported():
            if self._file is not None:
                self._file.flush()

    def close(self) -> None:
        """Flush and close; more than once is fine."""
        with self._failures_reported():
            if self._file is not None:
                self._file.close()
        self._file = None

    def _write(self, **fields: Any) -> None:
        if self._file is None:
            return
        from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[attr-defined]
        from tensorboard.summary.writer.record_writer import RecordWriter

        event = Event(wall_time=time.time(), **fields)
        with self._failures_reported():
            writer = RecordWriter(self._file)  # type: ignore[no-untyped-call]
            writer.write(event.SerializeToString())  # type: ignore[no-untyped-call]

    @contextlib.contextmanager
    def _failures_reported(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if self._file is not None:
                # Closing flushes what is buffered, and so fails again; the file is closed then.
                with contextlib.suppress(OSError):
                    self._file.close()
            self._file = None
            self._warn(f"TensorBoard gets no more data: {error}; metrics.jsonl has every number")


def _trace(module: nn.Module, example: torch.Tensor) -> bytes:
    import torch
    from torch.utils.tensorboard._pytorch_graph import graph

    # torch prints a failure before it raises; what the user needs is in the warning.
    with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        definition, _ = graph(module, example)
    serialized: bytes = definition.SerializeToString()
    return serialized


@contextlib.contextmanager
def _undisturbed(module: nn.Module) -> Iterator[None]:
    """Bring back each submodule's mode, which torch sets to the whole's, and random state."""
    import torch

    modes = {part: part.training for part in module.modules()}
    tensor = next(module.parameters(), None)
    devices = [] if tensor is None or tensor.device.type == "cpu" else [tensor.device]
    kind = devices[0].type if devices else "cuda"
    try:
        with torch.random.fork_rng(devices, device_type=kind):
            yield
    finally:
        for part, training in modes.items():
            part.training = training
