"""What the page says of each row beside its numbers: its runs, its mistakes, and its network."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from cnnbench.analysis.compare.formats import plus_minus, row_name
from cnnbench.analysis.compare.layers import layers_of
from cnnbench.analysis.compare.records import Record
from cnnbench.analysis.compare.rows import Row
from cnnbench.analysis.compare.tables import Table
from cnnbench.errors import shape_text
from cnnbench.rendering.text import counted, setting_text
from cnnbench.runs import columns
from cnnbench.runs.columns import Column

_MAX_CHARACTERS = 300
_MAX_MATRIX = 20
_MAX_LISTED = 20
LAYER_COLUMNS = {
    "layer": "name",
    "kind": "kind",
    "output": "output_shape",
    "parameters": "num_params",
    "share": "params_share",
    "MACs": "macs",
    "share of MACs": "macs_share",
    "receptive field": "receptive_field",
    "stride": "stride",
}


def clip(value: Any) -> str:
    """Return a value as one short line."""
    text = setting_text(value)
    return text if len(text) <= _MAX_CHARACTERS else f"{text[:_MAX_CHARACTERS]} ..."


def describe_row(row: Row, table: Table, network: int) -> dict[str, Any]:
    """Return what the page says of one row.

    Args:
        row: of the table.
        table: whose settings name it.
        network: its network's number on the page.
    """
    first = row.records[0]
    sources = {
        name: "; ".join(
            dict.fromkeys(clip(r.provenance[name]) for r in row.records if name in r.provenance)
        )
        for name in ("machine", "versions", "data", "images", "command")
    }
    facts = {
        "selected on": clip(row.values["selection"]),
        "readings of the test images": ", ".join(str(record.test_reads) for record in row.records),
        "machine": sources["machine"],
        "versions": sources["versions"],
        "data": f"{clip(row.values['data'])}, from {sources['data'] or 'a source not recorded'}",
        "data SHA-256": clip(first.data_sha256),
        "images": sources["images"],
        "commands": sources["command"],
    }
    path = shlex.quote(setting_text(first.path))
    return {
        "number": row.number,
        "name": clip(row_name(row, table)),
        "score": columns.score_text(row.score),
        "value": plus_minus(row.metric(row.score), 4),
        "is_number": row.is_number,
        "marks": [clip(mark) for mark in row.not_comparable],
        "runs": [_run(record) for record in row.records],
        "facts": [(name, text) for name, text in facts.items() if text],
        "settings": [(clip(key), clip(value)) for key, value in first.settings.items()],
        "network": network,
        "confusion": _confusion(row),
        "evaluate": f"cnnbench evaluate {path}",
    }


def run_columns() -> list[Column]:
    """Return what is shown of each single run."""
    return columns.scores_first(column for column in columns.metrics() if column.in_runs)


def _run(record: Record) -> dict[str, Any]:
    path = setting_text(record.path)
    cells = [_number_text(record.metrics[column.name], column.digits) for column in run_columns()]
    return {
        "seed": record.seed,
        "cells": cells,
        "version": "not recorded" if record.code_version is None else clip(record.code_version),
        "started": clip(record.started),
        "path": path,
        "repeat": f"cnnbench train --config {shlex.quote(f'{path}/config.yaml')}",
    }


def _number_text(value: float | None, digits: int) -> str:
    """Return one run's number; only means of whole numbers have digits after the point."""
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.{digits}f}"


