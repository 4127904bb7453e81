"""Completion, asked as the shells ask it: by pressing Tab where a shell is installed."""

from __future__ import annotations

import os
import pty
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cnnbench.cli.completion import candidates
from cnnbench.cli.main import VERBS
from cnnbench.config.groups import Groups

ROOT = Path(__file__).parents[2]
# Shells before the first prompt, in a mode that reads no file of the user's.
SHELLS = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
    "fish": ["fish", "--no-config", "-i"],
}
LOAD = {
    "bash": 'eval "$(cnnbench completion bash)"',
    "zsh": 'autoload -U compinit; compinit -u -D; eval "$(cnnbench completion zsh)"',
    "fish": "cnnbench completion fish | source",
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a run below ``outputs`` and a file."""
    run = tmp_path / "outputs" / "digits" / "lenet" / "20260101-000000-abcdef"
    run.mkdir(parents=True)
    (run / "run.json").write_text("{}")
    (tmp_path / "sketch.png").write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def words(line: str) -> list[str]:
    return [word for word, _ in candidates(f"cnnbench {line}")]


def test_verbs_and_flags() -> None:
    assert words("") == [*VERBS, "help", "--help", "--version"]
    assert words("su") == ["summary"]
    assert words("help ev") == ["evaluate"]
    assert words("compare --format ") == ["text", "markdown", "csv", "json", "latex"]
    assert words("train --multi") == ["--multirun"]
    assert words("nonsense ") == words("train --config ") == []


def test_groups_choices_keys_and_values() -> None:
    assert words("train model=") == [f"model={name}" for name in Groups().choices("model")]
    assert words("train -m model=lenet,mobilenet_v") == [
        "model=lenet,mobilenet_v1",
        "model=lenet,mobilenet_v2",
    ]
    assert words("train num_e") == ["num_epochs="]
    assert words("train device.prec") == ["device.precision="]
    assert words("train device.precision=b") == ["device.precision=bf16"]
    assert words("train data.shuffle=") == ["data.shuffle=true", "data.shuffle=false"]
    assert words("ls opt") == ["optimizer"]
    assert words("data ver") == ["verify"]
    assert words("data show cifar10 data.ba") == ["data.batch_size="]


def test_keys_are_those_of_the_choice_on_the_line() -> None:
    assert words("train model.poo") == ["model.pool="]  # LeNet's, the default
    assert words("train model=mlp model.poo") == []
    assert words("train model=mlp model.hid") == ["model.hidden="]
    assert words("train model.pool=m") == ["model.pool=max"]


def test_own_choices(tmp_path: Path) -> None:
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "optimizer" / "zealous.yaml").write_text("# mine\nname: sgd\n")
    assert words(f"train --config-dir {tmp_path} optimizer=z") == ["optimizer=zealous"]


def test_runs(here: Path) -> None:
    name = "20260101-000000-abcdef"
    assert words("evaluate ") == ["latest", name]
    assert words("predict 2026") == [name]
    assert words("train resume=2") == [f"resume={name}"]
    assert words("compare out") == [f"outputs/digits/lenet/{name}"]
    assert words("predict latest sk") == []  # files are the shell's


@pytest.mark.parametrize(
    "name",
    ["$(touch pwned)", "`touch pwned`", "a;touch pwned", "a\n--weights", "\x1b[31mred", "tab\tx"],
)
def test_no_name_that_a_shell_would_run_is_completed(name: str, here: Path) -> None:
    """A run's directory may come from anyone's archive, and candidates are typed unquoted."""
    run = here / "outputs" / "digits" / name
    run.mkdir()
    (run / "run.json").write_text("{}")
    below = here / "outputs" / name / "猫"
    below.mkdir(parents=True)
    (below / "run.json").write_text("{}")
    found = candidates("cnnbench evaluate ")
    assert {text for text, _ in found} == {"latest", "20260101-000000-abcdef", "猫"}
    assert all(about.isprintable() for _, about in found)
    assert words("evaluate outputs/digits/") == ["outputs/digits/lenet/20260101-000000-abcdef"]


def test_no_answer_loads_torch_or_takes_long(here: Path) -> None:
    def seconds(code: str, *arguments: str) -> float:
        code = f"{code}; import time; print(time.process_time(), file=sys.stderr)"
        words = [sys.executable, "-c", f"import sys; {code}", *arguments]
        return float(subprocess.run(words, check=True, capture_output=True, text=True).stderr)

    # Python's own start says how fast the machine is.
    start = statistics.median(seconds("pass") for _ in range(5))
    code = (
        "from cnnbench.cli.main import run; "
        "run(['completion', 'bash', '--line', sys.argv[1]]); "
        "heavy = {'torch', 'hydra', 'numpy', 'matplotlib'} & sys.modules.keys(); "
        "assert not heavy, heavy"
    )
    for line in ("cnnbench ", "cnnbench train model=", "cnnbench train -", "cnnbench evaluate "):
        assert seconds(code, line) < 30 * start


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("cnnbench ev", "cnnbench evaluate "),
        ("cnnbench train model=mobile", "model=mobilenet_v"),
        ("cnnbench train model=mlp model.hid", "model.hidden="),
        ("cnnbench evaluate lat", "cnnbench evaluate latest "),
        ("cnnbench train data.root=outp", "data.root=outputs/"),
        ("cnnbench predict latest sket", "latest sketch.png"),
    ],
)
def test_the_tab_key(shell: str, typed: str, shown: str, here: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    with Terminal(SHELLS[shell], here) as terminal:
        terminal.type(f"{LOAD[shell]}; echo rea''dy\n")
        terminal.wait_for("ready")
        terminal.type(f"{typed}\t")
        terminal.wait_for(shown)


class Terminal:
    """A shell in a terminal of its own."""

    def __init__(self, command: list[str], directory: Path) -> None:
        launcher = directory / "bin" / "cnnbench"
        launcher.parent.mkdir(exist_ok=True)
        launcher.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m cnnbench "$@"\n')
        launcher.chmod(0o755)
        self.text = ""
        self._pid, self._file = pty.fork()
        if self._pid == 0:
            paths = {"PATH": f"{launcher.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
            fresh = {"HOME": str(directory), "TERM": "dumb", "COLUMNS": "200", **paths}
            os.chdir(directory)
            os.execvpe(command[0], command, {**os.environ, **fresh})

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        os.kill(self._pid, 9)
        os.waitpid(self._pid, 0)
        os.close(self._file)

    def type(self, text: str) -> None:
        os.write(self._file, text.encode())

    def wait_for(self, shown: str, seconds: float = 30.0) -> None:
        """Read until the screen shows a text, or fail."""
        ends = time.monotonic() + seconds
        os.set_blocking(self._file, False)
        while shown not in self.text:
            assert time.monotonic() < ends, self.text
            try:
                self.text += os.read(self._file, 65536).decode(errors="replace").replace("\a", "")
            except BlockingIOError:
                time.sleep(0.05)
        self.text = ""
