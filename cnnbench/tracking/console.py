"""The run on the screen: a bar in a terminal or notebook, and one plain line per epoch."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TYPE_CHECKING, Any

from rich.console import Console as RichConsole
from rich.progress import BarColumn, Progress, TextColumn

from cnnbench.notices import NEWLINE, fold, visible

if TYPE_CHECKING:
    from cnnbench.metrics import Scores

# The eye follows no faster, and a step must cost next to nothing.
REFRESH_SECONDS = 0.1
_BAR_WIDTH = 20  # what stands beside it fits 80 columns


class Cell:
    """What is drawn anew below a cell of a notebook, without a package of widgets."""

    def __init__(self) -> None:
        self._handle: Any = None

    @classmethod
    def of(cls, console: RichConsole) -> Cell | None:
        """Return the cell that a console writes below, None where that is no notebook.

        The console writes lines of plain text from then on, where rich would show each as a page.
        """
        if not console.is_jupyter:
            return None
        console.is_jupyter = False
        return cls()

    def show(self, renderable: Any) -> None:
        """Draw something of rich's in place of what is there."""
        if self._handle is None:
            # A notebook has imported it; nothing else needs it.
            display = sys.modules["IPython.display"].display
            self._handle = display(renderable, display_id=True)
        else:
            self._handle.update(renderable)

    def clear(self) -> None:
        """Take away what is there."""
        if self._handle is not None:
            self._handle.update({"text/plain": ""}, raw=True)


class Console:
    """Shows how a run goes.

    Args:
        console: where to; what is neither an interactive terminal nor a notebook gets no bar, and
            what is no terminal no control codes.
    """

    def __init__(self, console: RichConsole) -> None:
        self._console = console
        self._cell = Cell.of(console)
        self._progress: Progress | None = None
        self._images = 0
        self._steps = 0
        # Of the bar: where it began, how many it has, and how many come after it in the run.
        self._first = self._total = self._after = 0
        self._started = self._next_refresh = 0.0
        self._numbers = ""

    def print(self, text: str) -> None:
        """Print lines as they are: no markup, no colours, no control characters.

        A terminal gets wide ones folded; paths and commands to copy stay whole.
        """
        text = visible(text, kept=NEWLINE)
        if self._console.is_terminal:
            text = fold(text, self._console.width)
        self._console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)

    def start_bar(self, epoch: int, num_epochs: int, num_steps: int, *, step: int = 0) -> None:
        """Begin an epoch.

        Args:
            epoch: from 1.
            num_epochs: of the run.
            num_steps: of this epoch.
            step: steps of this epoch that were done before, in a resumed run.
        """
        self._begin(f"epoch {epoch}/{num_epochs}", num_steps, step)
        self._after = (num_epochs - epoch) * num_steps

    def start_count(self, what: str, total: int) -> None:
        """Begin what is no training: images of an evaluation, parts of a measurement.

        Args:
            what: it is, in a word.
            total: how many ``count`` will tell of.
        """
        self._begin(what, total, 0)

    def counted(
        self, batches: Iterable[tuple[Any, Sized]], what: str, total: int
    ) -> Iterator[tuple[Any, Any]]:
        """Yield batches, and show how many of their examples are done."""
        self.start_count(what, total)
        try:
            for batch in batches:
                self.count(len(batch[1]))
                yield batch
        finally:
            self.stop_bar()

    def _begin(self, what: str, total: int, done: int) -> None:
        self.stop_bar()
        self._images, self._steps, self._numbers = 0, done, ""
        self._first, self._after, self._total = done, 0, total
        self._started = time.perf_counter()
        self._next_refresh = self._started
        if not self._console.is_interactive and self._cell is None:
            return
        self._progress = Progress(
            TextColumn(what, markup=False),
            BarColumn(_BAR_WIDTH),
            TextColumn("{task.completed}/{task.total}", markup=False),
            TextColumn("{task.description}", markup=False),
            console=self._console,
            auto_refresh=False,
            transient=True,
            # rich would send warnings for a redirected standard error to the terminal instead.
            redirect_stderr=sys.stderr.isatty(),
        )
        self._progress.add_task("", total=total, completed=done)
        if self._cell is None:
            self._progress.start()
        else:
            self._cell.show(self._progress)

    def step(self, num_images: int, *, loss: float | None = None) -> None:
        """Count a step; the screen changes at most ten times a second.

        Args:
            num_images: of the step's batch.
            loss: the newest, where the host has it.
        """
        if self._progress is None:
            return
        self._steps += 1
        self._images += num_images
        if loss is not None:
            self._numbers = f"loss {loss:.3f}  "
        now = time.perf_counter()
        if now >= self._next_refresh:
            rate = self._images / (now - self._started)
            self._draw(f"{self._numbers}{rate:.0f} images/s  ", now)

    def count(self, number: int, text: str = "") -> None:
        """Count what ``start_count`` began, with a few words on what comes next."""
        if self._progress is None:
            return
        self._steps += number
        now = time.perf_counter()
        if text or now >= self._next_refresh:
            self._draw(f"{text}  " if text else "", now)

    def _draw(self, text: str, now: float) -> None:
        assert self._progress is not None
        self._next_refresh = now + REFRESH_SECONDS
        done = self._steps - self._first
        left = self._total - self._steps + self._after
        if done > 0:
            text += f"{format_seconds((now - self._started) / done * left)} left"
        task = self._progress.task_ids[0]
        self._progress.update(task, completed=self._steps, description=text)
        if self._cell is None:
            self._progress.refresh()
        else:
            self._cell.show(self._progress)

    def epoch(
        self,
        epoch: int,
        num_epochs: int,
        *,
        train: Scores,
        val: Scores | None,
        seconds: float,
        images_per_second: float,
    ) -> None:
        """End an epoch with its line.

        Args:
            epoch: from 1.
            num_epochs: of the run.
            train: over the epoch's training steps.
            val: None where the epoch was not evaluated.
            seconds: of the epoch, evaluation included.
            images_per_second: of its training part.
        """
        self.stop_bar()
        parts = [f"epoch {epoch}/{num_epochs}", f"train {_format_scores(train)}"]
        if val is not None:
            parts.append(f"val {_format_scores(val)}")
        parts += [format_seconds(seconds), f"{images_per_second:.0f} images/s"]
        self.print("  ".join(parts))

    def stop_bar(self) -> None:
        """Take the bar away, also where a run breaks off; more than once is fine."""
        if self._progress is not None:
            if self._cell is None:
                self._progress.stop()
            else:
                self._cell.clear()
            self._progress = None


def format_seconds(seconds: float) -> str:
    """Return a duration as s, min or h, such as ``12.3 s``."""
    for unit, length in (("s", 1), ("min", 60)):
        if round(seconds / length, 1) < 60:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds / 3600:.1f} h"


def _format_scores(scores: Scores) -> str:
    return f"loss {scores.loss:.3f} {scores.text()}"