def _confusion(row: Row) -> dict[str, Any] | None:
    """Return the sum over a row's runs; a large one as its worst classes and commonest mistakes."""
    matrices = [r.test_confusion for r in row.records if r.test_confusion is not None]
    if not matrices:
        return None
    size = len(matrices[0])
    total = [[sum(matrix[i][j] for matrix in matrices) for j in range(size)] for i in range(size)]
    names = [clip(name) for name in row.records[0].class_names or ()]
    names = names if len(names) == size else [str(label) for label in range(size)]
    hits = sum(total[label][label] for label in range(size))
    images = sum(map(sum, total))
    found: dict[str, Any] = {
        "note": f"The sum over {len(matrices)} of {counted(len(row.records), 'run')}: "
        f"{hits:,} of {images:,} right.",
        "names": names,
    }
    if size <= _MAX_MATRIX:
        return {**found, "matrix": [_line(names, total, label) for label in range(size)]}
    sums = [sum(counts) for counts in total]
    classes = [label for label in range(size) if sums[label]]
    classes.sort(key=lambda label: (total[label][label] / sums[label], label))
    mistakes = sorted(
        (-total[i][j], i, j) for i in range(size) for j in range(size) if i != j and total[i][j]
    )
    return {
        **found,
        "matrix": None,
        "worst": [
            (names[i], f"{sums[i]:,}", f"{total[i][i] / sums[i]:.4f}")
            for i in classes[:_MAX_LISTED]
        ],
        "pairs": [
            (names[i], names[j], f"{-count:,}", f"{-count / sums[i]:.4f}")
            for count, i, j in mistakes[:_MAX_LISTED]
        ],
    }


def _line(names: Sequence[str], total: Sequence[Sequence[int]], label: int) -> dict[str, Any]:
    """Return the row of one true class."""
    counts = total[label]
    images = sum(counts)
    share = counts[label] / images if images else None
    return {
        "name": names[label],
        "cells": [
            {
                "count": count or "",
                "heat": math.ceil(9 * count / images) if images else 0,
                "is_hit": column == label,
            }
            for column, count in enumerate(counts)
        ],
        "total": images,
        "accuracy": "" if share is None else f"{share:.4f}",
        "percent": 0 if share is None else f"{100 * share:.1f}",
    }


def network_key(record: Record) -> str:
    """Return what is the same for runs of the same network."""
    return json.dumps(record.network, sort_keys=True)


def describe_network(record: Record, layers: Mapping[str, Any]) -> dict[str, Any]:
    """Return a network layer by layer, or why that cannot be shown.

    Args:
        record: of a run of it.
        layers: what ``layers_of`` found before, by ``network_key``.
    """
    facts = record.network
    size = facts.get("image_size")
    name = f"{clip(facts.get('name'))}: {clip(facts.get('in_channels'))} x {clip(size)} x "
    outputs = "a number" if record.is_number else f"{record.num_classes} classes"
    name += f"{clip(size)} to {outputs}"
    arguments = facts.get("args")
    if isinstance(arguments, Mapping) and arguments:
        name += "; " + clip(", ".join(f"{k}={setting_text(v)}" for k, v in arguments.items()))
    found = layers.get(network_key(record)) or layers_of(facts, str(record.path))
    if isinstance(found, str):
        return {"name": name, "reason": clip(found)}
    summary, depth = found
    totals = {
        "parameters": f"{summary['num_params']:,}",
        "MACs for one image": f"{summary['macs']:,}",
        "receptive field": clip(summary["receptive_field"]),
        "parameters in memory": f"{summary['param_bytes'] / 1e6:,.2f} MB",
        "activations of one image": f"{summary['activation_bytes'] / 1e6:,.2f} MB",
    }
    return {
        "name": name,
        "reason": None,
        "totals": totals.items(),
        "warnings": summary["warnings"],
        "depth": depth,
        "command": f"cnnbench summary {shlex.quote(setting_text(record.path))}",
        "layers": [
            [_layer_text(key, layer[key]) for key in LAYER_COLUMNS.values()]
            for layer in summary["layers"]
        ],
    }


def _layer_text(key: str, value: Any) -> str:
    if value is None:
        return ""
    if key.endswith("share"):
        return f"{value:.1%}"
    if key == "output_shape":
        return shape_text(value)
    return f"{value:,}" if isinstance(value, int) else str(value)
