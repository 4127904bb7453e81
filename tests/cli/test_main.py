"""The command line: verbs, flags, formats, exit codes, and what goes to which stream."""

from __future__ import annotations

import argparse
import contextlib
import csv
import gc
import importlib
import io
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import cnnbench
from cnnbench import errors
from cnnbench.cli import main as cli
from cnnbench.config.command import single_config
from cnnbench.config.compose import Composer
from cnnbench.config.run_config import GROUPS, PRESET_GROUPS
from cnnbench.config.sweeper import split_sweeper
from cnnbench.sweeps.jobs import expand
from cnnbench.sweeps.search.space import check_space, read_space

COMMAND = (sys.executable, "-m", "cnnbench")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\x9b]")
# What a class of error ends with; what scripts lean on.
EXIT_CODES = {
    "UsageError": 2,
    "ConfigError": 2,
    "CheckpointError": 65,
    "DataError": 66,
    "DiskError": 74,
    "KernelError": 70,
    "ResourceError": 75,
    "NonFiniteError": 76,
}

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process; return its exit code, standard output and standard error."""

    def run_here(*argv: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.run(argv)
        return (code, *capsys.readouterr())

    return run_here


def command(*argv: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *argv], capture_output=True, text=True, check=False, timeout=120, **kwargs
    )


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"], ["--debug", "--help"], ["help"]])
def test_the_guide_names_every_verb_and_four_commands(run: Run, argv: list[str]) -> None:
    code, out, err = run(*argv)
    assert (code, err) == (0, "")
    for verb in cli.VERBS:
        assert re.search(rf"^  {verb}  ", out, re.MULTILINE)
    assert len(re.findall(r"^  cnnbench ", out, re.MULTILINE)) == 4
    assert max(map(len, out.splitlines())) <= 80


def test_a_current_directory_that_is_gone_is_said(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    for verb in ("train", "runs", "doctor"):
        code, out, err = run(verb, *(["list"] if verb == "runs" else []))
        wanted = "cnnbench: the current directory is gone; 'cd' to another one\n"
        assert (code, out, err) == (2, "", wanted)


def test_a_backend_for_windows_that_matplotlib_does_not_know_is_not_handed_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from cnnbench.__main__ import main

    monkeypatch.setenv("MPLBACKEND", "Qt4Agg")
    monkeypatch.setattr(sys, "argv", ["cnnbench", "ls", "loss"])
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, getattr(sys, name))
    for owner, name in ((signal, "signal"), (gc, "freeze"), (gc, "disable")):
        monkeypatch.setattr(owner, name, lambda *given: None)
    assert main() == 0
    assert "MPLBACKEND" not in os.environ


def test_every_verb_has_a_file_and_every_file_is_a_verb() -> None:
    files = {path.stem for path in Path(cli.__file__).parent.glob("[a-z]*.py")}
    assert files - {"main"} == {verb.replace("-", "_") for verb in cli.VERBS}


@pytest.mark.parametrize("verb", cli.VERBS)
def test_help_of_every_verb(run: Run, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = set()
    for columns in ("30", "300"):
        monkeypatch.setenv("COLUMNS", columns)
        for argv in (
            [verb, "--help"],
            [verb, "-h"],
            ["-h", verb],
            [verb, "x=y", "-h", "--debug"],
            ["help", verb],
            ["--debug", "help", verb],
        ):
            code, out, err = run(*argv)
            assert (code, err) == (0, "")
            texts.add(out)
    [text] = texts
    assert text.startswith(f"usage: cnnbench {verb}")
    assert max(map(len, text.splitlines())) <= 80
    assert re.search(r"^Examples?:", text, re.MULTILINE)


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_flag_has_its_help(verb: str) -> None:
    module = importlib.import_module(f"cnnbench.cli.{verb.replace('-', '_')}")
    parser = argparse.ArgumentParser(add_help=False)
    module.add_arguments(parser)
    assert parser._actions
    for action in parser._actions:
        assert action.help, action.dest


def test_help_of_train_has_groups_choices_and_examples(run: Run) -> None:
    _, out, _ = run("train", "--help")
    composer = Composer()
    for group in (*GROUPS, *PRESET_GROUPS):
        lines = re.search(rf"^  {group} +((?:.*\n {{13}})*.*)$", out, re.MULTILINE)
        assert lines is not None
        assert " ".join(lines[1].split()) == (
            " ".join(composer.groups.choices(group)) or "(none yet)"
        )
    examples = re.findall(r"^  cnnbench train(.*?)(?:   .*)?$", out, re.MULTILINE)
    assert len(examples) > 3
    for example in examples:
        settings = [w.strip("'") for w in example.split() if "=" in w and "RUN" not in w]
        if "hydra/sweeper" in example:
            sweeper, others = split_sweeper(composer.parse(settings))
            assert sweeper is not None
            assert check_space(composer, read_space(composer, others))
        elif "-m" in example:
            assert len(expand(composer, composer.parse(settings)).jobs) == 6
        else:
            single_config(composer, composer.parse(settings))


def test_help_is_quick_and_loads_neither_torch_nor_hydra() -> None:
    code = (
        "import sys; from cnnbench.__main__ import main; code = main();"
        "heavy = {'torch', 'numpy', 'hydra', 'omegaconf', 'rich'} & sys.modules.keys();"
        "sys.exit(f'{heavy}' if heavy else code)"
    )
    started = time.monotonic()
    for argv in (["--help"], ["train", "--help"], ["--version"], ["ls", "model"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *argv], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
    # Far above what it takes, far below what torch would.
    assert time.monotonic() - started < 8


@pytest.mark.parametrize("argv", [["--version"], ["train", "--version"], ["--version", "predict"]])
def test_version(run: Run, argv: list[str]) -> None:
    assert run(*argv) == (0, f"cnnbench {cnnbench.__version__}\n", "")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["trian"], "unknown verb 'trian'; did you mean 'train'? Known: train, "),
        (["trian", "ls", "model=lenet"], "unknown verb 'trian'"),
        (["zzz"], "unknown verb 'zzz'; known: train, "),
        (["help", "trian"], "unknown verb 'trian'; did you mean 'train'?"),
        (["model=lenet", "seed=a b"], "'cnnbench train model=lenet 'seed=a b''"),
        (["--cfg"], "'cnnbench train --cfg'"),
        (["train", "--cgf"], "unknown flag --cgf; did you mean '--cfg'?"),
        (["train", "--multi", "seed=1"], "unknown flag --multi"),
        (["train", "--conf=x"], "unknown flag --conf=x; did you mean '--config'?"),
        (["train", "lenet"], "lenet: expected key=value: model=lenet"),
        (["train", "model=mlp", "mnist"], "mnist: expected key=value: data=mnist"),
        (["train", "-n", "2"], "unknown flag -n"),
        (["train", "--config"], "expected one argument"),
        (["train", "--config", "nowhere.yaml"], "nowhere.yaml: No such file"),
        (["train", "--config-dir", "nowhere"], "--config-dir nowhere: there is no such directory"),
        (["train", "model=lnet"], "did you mean 'lenet'?"),
        (["train", "model=resnet"], "did you mean one of resnet18, resnet34, resnet50, resnet101"),
        (["train", "modle=lenet"], "modle: unknown key; did you mean 'model'?"),
        (["train", "optimiser=adam"], "did you mean 'optimizer'?"),
        (["train", "--epochs", "3"], "settings have no dashes: num_epochs=3"),
        (["train", "--batch-size=8"], "settings have no dashes: data.batch_size=8"),
        (["ls", "modle"], "unknown group 'modle'; did you mean 'model'?"),
        (["ls", "model", "data"], "ls: unexpected 'data'"),
        (["ls", "--format", "jsno"], "invalid choice: 'jsno'"),
        (["data", "shwo", "digits"], "data shwo: unknown action; did you mean 'show'?"),
        (["data", "where", "digit"], "data=digit: unknown choice; did you mean 'digits'?"),
        (["data", "where"], "NAME"),
        (["runs", "lst"], "runs lst: unknown action; did you mean 'list'?"),
        (["runs", "list", "nowhere"], "nowhere: there is no such directory"),
        (["evaluate"], "RUN"),
        (["evaluate", "nowhere"], "nowhere: not a run: there is no such directory"),
        (["evaluate", "."], "holds no run.json"),
        (["predict", "nowhere"], "IMAGE"),
        (["predict", "nowhere", "x.png"], "nowhere: not a run"),
        (["features"], "RUN"),
        (["features", "nowhere"], "nowhere: not a run"),
        (["features", "nowhere", "x.png"], "nowhere: not a run"),
        (["export", "nowhere"], "--to"),
        (["export", "nowhere", "--to", "onnxx"], "did you mean 'onnx'?"),
        (["export", "nowhere", "--to", "torch"], "nowhere: not a run"),
        (["train", "resume=nowhere"], "nowhere: not a run"),
    ],
)
def test_wrong_use_is_one_plain_message(
    run: Run, argv: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*argv)
    assert (code, out) == (2, "")
    assert err.startswith("cnnbench: ")
    assert words in err
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())
    code, _, err = run(*argv, "--debug")
    assert code == 2
    assert "Traceback" in err


def test_flags_and_settings_in_any_order(run: Run, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    words = ["model=mlp", "--cfg", "train", "--config-dir", str(tmp_path), "seed=3", "--debug"]
    wanted = run("train", "--cfg", "model=mlp", "seed=3")
    assert wanted[0] == 0
    for shift in (0, 1, 2, 5, 6):
        assert run(*words[shift:], *words[:shift]) == wanted
    assert run("--format", "csv", "ls", "debug") == run("ls", "debug", "--format=csv")
    assert run("--config-dir", str(tmp_path), "ls", "debug") == run("ls", "debug")


def test_the_printed_config_reads_back(run: Run, tmp_path: Path) -> None:
    settings = ["model=alexnet", "model.width_multiplier=1/16", "data=cifar10", "seed=4"]
    code, out, err = run("train", "--cfg", *settings)
    assert (code, err) == (0, "")
    (tmp_path / "config.yaml").write_text(out)
    again = ["train", "--cfg", "--config", str(tmp_path / "config.yaml")]
    assert run(*again) == (0, out, "")
    assert run(*again, "seed=5") == (0, out.replace("seed: 4  #", "seed: 5  #"), "")
    assert "  lr: 0.001  # base learning rate, > 0" in out
    assert "  width_multiplier: 0.0625  # " in out
    assert "  name: alexnet  # AlexNet (2012)" in out
    # Another network does not keep the keys of the old one.
    _, other, _ = run(*again, "model=mlp")
    assert yaml.safe_load(other)["model"]["name"] == "mlp"
    assert "width_multiplier" not in other


def test_the_printed_configs_of_a_sweep_read_back(run: Run, tmp_path: Path) -> None:
    code, out, err = run("train", "--cfg", "-m", "model=mlp,lenet", "seed=range(2)")
    assert (code, err) == (0, "")
    documents = out.split("---\n")
    trees = [yaml.safe_load(document) for document in documents]
    assert [(tree["model"]["name"], tree["seed"]) for tree in trees] == [
        ("mlp", 0),
        ("mlp", 1),
        ("lenet", 0),
        ("lenet", 1),
    ]
    (tmp_path / "config.yaml").write_text(documents[1])
    assert run("train", "--cfg", "--config", str(tmp_path / "config.yaml")) == (0, documents[1], "")


@pytest.mark.parametrize("group", [None, *GROUPS, *PRESET_GROUPS])
def test_ls_in_all_formats(run: Run, group: str | None) -> None:
    argv = ["ls", *([group] if group else [])]
    outputs = {}
    for name in ("text", "markdown", "csv", "json"):
        code, outputs[name], err = run(*argv, "--format", name)
        assert (code, err) == (0, "")
    assert run(*argv) == (0, outputs["text"], "")
    rows = json.loads(outputs["json"])
    composer = Composer()
    if group is None:
        wanted = [(g, " ".join(composer.groups.choices(g))) for g in (*GROUPS, *PRESET_GROUPS)]
    else:
        wanted = list(composer.groups.choices(group).items())
    assert [tuple(row.values()) for row in rows] == wanted
    read = list(csv.reader(io.StringIO(outputs["csv"])))
    assert [tuple(row) for row in read[1:]] == wanted
    assert len(outputs["text"].splitlines()) == len(wanted) + 1
    assert len(outputs["markdown"].splitlines()) == len(wanted) + 2
    assert not CONTROL.search("".join(outputs.values()))


CLASSES = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.CnnbenchError)
]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_class_of_error_has_its_exit_code(
    run: Run, kind: type[errors.CnnbenchError], monkeypatch: pytest.MonkeyPatch
) -> None:
    error = kind("words", 15) if kind is errors.Interrupted else kind("words")  # type: ignore[call-arg]
    wanted = {"CnnbenchError": 2, "Interrupted": 143, **EXIT_CODES}[kind.__name__]
    assert fails_with(error, run, monkeypatch) == (wanted, "", "cnnbench: words\n")


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (MemoryError(), 75, "out of memory; lower data.batch_size or data.image_size"),
        (
            OSError(28, "No space left on device", "/x"),
            74,
            "/x: cannot be written: the disk is full",
        ),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
    ids=["memory", "disk", "interrupt"],
)
def test_errors_of_the_system(
    run: Run, error: BaseException, code: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    came = fails_with(error, run, monkeypatch)
    assert came[:2] == (code, "")
    assert words in came[2]
    assert "Traceback" not in came[2]


def fails_with(
    error: BaseException, run: Run, monkeypatch: pytest.MonkeyPatch, *flags: str
) -> tuple[int, str, str]:
    def main(args: object) -> int:
        raise error

    monkeypatch.setattr("cnnbench.cli.ls.main", main)
    return run("ls", *flags)


def test_a_bug_keeps_its_traceback_in_a_file(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code, out, err = fails_with(ZeroDivisionError("é李"), run, monkeypatch)
    assert (code, out) == (70, "")
    assert "Traceback" not in err
    assert "a bug in cnnbench, ZeroDivisionError: é李" in err
    [kept] = tmp_path.iterdir()
    assert str(kept) in err
    assert "Traceback" in kept.read_text()
    assert "ZeroDivisionError: é李" in kept.read_text()
    kept.unlink()
    code, _, err = fails_with(ZeroDivisionError("é李"), run, monkeypatch, "--debug")
    assert code == 70
    assert "Traceback" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("argv", [["train", "--help"], ["ls"], ["--help"], ["train", "--cfg"]])
def test_a_closed_pipe_is_no_error(argv: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        done = subprocess.run(
            [*COMMAND, *argv], stdout=closed, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("module", ["torch", "hydra", "argparse"])
def test_ctrl_c_during_imports_shows_no_traceback(tmp_path: Path, module: str) -> None:
    (tmp_path / f"{module}.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(5)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = command("train", "debug=smoke", f"output_root={tmp_path}/runs", env=env)
    # Before torch, whose import takes seconds, the run is named.
    named = "lenet on digits, seed 0: loading PyTorch\n" if module == "torch" else ""
    assert (done.returncode, done.stdout) == (130, named)
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_sigterm_during_imports_ends_with_143(tmp_path: Path) -> None:
    (tmp_path / "hydra.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(5)\n"
    )
    done = command("train", env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "")


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no terminals here")
def test_a_terminal_shows_a_sign_of_life_that_the_first_output_replaces(tmp_path: Path) -> None:
    (tmp_path / "hydra.py").write_text("raise KeyboardInterrupt\n")
    reader, terminal = os.openpty()
    with subprocess.Popen(
        [*COMMAND, "train"],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    ) as process:
        os.close(terminal)
        shown = b""
        with contextlib.suppress(OSError):  # how Linux says that the other end is closed
            while block := os.read(reader, 4096):
                shown += block
    os.close(reader)
    sign = b"cnnbench train ..."
    erased = b"\r" + b" " * len(sign) + b"\r"
    assert (process.returncode, shown) == (130, sign + erased + b"cnnbench: interrupted\r\n")


TINY = ("model=basic_cnn", "debug=smoke", "data.limit=64", "device=cpu", "device.num_threads=1")


def check_run_directory(line: str, root: Path) -> None:
    path = Path(line)
    assert path.is_absolute()
    assert path.parent == root / "digits" / "basic_cnn"
    assert json.loads((path / "run.json").read_text())["status"] == "done"


def test_train_ends_with_the_bare_run_directory_and_a_pipe_gets_no_control_codes(
    tmp_path: Path,
) -> None:
    done = command("train", *TINY, "output_root=-a b, é李/(x)", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert not CONTROL.search(done.stdout)
    assert done.stdout.endswith("\n")
    check_run_directory(done.stdout.splitlines()[-1], tmp_path / "-a b, é李" / "(x)")
    # What to type next can be pasted as it stands.
    [line] = [line for line in done.stdout.splitlines() if line.startswith("next: ")]
    words = shlex.split(line.removeprefix("next: "))
    assert words[:2] == ["cnnbench", "evaluate"]
    assert not words[2].startswith("-")
    check_run_directory(str(tmp_path / words[2]), tmp_path / "-a b, é李" / "(x)")


def test_a_run_that_leaves_the_test_images_unread_does_not_ask_to_read_them(tmp_path: Path) -> None:
    done = command("train", *TINY, "evaluate_test=false", "data.val_fraction=0.2", cwd=tmp_path)
    [line] = [line for line in done.stdout.splitlines() if line.startswith("next: ")]
    assert line.endswith(" --split val --plots")


def test_the_run_directory_is_bare_in_a_narrow_terminal_too(tmp_path: Path) -> None:
    terminal, theirs = pty.openpty()
    root = tmp_path / ("a rather long name é李 " * 3).strip()
    env = {**os.environ, "COLUMNS": "40", "TERM": "xterm-256color"}
    process = subprocess.Popen(
        [*COMMAND, "train", *TINY, f"output_root={root}"], stdout=theirs, stderr=theirs, env=env
    )
    os.close(theirs)
    chunks = []
    try:
        while chunk := os.read(terminal, 65536):
            chunks.append(chunk)
    except OSError:
        pass  # what Linux gives at a terminal's end
    finally:
        os.close(terminal)
    assert process.wait(timeout=60) == 0
    text = b"".join(chunks).decode()
    assert "\x1b[" in text
    check_run_directory(text.removesuffix("\r\n").rpartition("\r\n")[2], root)
