"""The one way to standard error, and standard streams that outlive their readers.

Whatever becomes of a stream, the work goes on: a reader that has seen enough (``| head``), a
terminal that is gone, a stream that was closed from the start, an encoding that lacks characters.
"""

from __future__ import annotations

import codecs
import errno
import gc
import io
import os
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

# Nobody reads any more: a closed pipe, a terminal that hung up, a closed pipe on Windows.
_UNREAD = (errno.EPIPE, errno.EIO, errno.EINVAL)
_ESCAPE = "cnnbench.escape"
_SHORT = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
NEWLINE = "\n"
# Lines to copy begin so: they stay whole in any terminal.
_COPIED = ("cnnbench ", "tensorboard ", "run: ", "/")


def notice(message: str) -> None:
    """Tell the person at the keyboard, beside what the command prints. It never fails.

    Args:
        message: one plain sentence, or a few lines.
    """
    if _is_quiet:
        return
    # A full disk under a log of errors is no reason to end the work.
    with suppress(OSError):
        text, stream = f"cnnbench: {visible(message, kept=NEWLINE)}", guarded(sys.stderr)
        print(fold(text, terminal_width(stream)), file=stream, flush=True)


def terminal_width(stream: TextIO | None = None) -> int | None:
    """Return the columns of the terminal that a stream is, by default standard output, or None."""
    is_terminal = (sys.stdout if stream is None else stream).isatty()
    return shutil.get_terminal_size().columns if is_terminal else None


def cell_width(text: str) -> int:
    """Return how many columns of a terminal a text takes: Chinese signs and emoji take two each."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def fold(text: str, width: int | None, margin: str = "  ") -> str:
    """Break lines that are wider than a terminal, at wide gaps before single blanks.

    Commands to copy stay whole, and so do words: a path can still be copied.

    Args:
        text: any lines.
        width: columns; None leaves the text as it is.
        margin: before what continues a line, after that line's own.
    """
    if width is None:
        return text
    return NEWLINE.join(_fold_line(line, width, margin) for line in text.split(NEWLINE))


def _fold_line(line: str, width: int, margin: str) -> str:
    content = line.lstrip(" ")
    if cell_width(line) <= width or content.startswith(_COPIED):
        return line
    own = line[: len(line) - len(content)]
    gap = "  " if "  " in content else " "
    first, *others = content.split(gap)
    lines = [own + first]
    for part in others:
        longer = f"{lines[-1]}{gap}{part}"
        if cell_width(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(f"{own}{margin}{part.lstrip(' ')}")
    if gap == " ":
        return NEWLINE.join(lines)
    return NEWLINE.join(
        _fold_line(part, width, "" if n else margin) for n, part in enumerate(lines)
    )


def keep_quiet(quiet: bool) -> None:
    """Say nothing from here on, or speak again: of several processes of a run one speaks."""
    global _is_quiet
    _is_quiet = quiet


def is_quiet() -> bool:
    """Return whether nothing is said."""
    return _is_quiet


def visible(text: str, kept: str = "") -> str:
    r"""Return a text in which nothing steers a terminal, a table or a reader's eye.

    Names of classes, files and networks may be anyone's. Control characters, and those that turn
    the direction of writing, become ``\uXXXX``, which JSON reads back.

    Args:
        text: of any origin.
        kept: characters that stay, such as the newlines of a text that is ours.

    Example:
        >>> visible("cat\x1b[2J")
        'cat\\u001b[2J'
    """
    if text.isprintable():
        return text
    return "".join(c if c in kept or _is_harmless(c) else _SHORT.get(c) or _units(c) for c in text)


def _is_harmless(character: str) -> bool:
    # Persian and Hindi words and many emoji need the joiners; a wide space is a space.
    return (
        character.isprintable()
        or character in "\u200c\u200d"
        or unicodedata.category(character) == "Zs"
    )


def warn(message: str) -> None:
    """Tell of something that the work survives, but that may make its result another one."""
    notice(f"warning: {message}")


def say_torch_loads(what: str) -> None:
    """Print what is about to be done, where torch has yet to be imported, which takes seconds."""
    if "torch" not in sys.modules:
        print(f"{what}: loading PyTorch", flush=True)


@contextmanager
def torch_loading(what: str) -> Iterator[None]:
    """Say as ``say_torch_loads`` what is about to be done, and let torch be imported quickly.

    Its import makes a million objects that stay, among which a search for garbage takes a tenth of
    the time.
    """
    say_torch_loads(what)
    is_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if is_enabled:
            gc.enable()


def show_status(text: str) -> None:
    """Show in a terminal what a command is about, until its first output takes the place.

    It is a sign of life in the seconds that imports take; what is no terminal gets nothing.
    """
    global _status
    stream = sys.stderr
    with suppress(OSError, ValueError, AttributeError):
        if not _is_quiet and isinstance(stream, _Guarded) and stream.isatty():
            stream.write(text)
            stream.flush()
            _status = len(text), stream


def clear_status() -> None:
    """Take away what ``show_status`` shows."""
    global _status
    if _status is not None:
        (length, stream), _status = _status, None
        # No control codes: not every terminal knows them.
        stream.write(f"\r{' ' * length}\r")
        stream.flush()


def guarded(stream: TextIO | None) -> TextIO:
    r"""Return a stream that writes as this one does, and never fails for want of a reader.

    Characters that the encoding lacks are written as ``\uXXXX``, which JSON reads back; where
    nobody reads the stream any more, what is written vanishes. A full disk is still an error.

    Args:
        stream: a text stream; None where the process was started without it.
    """
    return stream if isinstance(stream, _Guarded) else cast(TextIO, _Guarded(stream))


def guard_streams() -> None:
    """Guard the standard streams of this process, also those that it was started without.

    The numbers 0, 1 and 2 are taken where they are free: a file that happened to be opened as one
    of them would get what libraries print.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number, so it is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stdin is None:
        sys.stdin = open(os.devnull)  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        # A run's path that is not UTF-8 comes out as it is: $(cnnbench train) has to be its path.
        sys.stdout.reconfigure(errors="surrogateescape")
    sys.stdout, sys.stderr = guarded(sys.stdout), guarded(sys.stderr)
    # Of the processes that torchrun starts the first writes, and one of each machine complains.
    if "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("RANK") != "0":
        sys.stdout = guarded(None)
        keep_quiet(os.environ.get("LOCAL_RANK") != "0")


class _Guarded:
    """A text stream whose reader may go away, and whose encoding may lack characters."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        clear_status()
        if self._stream is not None:
            try:
                try:
                    self._stream.write(text)
                except UnicodeEncodeError:
                    encoding = self._stream.encoding
                    self._stream.write(text.encode(encoding, _ESCAPE).decode(encoding))
            except OSError as error:
                self._lose(error)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if self._stream is not None:
            try:
                self._stream.flush()
            except OSError as error:
                self._lose(error)

    def _lose(self, error: OSError) -> None:
        # What is still in its buffer has to go somewhere, or Python complains when it ends.
        if self._stream is not None:
            with suppress(OSError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)
        self._stream = None
        if error.errno not in _UNREAD:
            raise error

    def __getattr__(self, name: str) -> Any:
        return getattr(_NOWHERE if self._stream is None else self._stream, name)


_NOWHERE = io.StringIO()
_is_quiet = False
# The length of what show_status shows, and where.
_status: tuple[int, _Guarded] | None = None


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return _units(error.object[error.start : error.end]), error.end


def _units(text: str) -> str:
    units = text.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


codecs.register_error(_ESCAPE, _escape)
