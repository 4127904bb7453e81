"""Checkpoints: what comes back, what is kept, and what is refused."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import same

from cnnbench.errors import CheckpointError
from cnnbench.runs.checkpoint import Checkpoints, read_tensors


def payloads(step: int) -> tuple[dict[str, Any], dict[str, Any]]:
    torch.manual_seed(step)
    weights = {
        "model": {"a": torch.randn(3, 4), "b": torch.arange(5), "c": torch.ones(2).bfloat16()},
        "network": {"name": "lenet", "args": {"widths": [1, 2], "x": None, "y": 0.5, "z": True}},
        "class_names": ["ä", "李"],
    }
    return weights, {"train_state": {"global_step": step, "m": torch.randn(2)}, "progress": {}}


def save(
    checkpoints: Checkpoints,
    epoch: int,
    *,
    step: int | None = None,
    best: bool = False,
    keep_last: int | None = None,
) -> None:
    place = 10 * epoch if step is None else step
    name = f"epoch_{epoch:04d}" if step is None else f"step_{step:08d}"
    weights, state = payloads(place)
    checkpoints.save(
        name,
        weights,
        state,
        epoch=epoch,
        global_step=place,
        is_best=best,
        keep_last=keep_last,
    )


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.load_newest() is None
    save(checkpoints, 1, best=True)
    weights, state = payloads(10)
    assert same(checkpoints.load("epoch_0001"), {"format": 1, **weights})
    assert same(checkpoints.load("best"), checkpoints.load("last"))
    newest = checkpoints.load_newest()
    assert newest is not None
    assert same(newest[0]["model"], weights["model"])
    assert same(newest[1], {"format": 1, **state})
    assert newest[2] == []


def test_an_epochs_weights_are_a_state_dict_anyone_can_read(tmp_path: Path) -> None:
    save(Checkpoints(tmp_path), 1)
    content = torch.load(tmp_path / "epoch_0001.pt", weights_only=True)  # noqa: TID251
    assert torch.equal(content["model"]["a"], payloads(10)[0]["model"]["a"])


def test_older_epochs_are_thinned_to_the_weights(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for epoch in range(1, 5):
        save(checkpoints, epoch, best=epoch == 1)
    whole = [f"epoch_{n:04d}{end}" for n in (3, 4) for end in (".pt", ".state.pt")]
    assert files(tmp_path) == sorted(["epoch_0001.pt", "epoch_0002.pt", *whole, "manifest.json"])
    assert checkpoints.manifest()["best"] == "epoch_0001"
    assert checkpoints.manifest()["last"] == "epoch_0004"
    with pytest.raises(CheckpointError, match="holds no state"):
        checkpoints.load("epoch_0001", "state")


def test_keep_last_keeps_the_best_and_one_to_fall_back_to(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for epoch in range(1, 7):
        save(checkpoints, epoch, best=epoch == 2, keep_last=1)
    assert sorted(checkpoints.manifest()["saves"]) == ["epoch_0002", "epoch_0005", "epoch_0006"]
    checkpoints_of_three = Checkpoints(tmp_path / "three")
    (tmp_path / "three").mkdir()
    for epoch in range(1, 7):
        save(checkpoints_of_three, epoch, best=epoch == 1, keep_last=3)
    kept = sorted(checkpoints_of_three.manifest()["saves"])
    assert kept == ["epoch_0001", "epoch_0004", "epoch_0005", "epoch_0006"]


def test_saves_within_an_epoch_go_when_newer_ones_are_there(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 0, step=4)
    save(checkpoints, 0, step=8)
    save(checkpoints, 1)
    assert sorted(checkpoints.manifest()["saves"]) == ["epoch_0001", "step_00000008"]
    save(checkpoints, 2)
    assert sorted(checkpoints.manifest()["saves"]) == ["epoch_0001", "epoch_0002"]
    assert not list(tmp_path.glob("step_*"))


def test_of_two_saves_at_one_step_the_epochs_is_newer(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 0, step=10)
    save(checkpoints, 1)
    (tmp_path / "step_00000010.pt").unlink()
    newest = checkpoints.load_newest()
    assert newest is not None
    assert newest[2] == []


@pytest.fixture
def two(tmp_path: Path) -> Checkpoints:
    directory = tmp_path / "checkpoints"
    directory.mkdir()
    checkpoints = Checkpoints(directory)
    save(checkpoints, 1, best=True)
    save(checkpoints, 2, best=True)
    return checkpoints


def check_fallback(checkpoints: Checkpoints) -> None:
    newest = checkpoints.load_newest()
    assert newest is not None
    weights, state, [message] = newest
    assert "falling back" in message
    assert "epoch_0002" in message
    assert state["train_state"]["global_step"] == 10
    assert same(weights["model"], payloads(10)[0]["model"])


@pytest.mark.parametrize("part", ["weights", "state"])
def test_every_truncation_and_flipped_bit_is_noticed(part: str, two: Checkpoints) -> None:
    file = two.directory / ("epoch_0002.pt" if part == "weights" else "epoch_0002.state.pt")
    whole = file.read_bytes()
    lengths = {0, 1, len(whole) - 1, *range(0, len(whole), len(whole) // 50)}
    damaged = [whole[:length] for length in lengths]
    for place in range(0, len(whole), max(1, len(whole) // 200)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << (place % 8)
        damaged.append(bytes(flipped))
    assert len(lengths) >= 50
    assert len(damaged) - len(lengths) >= 200
    for content in damaged:
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"damaged") as caught:
            two.load("epoch_0002", part)
        assert caught.value.exit_code == 65
        check_fallback(two)
    file.write_bytes(whole)
    assert two.load("last", part)


def test_a_missing_file_and_a_directory_in_its_place(two: Checkpoints) -> None:
    file = two.directory / "epoch_0002.pt"
    file.unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        two.load("best")
    check_fallback(two)
    file.mkdir()
    with pytest.raises(CheckpointError):
        two.load("best")
    check_fallback(two)
    two.forget_after(10, "epoch_0001")
    manifest = two.manifest()
    assert (manifest["best"], manifest["last"]) == ("epoch_0001", "epoch_0001")


def test_what_a_run_fell_back_behind_is_forgotten(two: Checkpoints) -> None:
    (two.directory / "epoch_0002.pt").write_bytes(b"")
    check_fallback(two)
    two.forget_after(10, "epoch_0001")
    assert files(two.directory) == ["epoch_0001.pt", "epoch_0001.state.pt", "manifest.json"]
    newest = two.load_newest()
    assert newest is not None
    assert newest[2] == []


def test_no_whole_checkpoint_is_an_error_and_never_a_fresh_start(two: Checkpoints) -> None:
    for file in two.directory.glob("*.state.pt"):
        file.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"no checkpoint is whole, .*train anew") as caught:
        two.load_newest()
    assert "falling back" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"format": 2, "saves": {}, "best": null, "last": null}',
        b'{"format": 1, "saves": {}, "best": "epoch_0001", "last": null}',
        b'{"format": 1, "saves": {"../../x": {}}, "best": null, "last": null}',
        b'{"format": 1, "saves": {"epoch_0001": {"global_step": 1}}, "best": null, "last": null}',
        b'{"format": 1, "saves": [], "best": null, "last": null}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_or_foreign_manifest(content: bytes, two: Checkpoints) -> None:
    (two.directory / "manifest.json").write_bytes(content)
    for read in (two.manifest, two.load_newest, lambda: two.load("best")):
        with pytest.raises(CheckpointError) as caught:
            read()
        assert caught.value.exit_code == 65


class Canary:
    """Its pickle makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def trust(checkpoints: Checkpoints, name: str, content: bytes) -> None:
    """Put a stranger's bytes in place of a checkpoint, hash and all."""
    import hashlib

    file = checkpoints.directory / "manifest.json"
    manifest = json.loads(file.read_text())
    (checkpoints.directory / f"{name}.pt").write_bytes(content)
    manifest["saves"][name]["weights"] = {
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
    }
    file.write_text(json.dumps(manifest))


