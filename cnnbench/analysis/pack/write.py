"""Finished runs, their table and figures as one zip file."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cnnbench.analysis.compare.formats import comparison_text, to_dict
from cnnbench.analysis.compare.plots import plot_comparison
from cnnbench.analysis.compare.report import write_report
from cnnbench.analysis.compare.tables import Comparison, compare_runs
from cnnbench.analysis.pack.archive import (
    CHECKLIST,
    MANIFEST,
    MAX_RATIO,
    PAGE,
    RENDERED,
    RUN_FILES,
    TABLE,
)
from cnnbench.analysis.pack.checklist import checklist_text
from cnnbench.errors import CheckpointError, UsageError
from cnnbench.files import file_sha256, read_regular, writing
from cnnbench.rendering.text import render_json, setting_text
from cnnbench.runs.predictions import FILE_NAME
from cnnbench.runs.provenance import code_version

FORMAT = 1
# How the rows were ordered, grouped and judged: what the table is made from beside its runs.
SELECTION = ("sort", "descending", "group", "margin")
_RUN_LIMIT = 400 << 20
_STORED = (".npz", ".png", ".pt")
# The earliest that a zip file can say: the same runs give the same file.
_MOMENT = (1980, 1, 1, 0, 0, 0)


def pack_runs(
    paths: Sequence[str | Path], file: Path, *, weights: bool = False, **selection: Any
) -> dict[str, Any]:
    """Write a package; see `cnnbench.pack`.

    Args:
        paths: runs, or directories of runs.
        file: of the package; it is replaced.
        weights: add the selected epoch's weights of each run.
        selection: as `compare_runs` takes it.

    Raises:
        UsageError: no run is finished, or the selection is wrong.
        CheckpointError: a run's weights are missing or damaged.
        DiskError: the file cannot be written.
    """
    found = compare_runs(paths, **selection)
    records = [record for table in found.tables for row in table.rows for record in row.records]
    if not records:
        raise UsageError(f"{' '.join(map(str, paths))}: no finished run to pack")
    saved = [_weights(record.path) for record in records] if weights else []
    with writing(Path(tempfile.gettempdir())), tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch).resolve()
        names = {}
        for number, record in enumerate(records, start=1):
            label = f"{record.settings.get('model')}-seed{record.seed}"
            name = f"{number:04d}-{re.sub(r'[^A-Za-z0-9_+-]+', '_', label)[:80]}"
            _copy_run(record.path, root / "runs" / name)
            names[record.path] = name
        kept = {key: selection.get(key) for key in SELECTION}
        kept["baseline"] = names[found.baseline.records[0].path] if found.baseline else None
        packed = compare_packed(root, kept)
        for name, output_format in RENDERED.items():
            (root / name).write_text(comparison_text(packed, output_format), encoding="utf-8")
        (root / TABLE).write_text(render_json(to_dict(packed)), encoding="utf-8")
        (root / CHECKLIST).write_text(
            checklist_text(
                packed,
                found.left_out,
                has_weights=weights,
                has_predictions=all(
                    (root / "runs" / n / FILE_NAME).exists() for n in names.values()
                ),
            ),
            encoding="utf-8",
        )
        write_report(packed, root / PAGE)
        plot_comparison(packed, root / "figures")
        contents = {str(p.relative_to(root)): p for p in sorted(root.rglob("*")) if p.is_file()}
        for name, files in zip(names.values(), saved, strict=False):
            contents |= {f"runs/{name}/checkpoints/{path.name}": path for path in files}
        manifest = {
            "format": FORMAT,
            "code_version": code_version(),
            "selection": kept,
            "left_out": [
                {"run": run.path.name, "status": run.status, "reason": setting_text(run.reason)}
                for run in found.left_out
            ],
            "files": {name: file_sha256(path, name) for name, path in contents.items()},
        }
        (root / MANIFEST).write_text(render_json(manifest), encoding="utf-8")
        _write_zip(file, {MANIFEST: root / MANIFEST, **contents})
        homes = sum(_names_home(path) for path in contents.values())
    return {
        "package": str(file),
        "num_runs": len(records),
        "num_left_out": len(found.left_out),
        "num_files": len(contents) + 1,
        "num_bytes": file.stat().st_size,
        "files_with_home": homes,
    }


def compare_packed(root: Path, selection: Mapping[str, Any]) -> Comparison:
    """Compare the runs of a package, and name them by their paths in it.

    Args:
        root: holds ``runs/NAME/run.json`` and so on.
        selection: by ``SELECTION``, and ``baseline``, the name of a run of the package.

    Raises:
        UsageError: the selection is wrong, or there is no run.
    """
    base = selection.get("baseline")
    chosen: dict[str, Any] = {key: selection.get(key) for key in SELECTION if key != "descending"}
    found = compare_runs(
        [root / "runs"],
        **chosen,
        descending=bool(selection.get("descending")),
        baseline=None if base is None else str(root / "runs" / base),
    )
    prefix = f"{root}{os.sep}"
    tables = []
    for table in found.tables:
        for row in table.rows:
            row.records = tuple(replace(r, path=r.path.relative_to(root)) for r in row.records)
        notes = tuple(note.replace(prefix, "") for note in table.notes)
        tables.append(replace(table, notes=notes))
    left_out = [
        replace(run, path=run.path.relative_to(root), reason=run.reason.replace(prefix, ""))
        for run in found.left_out
    ]
    return Comparison(tables, left_out, found.baseline)


def _copy_run(path: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for name in RUN_FILES:
        try:
            content = read_regular(path / name, _RUN_LIMIT)
        except FileNotFoundError:
            continue  # an older run has no predictions
        except OSError as error:
            raise CheckpointError(
                f"{path / name}: cannot be packed: {error.strerror or error}"
            ) from None
        (target / name).write_bytes(content)


def _weights(path: Path) -> list[Path]:
    """Return the files of a run's selected weights, and their manifest."""
    from cnnbench.runs.checkpoint import Checkpoints

    checkpoints = Checkpoints(path / "checkpoints")
    manifest = checkpoints.manifest()
    name = manifest["best"] or manifest["last"]
    file = checkpoints.directory / f"{name}.pt"
    if file_sha256(file, "--weights") != manifest["saves"][name]["weights"]["sha256"]:
        raise CheckpointError(f"{file}: damaged: it is not what its manifest says")
    return [checkpoints.directory / "manifest.json", file]


