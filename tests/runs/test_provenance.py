"""What a run comes from: files, code, and what changed between its processes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from tiny import info, train

import cnnbench
from cnnbench.errors import Interrupted, UsageError
from cnnbench.runs import provenance as subject
from cnnbench.runs.directory import open_run
from cnnbench.runs.provenance import changes, model_files, resume_warning
from cnnbench.runs.record import ProcessRecord, Provenance
from cnnbench.training.trainer import Training

NET = """
import sys
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parent))
import helper_of_mine
from package_of_mine.blocks import Block
from torch import nn

class Net(nn.Module):
    def __init__(self, *, in_channels, num_classes, image_size):
        super().__init__()
        self.head = nn.Linear(in_channels * image_size**2, num_classes)

    def forward(self, x):
        return self.head(x.flatten(1)) * helper_of_mine.SCALE
"""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    folder = tmp_path / "code"
    (folder / "package_of_mine").mkdir(parents=True)
    (folder / "net.py").write_text(NET)
    (folder / "helper_of_mine.py").write_text("SCALE = 1.0\n")
    (folder / "unused.py").write_text("x = 1\n")
    package = folder / "package_of_mine"
    (package / "__init__.py").write_text("")
    (package / "blocks.py").write_text("from . import deep\nfrom .deep import y\nBlock = object\n")
    (package / "deep.py").write_text("import helper_of_mine\ny = 1\n")
    return folder / "net.py"


@pytest.fixture(autouse=True)
def no_modules_left(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0].endswith("_of_mine")]:
        del sys.modules[name]


def files_of(net: Path) -> dict[str, str]:
    class Config:
        class model:
            args = {"path": f"{net}:Net"}  # noqa: RUF012
            weights = None

        class data:
            args: dict[str, str] = {}  # noqa: RUF012

        class loss:
            teacher = None

    return model_files(Config)  # type: ignore[arg-type]


def test_what_a_networks_file_imports_counts_and_nothing_is_run(net: Path) -> None:
    (net.parent / "helper_of_mine.py").write_text("raise RuntimeError('was run')\n")
    before = files_of(net)
    assert before.keys() == {"path", "helpers"}
    changed = {
        "helper_of_mine.py": True,
        "package_of_mine/__init__.py": True,
        "package_of_mine/blocks.py": True,
        "package_of_mine/deep.py": True,
        "unused.py": False,
    }
    for name, counts in changed.items():
        file = net.parent / name
        was = file.read_text()
        file.write_text(f"{was}# changed\n")
        assert (files_of(net) != before) is counts, name
        file.write_text(was)
    assert files_of(net) == before
    # Where it lies does not count.
    moved = net.parent.rename(net.parent.parent / "moved") / "net.py"
    assert files_of(moved) == before


def test_a_file_that_imports_only_what_is_installed_has_no_helpers(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text("import os, torch\nfrom cnnbench.layers import conv\nfrom torch import nn\n")
    assert files_of(file).keys() == {"path"}
    file.write_text("this is no Python (")
    assert files_of(file).keys() == {"path"}
    file.unlink()
    with pytest.raises(UsageError, match="cannot be read"):
        files_of(file)


def process(**more: Any) -> ProcessRecord:
    return ProcessRecord("2026-01-01T00:00:00.000+00:00", {"num_threads": 1}, **more)


def test_changes_name_each_value_once_in_order() -> None:
    one, two = process(code_version="a"), process(code_version="b")
    assert changes([one, one]) == []
    assert changes([one, two, two, one]) == ["code a, then b, then a"]
    # What was not recorded is no change.
    assert changes([process(), one, process()]) == []
    warning = resume_warning(Provenance((one, two)))
    assert warning is not None
    assert "code a, then b" in warning
    assert resume_warning(Provenance((two, one, one))) is None
    assert resume_warning(Provenance((one,))) is None


def interrupted(root: Path, *settings: str) -> Path:
    """Return a run whose time was over after its first step."""
    with pytest.raises(Interrupted) as caught:
        train(root, "max_seconds=1e-9", *settings)
    assert caught.value.run_path is not None
    return caught.value.run_path


def resumed(run: Path, capsys: pytest.CaptureFixture[str], *settings: str) -> list[str]:
    capsys.readouterr()
    cnnbench.train([f"resume={run}", "max_seconds=1000", *settings])
    err = capsys.readouterr().err
    return [line for line in err.splitlines() if "resumed with something else" in line]


def test_a_run_resumed_as_it_was_says_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = interrupted(tmp_path)
    assert resumed(run, capsys) == []
    first, second = info(run)["provenance"]["processes"]
    assert first.keys() == second.keys()
    assert second["started"].endswith("+00:00")
    assert first["started"] < second["started"]


def test_a_run_resumed_with_other_code_and_threads_says_both_and_keeps_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = interrupted(tmp_path)
    before = info(run)["provenance"]
    monkeypatch.setattr(subject, "code_version", lambda: "9.9+other")
    [line] = resumed(run, capsys, "device.num_threads=2")
    assert "9.9+other" in line
    assert "device.num_threads 1, then 2" in line
    after = info(run)["provenance"]
    assert after["code_version"] == before["code_version"]
    assert [p["code_version"] for p in after["processes"]] == [
        before["code_version"],
        "9.9+other",
    ]
    assert [p["effective"]["num_threads"] for p in after["processes"]] == [1, 2]


def test_a_changed_helper_of_a_custom_network_is_told_at_resume(
    net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = ("model=custom", f"model.path={net}:Net")
    run = interrupted(tmp_path, *code)
    (net.parent / "helper_of_mine.py").write_text("SCALE = 1.5\n")
    [line] = resumed(run, capsys, code[1])
    assert "files that model.path imports" in line
    assert [bool(changes(open_run(run).record.provenance.processes))] == [True]


def test_replaced_weights_are_told_at_resume_and_gone_ones_are_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "weights.pt"
    sources = [train(tmp_path / name, "num_epochs=1", f"seed={n}") for n, name in enumerate("ab")]
    contents = [(run / "checkpoints" / "epoch_0001.pt").read_bytes() for run in sources]
    weights.write_bytes(contents[0])
    run = interrupted(tmp_path / "c", f"model.weights={weights}")
    key = info(run)["provenance"]["run_key"]
    weights.write_bytes(contents[1])
    [line] = resumed(run, capsys)
    assert "model.weights SHA-256" in line
    assert info(run)["provenance"]["run_key"] == key
    gone = interrupted(tmp_path / "d", f"model.weights={weights}")
    weights.unlink()
    assert resumed(gone, capsys) == []


def test_a_record_is_written_by_each_process_as_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    train_ = Training.train

    def look(self: Training) -> None:
        seen.append(open_run(self.run.path).record)
        train_(self)

    monkeypatch.setattr(Training, "train", look)
    run = train(tmp_path, "num_epochs=1")
    [record] = seen
    assert record.status == "running"
    assert len(record.provenance.processes) == 1
    assert open_run(run).record.provenance == record.provenance
