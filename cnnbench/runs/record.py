"""``run.json`` as a type: what a run is, how it ended, and what computed it.

It is made once, when a run begins, and replaced as the run proceeds. Whoever reads one, reads it
here, where a file that a stranger wrote is checked once and for all.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import types
import typing
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_origin

from cnnbench.config.schema import Range, expectation, read_value
from cnnbench.errors import CheckpointError
from cnnbench.files import atomic_write, read_regular
from cnnbench.registry import NAME

FORMAT = 1
Status = Literal["running", "done", "failed", "interrupted"]
# The reason of a run that is done since a search gave it up.
PRUNED = "pruned"
Count = Annotated[int, Range(ge=0)]
Seconds = Annotated[float, Range(ge=0)]
_MAX_BYTES = 4 << 20
# Deeper than any config, and shallow enough for every function that calls itself.
_MAX_DEPTH = 16
# What earlier records of a process called it.
_RENAMED = {"in_force": "effective"}


@dataclass(frozen=True)
class ProcessRecord:
    """One process that trained a run.

    Attributes:
        started: when, in UTC, as ISO 8601 with milliseconds, so that it sorts as text.
        command: its command line.
        machine: platform, versions of Python and torch, processor, cores, memory, GPUs.
        effective: what it computed with: ``device``, ``device_name``, ``precision`` (never auto),
            ``num_threads``, ``world_size`` (processes that trained together) and switches of torch.
        code_version: of the package; None where it was not recorded.
        model_files: SHA-256 of the files that the network is made from, by ``path`` (its code),
            ``helpers`` (what that code imports), ``data_path``, ``data_helpers``, ``weights`` and
            ``teacher``.
        compile_seconds: that ``torch.compile`` took; None without it.
        beside: names of the jobs of its sweep that ran on the same machine in its time, so that
            its seconds are not those of a run alone.
        others: keys of a later version, kept as they are.
    """

    started: str
    effective: Mapping[str, Any]
    command: tuple[str, ...] = ()
    machine: Mapping[str, Any] = field(default_factory=dict)
    code_version: str | None = None
    model_files: Mapping[str, str] = field(default_factory=dict)
    compile_seconds: Seconds | None = None
    beside: tuple[str, ...] = ()
    others: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Provenance:
    """Where a run's numbers come from.

    Attributes:
        processes: that trained it, in order; at least one.
        code_version: of the package that started it; None where it was not recorded.
        run_key: of its config, data and code, as ``run_key`` makes it.
        model_files: as ``ProcessRecord`` has them, of the process that started it.
        data_fingerprint: of the data's files, which the run key is made from too; None where it
            was not recorded.
        others: keys of a later version, kept as they are.
    """

    processes: tuple[ProcessRecord, ...]
    code_version: str | None = None
    run_key: str | None = None
    model_files: Mapping[str, str] = field(default_factory=dict)
    data_fingerprint: str | None = None
    others: Mapping[str, Any] = field(default_factory=dict)

    def noting(self, **facts: Any) -> Self:
        """Return it with attributes of the last process changed."""
        *earlier, process = self.processes
        processes = (*earlier, dataclasses.replace(process, **facts))
        return dataclasses.replace(self, processes=processes)


@dataclass(frozen=True)
class DataRecord:
    """The data that a run was trained on.

    Attributes:
        sha256: of its decoded images and targets.
        num_classes: at least 1.
        name: of the data set.
        source: where it was read.
        class_names: one for each class; None where they were not recorded.
        num_train: images of the split; None where it was not recorded, as for the next two.
        num_val: likewise.
        num_test: likewise.
        split_seed: of the validation part.
        measured: the split that the results are of: ``test``, or ``val`` for a fold of data that
            has a test part of its own; None where it was not recorded, which is ``test``.
        others: keys of a later version, kept as they are.
    """

    sha256: str
    num_classes: Annotated[int, Range(ge=1)]
    name: str | None = None
    source: str | None = None
    class_names: tuple[str, ...] | None = None
    num_train: Count | None = None
    num_val: Count | None = None
    num_test: Count | None = None
    split_seed: Count | None = None
    measured: Literal["test", "val"] | None = None
    others: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Self:
        """Return the record of what a data set says of itself, as ``Splits.record`` gives it.

        Raises:
            ValueError: something is missing or of another type.
        """
        record: Self = _read(cls, facts, "data.")
        return record


@dataclass(frozen=True)
class RunRecord:
    """All that ``run.json`` says; nothing in it can be changed, see ``dataclasses.replace``.

    Attributes:
        status: running, done, failed or interrupted.
        config: the resolved config as nested plain values, unchecked but for the names of its
            model and data, since an older or later version may have written it.
        seed: of initialisation, order and augmentation.
        data: what it was trained on.
        model: facts of the network, as ``models.build.Network.to_dict`` gives them; unchecked but
            for its name and the counts.
        provenance: what made the results.
        results: metrics and facts by name, flat; empty until the run is done.
        reason: why it failed or was interrupted.
        command: the command line of the process that wrote it.
        test_confusion: test images by [target][prediction]; None where there are too many classes.
        others: keys of a later version, kept as they are.

    Example:
        >>> record = RunRecord.read(run / "run.json")  # doctest: +SKIP
        >>> record.results["test/accuracy"]  # doctest: +SKIP
        0.9912
    """

    status: Status
    config: Mapping[str, Any]
    seed: Count
    data: DataRecord
    model: Mapping[str, Any]
    provenance: Provenance
    results: Mapping[str, Any] = field(default_factory=dict)
    reason: str | None = None
    command: tuple[str, ...] = ()
    test_confusion: tuple[tuple[int, ...], ...] | None = None
    others: Mapping[str, Any] = field(default_factory=dict)

    @property
    def model_name(self) -> str:
        """The network's name in the config."""
        return str(self.config["model"]["name"])

    @property
    def data_name(self) -> str:
        """The data set's name in the config."""
        return str(self.config["data"]["name"])

    @property
    def test_reads(self) -> int:
        """How often the test set was read."""
        return int(self.results.get("test_reads") or 0)

    @classmethod
    def read(cls, file: Path) -> Self:
        """Return what a ``run.json`` says, whoever wrote it.

        Raises:
            CheckpointError: it is missing, damaged or foreign.
        """
        try:
            tree = json.loads(read_regular(file, _MAX_BYTES).decode())
            if not isinstance(tree, dict) or tree.get("format") != FORMAT:
                came = tree.get("format") if isinstance(tree, dict) else None
                raise ValueError(f"its format is {came}, this version reads {FORMAT}")
            _check_plain(tree, _MAX_DEPTH)
            del tree["format"]
            record: Self = _read(cls, tree, "")
            _check_record(record)
            return dataclasses.replace(record, provenance=_dated(record.provenance))
        except OSError as error:
            reason = error.strerror or str(error)
        except (ValueError, RecursionError) as error:
            reason = str(error)
        raise CheckpointError(f"{file}: not a run this version can read: {reason}")

    def write(self, file: Path) -> None:
        """Replace ``run.json`` atomically.

        Raises:
            DiskError: it cannot be written.
            ValueError: a value is no plain JSON; the file stands as it was.
        """
        text = json.dumps({"format": FORMAT, **_plain(self)}, indent=2, allow_nan=False)
        atomic_write(file, f"{text}\n".encode())


