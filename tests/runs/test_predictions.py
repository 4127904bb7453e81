"""What a run keeps of its test images: its network's very answers, and nothing unsafe."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cnnbench
from cnnbench.errors import CheckpointError
from cnnbench.runs.predictions import (
    Outputs,
    expected_bytes,
    read_answers,
    read_log_probabilities,
)
from tests.tiny import info, train

ARRAYS = ("log_probabilities", "predictions", "targets", "images_sha256")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("run"))


def arrays(run: Path) -> dict[str, np.ndarray[Any, Any]]:
    with np.load(run / "predictions.npz", allow_pickle=False) as file:
        return dict(file)


def test_they_are_what_the_network_answers(run: Path) -> None:
    answers, kept = read_answers(run), read_log_probabilities(run)
    assert answers is not None
    assert kept is not None
    assert answers.accuracy == info(run)["results"]["test/accuracy"]
    counts = np.zeros((3, 3), int)
    np.add.at(counts, (answers.targets, answers.predictions), 1)
    assert counts.tolist() == info(run)["test_confusion"]
    logits = torch.from_numpy(kept.astype(np.float64))
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(answers.targets.tolist()))
    assert loss.item() == pytest.approx(info(run)["results"]["test/loss"], rel=1e-3)
    found = arrays(run)
    assert found.keys() == set(ARRAYS)
    assert [found[name].dtype for name in ARRAYS] == [np.float16, *[np.uint8] * 3]


def test_shifting_keeps_every_class_where_plain_float16_does_not(tmp_path: Path) -> None:
    logits = torch.randn(2000, 10, generator=torch.Generator().manual_seed(0)) + 300
    logits[:1000, 3] = logits[:1000].max(dim=1).values - 0.01
    outputs = Outputs()
    for part in logits.split(700):
        outputs.add(part, torch.zeros(len(part), dtype=torch.int64))
    outputs.write(tmp_path, "ab" * 32)
    answers, kept = read_answers(tmp_path), read_log_probabilities(tmp_path)
    assert answers is not None
    assert kept is not None
    wanted = logits.argmax(dim=1).numpy()
    assert (answers.predictions == wanted).all()
    assert (kept.argmax(axis=1) == wanted).all()
    assert (logits.half().argmax(dim=1).numpy() != wanted).sum() > 100
    assert answers.images_sha256 == "ab" * 32
    size = (tmp_path / "predictions.npz").stat().st_size
    assert 0.9 * size < expected_bytes(2000, 10) < 1.3 * size


def test_an_infinite_logit_is_kept_finite(tmp_path: Path) -> None:
    outputs = Outputs()
    outputs.add(torch.tensor([[0.0, -torch.inf], [-1e30, 5.0]]), torch.tensor([0, 1]))
    outputs.write(tmp_path, "00" * 32)
    kept = read_log_probabilities(tmp_path)
    assert kept is not None
    assert kept.tolist() == [[0, -65504], [-65504, 0]]


def test_equal_test_images_have_one_hash_and_others_another(tmp_path: Path, run: Path) -> None:
    def digest(*more: str) -> str:
        answers = read_answers(train(tmp_path, *more))
        assert answers is not None
        return answers.images_sha256

    first = read_answers(run)
    assert first is not None
    assert digest("seed=5", "data.val_fraction=0.2") == first.images_sha256
    limited = digest("data.limit=20")
    assert len({first.images_sha256, limited, digest("data.limit=20", "data.split_seed=3")}) == 3


def test_evaluate_gives_an_old_run_its_predictions(tmp_path: Path) -> None:
    run = train(tmp_path)
    file = run / "predictions.npz"
    before = file.read_bytes()
    file.unlink()
    assert read_answers(run) is None
    assert read_log_probabilities(run) is None
    cnnbench.evaluate(run, split="val")
    assert not file.exists()
    cnnbench.evaluate(run)
    assert (
        np.load(file)["predictions"].tolist() == np.load(io.BytesIO(before))["predictions"].tolist()
    )
    assert (
        arrays(run)["images_sha256"].tolist()
        == np.load(io.BytesIO(before))["images_sha256"].tolist()
    )
    # What does not agree with the record is not the run's.
    file.unlink()
    text = json.loads((run / "run.json").read_text())
    text["results"]["test/accuracy"] = 0.123
    (run / "run.json").write_text(json.dumps(text))
    cnnbench.evaluate(run)
    assert not file.exists()


def packed(parts: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in parts.items():
            archive.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def stored(array: Any, *, allow_pickle: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=allow_pickle)
    return buffer.getvalue()


class Canary:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (os.environ["CANARY"],)


def vast(array: bytes) -> bytes:
    """Say in its header that an array is far larger."""
    changed = array.replace(b"(30,), }         ", b"(3000000000,), } ")
    assert len(changed) == len(array) != 0
    assert changed != array
    return changed


def bad_files() -> dict[str, Callable[[dict[str, bytes]], bytes]]:
    objects = np.array([Canary()], dtype=object)
    return {
        "empty": lambda parts: b"",
        "no archive": lambda parts: b"PK\3\4" + bytes(100),
        "a pickle": lambda parts: pickle.dumps(Canary()),
        "objects": lambda parts: packed(
            {**parts, "predictions": stored(objects, allow_pickle=True)}
        ),
        "packed": lambda parts: packed(parts, zipfile.ZIP_DEFLATED),
        "an array is missing": lambda parts: packed({"targets": parts["targets"]}),
        "larger than it is": lambda parts: packed(
            {**parts, "predictions": vast(parts["predictions"])}
        ),
        "floats": lambda parts: packed({**parts, "predictions": stored(np.zeros(30))}),
        "other length": lambda parts: packed(
            {**parts, "predictions": stored(np.zeros(29, np.uint8))}
        ),
        "no images": lambda parts: packed(
            {**parts, **{n: stored(np.zeros(0, np.uint8)) for n in ("predictions", "targets")}}
        ),
        "other hash": lambda parts: packed(
            {**parts, "images_sha256": stored(np.zeros(5, np.uint8))}
        ),
        "text": lambda parts: packed({**parts, "predictions": stored(np.array(["a"] * 30))}),
        "column order": lambda parts: packed(
            {**parts, "predictions": stored(np.asfortranarray(np.zeros((2, 3), np.uint8)))}
        ),
        "version 3": lambda parts: packed(
            {**parts, "predictions": b"\x93NUMPY\3\0" + parts["predictions"][8:]}
        ),
        "torn": lambda parts: packed(parts)[:-40],
    }


@pytest.mark.parametrize("kind", list(bad_files()))
def test_a_strangers_file(
    kind: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = tmp_path / "canary"
    monkeypatch.setenv("CANARY", str(canary))
    parts = {name: stored(array) for name, array in arrays(run).items()}
    file = tmp_path / "predictions.npz"
    file.write_bytes(packed(parts))
    assert read_answers(tmp_path) is not None, "the corpus must be alive"
    file.write_bytes(bad_files()[kind](parts))
    with pytest.raises(CheckpointError, match=r"predictions\.npz: not what this version reads"):
        read_answers(tmp_path)
    assert not canary.exists()


def test_any_changed_byte_of_a_class_is_noticed(run: Path, tmp_path: Path) -> None:
    content = bytearray((run / "predictions.npz").read_bytes())
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entry = archive.getinfo("predictions.npy")
    content[entry.header_offset + entry.file_size] ^= 1  # within the stored array
    (tmp_path / "predictions.npz").write_bytes(content)
    with pytest.raises(CheckpointError):
        read_answers(tmp_path)


@pytest.mark.parametrize("values", [np.nan, np.inf, 1.0, -1.0])
def test_numbers_that_are_no_log_probabilities(values: float, run: Path, tmp_path: Path) -> None:
    parts = {name: stored(array) for name, array in arrays(run).items()}
    wrong = {**parts, "log_probabilities": stored(np.full((30, 3), values, np.float16))}
    (tmp_path / "predictions.npz").write_bytes(packed(wrong))
    with pytest.raises(CheckpointError):
        read_log_probabilities(tmp_path)
