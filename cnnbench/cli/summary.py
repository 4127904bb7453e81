"""``cnnbench summary``: what a network costs, what it sees, and what looks wrong."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnbench.cli.train import over
from cnnbench.config.compose import Composer
from cnnbench.config.run_config import config_text
from cnnbench.config.settings import Setting
from cnnbench.errors import UsageError
from cnnbench.rendering.text import render_json, render_table
from cnnbench.runs.directory import RunDir, open_run
from cnnbench.sweeps.expand import single_config

if TYPE_CHECKING:
    from torch import nn

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
_SHORT = ("name", "output_shape", "num_params", "macs", "receptive_field")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument("settings", nargs="*", metavar="key=value | RUN")
    parser.add_argument("--depth", type=int, metavar="N")
    parser.add_argument("--against", metavar="OTHER")
    parser.add_argument("--params", metavar="PATTERN")
    parser.add_argument("--model-path", metavar="FILE:CLASS")


def help_text(parser: argparse.ArgumentParser) -> str:
    """Return usage and examples."""
    return (
        "usage: cnnbench summary [key=value ... | RUN] [--depth N] [--against OTHER]\n"
        "                        [--params PATTERN] [--format text|markdown|csv|json]\n\n"
        "Layers, shapes, parameters, MACs and receptive fields, of settings as 'cnnbench train'\n"
        "takes them or of a run; no data is read and nothing is trained.\n\n"
        "  --depth N          fold layers into the modules that many levels down\n"
        "  --against OTHER    a second network beside it: a name, a run, or quoted settings\n"
        "  --params PATTERN   list a run's tensors whose name matches, such as '*.weight'\n"
        "  --model-path FILE:CLASS   the code of a network of your own, for its run\n\n"
        "Examples:\n"
        "  cnnbench summary model=googlenet data=cifar10 --depth 2\n"
        "  cnnbench summary model=alexnet --against 'model=vgg11 data.image_size=224'\n"
        "  cnnbench summary outputs/digits/lenet/RUN --params 'conv*'\n"
    )


@dataclass(frozen=True)
class _Subject:
    """A network to look at."""

    label: str
    module: nn.Module
    input_shape: tuple[int, int, int]


def main(args: argparse.Namespace) -> int:
    """Run the verb."""
    composer = Composer(args.config_dir)
    run = _run_of(args.settings)
    if args.params is not None:
        if run is None:
            raise UsageError("--params: lists the tensors of a run; give a run directory")
        rows = _tensors(run, args.params, args.model_path)
        if args.format != "json":
            rows = [{**row, "shape": _sides(row["shape"])} for row in rows]
        print(render_table(rows, _PARAM_COLUMNS, args.format), end="")
        return 0
    settings = composer.parse(args.settings) if run is None else []
    if args.cfg:
        config = run.config if run is not None else single_config(composer, settings)
        print(config_text(config), end="")
        return 0
    subject = _subject(composer, run, settings, args.model_path)
    found = summary(subject.module, subject.input_shape, depth=args.depth)
    if args.against is None:
        print(_shown(subject.label, found, args.format), end="")
        return 0
    other = _other(composer, args.against, settings, args.model_path)
    beside = summary(other.module, other.input_shape, depth=args.depth)
    print(_side_by_side((subject.label, found), (other.label, beside), args.format), end="")
    return 0


def summary(
    module: nn.Module, input_shape: Sequence[int], *, depth: int | None = None
) -> dict[str, Any]:
    """Return layers, totals and warnings of any module for one image; nothing runs.

    Args:
        module: any module; it is left exactly as it was.
        input_shape: (C, H, W), without the batch dimension.
        depth: fold layers into the modules that many levels down, at least 1.

    Returns:
        ``input_shape``, ``num_params``, ``num_trainable``, ``num_frozen``, ``macs``,
        ``receptive_field`` (the largest, None where there is none), ``input_bytes``,
        ``activation_bytes`` (what training keeps to go back through), ``param_bytes``,
        ``layers`` (``name``, ``kind``, ``output_shape``, ``num_params``, ``macs``,
        ``receptive_field``, ``stride``, ``macs_share`` and ``params_share``, fractions of the
        totals) and ``warnings``, sentences.

    Raises:
        UsageError: ``depth`` is below 1, or the module does not take such an image.
    """
    from cnnbench.geometry.summary import summarize

    return summarize(module, input_shape, depth=depth)


def _run_of(words: Sequence[str]) -> RunDir | None:
    """Return the run that the only word names; a run's name may hold a ``=``."""
    is_run = len(words) == 1 and ("=" not in words[0] or Path(words[0]).is_dir())
    return open_run(words[0]) if is_run else None


