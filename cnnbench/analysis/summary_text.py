"""The tables of ``summary``: of one network, of two side by side, and of single blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cnnbench.analysis.results import Result
from cnnbench.errors import shape_text
from cnnbench.notices import cell_width, fold, terminal_width
from cnnbench.rendering.html import escaped, html_table
from cnnbench.rendering.text import render_json, render_table

_COLUMNS = (
    "name",
    "kind",
    "output_shape",
    "num_params",
    "params_share",
    "macs",
    "macs_share",
    "receptive_field",
    "stride",
)
_BLOCK_COLUMNS = (
    "block",
    "num_params",
    "params_ratio",
    "macs",
    "macs_ratio",
    "receptive_field",
    "output_shape",
)
_SHORT = ("name", "output_shape", "num_params", "macs", "receptive_field")


def summary_result(label: str, found: Mapping[str, Any]) -> Result:
    """Return a network's summary, which prints as its table."""
    table = html_table(_rows(found, "text"), _COLUMNS, f"{label}, {_shape(found)}")
    words = "".join(f"<p>{escaped(line)}</p>" for line in _words(found).split("\n") if line)
    text = summary_text(label, found, "text").rstrip("\n")
    return Result(found, rows=found["layers"], text=text, html=table + words)


def networks_result(both: Mapping[str, Any]) -> Result:
    """Return the summaries of two networks, which print side by side."""
    heads = {"first": both["networks"][0], "second": both["networks"][1]}
    rows = [{heads.get(key, key): value for key, value in row.items()} for row in both["totals"]]
    text = networks_text(both, "text").rstrip("\n")
    return Result(both, rows=both["totals"], text=text, html=html_table(rows))


def blocks_result(found: Mapping[str, Any]) -> Result:
    """Return the costs of blocks, which print as a table."""
    rows = _block_rows(found, "text")
    text, html = blocks_text(found, "text").rstrip("\n"), html_table(rows, _BLOCK_COLUMNS)
    return Result(found, rows=found["blocks"], text=text, html=html)


def blocks_text(found: Mapping[str, Any], output_format: str) -> str:
    """Return blocks below each other, with their costs and ratios to the first."""
    if output_format == "json":
        return render_json(dict(found))
    rows = _block_rows(found, output_format)
    return render_table(rows, _BLOCK_COLUMNS, output_format, _BLOCK_COLUMNS[1:6])


def _block_rows(found: Mapping[str, Any], output_format: str) -> list[dict[str, Any]]:
    rows = [
        {**row, **{key: shape_text(row[key], "x") for key in ("input_shape", "output_shape")}}
        for row in found["blocks"]
    ]
    for row in rows if output_format != "csv" else ():
        row |= {key: f"{row[key]:,}" for key in ("num_params", "macs")}
        row |= {key: f"{row[key]:.4f}" for key in ("params_ratio", "macs_ratio")}
    return rows


def _percent(share: float) -> str:
    return f"{share:.1%}"


def _rows(found: Mapping[str, Any], output_format: str) -> list[dict[str, Any]]:
    rows = [
        {**layer, "output_shape": shape_text(layer["output_shape"], "x")}
        for layer in found["layers"]
    ]
    if output_format == "csv":
        return rows
    for row in rows:
        row["params_share"] = _percent(row["params_share"])
        row["macs_share"] = _percent(row["macs_share"])
        row["num_params"], row["macs"] = f"{row['num_params']:,}", f"{row['macs']:,}"
    return rows


def summary_text(label: str, found: Mapping[str, Any], output_format: str) -> str:
    """Return a summary's layers as a table with totals and warnings below."""
    if output_format == "json":
        return render_json(dict(found))
    table = render_table(_rows(found, output_format), _COLUMNS, output_format, _COLUMNS[3:])
    if output_format == "csv":
        return table
    return f"{label}, {_shape(found)}\n\n{table}\n{_words(found)}"


def _shape(found: Mapping[str, Any]) -> str:
    return shape_text(found["input_shape"], "x")


def _words(found: Mapping[str, Any]) -> str:
    return fold(f"{_totals(found)}{_warned(found)}", terminal_width())


def _totals(found: Mapping[str, Any]) -> str:
    megabytes = {name: found[f"{name}_bytes"] / 1e6 for name in ("input", "activation", "param")}
    return (
        f"parameters {found['num_params']:,} (trainable {found['num_trainable']:,}, "
        f"frozen {found['num_frozen']:,}), MACs {found['macs']:,}, "
        f"receptive field {found['receptive_field'] or 'none'}\n"
        f"{_percent(found['linear_share'])} of the parameters are in linear layers\n\n"
        f"MB for one image: input {megabytes['input']:.3f}, "
        f"activations {megabytes['activation']:.3f}, parameters {megabytes['param']:.3f}\n"
    )


def _warned(found: Mapping[str, Any]) -> str:
    return "".join(f"\n- {text}" for text in found["warnings"]) + "\n" * bool(found["warnings"])


def networks_text(both: Mapping[str, Any], output_format: str) -> str:
    """Return two summaries side by side."""
    labels, founds, totals = both["networks"], both["summaries"], both["totals"]
    if output_format == "json":
        return render_json(dict(both))
    columns = ("total", "first", "second", "difference", "ratio")
    if output_format == "csv":
        return render_table(totals, columns, "csv")
    shown = [
        {key: f"{value:,}" if isinstance(value, int) else value for key, value in row.items()}
        for row in totals
    ]
    sides = [_rows(found, output_format) for found in founds]
    rows = [
        {
            f"{side} {key}": layers[number][key] if number < len(layers) else None
            for side, layers in zip(("first", "second"), sides, strict=True)
            for key in _SHORT
        }
        for number in range(max(map(len, sides)))
    ]
    right = [f"{side} {key}" for side in ("first", "second") for key in _SHORT[2:]]
    layer_columns = [f"{side} {key}" for side in ("first", "second") for key in _SHORT]
    table = render_table(rows, layer_columns, output_format, right, width=None)
    width = terminal_width() if output_format == "text" else None
    if width is not None and max(map(cell_width, table.splitlines())) > width:
        # Below each other where there is no room side by side.
        tables = [render_table(side, _SHORT, "text", _SHORT[2:]) for side in sides]
        table = f"first:\n{tables[0]}\nsecond:\n{tables[1]}"
    heads = "".join(
        f"{side}: {label}, {_shape(found)}\n\n"
        for side, label, found in zip(("first", "second"), labels, founds, strict=True)
    )
    warned = "".join(
        fold(f"\n{side}:\n{_warned(found)}", terminal_width())
        for side, found in zip(("first", "second"), founds, strict=True)
        if found["warnings"]
    )
    return f"{heads}{render_table(shown, columns, output_format, columns[1:])}\n{table}{warned}"
