"""Runs that predict a number: ranked, marked and named by R2, of which nothing is tested."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev

import pytest
from scipy import stats

import cnnbench
from cnnbench.analysis.compare.formats import comparison_text
from cnnbench.analysis.compare.tables import compare_runs
from cnnbench.cli import main as cli
from tests.recorded_runs import write_run

R2 = {"lenet": [0.30, 0.05, -0.25], "mlp": [0.24, 0.27, 0.22], "nin": [-0.1, 0.1, 0.0]}
TEN = {"data": {"num_test": 10}}
REASON = "what is predicted is a number, and verdicts are of accuracies alone."


def write_number(root: Path, model: str, seed: int, r2: float, **settings: object) -> Path:
    """Write a run that predicts a number."""
    measured = {"accuracy": None, "loss": 1 - r2, "r2": r2, "mae": 50 * (1 - r2)}
    results = {f"{split}/{name}": v for split in ("test", "val") for name, v in measured.items()}
    run = write_run(
        root,
        model=model,
        seed=seed,
        settings={"loss.name": "mse", **settings},
        change={
            "results": {**results, "selection": "val/loss"},
            "data": {"class_names": None, "num_classes": 1},
            "model": {"num_classes": 1},
        },
    )
    file = run / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    named = [{k.replace("accuracy", "r2"): v for k, v in line.items()} for line in lines]
    file.write_text("".join(f"{json.dumps(line)}\n" for line in named))
    return run


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for model, values in R2.items():
        for seed, r2 in enumerate(values):
            write_number(tmp_path / "runs", model, seed, r2)
    return tmp_path / "runs"


def test_rows_are_ordered_marked_and_named_by_r2(root: Path) -> None:
    found = compare_runs([root])
    [table] = found.tables
    assert [row.values["model"] for row in table.rows] == ["mlp", "lenet", "nin"]
    [sentence] = table.sentences
    assert sentence == f"Largest test R2: mlp, {fmean(R2['mlp']):.4f} (3 seeds)."
    assert f"Not tested: rows 1, 2 and 3: {REASON}" in table.notes
    assert not any("below 3" in note for note in table.notes)
    markdown, latex = (comparison_text(found, kind) for kind in ("markdown", "latex"))
    assert re.findall(r"\*\*(\w+)\*\* *\|", markdown)[0] == "1"
    assert set(re.findall(r"textbf\{([a-z]+)\}", latex)) == {"mlp"}
    assert "\\caption{Test R2 on fashion\\_mnist: mean" in latex
    assert all(row["verdict"] is None for row in cnnbench.compare(root)["rows"])


def test_an_unread_test_part_leaves_the_order_to_validation(tmp_path: Path) -> None:
    for model, r2 in (("lenet", 0.1), ("mlp", 0.4), ("nin", 0.2)):
        run = write_number(tmp_path, model, 0, r2, evaluate_test=False)
        info = json.loads((run / "run.json").read_text())
        info["results"] = {k: v for k, v in info["results"].items() if not k.startswith("test/")}
        (run / "run.json").write_text(json.dumps(info))
    [table] = compare_runs([tmp_path]).tables
    assert [row.values["model"] for row in table.rows] == ["mlp", "nin", "lenet"]
    assert table.sentences == ()


def test_r2_of_folds_has_the_same_reason(tmp_path: Path) -> None:
    for fold in range(2):
        for model in ("lenet", "mlp"):
            folds = {"data.fold": fold, "data.num_folds": 2}
            write_number(tmp_path, model, 0, R2[model][fold], **folds)
    [table] = compare_runs([tmp_path]).tables
    assert f"Not tested: rows 1 and 2: {REASON}" in table.notes
    assert not any("below 3 folds" in note for note in table.notes)


@pytest.mark.parametrize("baseline", ["lenet", "2"])
def test_a_baseline_gives_differences_at_each_seed(
    baseline: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = cnnbench.compare(root, baseline=baseline)
    gaps = [mine - other for mine, other in zip(R2["mlp"], R2["lenet"], strict=True)]
    difference = found["rows"][0]["difference"]["test/r2"]
    assert difference["mean"] == pytest.approx(fmean(gaps))
    assert difference["std"] == pytest.approx(stdev(gaps))
    assert found["baseline"] == 2
    assert cli.run(["compare", str(root), "--baseline", baseline, "--format", "markdown"]) == 0
    printed = capsys.readouterr().out
    assert "Δ test/r2" in printed
    assert f"{fmean(gaps):+.4f} ± {stdev(gaps):.4f}" in printed
    assert "Δ: mean difference from row 2 over the seeds that both have" in printed


def test_a_package_takes_a_baseline_too(root: Path, tmp_path: Path) -> None:
    assert cli.run(["pack", str(root), str(tmp_path / "p.zip"), "--baseline", "mlp"]) == 0
    with zipfile.ZipFile(tmp_path / "p.zip") as archive:
        latex = archive.read("table.tex").decode()
    gap = fmean(R2["lenet"]) - fmean(R2["mlp"])
    assert f"${gap:.4f}" in latex or f"{gap:+.4f}" in latex
    assert set(re.findall(r"textbf\{([a-z]+)\}", latex)) == {"mlp"}


def test_the_self_test_says_why_it_has_nothing(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["compare", str(root), "--where", "model=mlp", "--self-test"]) == 2
    assert "verdicts are of accuracies alone" in capsys.readouterr().err


def test_beside_tested_tables_each_has_its_own_words(root: Path) -> None:
    for model, accuracy in (("lenet", 0.8), ("mlp", 0.6)):
        for seed in range(3):
            test = accuracy + seed / 100
            write_run(root, model=model, data="digits", seed=seed, test=test, change=TEN)
    found = compare_runs([root])
    assert [table.title for table in found.tables] == ["data = digits", "data = fashion_mnist"]
    assert [table.sentences[0].split(":")[0] for table in found.tables] == [
        "Most accurate",
        "Largest test R2",
    ]
    text = " ".join(comparison_text(found, "text").split())
    # Of ten images, two; the other table has no margin to speak of.
    assert "Equivalent: within a margin of 0.2 (--margin)" in text


def _student(values: Sequence[float]) -> tuple[float, float]:
    found = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    return float(found.low), float(found.high)


def test_the_page_draws_r2_with_whole_intervals(root: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    cnnbench.compare(root, html=page)
    text = page.read_text()

    def find(pattern: str) -> list[str]:
        return re.findall(pattern, text, re.DOTALL)

    assert find(r"<summary>(1 mlp: [^<]*)</summary>") == ["1 mlp: test R2 0.2433 ± 0.0252"]
    assert find(r'<select data-key="metric">(.*?)</select>')[0].startswith("<option>val/r2<")
    assert "Test R2 against <select" in text
    assert "to a number" in text
    assert "1 classes" not in text
    assert "test accuracy" not in text.partition("<script")[0].lower()
    assert "Confusion matrix" not in text
    low, high = _student(R2["lenet"])
    assert low < 0
    assert f"{fmean(R2['lenet']):.4f} ({low:.4f} to {high:.4f})" in text
    data = json.loads(find(r'id="data">(.*?)</script>')[0])
    [table] = data["tables"]
    assert table["score"] == "test R2"
    drawn = {row["label"]: row["score"] for row in table["rows"]}
    for model, values in R2.items():
        wanted = [fmean(values), *_student(values)]
        assert drawn[model] == pytest.approx(wanted, rel=1e-4, abs=1e-9), model
