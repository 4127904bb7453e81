"""The table of a paper: what its caption says, what is bold, and that TeX sets it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from shutil import which

import pytest

from cnnbench.analysis.compare.formats import comparison_text
from cnnbench.analysis.compare.tables import compare_runs
from tests.recorded_runs import write_run

_DOCUMENT = "\\documentclass{article}\\usepackage{booktabs,graphicx}\\begin{document}\n"


def _latex(root: Path, **settings: object) -> str:
    for seed in range(6):
        write_run(root, seed=seed, test=0.95 + seed / 1000)
        write_run(root, model="mlp", seed=seed, test=0.90 + seed / 900, settings=dict(settings))
    return comparison_text(compare_runs([root]), "latex")


def test_the_caption_states_seeds_selection_and_tests(tmp_path: Path) -> None:
    text = _latex(tmp_path)
    [caption] = [line for line in text.splitlines() if line.startswith("\\caption{")]
    for part in (
        "Test accuracy on fashion\\_mnist: mean $\\pm$ sample standard deviation",
        "(seeds 0 to 5)",
        "selected on val/accuracy",
        "read once",
        "exact sign flips of paired seeds",
        "simultaneous 95~\\% intervals",
        "equivalent: within 0.002",
    ):
        assert part in caption, part
    assert caption.count("{") == caption.count("}")


def test_a_table_of_unread_test_images_claims_no_accuracy(tmp_path: Path) -> None:
    unread = {"test/accuracy": None, "test/loss": None, "test_reads": 0}
    for seed in range(2):
        write_run(
            tmp_path, seed=seed, settings={"evaluate_test": False}, change={"results": unread}
        )
    text = comparison_text(compare_runs([tmp_path]), "latex")
    [caption] = [line for line in text.splitlines() if line.startswith("\\caption{")]
    expected = "Runs on fashion\\_mnist (seeds 0 and 1) that have not read the test images."
    assert caption == f"\\caption{{{expected}}}"


def test_the_best_and_its_interval_alone_are_bold(tmp_path: Path) -> None:
    lines = _latex(tmp_path).splitlines()
    best, other = (
        next(line for line in lines if f"{name}" in line and "&" in line)
        for name in ("lenet", "mlp")
    )
    assert best.startswith("\\textbf{lenet} & 6 & \\textbf{0.9525 $\\pm$ 0.0019} & \\textbf{0.95")
    assert best.count("\\textbf") == 3
    assert "\\textbf" not in other
    assert " & worse & -0.0497 (" in other
    assert best.count("&") == other.count("&")


@pytest.mark.slow
def test_an_engine_sets_it(tmp_path: Path) -> None:
    engines = [name for name in ("pdflatex", "lualatex", "xelatex", "tectonic") if which(name)]
    if not engines:
        pytest.skip("no TeX here")
    engine = engines[0]
    hostile = '[a_b&c^~\\{}$%#<|>"é中\u0301'
    table = _latex(tmp_path / "runs", **{"data.normalize": hostile})
    assert "U+4E2D" in table
    (tmp_path / "paper.tex").write_text(f"{_DOCUMENT}{table}\\end{{document}}\n")
    flags = [] if engine == "tectonic" else ["-interaction=nonstopmode", "-halt-on-error"]
    done = subprocess.run(
        [engine, *flags, "paper.tex"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout
    assert (tmp_path / "paper.pdf").stat().st_size > 1000
