"""Where a run's numbers come from, what makes two runs the same, and what changed on the way."""

from __future__ import annotations

import ast
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cnnbench.config.run_config import RunConfig, role_of, to_tree
from cnnbench.config.settings import leaves
from cnnbench.errors import DataError, UsageError
from cnnbench.files import expand_path, file_sha256, read_regular
from cnnbench.runs.record import ProcessRecord, Provenance, RunRecord, utc_text
from cnnbench.version import __version__


def device_kind(process: ProcessRecord) -> str | None:
    """Return what kind of device computed, such as ``AMD EPYC (AVX512, bf16)``.

    Virtual machines shorten the names of CPUs: ``AMD EPYC (AVX2)`` has the same, and other bits.
    """
    effective = process.effective
    name: str | None = effective.get("device_name")
    if name is None or effective.get("device") != "cpu" or "cpu_capability" not in effective:
        return name
    formats = ", bf16" if effective.get("native_bf16") else ""
    return f"{name} ({effective['cpu_capability']}{formats})"


# What decides the bits of a run beside its config, under the words that a user knows.
_DECIDING: Mapping[str, Callable[[ProcessRecord], Any]] = {
    "code": lambda process: process.code_version,
    "torch": lambda process: process.machine.get("torch"),
    "device": device_kind,
    "device.precision": lambda process: process.effective.get("precision"),
    "device.num_threads": lambda process: process.effective.get("num_threads"),
    "device.winograd": lambda process: process.effective.get("winograd"),
    # The order of sums, and what batch norm sees on a CPU; earlier runs had one process each.
    "world_size": lambda process: process.effective.get("world_size", 1),
    "model.path": lambda process: _short(process.model_files.get("path")),
    "files that model.path imports": lambda process: _short(process.model_files.get("helpers")),
    "data.path": lambda process: _short(process.model_files.get("data_path")),
    "files that data.path imports": lambda process: _short(process.model_files.get("data_helpers")),
    "model.weights": lambda process: _short(process.model_files.get("weights")),
    "loss.teacher": lambda process: _short(process.model_files.get("teacher")),
}


def _short(digest: str | None) -> str | None:
    return None if digest is None else f"SHA-256 {digest[:12]}"


