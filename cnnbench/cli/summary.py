"""``cnnbench summary``: what a network costs, what it sees, and what looks wrong."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from cnnbench import api
from cnnbench.config.command import config_text, single_config
from cnnbench.config.compose import Composer
from cnnbench.config.groups import Groups
from cnnbench.errors import UsageError, shape_text
from cnnbench.rendering.text import render_json, render_table
from cnnbench.runs.directory import named_run

DESCRIPTION = """\
Layers, shapes, parameters, MACs and receptive fields, of settings as
'cnnbench train' takes them or of a run; no data is read and nothing is trained."""
_EXAMPLES = """\
Examples:
  cnnbench summary model=googlenet data=cifar10 --depth 2
  cnnbench summary model=alexnet --against 'model=vgg11 data.image_size=224'
  cnnbench summary outputs/digits/lenet/RUN --params 'conv*'
  cnnbench summary --block 'conv 256 256 3' --block 'bottleneck 256 32'
"""
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
_PARAM_COLUMNS = ("name", "shape", "count", "trainable", "mean", "std", "min", "max")
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument(
        "settings", nargs="*", metavar="key=value | RUN", help="settings, or a run directory"
    )
    parser.add_argument(
        "--depth", type=int, metavar="N", help="fold layers into the modules N levels down"
    )
    parser.add_argument(
        "--against",
        metavar="OTHER",
        help="a second network beside it: a name, a run, or quoted settings",
    )
    parser.add_argument(
        "--block",
        action="append",
        default=[],
        metavar="BLOCK",
        help="single blocks side by side, such as 'separable 4 8 3 bias=false'",
    )
    parser.add_argument(
        "--params",
        metavar="PATTERN",
        help="list a run's tensors whose name matches, such as '*.weight'",
    )
    parser.add_argument(
        "--model-path", metavar="FILE:CLASS", help="the code of a network of your own, for its run"
    )


def epilog() -> str:
    """Return examples."""
    return _EXAMPLES


def main(args: argparse.Namespace) -> int:
    """Run the verb."""
    if args.block:
        return _show_blocks(args)
    run = named_run(args.settings)
    if args.params is not None:
        if run is None:
            raise UsageError("--params: lists the tensors of a run; give a run directory")
        rows = api.tensors(run.path, args.params, model_path=args.model_path)
        if args.format != "json":
            rows = [{**row, "shape": shape_text(row["shape"], "x")} for row in rows]
        print(render_table(rows, _PARAM_COLUMNS, args.format), end="")
        return 0
    if run is not None:
        config = run.config
        label = f"{config.model.name}, {run.path}"
    else:
        composer = Composer(args.config_dir)
        config = single_config(composer, composer.parse(args.settings))
        label = f"{config.model.name} on {config.data.name}"
    if args.cfg:
        print(config_text(config, Groups(args.config_dir)), end="")
        return 0
    found = api.summary(
        args.settings,
        depth=args.depth,
        against=args.against,
        model_path=args.model_path,
        config_dir=args.config_dir,
    )
    if args.against is None:
        print(_shown(label, found, args.format), end="")
    else:
        print(_side_by_side(found, args.format), end="")
    return 0


def _show_blocks(args: argparse.Namespace) -> int:
    others = (args.settings, args.depth, args.against, args.params, args.model_path, args.cfg)
    if any(others):
        raise UsageError("--block: looks at blocks alone; leave settings and other flags out")
    found = api.summary(blocks=args.block)
    if args.format == "json":
        print(render_json(found), end="")
        return 0
    rows = found["blocks"]
    for row in rows:
        for key in ("input_shape", "output_shape"):
            row[key] = shape_text(row[key], "x")
        if args.format != "csv":
            row |= {key: f"{row[key]:,}" for key in ("num_params", "macs")}
            row |= {key: f"{row[key]:.4f}" for key in ("params_ratio", "macs_ratio")}
    print(render_table(rows, _BLOCK_COLUMNS, args.format, _BLOCK_COLUMNS[1:6]), end="")
    return 0


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


def _shown(label: str, found: Mapping[str, Any], output_format: str) -> str:
    if output_format == "json":
        return render_json(dict(found))
    table = render_table(_rows(found, output_format), _COLUMNS, output_format, _COLUMNS[3:])
    if output_format == "csv":
        return table
    shape = shape_text(found["input_shape"], "x")
    return f"{label}, {shape}\n\n{table}\n{_totals(found)}{_warned(found)}"


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


def _side_by_side(both: Mapping[str, Any], output_format: str) -> str:
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
    heads = "".join(
        f"{side}: {label}, {shape_text(found['input_shape'], 'x')}\n\n"
        for side, label, found in zip(("first", "second"), labels, founds, strict=True)
    )
    warned = "".join(
        f"\n{side}:\n{_warned(found)}"
        for side, found in zip(("first", "second"), founds, strict=True)
        if found["warnings"]
    )
    return (
        f"{heads}{render_table(shown, columns, output_format, columns[1:])}\n"
        f"{render_table(rows, layer_columns, output_format, right)}{warned}"
    )
