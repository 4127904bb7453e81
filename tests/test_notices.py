"""Standard streams: readers that go away, streams that were never there, narrow encodings."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny import info, tiny, train

from cnnbench import notices
from cnnbench.cli.main import run as cli

COMMAND = (sys.executable, "-m", "cnnbench")
# A letter of Latin-1, one of the basic plane, one beyond it, and half of a pair.
WORDS = ["é", "李", "🦊", "\udcff", 'plain "and" \\ quoted']


def text_stream(encoding: str) -> tuple[io.BytesIO, io.TextIOWrapper]:
    raw = io.BytesIO()
    return raw, io.TextIOWrapper(raw, encoding=encoding, write_through=True)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8", "utf-16"])
def test_what_an_encoding_lacks_is_escaped_and_json_reads_it_back(encoding: str) -> None:
    raw, stream = text_stream(encoding)
    screen = notices.guarded(stream)
    print(json.dumps(WORDS, ensure_ascii=False), file=screen)
    assert json.loads(raw.getvalue().decode(encoding)) == WORDS
    assert notices.guarded(screen) is screen


def test_what_an_encoding_has_stays_as_it_is() -> None:
    raw, stream = text_stream("cp1252")
    notices.guarded(stream).write("é\n")
    assert raw.getvalue().decode("cp1252").splitlines() == ["é"]


def test_a_path_that_is_not_utf8_is_printed_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    path, (raw, stream) = b"/runs/caf\xe9/1", text_stream("utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        patch.setattr(sys, "stderr", sys.stderr)
        notices.guard_streams()
        print(os.fsdecode(path))
    assert raw.getvalue() == path + b"\n"


def test_a_stream_whose_reader_is_gone_swallows_the_rest() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w")
    screen = notices.guarded(stream)
    for _ in range(3):
        print("x" * 100_000, file=screen, flush=True)
    assert not screen.isatty()
    stream.close()  # nothing is left in it that could not be written


def test_a_full_disk_is_still_an_error_but_not_of_a_notice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    full = io.TextIOWrapper(io.FileIO("/dev/full", "w"), write_through=True)
    with pytest.raises(OSError, match="No space"):
        print("x", file=notices.guarded(full), flush=True)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", full)
        notices.notice("said to nobody")
    full.buffer.close()


@pytest.mark.parametrize("stream", [None, "ascii"])
def test_a_notice_reaches_standard_error_or_nobody(
    stream: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raw, wrapper = text_stream("ascii")
    monkeypatch.setattr(sys, "stderr", wrapper if stream else None)
    notices.warn("é")
    assert capsys.readouterr().out == ""
    assert raw.getvalue() == (b"cnnbench: warning: \\u00e9\n" if stream else b"")


def command(*argv: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *argv], check=False, timeout=120, **{"text": True, **kwargs})


@pytest.mark.parametrize("sweep", [(), ("-m", "seed=0,1")], ids=["run", "sweep"])
def test_training_goes_on_to_its_end_when_its_reader_has_seen_enough(
    sweep: tuple[str, ...], tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [*COMMAND, "train", *tiny(tmp_path, "num_epochs=3"), *sweep],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert (process.wait(timeout=120), err) == (0, "")
    runs = [path.parent for path in tmp_path.rglob("run.json")]
    assert [info(run)["status"] for run in runs] == ["done"] * (2 if sweep else 1)


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_streams_that_were_closed_from_the_start(closed: str, tmp_path: Path) -> None:
    script = f'exec "$@" {closed}'
    verbs = [["ls"], ["runs", "list"]]
    # A closed standard input or error is met at the same place by every verb.
    if ">&- 2" in closed:
        verbs.append(["train", *tiny(tmp_path, "num_epochs=1")])
    for words in verbs:
        done = subprocess.run(
            ["sh", "-c", script, "sh", *COMMAND, *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert (done.returncode, done.stderr) == (0, ""), words
    for file in tmp_path.rglob("run.json"):
        assert info(file.parent)["status"] == "done"
    wrong = ["sh", "-c", script, "sh", *COMMAND, "train", "model=lnet"]
    assert subprocess.run(wrong, capture_output=True, check=False, timeout=120).returncode == 2


def test_nobody_to_ask_removes_nothing(tmp_path: Path) -> None:
    run = train(tmp_path, "num_epochs=1")
    script = 'exec "$@" <&-'
    done = subprocess.run(
        ["sh", "-c", script, "sh", *COMMAND, "runs", "rm", str(run)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2
    assert "nobody answered" in done.stderr
    assert run.exists()


@pytest.mark.parametrize("encoding", ["cp1252"])
def test_paths_that_the_terminal_cannot_show(encoding: str, tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONIOENCODING": f"{encoding}:strict"}
    root = tmp_path / "é 李"
    done = command(
        "train", *tiny(root, "num_epochs=1"), capture_output=True, env=env, encoding=encoding
    )
    assert (done.returncode, done.stderr) == (0, "")
    [run] = [path.parent for path in tmp_path.rglob("run.json")]
    last = done.stdout.splitlines()[-1]
    assert json.loads(f'"{last}"') == str(run)
    image = os.fsencode(tmp_path) + b"/\xff.png"
    with open(image, "wb") as file:
        Image.fromarray(255 * np.eye(16, dtype=np.uint8)).save(file, "PNG")
    words = [b"predict", os.fsencode(run), image, b"--format", b"json"]
    argv = [*map(os.fsencode, COMMAND), *words]
    answer = subprocess.run(argv, capture_output=True, check=False, timeout=120, env=env)
    assert (answer.returncode, answer.stderr) == (0, b"")
    assert json.loads(answer.stdout)[0]["file"] == os.fsdecode(image)
    wrong = command("evaluate", "李", capture_output=True, env=env)
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("cnnbench: \\u674e: not a run")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["evaluate", "~/run"], 2),
        (["train", "output_root=~/runs", "debug=smoke"], 2),
        (["data", "prepare", "fashion_mnist"], 66),
        (["train", "data=mnist"], 66),
    ],
)
def test_without_a_home_directory(
    words: list[str], code: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    for name in ("XDG_CACHE_HOME", "CNNBENCH_DATA"):
        monkeypatch.delenv(name, raising=False)
    assert cli(words) == code
    err = capsys.readouterr().err
    assert re.search(r"home directory", err)


def test_a_full_disk_below_standard_output_is_an_error_of_the_command() -> None:
    with open("/dev/full", "w") as full:
        done = command("ls", stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 74
    assert "disk is full" in done.stderr


def test_only_notices_writes_to_standard_error() -> None:
    package = Path(notices.__file__).parent
    for path in package.rglob("*.py"):
        if path.name != "notices.py":
            assert not re.search(r"file=sys\.stderr|stderr\.write", path.read_text()), path


def test_wide_lines_are_folded_and_commands_stay_whole() -> None:
    line = "one two  three four  five"
    assert notices.fold(line, None) == line
    assert notices.fold(line, 12) == "one two\n  three four\n  five"
    assert notices.fold("- a dog and a 猫猫 here", 14) == "- a dog and a\n  猫猫 here"
    command = "cnnbench train resume=/home/me/a long path/run"
    assert notices.fold(f"resume with:\n{command}", 20) == f"resume with:\n{command}"
    assert notices.fold("/a path with blanks", 5) == "/a path with blanks"
    assert notices.fold("  indented words", 12) == "  indented\n    words"
    for width in range(1, 40):
        folded = notices.fold(line, width)
        assert folded.split() == line.split()
        assert all(len(part) <= width or " " not in part.strip() for part in folded.split("\n"))
