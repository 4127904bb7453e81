"""``cnnbench train``: from settings to trained run directories."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnbench.config.compose import Composer
from cnnbench.config.run_config import (
    GROUPS,
    PRESET_GROUPS,
    RunConfig,
    config_text,
    resumable_keys,
    role_of,
    to_tree,
)
from cnnbench.config.settings import Setting, settings_of
from cnnbench.errors import CheckpointError, Interrupted, UsageError
from cnnbench.rendering.text import render_json
from cnnbench.runs.directory import RunDir, file_sha256, open_run
from cnnbench.sweeps.expand import expand, single_config

if TYPE_CHECKING:
    from torch import nn

_EXAMPLES = """\
Examples:
  cnnbench train                                       LeNet on 8x8 digits
  cnnbench train model=googlenet data=fashion_mnist    the network at 28 pixels
  cnnbench train model=vgg11 data=cifar10 augment=crop_flip num_epochs=30 optimizer=sgd_nesterov
  cnnbench train -m model=lenet,nin_cifar 'seed=range(0,3)'   six runs and a table
  cnnbench train resume=outputs/digits/lenet/RUN       go on with a run
  cnnbench train --config RUN/config.yaml seed=1       a run again, with another seed
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument("settings", nargs="*", metavar="key=value")
    parser.add_argument("-m", "--multirun", action="store_true", help="sweep over lists of values")
    parser.add_argument("--config", metavar="FILE", help="a saved config to start from")


def help_text(parser: argparse.ArgumentParser) -> str:
    """Return usage, groups with their choices, keys and examples."""
    composer = Composer()
    lines = ["usage: cnnbench train [key=value ...] [flags]", "", "Groups, as GROUP=CHOICE:"]
    for group in (*GROUPS, *PRESET_GROUPS):
        choices = " ".join(composer.choices(group)) or "(none yet)"
        lines.append(f"  {group:<10} {choices}")
    lines += [
        "",
        "Any key of a choice, as KEY=VALUE: optimizer.lr=0.01 data.batch_size=256 num_epochs=5",
        "('cnnbench train --cfg' shows all keys with their values.)",
        "",
        "Flags:",
        "  -m                 sweep: a,b  range(0,3)  choice(a,b)  glob(vgg*)",
        "  --config FILE      start from a saved config.yaml",
        "  --config-dir DIR   groups of your own beside the shipped ones",
        "  --cfg              print the resolved config and stop",
        "  --debug            show tracebacks",
        "",
    ]
    return "\n".join(lines) + "\n" + _EXAMPLES


def main(args: argparse.Namespace) -> int:
    """Run the verb."""
    since = time.monotonic()
    composer = Composer(args.config_dir)
    settings = composer.parse(args.settings)
    if args.config is not None:
        settings = _over_file(composer, args.config, settings)
    if args.multirun:
        if args.format != "text":
            raise UsageError(f"--format {args.format}: a sweep prints text; its runs hold run.json")
        return _main_sweep(composer, settings, args.cfg)
    _check_single(composer.parse(args.settings))
    run, config = _run_and_config(composer, settings)
    if args.cfg:
        print(config_text(config), end="")
        return 0
    # With json, standard output is that JSON and nothing else.
    screen = sys.stderr if args.format == "json" else sys.stdout
    try:
        with contextlib.redirect_stdout(screen):
            path, code = _train(run, config, since), 0
    except Interrupted as error:
        if error.run_path is None:
            raise
        print(f"cnnbench: {error}", file=sys.stderr)
        path, code = error.run_path, error.exit_code
    if args.format == "json":
        info = open_run(path).info
        print(render_json({"run": str(path), "status": info["status"], **info["results"]}), end="")
    else:
        print(path)
    return code


def _main_sweep(composer: Composer, settings: list[Setting], wants_config: bool) -> int:
    sweep = expand(composer, settings)
    if wants_config:
        print("---\n".join(config_text(job.config) for job in sweep.jobs), end="")
        return 0
    from cnnbench.sweeps.local import run_sweep
    from cnnbench.training import launch

    launch.check_all([job.config for job in sweep.jobs])
    path, num_failed = run_sweep(sweep, sys.argv)
    print(path)
    return 1 if num_failed else 0


def train(
    settings: Sequence[str] = (), *, config: str | Path | None = None, config_dir: Any = None
) -> Path:
    """Train one network.

    Args:
        settings: as on the command line, such as ``["model=lenet", "optimizer.lr=0.01"]``.
        config: a saved ``config.yaml`` to start from.
        config_dir: a directory with groups of your own.

    Returns:
        The run directory.

    Raises:
        CnnbenchError: as the command would say it; ``exit_code`` is the command's.
    """
    since = time.monotonic()
    composer = Composer(config_dir)
    given = composer.parse(settings)
    _check_single(given)
    if config is not None:
        given = _over_file(composer, config, given)
    return _train(*_run_and_config(composer, given), since)


