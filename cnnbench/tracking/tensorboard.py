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
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnbench.errors import DiskError, reason_of
from cnnbench.files import check_fence
from cnnbench.notices import visible
from cnnbench.tracking.events import event_files, leave_out, record_of

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import nn

    from cnnbench.metrics import Curves

# How long a number may stay out of sight of a TensorBoard that is looking.
FLUSH_SECONDS = 10.0
_HISTOGRAM_BINS = 64
# What became of a session, in the words of run.json and the numbers of TensorBoard; an
# interrupted one has not ended.
_SESSION_STATUS = {"done": 1, "failed": 2, "interrupted": 3}
_HPARAMS = "_hparams_/"

_writers = itertools.count()


class TensorBoard:
    """Writes scalars, images and the graph to an event file.

    Training never stops over this view of the run: if the file cannot be written, or the graph
    cannot be drawn, ``warn`` is told once and training continues.

    Args:
        directory: exists; gets one ``events.out.tfevents.*`` file more.
        resumed_after: the step after which a run is resumed. What earlier files of the directory
            have of later steps goes, and at step 0 all they have.
        is_written_again: whether an event with these tags, at that very step, will be written
            again, and so goes too.
        warn: takes a message for the user.
    """

    def __init__(
        self,
        directory: Path,
        *,
        resumed_after: int = 0,
        is_written_again: Callable[[Collection[str]], bool] = lambda names: False,
        warn: Callable[[str], None],
    ) -> None:
        self._warn = warn
        self._file: io.BufferedWriter | None = None
        self._last_flush = time.monotonic()
        # The readers know event files by this name, and read a directory's in its order.
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}"
        path = directory / f"{name}.{os.getpid()}.{next(_writers):06d}"
        earlier = event_files(directory)
        with self._failures_reported():
            for file in earlier:
                leave_out(file, lambda event: _is_dropped(event, resumed_after, is_written_again))
            self._file = path.open("xb")
        self._write(file_version="brain.Event:2")
        if earlier:
            # A TensorBoard that is looking has read what is gone now; this makes it forget.
            first = resumed_after + 1 if resumed_after else 0
            self._write(step=first, session_log={"status": "START"})
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
        """Write an image as PNG."""
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

    def graph(self, module: nn.Module, example: torch.Tensor, step: int) -> None:
        """Write the traced graph in evaluation mode; the module and all random state stay."""
        from cnnbench.geometry.observe import undisturbed

        try:
            from cnnbench.tracking.graph import trace

            with undisturbed(module):
                graph = trace(module.eval(), example)
        except Exception as error:  # whatever a network does that tracing cannot follow
            self._warn(f"TensorBoard shows no graph of this network: {reason_of(error)}")
            return
        self._write(step=step, graph_def=graph)

    def histograms(self, values: Mapping[str, torch.Tensor], step: int) -> None:
        """Write the distribution of each tensor's values; those that are not finite are left out.

        Args:
            values: by tag, such as ``weights/stages.0.weight``.
            step: global step.
        """
        histograms = []
        for tag, tensor in values.items():
            array = tensor.detach().double().cpu().numpy().ravel()
            array = array[np.isfinite(array)]
            if not array.size:
                continue
            counts, edges = np.histogram(array, bins=_HISTOGRAM_BINS)
            histogram = {
                "min": array.min(),
                "max": array.max(),
                "num": array.size,
                "sum": array.sum(),
                "sum_squares": array @ array,
                # Only right edges are written, so an empty first bucket says where bins begin.
                "bucket_limit": edges,
                "bucket": [0, *counts],
            }
            histograms.append({"tag": tag, "histo": histogram})
        self._write(step=step, summary={"value": histograms})

    def pr_curves(self, tag: str, names: Collection[str], curves: Curves, step: int) -> None:
        """Write a precision-recall curve for each class, as its page of TensorBoard draws them.

        Args:
            tag: before the names, such as ``test/pr``.
            names: of the classes.
            curves: counts at each threshold, by class.
            step: global step.
        """
        from tensorboard.plugins.pr_curve import metadata

        # Rows as that page wants them; all of a class are above the threshold 0.
        right, wrong = curves.true_positives, curves.false_positives
        below = wrong[:, :1] - wrong, right[:, :1] - right
        rows = np.stack([right, wrong, *below, curves.precision, curves.recall], axis=1)
        values = [
            {
                "tag": f"{tag}/{name}",
                "metadata": _untyped(metadata).create_summary_metadata(name, "", row.shape[1]),
                "tensor": _tensor(row),
            }
            for name, row in zip(map(visible, names), rows, strict=True)
        ]
        self._write(step=step, summary={"value": values})

    def bands(self, charts: Mapping[str, Collection[tuple[str, str, str]]]) -> None:
        """Lay out the page of custom scalars: each chart has lines with a band.

        Args:
            charts: by title, the tags of each line, of the band's lower and of its upper edge.
        """
        from tensorboard.plugins.custom_scalar import layout_pb2, metadata

        layout = _untyped(layout_pb2)
        laid_out = layout.Layout(
            category=[
                {
                    "title": "mean over seeds, and one standard deviation to both sides",
                    "chart": [
                        {
                            "title": title,
                            "margin": {
                                "series": [
                                    {"value": value, "lower": lower, "upper": upper}
                                    for value, lower, upper in lines
                                ]
                            },
                        }
                        for title, lines in charts.items()
                    ],
                }
            ]
        )
        about = _untyped(metadata)
        tensor = {"dtype": "DT_STRING", "string_val": [laid_out.SerializeToString()]}
        value = {
            "tag": about.CONFIG_SUMMARY_TAG,
            "metadata": about.create_summary_metadata(),
            "tensor": {**tensor, "tensor_shape": {}},
        }
        self._write(step=0, summary={"value": [value]})

    def session_start(
        self, settings: Mapping[str, str | float | bool], metrics: Collection[str], step: int
    ) -> None:
        """Write the run's line of the HParams page: its settings, and what its columns are.

        Args:
            settings: the same keys, with values of the same kind, in all runs.
            metrics: the tags of scalars that get a column.
            step: global step.
        """
        from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2

        api, data = _untyped(api_pb2), _untyped(plugin_data_pb2)
        kinds = {str: api.DATA_TYPE_STRING, bool: api.DATA_TYPE_BOOL}
        experiment = api.Experiment(
            hparam_infos=[
                {"name": key, "type": kinds.get(type(value), api.DATA_TYPE_FLOAT64)}
                for key, value in settings.items()
            ],
            metric_infos=[
                {"name": {"tag": tag}, "display_name": tag.partition("/")[2]} for tag in metrics
            ],
        )
        start = data.SessionStartInfo(start_time_secs=time.time())
        for key, value in settings.items():
            kind = {str: "string_value", bool: "bool_value"}.get(type(value), "number_value")
            shown = visible(value) if isinstance(value, str) else value
            setattr(start.hparams[key], kind, shown)
        self._session("experiment", experiment, step)
        self._session("session_start_info", start, step)

    def session_end(self, status: str, step: int) -> None:
        """Write what became of the run.

        Args:
            status: done, failed or interrupted.
            step: global step.
        """
        from tensorboard.plugins.hparams import plugin_data_pb2

        number = _SESSION_STATUS[status]
        end = _untyped(plugin_data_pb2).SessionEndInfo(status=number, end_time_secs=time.time())
        self._session("session_end_info", end, step)

    def _session(self, kind: str, content: Any, step: int) -> None:
        from tensorboard.plugins.hparams import plugin_data_pb2

        data = _untyped(plugin_data_pb2).HParamsPluginData(**{kind: content})
        # As the plug-in's own `metadata` makes it, which imports a stand-in for TensorFlow.
        about = {"plugin_data": {"plugin_name": "hparams", "content": data.SerializeToString()}}
        value = {"tag": f"{_HPARAMS}{kind}", "metadata": about, "tensor": _tensor(np.empty(0))}
        self._write(step=step, summary={"value": [value]})

    def flush(self) -> None:
        """Hand all events to the file system."""
        self._last_flush = time.monotonic()
        check_fence()
        with self._failures_reported():
            if self._file is not None:
                self._file.flush()

    def close(self) -> None:
        """Flush and close; more than once is fine."""
        check_fence()
        with self._failures_reported():
            if self._file is not None:
                self._file.close()
        self._file = None

    def _write(self, **fields: Any) -> None:
        if self._file is None:
            return
        check_fence()
        from tensorboard.compat.proto.event_pb2 import Event

        event = Event(wall_time=time.time(), **fields)
        with self._failures_reported():
            self._file.write(record_of(event.SerializeToString()))

    @contextlib.contextmanager
    def _failures_reported(self) -> Iterator[None]:
        try:
            yield
        except (OSError, DiskError) as error:
            if self._file is not None:
                # Closing flushes what is buffered, and so fails again; the file is closed then.
                with contextlib.suppress(OSError):
                    self._file.close()
            self._file = None
            self._warn(f"TensorBoard gets no more data: {error}; metrics.jsonl has every number")


def _untyped(module: Any) -> Any:
    """Return one of TensorBoard's modules, whose names no type checker can see."""
    return module


def _is_dropped(event: Any, step: int, is_written_again: Callable[[Collection[str]], bool]) -> bool:
    """Tell whether an earlier file's event is not of a run that is resumed after a step."""
    if event.HasField("file_version") or event.HasField("session_log"):
        return False
    tags = [value.tag for value in event.summary.value]
    # Readers take the first they find, so the run's line must be in the newest file alone.
    if step == 0 or event.step > step or any(tag.startswith(_HPARAMS) for tag in tags):
        return True
    return bool(event.step == step and is_written_again(tags))


def _tensor(values: NDArray[np.float64]) -> dict[str, Any]:
    """Return float32 values as TensorBoard's tensor."""
    shape = {"dim": [{"size": size} for size in values.shape]}
    content = values.astype("<f4").tobytes()
    return {"dtype": "DT_FLOAT", "tensor_shape": shape, "tensor_content": content}
