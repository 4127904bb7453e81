"""Checkpoints on disk: the only caller of ``torch.load`` and ``torch.save``.

An epoch leaves two files: ``epoch_0001.pt``, the weights with all that is needed to predict, and
``epoch_0001.state.pt``, what only resuming needs. Only the last two epochs keep the second, so
thinning is one ``unlink`` and no file is ever rewritten. ``manifest.json`` is written after both
and names each file's SHA-256: what it does not name is not a checkpoint.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cnnbench.errors import CheckpointError, UsageError, reason_of
from cnnbench.files import atomic_write, check_fence, read_regular, sync_directory
from cnnbench.runs.directory import CHECKPOINT_FILE, CHECKPOINT_NAME

FORMAT = 1
_STATE_SUFFIX = ".state.pt"
_NUM_WHOLE = 2  # the newest, and the one to fall back to
_MAX_MANIFEST_BYTES = 16 << 20
# torch.save stores each tensor once; tied ones share what is stored.
_MAX_GROWTH = 8


class Checkpoints:
    """The checkpoints of one run.

    Args:
        directory: ``RUN/checkpoints``.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def manifest(self) -> dict[str, Any]:
        """Return ``{"saves": {name: {epoch, global_step, weights, state}}, "best", "last"}``.

        Raises:
            CheckpointError: it is missing, damaged or foreign.
        """
        file = self.directory / "manifest.json"
        try:
            manifest = json.loads(read_regular(file, _MAX_MANIFEST_BYTES))
            _check_manifest(manifest)
        except FileNotFoundError:
            if names := self._names_on_disk():
                raise CheckpointError(
                    f"{file}: missing, though files of {', '.join(names)} are there. Bring it "
                    "back from a copy, or remove those files and train anew"
                ) from None
            raise CheckpointError(f"{self.directory}: holds no checkpoint yet") from None
        except (
            OSError,
            ValueError,
            TypeError,
            KeyError,
            AttributeError,
            RecursionError,
        ) as error:
            raise CheckpointError(f"{file}: damaged ({error})") from None
        return manifest  # type: ignore[no-any-return]

    def save(
        self,
        name: str,
        weights: Mapping[str, Any],
        state: Mapping[str, Any],
        *,
        epoch: int,
        global_step: int,
        is_best: bool,
        keep_last: int | None,
    ) -> None:
        """Write one checkpoint, then drop what is no longer wanted.

        Args:
            name: ``epoch_0001`` or, within an epoch, ``step_00000123``.
            weights: tensors, numbers, strings, lists and dicts: all that is needed to predict.
            state: the same kinds of values: what resuming needs beside the weights.
            epoch: epochs finished.
            global_step: optimizer updates made.
            is_best: whether this epoch's weights are the selected ones from now on.
            keep_last: how many epochs to keep beside the best; ``None`` keeps all.

        Raises:
            DiskError: it cannot be written; the checkpoints before it stand.
        """
        entry: dict[str, Any] = {"epoch": epoch, "global_step": global_step}
        for part, payload in (("weights", weights), ("state", state)):
            content = write_tensors(payload)
            atomic_write(self.directory / _file_name(name, part), content)
            digest = hashlib.sha256(content).hexdigest()
            entry[part] = {"sha256": digest, "bytes": len(content)}
        old = self._manifest_or_empty()
        saves = {**old["saves"], name: entry}
        best = name if is_best else old["best"]
        kept = _kept(saves, best, keep_last)
        self._write_manifest(kept, best, name)

    def load(self, name: str, part: str = "weights") -> dict[str, Any]:
        """Return one file's content, tensors on the CPU.

        Args:
            name: a name of the manifest, or ``best`` or ``last``.
            part: ``weights`` or ``state``.

        Raises:
            CheckpointError: it is missing, damaged or foreign.
        """
        manifest = self.manifest()
        name = manifest.get(name) or name
        entry = manifest["saves"].get(name)
        if entry is None or part not in entry:
            raise CheckpointError(f"{self.directory}: holds no {part} named {name}")
        file = self.directory / _file_name(name, part)
        try:
            if file.stat().st_size != entry[part]["bytes"]:
                raise CheckpointError(f"{file}: damaged: its size is not what was written")
            content = read_regular(file, entry[part]["bytes"])
        except OSError as error:
            raise CheckpointError(f"{file}: cannot be read: {error.strerror}") from None
        if hashlib.sha256(content).hexdigest() != entry[part]["sha256"]:
            raise CheckpointError(f"{file}: damaged: its bytes are not what was written")
        return read_tensors(content, file)

    def load_newest(self) -> tuple[dict[str, Any], dict[str, Any], list[str]] | None:
        """Return weights and state of the newest checkpoint that is whole, to resume from.

        Returns:
            Weights, state, and one message for each newer checkpoint that was passed over;
            ``None`` where nothing was saved yet, or the first save was never finished.

        Raises:
            CheckpointError: checkpoints were saved and none is whole, or the manifest is gone.
        """
        # The first manifest is written after the first save's files; a second save has it.
        if not self._has_manifest() and len(self._names_on_disk()) < 2:
            return None
        saves = self.manifest()["saves"]
        damaged: list[str] = []
        # Of two at one step, the epoch's is newer: the other was saved before its evaluation.
        for name in sorted(saves, key=lambda name: (-saves[name]["global_step"], name)):
            if "state" not in saves[name]:
                continue
            try:
                weights, state = self.load(name), self.load(name, "state")
            except CheckpointError as error:
                damaged.append(str(error))
            else:
                fallen = "; falling back to the checkpoint before it"
                return weights, state, [f"{message}{fallen}" for message in damaged]
        raise CheckpointError(
            f"{self.directory}: no checkpoint is whole, so the run cannot go on; bring the files "
            "back from a copy, or train anew:\n" + "\n".join(damaged)
        )

    def forget_after(self, global_step: int, best: str | None) -> None:
        """Drop the checkpoints newer than the one a run resumes from: they were found damaged.

        Args:
            global_step: that checkpoint's optimizer updates.
            best: the save that was best as of then.
        """
        manifest = self._manifest_or_empty()
        saves = {n: e for n, e in manifest["saves"].items() if e["global_step"] <= global_step}
        if saves.keys() != manifest["saves"].keys():
            last = max(saves, key=lambda name: saves[name]["global_step"])
            self._write_manifest(saves, best if best in saves else None, last)

    def forget_unfinished(self) -> bool:
        """Remove what a first save left that died before its manifest; tell whether it did."""
        has_leftovers = bool(self._names_on_disk()) and not self._has_manifest()
        if has_leftovers:
            self._prune({})
        return has_leftovers

    def thin(self, *, dry_run: bool = False) -> list[Path]:
        """Keep the weights of the best epoch, and all of the last save, which is gone on from.

        Args:
            dry_run: only say what would go.

        Returns:
            The files that go.

        Raises:
            CheckpointError: the manifest is missing, damaged or foreign.
        """
        manifest = self.manifest()
        best, last = manifest["best"], manifest["last"]
        saves = {
            name: {key: part for key, part in entry.items() if key != "state" or name == last}
            for name, entry in manifest["saves"].items()
            if name in (best, last)
        }
        gone = self._unwanted(saves)
        if not dry_run:
            self._write_manifest(saves, best, last)
        return gone

    def _names_on_disk(self) -> list[str]:
        """Return the names that files of checkpoints have, whether the manifest has them or not."""
        return sorted({file.name.partition(".")[0] for file in self._files_on_disk()})

    def _files_on_disk(self) -> list[Path]:
        """Return the files of checkpoints; what a user keeps under another name is none of them."""
        return sorted(
            file
            for file in self.directory.glob("*.pt")
            if re.fullmatch(CHECKPOINT_FILE, file.name) and not file.is_dir()
        )

    def _has_manifest(self) -> bool:
        return (self.directory / "manifest.json").exists()

    def _manifest_or_empty(self) -> dict[str, Any]:
        if self._has_manifest():
            return self.manifest()
        return {"format": FORMAT, "saves": {}, "best": None, "last": None}

    def _write_manifest(
        self, saves: Mapping[str, Mapping[str, Any]], best: str | None, last: str
    ) -> None:
        manifest = {"format": FORMAT, "saves": saves, "best": best, "last": last}
        content = f"{json.dumps(manifest, indent=1)}\n".encode()
        atomic_write(self.directory / "manifest.json", content)
        self._prune(saves)

    def _prune(self, saves: Mapping[str, Mapping[str, Any]]) -> None:
        for file in self._unwanted(saves):
            check_fence()  # it may be wanted by whoever took the run over
            file.unlink(missing_ok=True)
        sync_directory(self.directory)

    def _unwanted(self, saves: Mapping[str, Mapping[str, Any]]) -> list[Path]:
        """Return the checkpoint files that no save names."""
        wanted = {
            _file_name(name, part)
            for name, entry in saves.items()
            for part in ("weights", "state")
            if part in entry
        }
        return [file for file in self._files_on_disk() if file.name not in wanted]


