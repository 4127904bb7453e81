"""Where numbers and images of a run go: one small protocol and its sinks.

``tracker`` has the protocol, ``json_lines`` the file that is the source of truth, ``tensorboard``
and ``events`` a view of it, ``console`` the screen. What is logged, and when, belongs to
``training``. Imports ``metrics``, ``geometry`` and ``files``.
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