def _subject(
    composer: Composer, run: RunDir | None, settings: Sequence[Setting], model_path: str | None
) -> _Subject:
    from cnnbench.models.build import build_meta
    from cnnbench.runs import network as recorded
    from cnnbench.training.data import describe_data

    if run is not None:
        facts = run.info.get("model", {})
        module, shape = recorded.load_meta(facts, run.path / "run.json", model_path)
        return _Subject(f"{facts['name']}, {run.path}", module, shape)
    config = single_config(composer, settings)
    facts_of_data = describe_data(config)
    size = config.data.image_size
    module = build_meta(
        config.model.name,
        config.model.args,
        in_channels=facts_of_data.in_channels,
        num_classes=facts_of_data.num_classes,
        image_size=size,
    )
    label = f"{config.model.name} on {config.data.name}"
    return _Subject(label, module, (facts_of_data.in_channels, size, size))


def _other(
    composer: Composer, text: str, settings: Sequence[Setting], model_path: str | None
) -> _Subject:
    """Return the network that ``--against`` names; what it does not say is as in the settings."""
    words = shlex.split(text)
    if len(words) == 1 and Path(words[0]).is_dir():
        return _subject(composer, open_run(words[0]), (), model_path)
    if len(words) == 1 and "=" not in words[0]:
        words = [f"model={words[0]}"]
    return _subject(composer, None, over(settings, composer.parse(words)), model_path)


def _tensors(run: RunDir, pattern: str, model_path: str | None) -> list[dict[str, Any]]:
    from cnnbench.geometry.summary import tensor_rows
    from cnnbench.runs import network as recorded
    from cnnbench.training.network import read_weights

    weights = read_weights(run.path)
    trainable = None
    try:
        module, _ = recorded.load_meta(run.info.get("model", {}), run.path, model_path)
        trainable = {name for name, p in module.named_parameters() if p.requires_grad}
    except recorded.CodeNeededError:
        # The tensors of a stranger's network can be looked at without its code.
        if model_path is not None:
            raise
    return tensor_rows(weights["model"], pattern, trainable)


def _sides(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _percent(share: float) -> str:
    return f"{share:.1%}"


def _rows(found: Mapping[str, Any], output_format: str) -> list[dict[str, Any]]:
    rows = [{**layer, "output_shape": _sides(layer["output_shape"])} for layer in found["layers"]]
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
    return f"{label}, {_sides(found['input_shape'])}\n\n{table}\n{_totals(found)}{_warned(found)}"


def _totals(found: Mapping[str, Any]) -> str:
    megabytes = {name: found[f"{name}_bytes"] / 1e6 for name in ("input", "activation", "param")}
    return (
        f"parameters {found['num_params']:,} (trainable {found['num_trainable']:,}, "
        f"frozen {found['num_frozen']:,}), MACs {found['macs']:,}, "
        f"receptive field {found['receptive_field'] or 'none'}\n\n"
        f"MB for one image: input {megabytes['input']:.3f}, "
        f"activations {megabytes['activation']:.3f}, parameters {megabytes['param']:.3f}\n"
    )


def _warned(found: Mapping[str, Any]) -> str:
    return "".join(f"\n- {text}" for text in found["warnings"]) + "\n" * bool(found["warnings"])


def _side_by_side(
    first: tuple[str, dict[str, Any]], second: tuple[str, dict[str, Any]], output_format: str
) -> str:
    from cnnbench.geometry.summary import compare_summaries

    labels, founds = (first[0], second[0]), (first[1], second[1])
    totals = compare_summaries(*founds)
    if output_format == "json":
        return render_json({"networks": list(labels), "totals": totals, "summaries": list(founds)})
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
            f"{place} {key}": side[number][key] if number < len(side) else None
            for place, side in zip(("first", "second"), sides, strict=True)
            for key in _SHORT
        }
        for number in range(max(map(len, sides)))
    ]
    right = [f"{place} {key}" for place in ("first", "second") for key in _SHORT[2:]]
    layer_columns = [f"{place} {key}" for place in ("first", "second") for key in _SHORT]
    heads = "".join(
        f"{place}: {label}, {_sides(found['input_shape'])}\n\n"
        for place, label, found in zip(("first", "second"), labels, founds, strict=True)
    )
    warned = "".join(
        f"\n{place}:\n{_warned(found)}"
        for place, found in zip(("first", "second"), founds, strict=True)
        if found["warnings"]
    )
    return (
        f"{heads}{render_table(shown, columns, output_format, columns[1:])}\n"
        f"{render_table(rows, layer_columns, output_format, right)}{warned}"
    )