def create_model(
    name: str, *, in_channels: int = 1, num_classes: int = 10, image_size: int = 28, **args: Any
) -> nn.Module:
    """Build a network with PyTorch's initial weights.

    Args:
        name: see ``cnnbench ls model``.
        in_channels: channels of the images, at least 1.
        num_classes: at least 2.
        image_size: pixels of a side; images are square.
        args: the network's own arguments, as in ``conf/model/<name>.yaml``.

    Returns:
        A module that maps (N, in_channels, image_size, image_size) to logits (N, num_classes).

    Raises:
        UsageError: a name is unknown, a value is impossible, or the images are too small.
    """
    from cnnbench import models

    return models.create_model(
        name, in_channels=in_channels, num_classes=num_classes, image_size=image_size, args=args
    )


def _check_single(settings: Sequence[Setting]) -> None:
    """Refuse what has no effect on one run; a saved config may have it from a sweep.

    Raises:
        UsageError: the settings name a sweep.
    """
    named = next((s for s in settings if s.key == "sweep.name" and s.values != (None,)), None)
    if named is not None:
        raise UsageError(f"sweep.name={named.values[0]}: has no effect on one run; add -m")


def _over_file(composer: Composer, file: str | Path, settings: Sequence[Setting]) -> list[Setting]:
    """Return the settings over those of a file, whose author may be a stranger.

    Raises:
        UsageError: the file names code to run, and the settings do not; or the settings name a
            preset, which would come below the file's values and do nothing.
    """
    preset = next((s.key for s in settings if s.key in PRESET_GROUPS), None)
    if preset is not None:
        raise UsageError(
            f"{preset}: a saved config has a value for every key already, which a preset would "
            "not change; give the keys instead"
        )
    below = composer.read_file(file)
    code = next((s.values[0] for s in below if s.key == "model.path"), None)
    merged = over(below, settings)
    if code is not None and any(s.key == "model.path" and s in below for s in merged):
        raise UsageError(
            f"{file}: names code to run, {code}; where you trust it, give it yourself: "
            f"model.path={code}"
        )
    return merged


def over(below: Sequence[Setting], above: Sequence[Setting]) -> list[Setting]:
    """Return the settings together; where a group is chosen anew, its old keys do not count."""
    keys = {setting.key for setting in above}
    kept = [
        setting
        for setting in below
        if setting.key not in keys and setting.key.partition(".")[0] not in keys
    ]
    return [*kept, *above]


def _run_and_config(
    composer: Composer, settings: Sequence[Setting]
) -> tuple[RunDir | None, RunConfig]:
    """Return the run to go on with, if any, and the config."""
    path = next((s.values[0] for s in settings if s.key == "resume"), None)
    if path is None:
        return None, single_config(composer, settings)
    run = open_run(path)
    others = [setting for setting in settings if setting.key != "resume"]
    allowed = _check_code(run, others)
    for setting in others:
        if setting.key not in allowed and not role_of(setting.key).may_change:
            raise UsageError(
                f"{setting.key}: a run goes on with its recorded config; "
                f"only {', '.join(resumable_keys())} may change"
            )
    recorded = settings_of(to_tree(run.config))
    resume = Setting("resume", (str(run.path),))
    return run, single_config(composer, over(recorded, [*others, resume]))


def _check_code(run: RunDir, settings: Sequence[Setting]) -> tuple[str, ...]:
    """Return the keys by which a custom network's code is named again, checked to be the same.

    Raises:
        UsageError: the run is of a custom network, and the settings do not name its file.
        CheckpointError: the file is not the recorded one.
    """
    config = run.config
    if config.model.name != "custom":
        return ()
    recorded = str(run.info.get("provenance", {}).get("model_files", {}).get("path"))
    given = next((s.values[0] for s in settings if s.key == "model.path"), None)
    if given is None:
        raise UsageError(
            f"{run.path}: a network of someone's own ({config.model.args['path']}). Code that a "
            "run names is not run; name it yourself: model.path=FILE:CLASS"
        )
    file, _, name = str(given).rpartition(":")
    if f"{file_sha256(Path(file), 'model.path')}:{name}" != recorded:
        raise CheckpointError(f"model.path={given}: not what this run was trained with")
    return ("model.path",)


def _train(run: RunDir | None, config: RunConfig, since: float) -> Path:
    from cnnbench.training import launch

    if run is None:
        return launch.start(config, sys.argv, since).path
    if run.info["status"] == "done" and config.extend_epochs is None:
        print(f"cnnbench: this run is finished: {run.path}", file=sys.stderr)
        return run.path
    launch.resume(config, run, sys.argv, since)
    return run.path
