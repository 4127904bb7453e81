"""A package agrees with itself; what is changed in one is named; a stranger's is refused safely."""

from __future__ import annotations

import io
import json
import os
import shutil
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss
from tiny import train

import cnnbench
from cnnbench.cli.main import run as cli
from cnnbench.errors import CheckpointError, UsageError

Members = dict[str, bytes]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    for model in ("softmax", "basic_cnn"):
        for seed in range(2):
            train(root, f"model={model}", f"seed={seed}", "num_epochs=1")
    return root


@pytest.fixture(scope="module")
def package(runs: Path) -> Path:
    file = runs / "paper.zip"
    result = cnnbench.pack(runs, file, weights=True, baseline="softmax")
    assert result["num_runs"] == 4
    assert result["num_bytes"] == file.stat().st_size
    return file


def members(file: Path) -> Members:
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(file: Path, contents: Members, **about: Any) -> Path:
    with zipfile.ZipFile(file, "w", **about) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return file


def change(contents: Members, name: str, edit: Callable[[Any], object]) -> None:
    tree = json.loads(contents[name])
    edit(tree)
    contents[name] = json.dumps(tree).encode()


def first_run(contents: Members) -> str:
    return min(name for name in contents if name.endswith("/run.json"))


def test_a_package_agrees_with_itself(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = cnnbench.verify(package)
    assert result["differs"] == []
    for what in ("test/accuracy", "test/loss", "test_confusion", "run_key", "num_params", "macs"):
        assert result["equal"][what] == 4, what
    assert result["equal"]["verdict of the table"] == 2
    assert result["recorded_only"]["train_seconds"] == 4
    assert "test/accuracy" not in result["recorded_only"]
    assert cli(["verify", str(package)]) == 0
    out = capsys.readouterr().out
    assert out.endswith("Nothing differs.\n")
    assert max(map(len, out.splitlines()[1:])) <= 80


def test_what_is_in_a_package(package: Path) -> None:
    found = members(package)
    table = json.loads(found["table.json"])
    assert [row["n"] for row in table["rows"]] == [2, 2]
    assert {row["verdict"] for row in table["rows"]} >= {"baseline"}
    assert sum(name.endswith(".pt") for name in found) == 4
    assert found["report.html"].startswith(b"<!DOCTYPE html>")
    assert any(name.startswith("figures/") and name.endswith(".svg") for name in found)
    assert str(package.parent).encode() not in found["table.json"] + found["report.html"]
    checklist = found["checklist.md"].decode()
    assert "- [x] **Seeds**: 0; 1" in checklist
    assert "- [ ] **Licence" in checklist
    assert b"\\toprule" in found["table.tex"]


def test_the_predictions_in_a_package_give_what_others_compute(package: Path) -> None:
    found = members(package)
    name = first_run(found)
    results = json.loads(found[name])["results"]
    arrays = np.load(io.BytesIO(found[name.replace("run.json", "predictions.npz")]))
    logits = arrays["log_probabilities"].astype(float)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    targets = arrays["targets"]
    assert accuracy_score(targets, arrays["predictions"]) == results["test/accuracy"]
    loss = log_loss(targets, shares, labels=range(logits.shape[1]))
    assert loss == pytest.approx(results["test/loss"], rel=2e-3)
    table = confusion_matrix(targets, arrays["predictions"], labels=range(logits.shape[1]))
    assert table.tolist() == json.loads(found[name])["test_confusion"]


def _flip_a_prediction(contents: Members) -> None:
    name = first_run(contents).replace("run.json", "predictions.npz")
    arrays = dict(np.load(io.BytesIO(contents[name])))
    shifted = arrays["log_probabilities"]
    other = (arrays["predictions"][0] + 1) % shifted.shape[1]
    shifted[0], arrays["predictions"][0] = -1, other
    shifted[0, other] = 0
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    contents[name] = buffer.getvalue()


def _results(**values: Any) -> Callable[[Members], None]:
    names = {name.replace("_", "/", 1) if "_" in name else name: v for name, v in values.items()}
    return lambda c: change(c, first_run(c), lambda tree: tree["results"].update(names))


TAMPERED: dict[str, tuple[Callable[[Members], None], str]] = {
    "accuracy": (_results(test_accuracy=0.987), "test/accuracy"),
    "loss": (_results(test_loss=0.01), "test/loss"),
    "epoch": (
        lambda c: change(c, first_run(c), lambda t: t["results"].update(best_epoch=2)),
        "best_epoch",
    ),
    "work": (
        lambda c: change(c, first_run(c), lambda t: t["results"].update(train_tflop=1e-9)),
        "train_tflop",
    ),
    "parameters": (
        lambda c: change(c, first_run(c), lambda t: t["model"].update(num_params=7)),
        "num_params",
    ),
    "rate": (
        lambda c: change(c, first_run(c), lambda t: t["config"]["optimizer"].update(lr=0.5)),
        "run_key",
    ),
    "verdict": (
        lambda c: change(c, "table.json", lambda t: t["rows"][0].update(verdict="equivalent")),
        "verdict of the table",
    ),
    "mean": (
        lambda c: change(
            c, "table.json", lambda t: t["rows"][0]["test/accuracy"].update(mean=0.99)
        ),
        "test/accuracy.mean of the table",
    ),
    "seconds": (
        lambda c: change(
            c, "table.json", lambda t: t["rows"][0]["train_seconds"].update(mean=0.001)
        ),
        "train_seconds.mean of the table",
    ),
    "printed table": (lambda c: c.update({"table.tex": b"other"}), "text"),
    "page": (lambda c: c.update({"report.html": b"other"}), "text"),
    "prediction": (_flip_a_prediction, "test/accuracy"),
    "hash": (lambda c: c.update({"checklist.md": b"other"}), "SHA-256"),
    "missing": (lambda c: c.pop("checklist.md") and None, "SHA-256"),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_what_was_changed_is_named(
    name: str, package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contents = members(package)
    edit, what = TAMPERED[name]
    edit(contents)
    file = write(tmp_path / "paper.zip", contents)
    assert what in {row["what"] for row in cnnbench.verify(file)["differs"]}
    if name == "accuracy":
        assert cli(["verify", str(file)]) == 1
        assert "test/accuracy\n  recorded   0.987\n  recomputed 0." in capsys.readouterr().out


def test_older_runs_and_networks_of_someones_own_are_recorded_only(
    package: Path, tmp_path: Path
) -> None:
    contents = members(package)
    name = first_run(contents)
    del contents[name.replace("run.json", "predictions.npz")]
    change(contents, name, lambda tree: tree["provenance"].pop("data_fingerprint"))
    change(contents, name, lambda tree: tree["config"]["model"].update(name="custom", path="x:Y"))
    result = cnnbench.verify(write(tmp_path / "paper.zip", contents))
    for what in ("test/accuracy", "test/loss", "num_params", "run_key"):
        assert result["recorded_only"][what] == 1, what
    assert any("whose code is not run" in note for note in result["notes"])


# A stranger's zip.


def _link(file: Path, contents: Members) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
        member = zipfile.ZipInfo("runs/evil/run.json")
        member.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(member, "/etc/passwd")


def _named(name: str) -> Callable[[Path, Members], object]:
    return lambda file, contents: write(file, {**contents, name: b"evil"})


def _bomb(file: Path, contents: Members) -> None:
    packed = {**contents, "runs/bomb/metrics.jsonl": b"0" * (8 << 20)}
    write(file, packed, compression=zipfile.ZIP_DEFLATED)


def _twice(file: Path, contents: Members) -> None:
    archive = zipfile.ZipFile(write(file, contents), "a")
    with archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("table.json", b"{}")


def _commented(file: Path, contents: Members) -> None:
    with zipfile.ZipFile(write(file, contents), "a") as archive:
        archive.comment = b"PK\5\6" + bytes(18)


def _patched(at: int, fmt: str, value: int) -> Callable[[Path, Members], None]:
    def make(file: Path, contents: Members) -> None:
        content = bytearray(write(file, contents).read_bytes())
        struct.pack_into(fmt, content, at % len(content), value)
        file.write_bytes(content)

    return make


def _encrypted(file: Path, contents: Members) -> None:
    content = bytearray(write(file, contents).read_bytes())
    struct.pack_into("<H", content, content.find(b"PK\1\2") + 8, 1)
    file.write_bytes(content)


def _larger_than_it_says(file: Path, contents: Members) -> None:
    content = bytearray(write(file, contents).read_bytes())
    struct.pack_into("<L", content, content.find(b"PK\1\2") + 24, 10)
    file.write_bytes(content)


def _json(name: str, text: str) -> Callable[[Path, Members], object]:
    return lambda file, contents: write(file, {**contents, name: text.encode()})


def _selection(**values: Any) -> Callable[[Path, Members], object]:
    def make(file: Path, contents: Members) -> None:
        change(contents, "manifest.json", lambda tree: tree["selection"].update(values))
        write(file, contents)

    return make


HOSTILE: dict[str, Callable[[Path, Members], object]] = {
    "above": _named("../evil"),
    "inside out": _named("runs/../../evil/run.json"),
    "absolute": _named("/tmp/evil"),
    "backslash": _named("runs\\..\\evil"),
    "code": _named("runs/x/evil.py"),
    "newline": _named("runs/x\n/run.json"),
    "link": _link,
    "bomb": _bomb,
    "twice": _twice,
    "comment": _commented,
    "too many": _patched(-12, "<H", 65535),
    "long directory": _patched(-10, "<L", 2**31),
    "encrypted": _encrypted,
    "longer": _larger_than_it_says,
    "text": lambda file, contents: file.write_text("no zip"),
    "empty": lambda file, contents: file.write_bytes(b""),
    "cut": lambda file, contents: file.write_bytes(write(file, contents).read_bytes()[:-500]),
    "no manifest": lambda f, c: write(f, {k: v for k, v in c.items() if k != "manifest.json"}),
    "no runs": lambda f, c: write(f, {k: v for k, v in c.items() if "/" not in k}),
    "nan": _json("table.json", '{"rows": [NaN]}'),
    "list": _json("table.json", "[]"),
    "deep": _json("table.json", '{"a":' * 900 + "1" + "}" * 900),
    "deeper": _json("table.json", "[" * 200_000),
    "digits": _json("table.json", '{"a": ' + "9" * 5000 + "}"),
    "format": _json("manifest.json", '{"format": 2}'),
    "types": _selection(margin="all"),
    "column": _selection(sort="nothing"),
    "path": _selection(baseline="../../etc"),
    "margin": _selection(margin=-1.0),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_strangers_zip_is_refused_in_a_sentence(
    name: str, package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    file = tmp_path / "in" / "paper.zip"
    HOSTILE[name](file, members(package))
    before = sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    assert cli(["verify", str(file)]) == 65
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1
    assert said.err.startswith(f"cnnbench: {file}: ")
    assert sorted(tmp_path.rglob("*")) == before
    assert not Path("/tmp/evil").exists()


def test_arrays_with_a_false_header_take_no_memory(package: Path, tmp_path: Path) -> None:
    contents = members(package)
    name = first_run(contents).replace("run.json", "predictions.npz")
    contents[name] = contents[name].replace(b"'shape': (30, 3), } ", b"'shape': (3000000000, 3), }")
    differs = cnnbench.verify(write(tmp_path / "paper.zip", contents))["differs"]
    assert "predictions.npz" in {row["what"] for row in differs}


def test_a_pipe_and_a_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe.zip")
    for name in ("pipe.zip", "nothing.zip", "."):
        assert cli(["verify", str(tmp_path / name)]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_copy_by_another_tool_is_as_good(package: Path, tmp_path: Path) -> None:
    contents = {"runs/": b"", "figures/": b"", **members(package)}
    file = write(tmp_path / "paper.zip", contents, compression=zipfile.ZIP_DEFLATED)
    assert cnnbench.verify(file)["differs"] == []


@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl", "predictions.npz"])
def test_a_run_with_a_pipe_in_place_of_a_file_is_named(
    name: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [source, *_] = (path.parent for path in runs.rglob("run.json"))
    copy = tmp_path / "run"
    shutil.copytree(source, copy)
    (copy / name).unlink()
    os.mkfifo(copy / name)
    assert cli(["pack", str(copy), str(tmp_path / "paper.zip")]) == 65
    assert f"{name}: cannot be packed: it is no regular file" in capsys.readouterr().err
    assert not (tmp_path / "paper.zip").exists()


def test_what_cannot_be_packed(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match=r"expected a file for the package that ends in \.zip"):
        cnnbench.pack(runs, runs)
    assert cli(["pack", str(tmp_path / "paper.zip")]) == 2
    assert "expected runs, and last the zip file" in capsys.readouterr().err
    with pytest.raises(UsageError, match="no finished run"):
        cnnbench.pack(runs, tmp_path / "paper.zip", where="model=nothing")
    [weights, *_] = (path for path in runs.rglob("epoch_0001.pt"))
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    try:
        with pytest.raises(CheckpointError, match="not what its manifest says"):
            cnnbench.pack(runs, tmp_path / "paper.zip", weights=True)
    finally:
        weights.write_bytes(whole)
    assert list(tmp_path.iterdir()) == []