@pytest.mark.parametrize("kind", ["pickle", "torch", "legacy"])
def test_a_foreign_pickle_runs_nothing(kind: str, two: Checkpoints, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    payload = {"format": 1, "model": Canary(canary)}
    buffer = io.BytesIO()
    if kind == "pickle":
        pickle.dump(payload, buffer)
        pickle.loads(buffer.getvalue())
    else:
        torch.save(payload, buffer, _use_new_zipfile_serialization=kind == "torch")  # noqa: TID251
        torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)  # noqa: TID251
    assert canary.is_dir(), "the corpus must be alive"
    canary.rmdir()
    trust(two, "epoch_0002", buffer.getvalue())
    with pytest.raises(CheckpointError, match="not a checkpoint of ours"):
        two.load("epoch_0002")
    check_fallback(two)
    assert not canary.exists()


def test_a_future_format_is_refused(two: Checkpoints) -> None:
    buffer = io.BytesIO()
    torch.save({"format": 2, "model": {}}, buffer)  # noqa: TID251
    trust(two, "epoch_0002", buffer.getvalue())
    with pytest.raises(CheckpointError, match="not a checkpoint this version reads"):
        two.load("epoch_0002")


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "bomb.pt"
    buffer = io.BytesIO()
    torch.save({"format": 1}, buffer)  # noqa: TID251
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("archive/data/0", b"x")
    content = bytearray(buffer.getvalue())
    # The sizes in the directory of the archive, of 32 GiB in zip64.
    with zipfile.ZipFile(io.BytesIO(bytes(content))) as archive:
        members = archive.infolist()
        assert members
    big = zipfile.ZipInfo("archive/data/1")
    big.file_size = 32 << 30
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "infolist", lambda self: [*members, big])
        with pytest.raises(CheckpointError, match="unpacks to more"):
            read_tensors(bytes(content), source)


