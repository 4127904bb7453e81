"""Where numbers and images of a run go: one small protocol and its sinks.

A sink is handed plain numbers, arrays and modules; it knows no config and decides nothing about
training. It may import the ground, ``files`` and ``geometry``.
"""

from __future__ import annotations

from cnnbench.tracking.console import Console, format_seconds
from cnnbench.tracking.images import confusion_image
from cnnbench.tracking.json_lines import JsonLines, read_records
from cnnbench.tracking.tensorboard import TensorBoard
from cnnbench.tracking.tracker import Memory, Tracker, Trackers

__all__ = [
    "Console",
    "JsonLines",
    "Memory",
    "TensorBoard",
    "Tracker",
    "Trackers",
    "confusion_image",
    "format_seconds",
    "read_records",
]
