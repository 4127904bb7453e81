"""``cnnbench reproduce``: a recorded recipe again, and whether it gives what was recorded."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from cnnbench import api
from cnnbench.notices import warn
from cnnbench.rendering.text import counted, render_json, render_table

DESCRIPTION = """\
Trains a recipe whose results were committed (results/NAME.json) once more, and
says whether the new result lies where 95 % of new runs fall: mean +- t s
sqrt(1 + 1/n) of the recorded ones. With a recorded seed on the same kind of
machine, torch, threads and code the weights must be equal instead, bit for bit.
On another kind of machine, or beside one recorded run, it only reports.
Exit code 1: outside, or different."""
_EXAMPLES = """\
Settings are the seed, by default the first that was not recorded, and what does
not decide the result, such as data.root, output_root and device.num_threads.

Examples:
  cnnbench reproduce fashion_mnist_24tflop
  cnnbench reproduce fashion_mnist_24tflop seed=0
  cnnbench reproduce results/mine.json --run RUN
"""
_COLUMNS = ("name", "seed", "metric", "value", "mean", "std", "n", "low", "high", "verdict")
_FAILED = ("outside", "different")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument("name", metavar="NAME", help="of a result, or a .json file of one")
    parser.add_argument("settings", nargs="*", default=[], metavar="key=value", help="see below")
    parser.add_argument("--run", metavar="RUN", help="judge this finished run; train none")


def epilog() -> str:
    """Return examples."""
    return _EXAMPLES


def main(args: argparse.Namespace) -> int:
    """Run the verb."""
    result = api.reproduce(args.name, args.settings, run=args.run)
    if args.format == "json":
        print(render_json(result), end="")
    elif args.format == "text":
        print(_text(result), end="")
    else:
        low, high = result["interval"] or (None, None)
        row = {**result, **result["recorded"], "low": low, "high": high}
        print(render_table([row], _COLUMNS, args.format), end="")
    if result["changed"]:
        warn(
            f"experiment={result['name']} is another recipe by now ({', '.join(result['changed'])} "
            "changed); the recorded one was judged"
        )
    return 1 if result["verdict"] in _FAILED else 0


def _text(result: Mapping[str, Any]) -> str:
    recorded, interval = result["recorded"], result["interval"]
    spread = "" if recorded["std"] is None else f" ± {recorded['std']:.4f}"
    threads = recorded["num_threads"]
    on = [recorded["device"], f"torch {recorded['torch']}"]
    on += [] if threads is None else [counted(threads, "thread")]
    lines = [
        f"{result['name']}: {result['metric']} {result['value']:.4f} with seed {result['seed']}",
        f"recorded: {recorded['mean']:.4f}{spread} over "
        f"{counted(recorded['n'], 'seed')} on {', '.join(on)}, {recorded['date']}",
    ]
    if interval is not None:
        low, high = interval
        lines.append(f"95 % of new runs fall between {low:.4f} and {high:.4f}")
    lines.append(
        {
            "inside": "inside: reproduced",
            "outside": "outside: not reproduced",
            "equal": "equal to the recorded run of this seed, bit for bit",
            "different": "different from the recorded run of this seed, which should be equal here",
            "reported": f"only reported: {result['reason']}",
        }[result["verdict"]]
    )
    return "".join(f"{line}\n" for line in lines)
