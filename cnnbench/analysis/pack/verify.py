"""Every number of a package that follows from its predictions and configs, computed anew."""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cnnbench.analysis.compare.formats import comparison_text, to_dict
from cnnbench.analysis.compare.report import render_report
from cnnbench.analysis.compare.tables import Comparison
from cnnbench.analysis.pack.archive import (
    MANIFEST,
    PAGE,
    RENDERED,
    RUN_NAME,
    TABLE,
    Unpacked,
    unpack,
)
from cnnbench.analysis.pack.recompute import Checks, check_run, is_same
from cnnbench.analysis.pack.write import FORMAT, compare_packed
from cnnbench.config.schema import read_value
from cnnbench.errors import CheckpointError, CnnbenchError, UsageError
from cnnbench.files import writing
from cnnbench.runs import columns
from cnnbench.runs.provenance import code_version

_KINDS = {
    "sort": str | None,
    "descending": bool | None,
    "group": str | None,
    "margin": float | None,
    "baseline": str | None,
}
_MAX_DEPTH = 24
# Metrics that the runs' predictions give; the others are what the runs say of themselves.
_FROM_PREDICTIONS = "test/"


def verify_package(file: Path) -> dict[str, Any]:
    """Check a package; see `cnnbench.verify`.

    Raises:
        UsageError: there is no such file.
        CheckpointError: it is no package of ours, damaged, or larger than allowed.
    """
    with writing(Path(tempfile.gettempdir())), tempfile.TemporaryDirectory() as scratch:
        package = unpack(file, Path(scratch).resolve())
        manifest = _manifest(package, file)
        recorded = _json(package.texts[TABLE], TABLE, file)
        checks = Checks()
        _check_files(package, manifest, checks)
        for name in package.runs:
            check_run(package.root / "runs" / name, f"runs/{name}", checks)
        try:
            found = compare_packed(package.root, manifest["selection"])
        except UsageError as error:
            raise CheckpointError(
                f"{file}: its runs give no table: {str(error).replace(f'{package.root}/', '')}"
            ) from None
        _check_table(recorded, to_dict(found), checks)
        _check_rendered(package, manifest, found, checks)
    return {
        "package": str(file),
        "code_version": str(manifest["code_version"]),
        "num_runs": len(package.runs),
        "num_equal": sum(checks.equal.values()),
        "num_differing": len(checks.differs),
        "equal": dict(sorted(checks.equal.items())),
        "recorded_only": dict(sorted(checks.recorded.items())),
        "differs": checks.differs,
        "notes": checks.notes(),
    }


def _json(text: bytes, name: str, file: Path) -> dict[str, Any]:
    """Return a member's JSON object, with finite numbers and nested as ours are.

    Raises:
        CheckpointError: it is no such thing.
    """
    try:
        value = json.loads(text.decode(), parse_constant=_no_constant)
        _check_depth(value, _MAX_DEPTH)
        if isinstance(value, dict):
            return value
        reason = "it is no object"
    except (ValueError, RecursionError) as error:
        reason = str(error)
    raise CheckpointError(f"{file}: its {name} is not as 'cnnbench pack' writes it: {reason}")


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _check_depth(value: Any, depth: int) -> None:
    if isinstance(value, (dict, list)):
        if not depth:
            raise ValueError("it is nested too deeply")
        for part in value.values() if isinstance(value, dict) else value:
            _check_depth(part, depth - 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError("it holds a number that is not finite")


def _manifest(package: Unpacked, file: Path) -> dict[str, Any]:
    manifest = _json(package.texts[MANIFEST], MANIFEST, file)
    try:
        if manifest["format"] != FORMAT:
            raise ValueError(f"its format is {manifest['format']}, this version reads {FORMAT}")
        selection = manifest["selection"]
        manifest["selection"] = {
            name: read_value(kind, selection.get(name)) for name, kind in _KINDS.items()
        }
        base = manifest["selection"]["baseline"]
        if base is not None and not re.fullmatch(RUN_NAME, base):
            raise ValueError("its baseline is none of its runs")
        if not all(isinstance(digest, str) for digest in manifest["files"].values()):
            raise ValueError("its files have no hashes")
        str(manifest["code_version"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error) or "its types"
        raise CheckpointError(
            f"{file}: its {MANIFEST} is not as 'cnnbench pack' writes it: {reason}"
        ) from None
    return manifest


def _check_files(package: Unpacked, manifest: Mapping[str, Any], checks: Checks) -> None:
    listed = manifest["files"]
    for name in sorted({*listed, *package.digests} - {MANIFEST}):
        checks.compare(
            name, "SHA-256", listed.get(name, "not listed"), package.digests.get(name, "missing")
        )


def _check_table(recorded: Any, recomputed: Any, checks: Checks) -> None:
    """Compare two comparisons as ``--format json`` has them, value by value."""
    own = {column.name for column in columns.metrics() if not _follows(column.name)}
    for path, before, now in _leaves((), recorded, recomputed):
        where, what = _place(path, recomputed)
        name = path[2] if len(path) > 2 and path[0] == "rows" else ""
        is_own = name in own or (name == "difference" and len(path) > 3 and path[3] in own)
        if not (is_own and is_same(before, now)):
            checks.compare(where, f"{what} of the table", before, now)
        elif now is not None:
            checks.recorded[f"{what} of the table"] += 1


def _follows(name: str) -> bool:
    """Tell whether a metric follows from predictions or from the network."""
    return name.startswith(_FROM_PREDICTIONS) or name in ("linear_share", "train_tflop")


_Path = tuple[str | int, ...]


def _leaves(path: _Path, left: Any, right: Any) -> Iterator[tuple[_Path, Any, Any]]:
    """Yield the plain values of two trees side by side; one that is missing is a text."""
    if isinstance(left, dict) and isinstance(right, dict):
        for key in dict.fromkeys([*right, *left]):
            yield from _leaves((*path, key), left.get(key, "missing"), right.get(key, "not there"))
    elif isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        for index, (one, other) in enumerate(zip(left, right, strict=True)):
            yield from _leaves((*path, index), one, other)
    else:
        yield path, left, right


def _place(path: _Path, tree: Mapping[str, Any]) -> tuple[str, str]:
    """Name a value of the table as a reader finds it: its row, and its column."""
    part, *rest = path
    what = ".".join(str(name) for name in rest if isinstance(name, str)) or str(part)
    index = rest[0] if rest and isinstance(rest[0], int) else None
    if part == "rows" and index is not None:
        return f"{TABLE}, row {index + 1} ({tree['rows'][index].get('model')})", what
    return f"{TABLE}, {part}{'' if index is None else f' {index + 1}'}", what


def _check_rendered(
    package: Unpacked, manifest: Mapping[str, Any], found: Comparison, checks: Checks
) -> None:
    """Write tables and page anew, where they were written by this very code."""
    names = [name for name in (*RENDERED, PAGE) if name in package.texts]
    if manifest["code_version"] != code_version():
        checks.note(
            ", ".join(names),
            f"not written anew, as the package was made by code {manifest['code_version']} and "
            f"this is {code_version()}; {TABLE} has their numbers",
        )
        checks.recorded.update(names)
        return
    for name in names:
        try:
            is_page = name == PAGE
            text = render_report(found) if is_page else comparison_text(found, RENDERED[name])
        except CnnbenchError as error:
            checks.note(name, f"cannot be written anew: {error}")
            continue
        same = text.encode() == package.texts[name]
        checks.compare(
            name, "text", "as its runs give it", "as its runs give it" if same else "other"
        )
    figures = sum(name.startswith("figures/") for name in package.digests)
    checks.recorded["figures"] += figures
