"""The command line: verbs and flags, errors to plain messages and exit codes."""

from __future__ import annotations

import argparse
import importlib
import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from cnnbench.config.early import check_alone
from cnnbench.errors import (
    CnnbenchError,
    UsageError,
    did_you_mean,
    expected_names,
    resource_error,
    user_code_error,
)
from cnnbench.files import disk_error
from cnnbench.notices import clear_status, notice, show_status
from cnnbench.rendering.text import FORMATS
from cnnbench.version import __version__

VERBS = {
    "train": "train a network; one run directory per job",
    "summary": "layers, shapes, parameters, MACs, receptive fields; trains nothing",
    "bench": "speed and memory of a config, and its share of the machine's peak",
    "find-lr": "a learning rate for a config, by a range test",
    "evaluate": "exact metrics of a run on one split",
    "predict": "classes of image files, by a run",
    "reproduce": "a recorded recipe again: does it give what was recorded",
    "compare": "one table over runs and seeds, with plots",
    "pack": "runs, their table and figures as one zip file for a paper",
    "verify": "compute anew what a packed zip file says; 1 where it differs",
    "features": "filters, maps, Grad-CAM and receptive fields of runs, as images",
    "export": "a run as ONNX or torch.export program, checked before it is kept",
    "data": "prepare, verify, find or show a data set",
    "runs": "list, watch, prune or remove run directories",
    "doctor": "this machine as cnnbench sees it: the bug report; --kernels checks",
    "completion": "Tab completes verbs, settings and runs in bash, zsh and fish",
    "ls": "list the choices of a group: model, data, augment, optimizer, ...",
}
# Flags whose value may stand before the verb.
VALUE_FLAGS = ("--config", "--config-dir", "--format")
_HELP_FLAGS = ("-h", "--help")
_WIDTH = 80
_GUIDE = """\
cnnbench trains, evaluates and compares classic convolutional networks on
small images.

  cnnbench train                                    LeNet on real 8x8 digits
  cnnbench train model=googlenet data=fashion_mnist
  cnnbench train -m model=lenet,googlenet seed=0,1,2
  cnnbench evaluate outputs/digits/lenet/RUN

Verbs:
{verbs}

'cnnbench help VERB' tells more; 'tensorboard --logdir outputs' shows all runs.
"""


class _Parser(argparse.ArgumentParser):
    # Newer versions of Python colour the help of a terminal.
    color = False

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}")


def run(argv: Sequence[str]) -> int:
    """Run one command.

    Args:
        argv: the arguments after ``cnnbench``.

    Returns:
        The exit code.
    """
    wants_traceback = "--debug" in argv
    try:
        code = _dispatch(list(argv))
        # A full disk below standard output is an error of this command.
        print(end="", flush=True)
        return code
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except CnnbenchError as error:
        if wants_traceback:
            traceback.print_exc()
        return _fail(str(error), error.exit_code)
    except BaseException as error:
        plain = _plain_error(error)
        if plain is None:
            if isinstance(error, Exception):
                return _bug(error, wants_traceback)
            raise
        if wants_traceback:
            traceback.print_exc()
        return _fail(str(plain), plain.exit_code)


def _plain_error(error: BaseException) -> CnnbenchError | None:
    """Return in a sentence what is no fault of ours."""
    if (resource := resource_error(error)) is not None:
        return resource
    if (place := user_code_error(error)) is not None:
        return UsageError(f"{place}; this is code of your own; --debug shows the traceback")
    if isinstance(error, OSError):
        return disk_error(error, error.filename or "output")
    return None


def _fail(message: str, code: int) -> int:
    notice(message)
    return code


def _bug(error: BaseException, wants_traceback: bool) -> int:
    text = traceback.format_exc()
    if wants_traceback:
        return _fail(text, 70)
    import tempfile

    try:
        with tempfile.NamedTemporaryFile(
            "w",
            prefix="cnnbench-bug-",
            suffix=".txt",
            delete=False,
            encoding="utf-8",
            errors="backslashreplace",
        ) as file:
            file.write(f"cnnbench {__version__}: {sys.argv}\n{text}")
        kept = f"the traceback is in {file.name}"
    except OSError:
        kept = "--debug shows the traceback"
    return _fail(f"a bug in cnnbench, {type(error).__name__}: {error}; {kept}", 70)


