"""The command line: verbs and flags, errors to plain messages and exit codes."""

from __future__ import annotations

import argparse
import importlib
import os
import shlex
import sys
import tempfile
import traceback
from collections.abc import Sequence
from typing import NoReturn

from cnnbench.errors import CnnbenchError, UsageError, did_you_mean, expected_names
from cnnbench.files import disk_error
from cnnbench.rendering.text import FORMATS
from cnnbench.version import __version__

VERBS = {
    "train": "train a network; one run directory per job",
    "summary": "layers, shapes, parameters, MACs and receptive fields; trains nothing",
    "bench": "speed and memory of a config, and its share of the machine's peak",
    "evaluate": "exact metrics of a run on one split",
    "predict": "classes of image files, by a run",
    "compare": "one table over runs and seeds, with plots",
    "features": "filters, maps, Grad-CAM and receptive fields of runs, as pictures",
    "export": "a run as ONNX or torch.export program, checked before it is kept",
    "data": "prepare, verify, find or show a data set",
    "runs": "list, prune or remove run directories",
    "ls": "list the choices of a group: model, data, augment, optimizer, ...",
}
# Flags whose value may stand before the verb.
_VALUE_FLAGS = ("--config", "--config-dir", "--format")
_GUIDE = """\
cnnbench trains, evaluates and compares classic convolutional networks on small images.

  cnnbench train                                    LeNet on real 8x8 digits, no download
  cnnbench train model=googlenet data=fashion_mnist
  cnnbench train -m model=lenet,googlenet seed=0,1,2
  cnnbench evaluate outputs/digits/lenet/RUN

Verbs:
{verbs}

'cnnbench VERB --help' tells more; 'tensorboard --logdir outputs' shows all runs.
"""


class _Parser(argparse.ArgumentParser):
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
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Whoever read the output, such as `| head`, has enough. Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except CnnbenchError as error:
        if wants_traceback:
            traceback.print_exc()
        return _fail(str(error), error.exit_code)
    except MemoryError:
        return _fail("out of memory; lower data.batch_size or data.image_size", 75)
    except OSError as error:
        if wants_traceback:
            traceback.print_exc()
        plain = disk_error(error, error.filename or "output")
        return _fail(str(plain), plain.exit_code)
    except Exception as error:
        return _bug(error, wants_traceback)


def _fail(message: str, code: int) -> int:
    print(f"cnnbench: {message}", file=sys.stderr)
    return code


def _bug(error: Exception, wants_traceback: bool) -> int:
    text = traceback.format_exc()
    if wants_traceback:
        return _fail(text, 70)
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="cnnbench-bug-", suffix=".txt", delete=False
        ) as file:
            file.write(f"cnnbench {__version__}: {sys.argv}\n{text}")
        kept = f"the traceback is in {file.name}"
    except OSError:
        kept = "--debug shows the traceback"
    return _fail(f"a bug in cnnbench, {type(error).__name__}: {error}; {kept}", 70)


def _dispatch(argv: list[str]) -> int:
    place = _verb_place(argv)
    if place is None:
        if "--version" in argv:
            print(f"cnnbench {__version__}")
        elif not argv or "--help" in argv or "-h" in argv:
            print(guide(), end="")
        else:
            raise UsageError(
                f"which verb? 'cnnbench train {shlex.join(argv)}', or another one of: "
                f"{', '.join(VERBS)}"
            )
        return 0
    verb = argv.pop(place)
    if verb not in VERBS:
        raise UsageError(f"unknown verb '{verb}'{expected_names(verb, VERBS)}")
    module = importlib.import_module(f"cnnbench.cli.{verb}")
    parser = _Parser(prog=f"cnnbench {verb}", add_help=False, allow_abbrev=False)
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--version", action="store_true")
    parser.add_argument("--config-dir", metavar="DIR", help="a directory with groups of your own")
    formats = getattr(module, "FORMATS", FORMATS)
    parser.add_argument("--format", choices=formats, default="text")
    parser.add_argument("--cfg", action="store_true", help="print the resolved config and stop")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    module.add_arguments(parser)
    # Whoever asks for help need not name the run that the verb would read.
    if "--version" in argv:
        print(f"cnnbench {__version__}")
        return 0
    if "--help" in argv or "-h" in argv:
        print(module.help_text(parser), end="")
        return 0
    args, unknown = parser.parse_known_intermixed_args(argv)
    if unknown:
        if not unknown[0].startswith("-"):
            raise UsageError(f"{verb}: unexpected '{unknown[0]}'; see 'cnnbench {verb} --help'")
        flags = [flag for action in parser._actions for flag in action.option_strings]
        raise UsageError(f"unknown flag {unknown[0]}{did_you_mean(unknown[0], flags)}")
    return int(module.main(args))


def _verb_place(argv: Sequence[str]) -> int | None:
    """Return where the verb stands: the first word that is no flag, no flag's value, no setting."""
    before = ["", *argv]
    for place, (word, left) in enumerate(zip(argv, before, strict=False)):
        if not word.startswith("-") and "=" not in word and left not in _VALUE_FLAGS:
            return place
    return None


def guide() -> str:
    """Return what ``cnnbench`` alone prints."""
    width = max(map(len, VERBS))
    lines = [f"  {verb:<{width}}  {text}" for verb, text in VERBS.items()]
    return _GUIDE.format(verbs="\n".join(lines))