def _file_name(name: str, part: str) -> str:
    return f"{name}.pt" if part == "weights" else f"{name}{_STATE_SUFFIX}"


def _kept(
    saves: Mapping[str, Mapping[str, Any]], best: str | None, keep_last: int | None
) -> dict[str, dict[str, Any]]:
    """Return the entries to keep: epochs by the rule, saves within an epoch while they are newest.

    The newest two keep their state; the others are thinned to the weights.
    """
    order = sorted(saves, key=lambda name: saves[name]["global_step"])
    epochs = [name for name in order if name.startswith("epoch_")]
    wanted = {*(epochs if keep_last is None else epochs[-keep_last:]), *order[-_NUM_WHOLE:], best}
    whole = order[-_NUM_WHOLE:]
    kept: dict[str, dict[str, Any]] = {}
    for name in order:
        if name in wanted:
            kept[name] = {
                key: value for key, value in saves[name].items() if key != "state" or name in whole
            }
    return kept


def _check_manifest(manifest: Any) -> None:
    if manifest["format"] != FORMAT:
        raise ValueError(f"its format is {manifest['format']}, this version reads {FORMAT}")
    for name, entry in manifest["saves"].items():
        if not re.fullmatch(CHECKPOINT_NAME, name):
            raise ValueError(f"{name!r} is no name of a checkpoint")
        for part in ("weights", "state"):
            if part in entry and not (
                isinstance(entry[part]["sha256"], str) and type(entry[part]["bytes"]) is int
            ):
                raise ValueError(f"{name}: {part} has no size or hash")
        if "weights" not in entry or type(entry["global_step"]) is not int:
            raise ValueError(f"{name}: incomplete")
    for mark in ("best", "last"):
        if manifest[mark] is not None and manifest[mark] not in manifest["saves"]:
            raise ValueError(f"{mark} names no checkpoint")