def _dispatch(argv: list[str]) -> int:
    index = _verb_index(argv)
    wants_help = not argv or any(flag in argv for flag in _HELP_FLAGS)
    if index is not None and argv[index] == "help":
        del argv[index]
        index, wants_help = _verb_index(argv), True
    verb = None if index is None else argv.pop(index)
    if verb is not None and verb not in VERBS:
        raise UsageError(f"unknown verb '{verb}'{expected_names(verb, VERBS)}")
    if "--version" in argv:
        print(f"cnnbench {__version__}")
        return 0
    if verb is None:
        if not wants_help:
            raise UsageError(
                f"which verb? 'cnnbench train {shlex.join(argv)}', or another one of: "
                f"{', '.join(VERBS)}"
            )
        print(guide(), end="")
        return 0
    module = importlib.import_module(f"cnnbench.cli.{verb.replace('-', '_')}")
    parser = parser_of(verb, module)
    # Whoever asks for help need not name the run that the verb would read.
    if wants_help:
        parser.epilog = module.epilog()
        print(parser.format_help(), end="")
        return 0
    args, unknown = parser.parse_known_intermixed_args(argv)
    if unknown:
        if not unknown[0].startswith("-"):
            raise UsageError(f"{verb}: unexpected '{unknown[0]}'; see 'cnnbench help {verb}'")
        flags = [flag for action in parser._actions for flag in action.option_strings]
        hint = _setting_meant(unknown[0], argv) if hasattr(args, "settings") else ""
        raise UsageError(f"unknown flag {unknown[0]}{hint or did_you_mean(unknown[0], flags)}")
    try:
        os.getcwd()
    except FileNotFoundError:  # libraries fail there in ways of their own
        raise UsageError("the current directory is gone; 'cd' to another one") from None
    if verb != "train":
        check_alone(verb, f"cnnbench {verb} ...")
    show_status(f"cnnbench {verb} ...")
    try:
        return int(module.main(args))
    finally:
        clear_status()


def _setting_meant(flag: str, argv: Sequence[str]) -> str:
    """Return how the key that a flag is named after is set, if it is near one."""
    from cnnbench.config.run_config import all_keys
    from cnnbench.config.settings import nearest_key

    word, _, value = flag.lstrip("-").partition("=")
    after = argv[argv.index(flag) + 1 :] if flag in argv else ()
    if not value and after and "=" not in after[0] and not after[0].startswith("-"):
        value = after[0]
    near = nearest_key(word.replace("-", "_"), all_keys()) if len(flag) > 2 else None
    return f"; settings have no dashes: {near}={value or 'VALUE'}" if near else ""


def parser_of(verb: str, module: ModuleType) -> argparse.ArgumentParser:
    """Return the parser of a verb: its own flags, and those of every verb."""
    parser = _Parser(
        prog=f"cnnbench {verb}",
        description=module.DESCRIPTION,
        formatter_class=_formatter,
        add_help=False,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    common = parser.add_argument_group("flags of every verb")
    common.add_argument(
        "--format",
        choices=getattr(module, "FORMATS", FORMATS),
        default="text",
        help="of what is printed; text by default",
    )
    common.add_argument("--cfg", action="store_true", help="print the resolved config and stop")
    common.add_argument("--config-dir", metavar="DIR", help="a directory with groups of your own")
    common.add_argument("--debug", action="store_true", help="show tracebacks")
    common.add_argument("--version", action="store_true", help="print the version and stop")
    common.add_argument(*_HELP_FLAGS, action="store_true", help="print this and stop")
    return parser


def _formatter(prog: str) -> argparse.HelpFormatter:
    # The same in every terminal, so that it can be read in a file and pasted.
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=26, width=_WIDTH)


def _verb_index(argv: Sequence[str]) -> int | None:
    """Return where the verb is: the first word that is no flag, no flag's value, no setting."""
    before = ["", *argv]
    for index, (word, left) in enumerate(zip(argv, before, strict=False)):
        if not word.startswith("-") and "=" not in word and left not in VALUE_FLAGS:
            return index
    return None


def guide() -> str:
    """Return what ``cnnbench`` alone prints."""
    width = max(map(len, VERBS))
    lines = [f"  {verb:<{width}}  {text}" for verb, text in VERBS.items()]
    return _GUIDE.format(verbs="\n".join(lines))
