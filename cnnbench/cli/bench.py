"""``cnnbench bench``: how fast a config runs on this machine, without a run directory."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cnnbench.config.compose import Composer
from cnnbench.config.run_config import RunConfig, config_text, read_config, to_tree
from cnnbench.errors import CnnbenchError, UsageError
from cnnbench.rendering.text import render_json, render_table
from cnnbench.sweeps.expand import expand, single_config

_SECONDS = 2.0
_PARTS = ("data", "forward", "backward", "optimizer", "logging")
_SPEED = ("train img/s", "min..max", "eval img/s", "data img/s", "memory MB", "Gflop/s", "of peak")
_STEP = ("step ms", *_PARTS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument("settings", nargs="*", metavar="key=value")
    parser.add_argument("-m", "--multirun", action="store_true")
    parser.add_argument("--seconds", type=float, default=_SECONDS)


def help_text(parser: argparse.ArgumentParser) -> str:
    """Return usage and examples."""
    return (
        "usage: cnnbench bench [key=value ...] [-m] [--seconds S]\n"
        "                      [--format text|markdown|csv|json]\n\n"
        "Images per second of training, evaluation and making batches, the time of each part of a\n"
        "step, peak memory, and the share of the machine's peak, which is the fastest of matrix\n"
        "products of 1024, 2048 and 4096 in the same precision. Settings are those of\n"
        "'cnnbench train'; nothing is kept. Medians of 5 windows each.\n\n"
        "  -m            a row for each job of a sweep, each in a process of its own\n"
        f"  --seconds S   for each of the five measurements, {_SECONDS:g} by default\n\n"
        "Examples:\n"
        "  cnnbench bench model=googlenet data=fashion_mnist\n"
        "  cnnbench bench -m model=resnet18 device.precision=fp32,bf16 device.num_threads=1,2\n"
        "  cnnbench bench -m device=cpu,cuda data.batch_size=64,256\n"
    )


def main(args: argparse.Namespace) -> int:
    """Run the verb."""
    composer = Composer(args.config_dir)
    settings = composer.parse(args.settings)
    if not args.multirun:
        config = single_config(composer, settings)
        if args.cfg:
            print(config_text(config), end="")
            return 0
        found = _measured(config, args.seconds)
        print(render_json(found) if args.format == "json" else _shown([found], args.format), end="")
        return 0
    jobs = expand(composer, settings).jobs
    if args.cfg:
        print("---\n".join(config_text(job.config) for job in jobs), end="")
        return 0
    _check([job.config for job in jobs], args.seconds)
    rows, num_failed = [], 0
    for number, job in enumerate(jobs, start=1):
        name = " ".join(job.overrides) or job.config.model.name
        print(f"[{number}/{len(jobs)}] {name}", file=sys.stderr, flush=True)
        try:
            rows.append({"job": name, **_measured_apart(job.config, args.seconds)})
        except CnnbenchError as error:
            print(f"[{number}/{len(jobs)}] {name}: failed: {error}", file=sys.stderr, flush=True)
            num_failed += 1
    print(render_json(rows) if args.format == "json" else _shown(rows, args.format), end="")
    return 1 if num_failed else 0


def bench(
    settings: Sequence[str] = (), *, seconds: float = _SECONDS, config_dir: str | Path | None = None
) -> dict[str, Any]:
    """Measure how fast a config runs on this machine; nothing is written that stays.

    Args:
        settings: as ``cnnbench.train`` takes them.
        seconds: for each of the five measurements; > 0.
        config_dir: a directory with groups of your own.

    Returns:
        ``train_images_per_second``, ``eval_images_per_second`` and ``data_images_per_second``, each
        the median of five windows with ``_min`` and ``_max`` beside it; ``step_seconds`` and its
        parts ``data_seconds``, ``forward_seconds``, ``backward_seconds``, ``optimizer_seconds`` and
        ``logging_seconds``; ``peak_memory_bytes``; ``flops_per_image`` of forward and backward
        pass, ``flops_per_second`` of training, ``peak_flops_per_second`` of matrix products, and
        ``peak_fraction``, one by the other; and what was measured.

    Raises:
        CnnbenchError: as the command would say it.
    """
    composer = Composer(config_dir)
    return _measured(single_config(composer, composer.parse(settings)), seconds)


def _check(configs: Sequence[RunConfig], seconds: float) -> list[Any]:
    from cnnbench.training.launch import check

    if not 0 < seconds < float("inf"):
        raise UsageError(f"--seconds {seconds:g}: expected a number above 0")
    for config in configs:
        if config.resume is not None:
            raise UsageError("resume: bench measures a config; give its settings")
    return [check(config) for config in configs]


def _measured(config: RunConfig, seconds: float) -> dict[str, Any]:
    [plan] = _check([config], seconds)
    from cnnbench.analysis.bench import measure
    from cnnbench.training.launch import plain_error

    try:
        return measure(plan, seconds)
    except Exception as error:
        plain = plain_error(error, config)
        if plain is None or plain is error:
            raise
        raise plain from error


def _measured_apart(config: RunConfig, seconds: float) -> dict[str, Any]:
    """Measure in a fresh process, whose threads and memory no other job has touched."""
    code = "from cnnbench.cli.bench import answer; answer()"
    asked = json.dumps({"config": to_tree(config), "seconds": seconds})
    done = subprocess.run(
        [sys.executable, "-c", code], input=asked, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise CnnbenchError(f"its process ended with code {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if "error" in found:
        raise CnnbenchError(found["error"])
    return found


def answer() -> None:
    """Measure the job that standard input names, and write what was found as one line of JSON."""
    asked = json.load(sys.stdin)
    try:
        found = _measured(read_config(asked["config"]), asked["seconds"])
    except CnnbenchError as error:
        found = {"error": str(error)}
    print(json.dumps(found), flush=True)


def _shown(rows: Sequence[Mapping[str, Any]], output_format: str) -> str:
    if output_format == "csv":
        return render_table(rows, list(rows[0]) if rows else [], "csv")
    if not rows:
        return ""
    named = [{"job": _name(row), **_speed(row), **_step(row)} for row in rows]
    first = rows[0]
    head = (
        f"{first['device']}, torch {first['torch']}; peak "
        f"{max(row['peak_flops_per_second'] for row in rows) / 1e9:,.0f} Gflop/s\n\n"
    )
    speed = render_table(named, ("job", *_SPEED), output_format, _SPEED)
    return f"{head}{speed}\n{render_table(named, ('job', *_STEP), output_format, _STEP)}"


def _name(row: Mapping[str, Any]) -> str:
    own = f"{row['job']}: " if "job" in row else ""
    return (
        f"{own}{row['model']} {row['image_size']}px, batch {row['batch_size']}, "
        f"{row['precision']}, {row['num_threads']} threads"
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
