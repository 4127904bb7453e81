"""``cnnbench train``: from settings to trained run directories."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
import textwrap
import time
from pathlib import Path

from cnnbench import api
from cnnbench.config.command import config_text, read_settings
from cnnbench.config.compose import Composer
from cnnbench.config.groups import Groups
from cnnbench.config.launcher import split_launcher
from cnnbench.config.run_config import GROUPS, PRESET_GROUPS
from cnnbench.config.sweeper import split_sweeper
from cnnbench.errors import Interrupted, UsageError
from cnnbench.notices import fold, notice, terminal_width
from cnnbench.rendering.text import counted, format_megabytes, render_json, render_table
from cnnbench.runs.directory import open_run
from cnnbench.runs.resume import run_and_config
from cnnbench.sweeps.jobs import expand
from cnnbench.sweeps.launchers.local import started_early

DESCRIPTION = """\
Train a network, and leave a run directory that explains itself. Its path is
the last line of standard output; with -m, that of the sweep."""
_EXAMPLES = """\
Any key of a choice is set as KEY=VALUE: optimizer.lr=0.01 num_epochs=5.
'cnnbench train --cfg' prints all keys with their values.

With -m, hydra.launcher.slots=N runs N jobs at once (by default as many as suit
the machine; 1 where seconds are to be compared), and
hydra.launcher.max_failures=N stops after so many failed ones.

'torchrun --nproc-per-node 2 -m cnnbench train ...' trains one run in two
processes, each of which computes its part of every batch: docs/scaling.md.
hydra/sweeper=optuna hydra.sweeper.num_trials=N searches, on the validation
images alone, what keys are given as interval(a,b), tag(log,interval(a,b)),
int(interval(a,b)) or a,b, or the space of search=NAME (docs/search.md).

Examples:
  cnnbench train                                   LeNet on 8x8 digits
  cnnbench train model=googlenet data=fashion_mnist
  cnnbench train model=vgg11 data=cifar10 augment=crop_flip num_epochs=30
  cnnbench train -m model=lenet,nin_cifar 'seed=range(0,3)'   six runs, a table
  cnnbench train --dry-run model=resnet18          what it would take
  cnnbench train -m search=lenet hydra/sweeper=optuna hydra.sweeper.num_trials=9
  cnnbench train resume=outputs/digits/lenet/RUN   resume a run
  cnnbench train --config RUN/config.yaml seed=1   again, with another seed
"""

_JOB_COLUMNS = ("job", "num_params", "macs", "epoch", "run", "memory", "disk")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument(
        "settings", nargs="*", metavar="key=value", help="GROUP=CHOICE or KEY=VALUE, see below"
    )
    parser.add_argument(
        "-m",
        "--multirun",
        action="store_true",
        help="a run for each combination of values: a,b  range(0,3)  choice(a,b)  glob(vgg*)",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="one batch, the layers, expected time, memory and disk; writes no run",
    )
    parser.add_argument("--config", metavar="FILE", help="start from a saved config.yaml")


def epilog() -> str:
    """Return the groups with their choices, and examples."""
    groups = Groups()
    lines = ["Groups, as GROUP=CHOICE:"]
    for group in (*GROUPS, *PRESET_GROUPS):
        choices = " ".join(groups.choices(group)) or "(none yet)"
        lines += textwrap.wrap(
            choices,
            width=80,
            initial_indent=f"  {group:<10} ",
            subsequent_indent=" " * 13,
            break_on_hyphens=False,
        )
    return "\n".join([*lines, "", _EXAMPLES])


def main(args: argparse.Namespace) -> int:
    """Run the verb."""
    since = time.monotonic()  # max_seconds counts what follows
    if args.multirun and args.format != "text" and not args.dry_run:
        raise UsageError(f"--format {args.format}: a sweep prints text; its runs hold run.json")
    if args.cfg:
        print(_config_text(args), end="")
        return 0
    if args.dry_run:
        print(_dry_run(args), end="")
        return 0
    if args.multirun:
        sources = {"config": args.config, "config_dir": args.config_dir}
        with started_early(args.settings):
            root, num_failed = api.train_sweep(args.settings, **sources)
        print(root)
        return 1 if num_failed else 0
    # With json, standard output is that JSON and nothing else.
    screen = sys.stderr if args.format == "json" else sys.stdout
    code, is_done = 0, not any(word.startswith("resume=") for word in args.settings)
    try:
        with contextlib.redirect_stdout(screen):
            composer = Composer(args.config_dir)
            read = read_settings(composer, args.settings, args.config)
            path: Path = api.train_run(composer, read, since)
    except Interrupted as error:
        if error.run_path is None:
            raise
        notice(str(error))
        path, code, is_done = error.run_path, error.exit_code, False
    if args.format == "json":
        record = open_run(path).record
        print(render_json({"run": str(path), "status": record.status, **record.results}), end="")
    else:
        if is_done:
            print(_what_next(path))
        print(path)
    return code


def _dry_run(args: argparse.Namespace) -> str:
    sources = {"config": args.config, "config_dir": args.config_dir, "sweeps": args.multirun}
    found = api.dry_run(args.settings, **sources)
    if args.format == "json":
        return render_json(found)
    if not isinstance(found, list):
        if args.format == "text":
            return fold(f"{found}\n", terminal_width())
        return render_table([found], [*found], args.format)
    if args.format == "csv":
        return render_table(found, [*found[0]], "csv")
    from cnnbench.tracking.console import format_seconds

    rows = [
        {
            **row,
            "num_params": f"{row['num_params']:,}",
            "macs": f"{row['macs']:,}",
            "epoch": format_seconds(row["epoch_seconds"]),
            "run": format_seconds(row["total_seconds"]),
            "memory": format_megabytes(row["memory_bytes"]),
            "disk": format_megabytes(row["disk_bytes"]),
        }
        for row in found
    ]
    seconds = sum(row["total_seconds"] for row in found)
    return (
        f"{render_table(rows, _JOB_COLUMNS, args.format, _JOB_COLUMNS[1:])}\n"
        f"{counted(len(rows), 'job')}, about {format_seconds(seconds)} of training one after "
        "another; nothing was written\n"
    )


def _what_next(path: Path) -> str:
    """Return commands to type after a run."""
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    # What begins with a dash would be taken for a flag.
    run, root = (
        shlex.quote(f"./{part}" if str(part).startswith("-") else str(part))
        for part in (shown, shown.parents[2])
    )
    record = open_run(path).record
    # Where a fold validates, and while settings are chosen, the test images are left for later.
    is_tuned = record.config.get("evaluate_test") is False and record.data.num_val
    split = " --split val" if is_tuned or record.data.measured == "val" else ""
    return (
        f"next: cnnbench evaluate {run}{split} --plots\n"
        f"      cnnbench compare {root}\n"
        f"      tensorboard --logdir {root}"
    )


def _config_text(args: argparse.Namespace) -> str:
    composer = Composer(args.config_dir)
    settings = read_settings(composer, args.settings, args.config, sweeps=args.multirun)
    if args.multirun:
        _, _, settings = split_launcher(settings)
        sweeper, settings = split_sweeper(settings)
        if sweeper is not None:
            from cnnbench.sweeps.search.space import check_space, read_space

            space = read_space(composer, settings)
            return config_text(check_space(composer, space)[0], composer.groups)
        return "---\n".join(
            config_text(job.config, composer.groups) for job in expand(composer, settings).jobs
        )
    return config_text(run_and_config(composer, settings)[1], composer.groups)
