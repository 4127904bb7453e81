"""``cnnbench bench``: how fast a config runs on this machine, without a run directory."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from cnnbench import api
from cnnbench.config.command import config_text, single_config
from cnnbench.config.compose import Composer
from cnnbench.notices import fold, terminal_width
from cnnbench.rendering.text import counted, render_json, render_table
from cnnbench.sweeps.jobs import expand

DESCRIPTION = """\
Images per second of training, evaluation and making batches, the time of each
part of a step, the seconds of an epoch that go into data and into computing,
peak memory, and the share of the machine's peak, which is the fastest of matrix
products of 1024, 2048 and 4096 in the same precision. With -m device=cpu,cuda
what this machine has is measured, and what it lacks is said. Settings are those
of 'cnnbench train'; nothing is kept. Medians of 5 windows."""
_EXAMPLES = """\
Examples:
  cnnbench bench model=googlenet data=fashion_mnist
  cnnbench bench -m model=resnet18 device.precision=fp32,bf16
  cnnbench bench -m device=cpu,cuda data.batch_size=64,256
"""
_PARTS = ("data", "forward", "backward", "optimizer", "logging")
_SPEED = ("train img/s", "min..max", "eval img/s", "data img/s", "memory MB", "Gflop/s", "of peak")
_STEP = ("step ms", *_PARTS)
_EPOCH = ("epoch s", "data s", "compute s")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument("settings", nargs="*", metavar="key=value", help="as for train")
    parser.add_argument(
        "-m",
        "--multirun",
        action="store_true",
        help="a row for each job of a sweep, each in a process of its own",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=api.BENCH_SECONDS,
        metavar="S",
        help=f"for each of the five measurements, {api.BENCH_SECONDS:g} by default",
    )


def epilog() -> str:
    """Return examples."""
    return _EXAMPLES


def main(args: argparse.Namespace) -> int:
    """Run the verb."""
    if args.cfg:
        print(_config_text(args), end="")
        return 0
    options = {"seconds": args.seconds, "config_dir": args.config_dir}
    if not args.multirun:
        row = api.bench(args.settings, **options)
        print(render_json(row) if args.format == "json" else _shown([row], args.format), end="")
        return 0
    jobs = api.bench_sweep(args.settings, **options)
    rows = [row for row in jobs if "error" not in row]
    print(render_json(rows) if args.format == "json" else _shown(rows, args.format), end="")
    from cnnbench.analysis.bench_jobs import fastest_device

    if args.format == "text" and (fastest := fastest_device(jobs)) is not None:
        print(f"\n{fold(fastest, terminal_width())}")
    return 1 if any("error" in row and "has_no_device" not in row for row in jobs) else 0


def _config_text(args: argparse.Namespace) -> str:
    composer = Composer(args.config_dir)
    settings = composer.parse(args.settings, sweeps=args.multirun)
    if args.multirun:
        return "---\n".join(
            config_text(job.config, composer.groups) for job in expand(composer, settings).jobs
        )
    return config_text(single_config(composer, settings), composer.groups)


def _shown(rows: Sequence[Mapping[str, Any]], output_format: str) -> str:
    if output_format == "csv":
        return render_table(rows, list(rows[0]) if rows else [], "csv")
    if not rows:
        return ""
    named = [{"job": _name(row), **_speed(row), **_step(row), **_epoch(row)} for row in rows]
    first = rows[0]
    head = (
        f"{first['device']}, torch {first['torch']}; peak "
        f"{max(row['peak_flops_per_second'] for row in rows) / 1e9:,.0f} Gflop/s\n\n"
    )
    speed = render_table(named, ("job", *_SPEED), output_format, _SPEED)
    more = (render_table(named, ("job", *names), output_format, names) for names in (_STEP, _EPOCH))
    return f"{head}{speed}\n" + "\n".join(more)


def _name(row: Mapping[str, Any]) -> str:
    own = f"{row['job']}: " if "job" in row else ""
    return (
        f"{own}{row['model']} {row['image_size']}px, batch {row['batch_size']}, "
        f"{row['precision']}, {counted(row['num_threads'], 'thread')}"
    )


def _speed(row: Mapping[str, Any]) -> dict[str, str]:
    rates = {what: row[f"{what}_images_per_second"] for what in ("train", "eval", "data")}
    spread = (row[f"train_images_per_second_{end}"] for end in ("min", "max"))
    return {
        **{f"{what} img/s": f"{rate:,.0f}" for what, rate in rates.items()},
        "min..max": "..".join(f"{rate:,.0f}" for rate in spread),
        "memory MB": f"{row['peak_memory_bytes'] / 1e6:,.0f}",
        "Gflop/s": f"{row['flops_per_second'] / 1e9:,.1f}",
        "of peak": f"{row['peak_fraction']:.1%}",
    }


def _step(row: Mapping[str, Any]) -> dict[str, str]:
    times = {part: row[f"{part}_seconds"] for part in _PARTS}
    shown = {"step ms": row["step_seconds"], **times}
    return {part: f"{1000 * seconds:,.3f}" for part, seconds in shown.items()}


def _epoch(row: Mapping[str, Any]) -> dict[str, str]:
    data, compute = row["epoch_data_seconds"], row["epoch_compute_seconds"]
    values = zip(_EPOCH, (data + compute, data, compute), strict=True)
    return {name: f"{seconds:,.2f}" for name, seconds in values}
