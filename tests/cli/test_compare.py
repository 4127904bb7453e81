"""``cnnbench compare`` as a person and a script see it."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest

import cnnbench
from cnnbench.cli import main as cli
from tests.recorded_runs import write_run
from tests.tiny import command, train


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A row of two seeds, a row chosen on test, and a failed run."""
    root = tmp_path / "out_1 %"
    write_run(root, seed=0, test=0.90)
    write_run(root, seed=1, test=0.92)
    write_run(root, model="mlp", test=0.8, change={"results": {"selection": "test"}})
    write_run(root, model="mlp", seed=1, test=0.1, status="failed", change={"reason": "no disk"})
    return root


def shown(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    code = cli.run(["compare", *argv])
    out, err = capsys.readouterr()
    assert code == 0, err
    return out


def test_text(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, str(root)).splitlines()
    assert lines[0].startswith("Most accurate: lenet, 0.9100 (2 seeds).")
    assert max(map(len, lines[: lines.index("")])) <= 80
    lines = lines[lines.index("") + 1 :]
    assert lines[0].split()[:5] == ["row", "model", "n", "test/accuracy", "verdict"]
    assert "0.9100 ± 0.0141" in lines[1]
    assert "61,706" in lines[1]
    assert lines[2].endswith("epoch selected on test")
    assert "Not judged: row 2" in "\n".join(lines)
    assert lines[-3] == "Not in the table:"
    assert lines[-1].split()[:3] == ["failed", "no", "disk"]
    assert "0.1000" not in "\n".join(lines)


def test_json_is_what_the_function_returns(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    came = json.loads(shown(capsys, str(root), "--format", "json", "--baseline", "1"))
    assert came == cnnbench.compare([root], baseline="1")
    assert cnnbench.compare(root)["baseline"] is None
    assert [(row["model"], row["n"]) for row in came["rows"]] == [("lenet", 2), ("mlp", 1)]
    assert came["rows"][0]["test/accuracy"]["mean"] == pytest.approx(0.91)
    assert came["rows"][1]["test/accuracy"] == {"mean": 0.8, "std": None}
    assert came["rows"][1]["difference"]["test/accuracy"]["mean"] == pytest.approx(-0.1)
    assert came["rows"][0]["receptive_field"] == 16
    assert [run["status"] for run in came["left_out"]] == ["failed"]


def test_csv_is_one_table_of_plain_numbers(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["compare", str(root), "--format", "csv", "--group", "model"]) == 0
    out, err = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["group"] for row in rows] == ["model = lenet", "model = mlp"]
    assert float(rows[0]["test/accuracy"]) == pytest.approx(0.91)
    assert rows[0]["num_params"] == "61706"
    assert "no disk" in err


def test_a_baseline_has_its_metrics_in_every_format(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, value in enumerate((0.93, 0.96)):
        write_run(root, model="nin", seed=seed, test=value)
    write_run(root, model="nin", seed=2, test=0.99)
    argv = (str(root), "--baseline", "lenet", "--format")
    wanted = {"mean": 0.035, "std": 0.0070711, "n": 2, "p": 0.0903345}
    row = json.loads(shown(capsys, *argv, "json"))["rows"][0]
    # Scores of numbers are absent in runs of classes.
    known = {name for name, value in row["difference"].items() if value["mean"] is not None}
    assert known == {"val/accuracy", "test/accuracy", "epoch_seconds"}
    assert row["difference"]["test/accuracy"] == pytest.approx(wanted, rel=1e-4)
    assert cli.run(["compare", *argv, "csv"]) == 0
    line = next(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    for name in ("val/accuracy", "test/accuracy", "epoch_seconds"):
        for key in ("mean", "std", "n", "p"):
            came, there = line[f"{name}_difference_{key}"], row["difference"][name][key]
            assert came == "" if there is None else float(came) == pytest.approx(there)
    cell = "+0.0000 ± 0.0000 (n=2)"
    for output_format, test, text in (
        ("text", "Δ val/accuracy", cell),
        ("markdown", "| Δ val/accuracy |", f"{cell}** |"),
        ("latex", "$\\Delta$ epoch\\_seconds", "+0.00 $\\pm$ 0.00 (n=2)"),
    ):
        assert cli.run(["compare", *argv, output_format]) == 0
        out = capsys.readouterr().out
        assert test in out
        assert text in out
        assert "p=" not in out
        if output_format != "latex":
            wanted_note = "mean difference from row 2 over the seeds that both have"
            assert wanted_note in " ".join(out.split())


def on_terminal(width: int, *argv: str) -> str:
    """Return what the command writes to a terminal of so many columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    environment = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    with subprocess.Popen(
        [sys.executable, "-m", "cnnbench", "compare", *argv], stdout=theirs, env=environment
    ) as process:
        os.close(theirs)
        parts = []
        try:
            while part := os.read(ours, 4096):
                parts.append(part)
        except OSError:
            pass  # how Linux says that the other end is closed
        finally:
            os.close(ours)
    assert process.returncode == 0
    return b"".join(parts).decode().replace("\r\n", "\n")


def plain(text: str) -> str:
    return text.replace("\x1b[1m", "").replace("\x1b[0m", "")


def test_a_table_fits_the_terminal(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    piped = shown(capsys, str(root))
    wide = on_terminal(400, str(root))
    # The best row is bold on a terminal, and there alone.
    assert plain(wide) == piped
    [bold] = [line for line in wide.splitlines() if "\x1b" in line]
    assert plain(bold).split()[:2] == ["1", "lenet"]
    narrow = plain(on_terminal(80, str(root)))
    table = narrow.split("±: sample")[0]
    assert max(map(len, table.splitlines())) <= 80
    heads = next(line for line in table.splitlines() if line.startswith("row")).split()
    assert heads[:5] == ["row", "model", "n", "test/accuracy", "verdict"]
    # What is left out for want of width is named, and what is not comparable is said below.
    words = " ".join(table.split())
    assert re.search(r"Not shown for want of width: .*receptive_field", words)
    assert "Row 2 is not comparable: epoch selected on test." in words
    # What comes after the table is as it was.
    after = narrow.split("±: sample")[1]
    assert after.split() == piped.split("±: sample")[1].split()


def test_a_table_with_many_settings_is_transposed_and_loses_nothing(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(6):
        settings = {"optimizer.lr": 0.5**number, "num_epochs": number + 1}
        write_run(root, settings={**settings, "data.split_seed": number, "data.shuffle": False})
    piped = shown(capsys, str(root))
    table, after = on_terminal(80, str(root)).split("±: sample")
    assert max(map(len, table.splitlines())) <= 80
    lines = [line.split() for line in table.splitlines()]
    numbers = [number for line in lines if line[:1] == ["row"] for number in line[1:]]
    assert numbers == [str(place) for place in range(1, 9)]
    assert sum(line[:1] == ["row"] for line in lines) < len(numbers)
    words = set(" ".join(piped.split("±: sample")[0].split()).split())
    assert words - set(table.split()) == set()
    assert after.split() == piped.split("±: sample")[1].split()


def test_a_page(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "new" / "report.html"
    assert cli.run(["compare", str(root), "--html", str(page), "--format", "json"]) == 0
    out, err = capsys.readouterr()
    assert len(json.loads(out)["rows"]) == 2
    assert err == f"cnnbench: {page}\n"
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert cli.run(["compare", str(root), "--html", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert (out, "is a directory; give a file" in err) == ("", True)
    (tmp_path / "file").write_text("mine")
    assert cli.run(["compare", str(root), "--html", str(tmp_path / "file" / "r.html")]) == 2
    assert "cannot be made" in capsys.readouterr().err
    assert {path.name for path in page.parent.iterdir()} == {"report.html"}


def test_markdown_and_latex(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, str(root), "--format", "markdown")
    assert text.startswith("Most accurate: lenet")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert [line.startswith("| **1** |") for line in lines[:4]] == [False, False, True, False]
    assert {line.count("|") for line in lines[:4]} == {lines[0].count("|")}
    write_run(root, settings={"optimizer.lr": 0.5, "data.normalize": "a_b&c^~\\"})
    latex = shown(capsys, str(root), "--format", "latex")
    start = next(line for line in latex.splitlines() if not line.startswith("% "))
    assert latex.startswith("% Most accurate: lenet")
    assert "% needs \\usepackage{booktabs,graphicx}\n\\begin{table}" in latex
    assert start == "\\begin{table}"
    assert latex.endswith("\\end{tabular}}\n\\end{table}\n")
    assert r"a\_b\&c\textasciicircum{}\textasciitilde{}\textbackslash{}" in latex
    assert r"0.9100 $\pm$ 0.0141" in latex
    body = [line for line in latex.splitlines() if line.endswith(r"\\") and line[0] != "%"]
    assert {line.replace(r"\&", "").count("&") for line in body} == {
        len(latex.split("{tabular}{")[1].partition("}")[0]) - 1
    }


@pytest.mark.parametrize("output_format", ["text", "markdown", "csv", "latex", "json"])
def test_the_same_input_gives_the_same_bytes(
    root: Path, output_format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [str(root), "--format", output_format, "--baseline", "lenet"]
    first = shown(capsys, *argv)
    # In another order and twice, in a process whose hashes differ.
    done = command("compare", str(root / "fashion_mnist"), *argv, cwd=root)
    assert (done.returncode, done.stdout) == (0, first)


def test_plots(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plots = tmp_path / "new" / "plots"
    assert cli.run(["compare", str(root), "--format", "json", "--plots", str(plots)]) == 0
    out, err = capsys.readouterr()
    assert len(json.loads(out)["rows"]) == 2
    assert err == f"cnnbench: 12 files in {plots}\n"
    assert (plots / "learning_curves.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--where", "num_parms<1"], "unknown column 'num_parms'; did you mean 'num_params'?"),
        (["--sort", "acc"], "--sort acc: unknown column"),
        (["--group", "dat"], "did you mean 'data'"),
        (["--margin", "-1"], "--margin -1: expected a fraction of the test images, 0 to 1"),
        (["--margin", "nan"], "--margin nan: expected a fraction"),
        (["--baseline", "7"], "there are 2 rows"),
        (["--format", "html"], "invalid choice: 'html'"),
        (["nowhere"], "nowhere: there is no such directory"),
    ],
)
def test_wrong_use(
    root: Path, flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["compare", str(root), *flags]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err


def test_a_path_without_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["compare", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_nothing_to_show_is_no_error(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failed = root / "fashion_mnist/mlp/run-0001"
    plots = root / "plots"
    for argv in ([str(failed)], [str(root), "--where", "n>5"]):
        for output_format in ("text", "markdown", "csv", "latex", "json"):
            shown(capsys, *argv, "--format", output_format, "--plots", str(plots))
    assert not plots.exists()
    assert shown(capsys, str(failed)).startswith("no finished run to show\n")
    unmet = shown(capsys, str(root), "--where", "n>5")
    assert unmet.startswith("no row to show: 2 rows, and none meets --where\n")


def test_runs_that_were_really_trained(tmp_path: Path) -> None:
    runs: list[Any] = [train(tmp_path, f"seed={seed}") for seed in (0, 1)]
    came = cnnbench.compare(runs)
    [row] = came["rows"]
    assert came["left_out"] == []
    accuracies = [
        json.loads((r / "run.json").read_text())["results"]["test/accuracy"] for r in runs
    ]
    assert row["test/accuracy"]["mean"] == pytest.approx(sum(accuracies) / 2)
    # 5x5, pool 2, 5x5, pool 2: 5 + 1 + 8 + 2.
    assert row["receptive_field"] == 16
    assert row["epoch_seconds"]["mean"] > 0
    assert row["not_comparable"] == []