def write_tensors(payload: Mapping[str, Any]) -> bytes:
    """Return what ``read_tensors`` reads back.

    Args:
        payload: tensors, numbers, strings, lists and dicts.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **payload}, buffer)  # noqa: TID251
    return buffer.getvalue()


def read_tensors(content: bytes, source: Path) -> dict[str, Any]:
    """Return what one of our checkpoints holds, as data alone: nothing in it can run.

    Raises:
        CheckpointError: it is damaged, holds more than data, or is none of ours.
    """
    if not zipfile.is_zipfile(io.BytesIO(content)):
        raise CheckpointError(f"{source}: not a checkpoint of ours: File is not a zip file")
    payload = _load(content, source)
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        raise CheckpointError(f"{source}: not a checkpoint this version reads")
    return payload


def read_foreign(content: bytes, source: Path) -> Mapping[str, Any]:
    """Return what anyone wrote with ``torch.save`` or as ``.safetensors``, as data alone.

    Raises:
        CheckpointError: it is damaged, holds more than data, or no mapping.
        UsageError: safetensors is not installed.
    """
    if source.suffix == ".safetensors":
        return _load_safetensors(content, source)
    payload = _load(content, source)
    if not isinstance(payload, Mapping):
        raise CheckpointError(f"{source}: holds {type(payload).__name__}, expected a state dict")
    return payload


def _load(content: bytes, source: Path) -> Any:
    try:
        if zipfile.is_zipfile(io.BytesIO(content)):
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                # torch.save compresses nothing, so that no file holds more than its own length.
                if sum(member.file_size for member in archive.infolist()) > len(content):
                    raise CheckpointError(f"{source}: unpacks to more than any checkpoint holds")
        with warnings.catch_warnings():
            # Of pickles and sparse tensors that a stranger wrote; what matters ends in an error.
            warnings.simplefilter("ignore")
            stream = io.BytesIO(content)
            payload = torch.load(stream, map_location="cpu", weights_only=True)  # noqa: TID251
    except (CheckpointError, MemoryError):
        raise
    # torch's reader raises nearly anything on bytes that nobody meant for it.
    except Exception as error:
        code = re.search(r"(?:GLOBAL |global: )([\w.]+)", str(error))
        if code is not None:
            raise CheckpointError(
                f"{source}: not a checkpoint of ours, and holds more than tensors ({code[1]}), as "
                "a whole pickled module does: reading it could run code, so it is not read. Save "
                "the weights alone: torch.save(model.state_dict(), 'weights.pth')"
            ) from None
        raise CheckpointError(
            f"{source}: holds no weights that can be read: expected a file that torch.save or "
            "safetensors wrote, whole"
        ) from None
    # A stride of zero makes a tensor of any size of one stored number.
    if _unpacked_bytes(payload) > _MAX_GROWTH * len(content):
        raise CheckpointError(f"{source}: its tensors are larger than what it stores")
    return payload


def _load_safetensors(content: bytes, source: Path) -> Mapping[str, Any]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load
    except ImportError:
        raise UsageError(
            f"{source}: needs safetensors, which is missing: pip install 'cnnbench[safetensors]'"
        ) from None
    try:
        return load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{source}: damaged: {reason_of(error)}") from None


def _unpacked_bytes(value: Any) -> int:
    """Return what nested values take once each tensor has memory of its own."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Mapping):
        return sum(map(_unpacked_bytes, value.values()))
    return sum(map(_unpacked_bytes, value)) if isinstance(value, (list, tuple)) else 0
