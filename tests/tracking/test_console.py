from __future__ import annotations

import io
import re
import time

import pytest
from rich.console import Console as RichConsole

from cnnbench.metrics import Scores
from cnnbench.tracking import Console, format_seconds

TRAIN = Scores(loss=0.31249, accuracy=53340 / 60000, correct=53340, count=60000)
VAL = Scores(loss=0.3009, accuracy=0.893, correct=5358, count=6000)
LINE = (
    "epoch 3/10  train loss 0.312 accuracy 0.889 [53340/60000]  "
    "val loss 0.301 accuracy 0.893 [5358/6000]  12.3 s  4878 images/s"
)


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def run_epoch(console: Console, steps: int = 5, pause: float = 0.0) -> None:
    console.start_bar(3, 10, steps)
    for _ in range(steps):
        console.step(64, loss=0.5)
        time.sleep(pause)
    console.epoch(3, 10, train=TRAIN, val=VAL, seconds=12.34, images_per_second=4878.2)


def test_a_pipe_gets_one_plain_line_per_epoch() -> None:
    out = io.StringIO()
    run_epoch(Console(RichConsole(file=out, width=40)), pause=0.03)
    assert out.getvalue() == f"{LINE}\n"


def test_without_validation_the_line_has_none() -> None:
    out = io.StringIO()
    console = Console(RichConsole(file=out))
    console.epoch(1, 2, train=TRAIN, val=None, seconds=75.0, images_per_second=9.6)
    assert out.getvalue() == (
        "epoch 1/2  train loss 0.312 accuracy 0.889 [53340/60000]  1.2 min  10 images/s\n"
    )


def test_a_terminal_gets_a_bar_that_makes_room_for_the_line() -> None:
    out = io.StringIO()
    rich_console = RichConsole(file=out, force_terminal=True, width=100, color_system=None)
    run_epoch(Console(rich_console), pause=0.03)
    text = out.getvalue()
    assert "\x1b[" in text
    assert "epoch 3/10" in text
    assert "loss 0.500  " in text
    assert "images/s" in text
    assert text.count("[53340/60000]") == 1


def test_a_bar_starts_where_a_run_is_resumed() -> None:
    out = io.StringIO()
    console = Console(RichConsole(file=out, force_terminal=True, width=100, color_system=None))
    console.start_bar(1, 1, 8, step=5)
    console.step(64)
    console.stop_bar()
    assert "6/8" in out.getvalue()


def test_no_color_has_no_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    def colours() -> bool:
        out = io.StringIO()
        run_epoch(
            Console(RichConsole(file=out, force_terminal=True, width=100, color_system="256"))
        )
        # Of any colour system: rich keeps a style's codes from the first time it was shown.
        return re.search(r"\x1b\[(?:\d+;)*(?:3\d|9[0-7])", out.getvalue()) is not None

    assert colours()
    monkeypatch.setenv("NO_COLOR", "1")
    assert not colours()


def test_a_terminal_that_cannot_move_its_cursor_gets_no_bar(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    out = io.StringIO()
    run_epoch(Console(RichConsole(file=out, force_terminal=True, width=100)))
    assert "\x1b" not in out.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
def test_text_is_neither_wrapped_nor_marked_up_nor_coloured(terminal: bool) -> None:
    text = "/home/" + "a long folder [bold]/" * 10 + ":smile: 1.5 http://x.org"
    out = io.StringIO()
    Console(RichConsole(file=out, width=30, force_terminal=terminal)).print(text)
    assert out.getvalue() == f"{text}\n"


def test_the_screen_changes_at_most_ten_times_a_second() -> None:
    out = io.StringIO()
    console = Console(RichConsole(file=out, force_terminal=True, width=100, color_system=None))
    console.start_bar(1, 1, 100_000)
    started = time.perf_counter()
    for _ in range(20_000):
        console.step(1)
    seconds = time.perf_counter() - started
    console.stop_bar()
    assert out.getvalue().count("images/s") <= seconds * 10 + 3


def test_breaking_off_takes_the_bar_away_and_shows_the_cursor() -> None:
    out = io.StringIO()
    console = Console(RichConsole(file=out, force_terminal=True, width=100))
    console.start_bar(1, 1, 10)
    assert "\x1b[?25l" in out.getvalue()
    console.stop_bar()
    console.stop_bar()
    assert out.getvalue().rstrip("\n").count("\x1b[?25h") == 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (12.34, "12.3 s"),
        (59.94, "59.9 s"),
        (59.96, "1.0 min"),
        (104.4, "1.7 min"),
        (3599.0, "1.0 h"),
        (9000.0, "2.5 h"),
    ],
)
def test_durations_are_s_min_or_h(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text