def utc_text(moment: datetime) -> str:
    """Return a moment as the records have it.

    Example:
        >>> utc_text(datetime.fromisoformat("2026-01-02T03:04:05+02:00"))
        '2026-01-02T01:04:05.000+00:00'
    """
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")


def _read(node: type[Any], tree: Mapping[str, Any], where: str) -> Any:
    """Turn one object of the file into its dataclass.

    Raises:
        ValueError: something is missing or of another type.
    """
    kinds = _kinds(typing.cast(Hashable, node))
    if node is ProcessRecord:
        tree = {_RENAMED.get(name, name): value for name, value in tree.items()}
    values: dict[str, Any] = {}
    for name, (kind, is_needed) in kinds.items():
        if name in tree:
            values[name] = _value(kind, tree[name], f"{where}{name}")
        elif is_needed:
            raise ValueError(f"its {where}{name} is missing")
    others = {name: value for name, value in tree.items() if name not in kinds}
    return node(**values, others=others)


def _value(kind: Any, value: Any, where: str) -> Any:
    if type(value) is kind:
        return value
    origin, parts = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind):
        if isinstance(value, dict):
            return _read(typing.cast(type[Any], kind), value, f"{where}.")
    elif origin is types.UnionType and types.NoneType in parts and len(parts) == 2:
        return None if value is None else _value(parts[0], value, where)
    elif origin is tuple:
        if isinstance(value, list):
            if all(type(part) is parts[0] for part in value):
                return tuple(value)
            return tuple(_value(parts[0], part, where) for part in value)
    elif origin is Mapping:
        if isinstance(value, dict):
            if parts[1] is Any:
                return value
            return {name: _value(parts[1], part, f"{where}.{name}") for name, part in value.items()}
    else:
        try:
            return read_value(kind, value)
        except ValueError:
            raise ValueError(f"its {where} is not {expectation(kind)}") from None
    what = "list" if origin is tuple else "object"
    raise ValueError(f"its {where} is no {what}")