def _write_zip(file: Path, contents: Mapping[str, Path]) -> None:
    """Replace the file by one whole zip, or leave it as it was."""
    tmp = file.with_name(f"{file.name}.tmp-{os.getpid()}")
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with zipfile.ZipFile(tmp, "x") as archive:
                for name, path in contents.items():
                    member = zipfile.ZipInfo(name, _MOMENT)
                    member.external_attr = 0o100644 << 16
                    if not name.endswith(_STORED) and not _is_too_plain(path):
                        member.compress_type = zipfile.ZIP_DEFLATED
                    member.file_size = path.stat().st_size  # of 4 GB and more it says so ahead
                    with path.open("rb") as source, archive.open(member, "w") as target:
                        shutil.copyfileobj(source, target, 1 << 20)
            os.replace(tmp, file)
        finally:
            tmp.unlink(missing_ok=True)


def _is_too_plain(path: Path) -> bool:
    """Tell whether a text shrinks so much that a reader would take it for a bomb."""
    content = path.read_bytes()
    return len(zlib.compress(content, 6)) * MAX_RATIO < 2 * len(content)


def _names_home(path: Path) -> bool:
    home = str(Path.home())
    if path.suffix in _STORED or len(home) < 3:
        return False
    return home.encode() in path.read_bytes() or json.dumps(home).encode() in path.read_bytes()
