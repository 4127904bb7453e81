"""What a sweep's own process has others find out, so that it need not load torch.

Jobs are forked from a process that has loaded it; another fork of that one answers a question, in
files as jobs do: ``python -m cnnbench.sweeps.ask DIRECTORY``.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cnnbench import errors
from cnnbench.errors import CnnbenchError
from cnnbench.notices import guarded
from cnnbench.sweeps.launchers import Launch
from cnnbench.sweeps.launchers.local import ForkLauncher

_QUESTION, _ANSWER = "question.json", "answer.json"
_POLL_SECONDS = 0.1


class Question:
    """A question under way; the launcher runs nothing else until the answer is taken.

    Args:
        launcher: whose process answers.
        about: ``jobs`` or ``layers``, see ``main``.
        tree: plain values.

    Raises:
        OSError: no temporary file can be written.
    """

    def __init__(self, launcher: ForkLauncher, about: str, tree: Mapping[str, Any]) -> None:
        self._launcher = launcher
        self._folder = tempfile.TemporaryDirectory(prefix="cnnbench-")
        directory = Path(self._folder.name)
        question = json.dumps({"about": about, **tree})
        (directory / _QUESTION).write_text(question, encoding="utf-8")
        command = (sys.executable, "-m", "cnnbench.sweeps.ask", str(directory))
        launcher.submit(Launch(about, command, directory))

    def answer(self) -> Any:
        """Wait for the answer; None where there is none.

        Raises:
            CnnbenchError: what was found wrong.
        """
        while not self._launcher.ended(_POLL_SECONDS):
            pass
        with self._folder as folder:
            try:
                answer = json.loads((Path(folder) / _ANSWER).read_text(encoding="utf-8"))
                said = (Path(folder) / "log.txt").read_text(encoding="utf-8", errors="replace")
            except (OSError, ValueError):
                return None
        print(said, end="", file=guarded(sys.stderr), flush=True)
        if "error" in answer:
            raise getattr(errors, answer["error"])(answer["message"])
        return answer["found"]


def main(argv: Sequence[str]) -> int:
    """Find out what a question asks, and write the answer beside it.

    Args:
        argv: the directory of the question.
    """
    directory = Path(argv[0])
    question = json.loads((directory / _QUESTION).read_text(encoding="utf-8"))
    try:
        answer = {"found": _find(question)}
    except CnnbenchError as error:
        if type(error) is not getattr(errors, type(error).__name__, None):
            raise
        answer = {"error": type(error).__name__, "message": str(error)}
    (directory / _ANSWER).write_text(json.dumps(answer), encoding="utf-8")
    return 0


def _find(question: Mapping[str, Any]) -> Any:
    if question["about"] == "jobs":
        from cnnbench.sweeps.check import find

        return find(question["configs"], question["slots"])
    from cnnbench.analysis.compare.layers import layers_of

    return {key: layers_of(*network) for key, network in question["networks"].items()}