@cache
def _kinds(node: Hashable) -> dict[str, tuple[Any, bool]]:
    """Return type and whether it must be there, of each field but ``others``."""
    hints = typing.get_type_hints(node, include_extras=True)
    return {
        f.name: (hints[f.name], f.default is f.default_factory is dataclasses.MISSING)
        for f in dataclasses.fields(typing.cast(Any, node))
        if f.name != "others"
    }


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        tree = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        others = tree.pop("others")
        return {k: _plain(v) for k, v in {**tree, **others}.items() if v is not None}
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, (list, tuple)) else value


def _check_plain(value: Any, depth: int) -> None:
    """Refuse what no run of ours holds: endless nesting, and numbers that are none.

    Raises:
        ValueError: it holds such a thing.
    """
    if isinstance(value, (dict, list)):
        if not depth:
            raise ValueError("it is nested too deeply")
        for part in value.values() if isinstance(value, dict) else value:
            if type(part) is not str:
                _check_plain(part, depth - 1)
    elif isinstance(value, (int, float)) and not abs(value) <= sys.float_info.max:
        raise ValueError("it holds a number that is not finite")


def _dated(provenance: Provenance) -> Provenance:
    """Return processes whose start is in UTC, and the last of which knows its code.

    Earlier records had local time with its offset, and one code version: of the last process.

    Raises:
        ValueError: a process's start is no time.
    """
    processes = []
    for number, process in enumerate(provenance.processes, start=1):
        try:
            moment = datetime.fromisoformat(process.started)
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            process = dataclasses.replace(process, started=utc_text(moment))
        except (ValueError, OverflowError):
            raise ValueError(f"the start of its process {number} is no time") from None
        processes.append(process)
    if all(process.code_version is None for process in processes):
        processes[-1] = dataclasses.replace(processes[-1], code_version=provenance.code_version)
    return dataclasses.replace(provenance, processes=tuple(processes))


def _check_record(record: RunRecord) -> None:
    """Check what the types of the fields do not say.

    Raises:
        ValueError: something is not as we write it.
    """
    for group in ("model", "data"):
        node = record.config.get(group)
        name = node.get("name") if isinstance(node, dict) else None
        if not (isinstance(name, str) and NAME.fullmatch(name)):
            raise ValueError(f"its config.{group}.name is no name")
    if not isinstance(record.model.get("name"), str):
        raise ValueError("its model.name is no name")
    for name in ("num_params", "macs", "receptive_field"):
        value = record.model.get(name)
        if value is not None and not (type(value) is int and 0 <= value < 2**63):
            raise ValueError(f"its model.{name} is no count")
    names = record.data.class_names
    if names is not None and len(names) != record.data.num_classes:
        raise ValueError("its data.class_names are not one for each class")
    if not all(
        isinstance(value, (int, float, str, types.NoneType)) for value in record.results.values()
    ):
        raise ValueError("its results are no flat numbers and texts")
    reads = record.results.get("test_reads", 0)
    if not (type(reads) is int and reads >= 0):
        raise ValueError("its results.test_reads is no count")
    size, rows = record.data.num_classes, record.test_confusion
    if rows is not None and not (
        len(rows) == size and all(len(row) == size and min(row) >= 0 for row in rows)
    ):
        raise ValueError(f"its test_confusion is no {size} x {size} table of counts")
    if not record.provenance.processes:
        raise ValueError("its provenance.processes is empty")