@cache
def code_version() -> str:
    """Return the version and a hash of the package's source, so that edited code is another one."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return f"{__version__}+{digest.hexdigest()[:8]}"


def run_key(
    config: RunConfig,
    *,
    data_fingerprint: str,
    code_version: str,
    model_files: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Return the SHA-256 of all that decides a run's result.

    Which keys count follows from their roles (``config/roles.py``): the same run under another
    output root, with other log lines, is the same run.

    Args:
        config: of the run.
        data_fingerprint: of the data's files.
        code_version: of the package.
        model_files: hashes of the files that the network is made from, by their keys in ``model``.
    """
    values = leaves(to_tree(config))
    parts = {
        "config": {key: value for key, value in values if role_of(key).in_run_key},
        "data": data_fingerprint,
        "code": code_version,
        "model_files": dict(model_files),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def check_same_data(record: RunRecord, *, sha256: str, source: str) -> None:
    """Refuse other data than a run's.

    Args:
        record: of the run.
        sha256: of the data that was read now.
        source: where it was read.

    Raises:
        DataError: its hash is not the recorded one.
    """
    recorded = record.data.sha256
    if recorded != sha256:
        raise DataError(
            f"{record.data_name}: {source} is not the data this run was trained on "
            f"(SHA-256 {sha256[:12]}, recorded {recorded[:12]})"
        )


def provenance(
    before: RunRecord | None,
    config: RunConfig,
    *,
    command: Sequence[str],
    data_fingerprint: str,
    machine: Mapping[str, Any],
    effective: Mapping[str, Any],
) -> Provenance:
    """Return what makes a run's results: what it was started from, and every process so far.

    Args:
        before: what ``run.json`` says; None for a new run.
        config: of the run.
        command: the command line of this process.
        data_fingerprint: of the data's files.
        machine: as ``device.describe_machine`` gives it.
        effective: what this process computes with: device, precision, threads and switches.

    Raises:
        UsageError: a file that a new network is made from is missing.
    """
    earlier = before.provenance if before is not None else Provenance(())
    # What a run was started from may be gone by the time it is resumed.
    files = _model_files(config, is_lenient=before is not None)
    process = ProcessRecord(
        started=utc_text(datetime.now(UTC)),
        effective=dict(effective),
        command=tuple(command),
        machine=dict(machine),
        code_version=code_version(),
        model_files=files,
    )
    started_from = earlier.model_files or files
    version = earlier.code_version or code_version()
    return replace(
        earlier,
        processes=(*earlier.processes, process),
        code_version=version,
        run_key=run_key(
            config,
            data_fingerprint=data_fingerprint,
            code_version=version,
            model_files=started_from,
        ),
        model_files=started_from,
        data_fingerprint=data_fingerprint,
    )


def changes(processes: Sequence[ProcessRecord]) -> list[str]:
    """Return what decides a result's bits and was not the same in all processes.

    What a process did not record is no change.

    Example:
        >>> one = ProcessRecord("2026-01-01", {"num_threads": 1})
        >>> two = ProcessRecord("2026-01-02", {"num_threads": 2})
        >>> changes([one, two])
        ['device.num_threads 1, then 2']
    """
    found = []
    for name, value_of in _DECIDING.items():
        values = [value for process in processes if (value := value_of(process)) is not None]
        steps = [v for n, v in enumerate(values) if n == 0 or v != values[n - 1]]
        if len(steps) > 1:
            found.append(f"{name} {', then '.join(map(str, steps))}")
    return found


def resume_warning(provenance: Provenance) -> str | None:
    """Return one sentence on what the last process changed; None where it changed nothing."""
    found = changes(provenance.processes[-2:])
    if not found:
        return None
    return (
        f"resumed with something else than before ({'; '.join(found)}): the result may differ "
        "from that of an uninterrupted run, and compare marks it"
    )


def model_files(config: RunConfig) -> dict[str, str]:
    """Return the SHA-256 of the files that a run's network is made from.

    Returns:
        ``path``: of the file of a custom network, with its class; ``helpers``: of the files of the
        user's own that it imports, where there are any; ``data_path`` and ``data_helpers``:
        likewise of data of the user's own; ``weights``: of ``model.weights``; ``teacher``: of
        ``loss.teacher``.

    Raises:
        UsageError: such a file is missing.
    """
    return _model_files(config, is_lenient=False)


def _model_files(config: RunConfig, *, is_lenient: bool) -> dict[str, str]:
    files: dict[str, str] = {}
    for add in (_add_code, _add_weights):
        try:
            add(config, files)
        except UsageError:
            if not is_lenient:
                raise
    return files


def _add_code(config: RunConfig, files: dict[str, str]) -> None:
    for node, key, prefix in (
        (config.model, "model.path", ""),
        (config.data, "data.path", "data_"),
    ):
        if (path := node.args.get("path")) is None:
            continue
        file, _, name = path.rpartition(":")
        files[f"{prefix}path"] = f"{file_sha256(Path(file), key)}:{name}"
        helpers = sorted(file_sha256(helper, key) for helper in _imported(Path(file)))
        if helpers:
            files[f"{prefix}helpers"] = hashlib.sha256("".join(helpers).encode()).hexdigest()


def _add_weights(config: RunConfig, files: dict[str, str]) -> None:
    for name, key, path in (
        ("weights", "model.weights", config.model.weights),
        ("teacher", "loss.teacher", config.loss.teacher),
    ):
        if path is None:
            continue
        weights = expand_path(path)
        # A run's manifest has the hashes of its checkpoints, and says which is selected.
        manifest = weights / "checkpoints" / "manifest.json"
        if weights.is_dir() and not manifest.exists():
            raise UsageError(f"{key}={weights}: no run with checkpoints")
        files[name] = file_sha256(manifest if weights.is_dir() else weights, key)


def _imported(file: Path) -> set[Path]:
    """Return the files of the user's own that a Python file imports, and what those import.

    Nothing is run: the imports are read from the source. Installed packages are left out, whose
    versions are not part of a run's identity, and our own, which ``code_version`` covers.
    """
    search_path = [str(file.parent), *sys.path]
    found: set[Path] = set()
    waiting = [file]
    while waiting:
        for name, where in _import_names(waiting.pop(), search_path):
            for source in _sources(name, where):
                is_own = not {"site-packages", "dist-packages"} & set(source.parts)
                if is_own and source not in found and source != file.resolve():
                    found.add(source)
                    waiting.append(source)
    return found


def _import_names(file: Path, search_path: Sequence[str]) -> Iterator[tuple[str, Sequence[str]]]:
    """Yield the dotted names that a file imports, and the directories where to look for each."""
    try:
        tree = ast.parse(read_regular(file, 4 << 20))
    except (OSError, SyntaxError, ValueError, RecursionError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, search_path) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # One dot is the file's own package, each further one that above it.
            package = [file, *file.parents][min(node.level, len(file.parents))]
            where = [str(package)] if node.level else search_path
            prefix = f"{node.module}." if node.module else ""
            yield from ((f"{prefix}{alias.name}", where) for alias in node.names)


def _sources(name: str, search_path: Sequence[str]) -> Iterator[Path]:
    """Yield the source files of a dotted name's packages and module, as far as there are any."""
    where: Sequence[str] | None = search_path
    if name.partition(".")[0] in ("cnnbench", *sys.stdlib_module_names):
        return
    for part in name.split("."):
        spec = PathFinder.find_spec(part, list(where)) if where else None
        if spec is None:
            return  # the last part may be a class or a function of the module before it
        if spec.origin is not None and spec.origin.endswith(".py"):
            yield Path(spec.origin).resolve()
        where = list(spec.submodule_search_locations or ())
