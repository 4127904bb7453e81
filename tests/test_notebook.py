"""A notebook as a student writes it, executed by a kernel of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

SETTINGS = "data='digits', debug='smoke', device='cpu'"
CELLS = (
    "import sys, cnnbench\nassert 'torch' not in sys.modules",
    "import numpy as np",
    f"run = cnnbench.train('model=lenet', optimizer__lr=.01, {SETTINGS})",
    "run",
    "run.test_accuracy, run.metrics[-1]['epoch'], len(cnnbench.predict(run, np.zeros((2, 8, 8))))",
    "cnnbench.evaluate(run, split='val')",
    "cnnbench.summary(run)",
    f"sweep = cnnbench.train('model=softmax', seed=[0, 1], {SETTINGS})",
    "[run.config['seed'] for run in sweep.runs], sweep.num_failed",
    "cnnbench.compare(sweep)",
    "cnnbench.train('modle=lenet')",
)


class Client(NotebookClient):  # type: ignore[misc]
    """Takes note of what is drawn anew."""

    updates: list[Any]

    def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
        if msg["msg_type"] in ("display_data", "update_display_data"):
            self.updates.append((cell_index, msg["msg_type"], msg["content"]["data"]))
        return super().process_message(msg, cell, cell_index)


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[Any]]:
    notebook = new_notebook(cells=[new_code_cell(text) for text in CELLS])
    notebook.cells[-1].metadata.tags = ["raises-exception"]
    root: Path = tmp_path_factory.mktemp("notebook")
    client = Client(notebook, timeout=120, resources={"metadata": {"path": str(root)}})
    client.updates = []
    with pytest.MonkeyPatch.context() as patch:
        # The kernel's own files stay out of the home directory.
        for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):
            patch.setenv(name, str(root / name))
        client.execute()
    nbformat.validate(notebook)
    return notebook, client.updates


def outputs(executed: tuple[Any, list[Any]], start: str) -> tuple[str, dict[str, str]]:
    """Return what the cell that begins so printed, and what it gave."""
    [cell] = [cell for cell in executed[0].cells if f"{cell.source}\n".startswith(start)]
    printed = "".join(out.text for out in cell.outputs if out.output_type == "stream")
    given = [out.data for out in cell.outputs if out.output_type == "execute_result"]
    return printed, dict(given[0]) if given else {}


def test_training_prints_lines_and_draws_a_bar(executed: tuple[Any, list[Any]]) -> None:
    printed, given = outputs(executed, "run = ")
    assert "test accuracy" in printed
    assert "epoch 1/1  train loss" in printed
    assert not given
    drawn = [data for cell, kind, data in executed[1] if cell == 2]
    assert "epoch 1/1" in drawn[0]["text/plain"]
    assert "epoch 1/1" in drawn[0]["text/html"]
    assert drawn[-1] == {"text/plain": ""}


@pytest.mark.parametrize(
    ("start", "words", "has_curves"),
    [
        ("run\n", "test/accuracy", True),
        ("cnnbench.evaluate", "per_class", False),
        ("cnnbench.summary", "params_share", False),
        ("cnnbench.compare", "softmax", True),
    ],
)
def test_results_are_shown_as_tables_with_curves(
    executed: tuple[Any, list[Any]], start: str, words: str, has_curves: bool
) -> None:
    _, given = outputs(executed, start)
    assert words in given["text/html"]
    assert "<table" in given["text/html"]
    assert ("<svg" in given["text/html"]) == has_curves
    assert given["text/plain"]


def test_values_are_plain(executed: tuple[Any, list[Any]]) -> None:
    accuracy, epoch, count = eval(outputs(executed, "run.test_accuracy")[1]["text/plain"])
    assert 0 < accuracy <= 1
    assert (epoch, count) == (1, 2)
    assert outputs(executed, "[run.config")[1]["text/plain"] == "([0, 1], 0)"


def test_a_sweep_draws_its_table(executed: tuple[Any, list[Any]]) -> None:
    printed, _ = outputs(executed, "sweep = ")
    assert "(2 seeds)" in printed
    drawn = [data["text/plain"] for cell, kind, data in executed[1] if cell == 7]
    assert any("seed=1" in text for text in drawn)


def test_a_mistake_is_a_sentence(executed: tuple[Any, list[Any]]) -> None:
    [error] = [out for out in executed[0].cells[-1].outputs if out.output_type == "error"]
    assert "did you mean 'model'" in error.evalue