def test_a_copy_elsewhere_is_as_good(two: Checkpoints, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.move(two.directory, moved)
    assert same(Checkpoints(moved).load("best")["model"], payloads(20)[0]["model"])


def test_a_deleted_manifest_is_no_fresh_start(two: Checkpoints) -> None:
    (two.directory / "manifest.json").unlink()
    before = files(two.directory)
    for read in (two.manifest, two.load_newest, lambda: two.load("best")):
        with pytest.raises(CheckpointError, match=r"manifest\.json: missing, though") as caught:
            read()
        assert caught.value.exit_code == 65
        assert "epoch_0001, epoch_0002" in str(caught.value)
    assert files(two.directory) == before


def test_what_an_unfinished_first_save_left_is_known_and_goes(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    assert not checkpoints.forget_unfinished()
    save(checkpoints, 1)
    assert not checkpoints.forget_unfinished()
    (tmp_path / "manifest.json").unlink()
    assert checkpoints.load_newest() is None
    assert checkpoints.forget_unfinished()
    assert files(tmp_path) == []


def test_what_a_user_keeps_beside_the_checkpoints_stays(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    mine = {
        "my_best_model.pt",
        "epoch_0001_copy.pt",
        "epoch_1.pt",
        "best.pt",
        "epoch_0001.pt.bak",
        "step_12.pt",
    }
    for name in mine:
        (tmp_path / name).write_text("precious")
    assert checkpoints.load_newest() is None
    assert checkpoints.forget_unfinished() is False
    for epoch in (1, 2, 3):
        save(checkpoints, epoch, keep_last=1, best=epoch == 1)
    checkpoints.thin()
    assert mine <= {path.name for path in tmp_path.iterdir()}
    assert {path.name for path in checkpoints.thin(dry_run=True)} == set()
    assert not (tmp_path / "epoch_0002.pt").exists()
