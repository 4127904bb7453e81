"""What a table says of its rows: tests by hand and by scipy, and what it refuses to judge."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

import cnnbench
from cnnbench.analysis.compare.formats import comparison_text
from cnnbench.analysis.compare.tables import Comparison, compare_runs
from tests.recorded_runs import write_predictions, write_run

SEEDS = {
    "lenet": [0.901, 0.905, 0.899, 0.903, 0.902, 0.900],
    "mlp": [0.881, 0.879, 0.884, 0.880, 0.886, 0.878],
    "nin": [0.900, 0.906, 0.898, 0.904, 0.899, 0.901],
}


def write(root: Path, rows: dict[str, list[float]], **more: Any) -> Path:
    for place, (model, values) in enumerate(rows.items()):
        for seed, value in enumerate(values):
            size = 1000 * (place + 1)
            write_run(root, model=model, seed=seed, test=value, num_params=size, **more)
    return root


def by_model(found: Comparison) -> dict[str, dict[str, Any]]:
    return {row.values["model"]: dict(row.verdict) for table in found.tables for row in table.rows}


def flipped_p(differences: np.ndarray[Any, Any]) -> float:
    """Enumerate all signs of one pair."""
    sizes = [
        abs(np.dot(signs, differences))
        for signs in itertools.product((-1, 1), repeat=len(differences))
    ]
    return float(np.mean(np.array(sizes) >= abs(differences.sum()) - 1e-12))


def test_six_seeds_are_judged_by_flips_of_their_signs(tmp_path: Path) -> None:
    pair = {"lenet": SEEDS["lenet"], "mlp": SEEDS["mlp"]}
    for baseline in (None, "lenet"):
        verdicts = by_model(
            compare_runs([write(tmp_path / str(baseline), pair)], baseline=baseline)
        )
        assert verdicts["lenet"]["verdict"] == ("best" if baseline is None else "baseline")
        worse = verdicts["mlp"]
        assert (worse["verdict"], worse["verdict_basis"]) == ("worse", "seeds")
        differences = np.subtract(pair["mlp"], pair["lenet"])
        assert worse["p"] == pytest.approx(flipped_p(differences)) == 2 / 64
        assert worse["verdict_difference"] == pytest.approx(differences.mean())
        low, high = worse["simultaneous_interval"]
        assert low < differences.mean() < high < 0


def test_three_seeds_are_judged_by_a_paired_t_test(tmp_path: Path) -> None:
    pair = {model: values[:3] for model, values in list(SEEDS.items())[:2]}
    verdict = by_model(compare_runs([write(tmp_path, pair)], margin=0))["mlp"]
    assert verdict["verdict_basis"] == "seeds-normal"
    assert verdict["p"] == pytest.approx(stats.ttest_rel(*pair.values()).pvalue)
    wanted = stats.ttest_rel(pair["mlp"], pair["lenet"]).confidence_interval(0.95)
    assert verdict["interval"] == pytest.approx([wanted.low, wanted.high])


@pytest.mark.parametrize("num_seeds", [2, 3, 7])
def test_intervals_of_accuracies_end_where_accuracies_do(num_seeds: int, tmp_path: Path) -> None:
    values = {"lenet": [1.0, 0.9, 1.0, 1.0, 1.0, 0.98, 1.0], "mlp": [0.0, 0.1, 0, 0, 0, 0.02, 0]}
    root = write(tmp_path / "runs", {m: v[:num_seeds] for m, v in values.items()})
    page = tmp_path / "page.html"
    rows = cnnbench.compare(root, html=page)["rows"]
    found = compare_runs([root])
    texts = [comparison_text(found, kind) for kind in ("text", "markdown", "latex")]
    shown = [end for text in texts for end in re.findall(r"[(&] (-?[\d.]+) to (-?[\d.]+)", text)]
    data = json.loads(re.findall(r'id="data">(.*?)</script>', page.read_text())[0])
    drawn = {row["number"]: row["score"] for row in data["tables"][0]["rows"]}
    for row, (place, model) in zip(rows, enumerate(values), strict=True):
        assert row["model"] == model
        of_row = values[model][:num_seeds]
        by_t = stats.ttest_1samp(of_row, 0).confidence_interval(0.95)
        assert by_t.low < 0 or by_t.high > 1 or num_seeds == 7
        assert drawn[row["row"]][1 + (place == 0)] == (0 if place else 1) or num_seeds == 7
        assert 0 <= drawn[row["row"]][1] <= drawn[row["row"]][2] <= 1
        if num_seeds == 3:
            wanted = [max(0, by_t.low), min(1, by_t.high)]
            assert row["accuracy_interval"] == pytest.approx(wanted)
            assert f"{wanted[0]:.4f} to {wanted[1]:.4f}" in texts[2]
    assert all(0 <= float(end) <= 1 for pair in shown for end in pair)
    # Differences are no fractions.
    assert num_seeds < 3 or min(r["interval"][0] for r in rows if r["interval"]) < -0.9


def correct(accuracy: float, seed: int, size: int = 400) -> np.ndarray[Any, Any]:
    flags = np.zeros(size, bool)
    flags[: round(accuracy * size)] = True
    return np.random.default_rng(seed).permutation(flags)


def single(root: Path, model: str, accuracy: float, seed: int, images: str = "ab") -> Path:
    run = write_run(root, model=model, test=accuracy)
    return write_predictions(run, correct(accuracy, seed), images)


def test_single_runs_are_judged_by_their_images(tmp_path: Path) -> None:
    single(tmp_path, "lenet", 0.9, 1)
    single(tmp_path, "mlp", 0.7, 2)
    found = compare_runs([tmp_path])
    verdict = by_model(found)["mlp"]
    assert (verdict["verdict"], verdict["verdict_basis"]) == ("worse", "images")
    a, b = correct(0.9, 1), correct(0.7, 2)
    only = int((a & ~b).sum()), int((b & ~a).sum())
    assert verdict["p"] >= stats.binomtest(only[0], sum(only)).pvalue
    [table] = found.tables
    assert table.margin == 2 / 400
    assert any("holds for these trained networks" in note for note in table.notes)
    assert "the test images of these trained networks" in table.sentences[-1]
    # Without them, nothing is said.
    for file in tmp_path.rglob("predictions.npz"):
        file.unlink()
    found = compare_runs([tmp_path])
    assert by_model(found)["mlp"]["verdict"] == "undecided"
    assert by_model(found)["mlp"]["verdict_basis"] is None
    assert any("Nothing can be tested of row 2" in note for note in found.tables[0].notes)


@pytest.mark.parametrize("kind", ["disagrees", "damaged", "other images", "missing for one seed"])
def test_predictions_that_cannot_be_used_are_named(kind: str, tmp_path: Path) -> None:
    single(tmp_path, "lenet", 0.9, 1)
    if kind == "missing for one seed":
        write_run(tmp_path, seed=1, test=0.91)
    run = single(tmp_path, "mlp", 0.7, 2, images="cd" if kind == "other images" else "ab")
    if kind == "disagrees":
        write_predictions(run, correct(0.8, 2))
    if kind == "damaged":
        (run / "predictions.npz").write_bytes(b"PK")
    found = compare_runs([tmp_path])
    [note, *_] = found.tables[0].notes
    words = {
        "disagrees": "give an accuracy of 0.8000 and its record says 0.7000; they are not used",
        "damaged": "Not used: ",
        "other images": "Not judged: row 2: other test images.",
        "missing for one seed": "Row 1: 1 of 2 runs have no predictions that can be used",
    }
    assert words[kind] in note
    verdict = by_model(found)["mlp"]
    assert verdict["verdict"] == (None if kind == "other images" else "undecided")
    assert verdict["verdict_basis"] is None
    # It is in the foot of what people read, and in JSON.
    text = " ".join(comparison_text(found, "text").split())
    assert words[kind].split("/")[0] in text
    assert json.loads(comparison_text(found, "json"))["tables"][0]["notes"][0] == note


@pytest.mark.parametrize("kind", ["other images", "as many images as others have not"])
def test_a_row_of_several_test_sets_is_not_judged(kind: str, tmp_path: Path) -> None:
    for seed in range(2):
        run = write_run(tmp_path, seed=seed, test=0.9)
        is_odd = seed == 1
        size = 300 if is_odd and kind != "other images" else 400
        write_predictions(run, correct(0.9, seed, size), "cd" if is_odd and size == 400 else "ab")
    single(tmp_path, "mlp", 0.7, 2)
    found = compare_runs([tmp_path])
    verdicts = by_model(found)
    assert (verdicts["lenet"]["verdict"], verdicts["mlp"]["verdict"]) == (None, "best")
    assert found.tables[0].notes[0] == "Not judged: row 1: other test images."
    text = " ".join(comparison_text(found, "text").split())
    assert "Not judged: row 1: other test images." in text
    assert "Most accurate: mlp, 0.7000 (1 seed). Not compared, for the reason below: lenet." in text


def test_other_numbers_of_test_images_of_one_name_are_not_judged(tmp_path: Path) -> None:
    single(tmp_path, "lenet", 0.9, 1)
    single(tmp_path, "nin", 0.9, 3)
    write_predictions(write_run(tmp_path, model="mlp", test=0.7), correct(0.7, 2, 300))
    found = compare_runs([tmp_path])
    assert by_model(found)["mlp"]["verdict"] is None
    assert found.tables[0].notes[0] == "Not judged: row 3: other test images."


def test_predictions_that_disagree_leave_a_row_of_seeds_its_recorded_numbers(
    tmp_path: Path,
) -> None:
    write(tmp_path, {"lenet": SEEDS["lenet"], "mlp": SEEDS["mlp"]})
    before = by_model(compare_runs([tmp_path]))["mlp"]
    write_predictions(next(tmp_path.rglob("mlp/run-0002")), correct(0.5, 0))
    found = compare_runs([tmp_path])
    assert by_model(found)["mlp"] == before
    [note] = found.tables[0].notes
    assert "give an accuracy of 0.5000 and its record says 0.8840; they are not used" in note


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (1, "Nothing can be tested of row 2: below 3 seeds, and no predictions on both sides"),
        (2, "Nothing can be tested of row 2: below 3 seeds, and no predictions on both sides"),
        (3, "Of row 2: a t-test, which takes runs to be normally spread"),
        (5, "with 6 equal seeds on both sides nothing of the kind is assumed"),
        (6, ""),
    ],
)
def test_the_foot_says_what_few_seeds_do(count: int, words: str, tmp_path: Path) -> None:
    write(tmp_path, {model: SEEDS[model][:count] for model in ("lenet", "mlp")})
    found = compare_runs([tmp_path])
    assert len(found.tables[0].notes) == (1 if words else 0)
    assert words in " ".join(comparison_text(found, "text").split())


def test_seeds_that_failed_are_told_beside_the_numbers_of_those_that_did_not(
    tmp_path: Path,
) -> None:
    write(tmp_path, {model: SEEDS[model][:3] for model in ("lenet", "mlp")})
    for seed, status, more in (
        (4, "failed", {}),
        (3, "failed", {}),
        (2, "failed", {}),  # and was run again
        (5, "interrupted", {}),
        (6, "failed", {"optimizer.lr": 9.0}),  # of another recipe
    ):
        write_run(tmp_path, model="mlp", seed=seed, test=0.1, status=status, settings=more)
    notes = compare_runs([tmp_path]).tables[0].notes
    [note] = [note for note in notes if "failed" in note]
    assert note == (
        "Row 2: 2 more runs failed (seed 3, seed 4), so that its numbers are of those that did not."
    )


def test_runs_of_other_classes_are_named_below_the_table_and_in_no_mean(tmp_path: Path) -> None:
    write(tmp_path, {"lenet": SEEDS["lenet"]})
    names = {"data": {"class_names": list("0123456789"), "sha256": "other"}}
    odd = write_run(tmp_path, seed=9, test=0.1, change=names)
    found = compare_runs([tmp_path])
    [row] = found.tables[0].rows
    assert row.metric("test/accuracy")["mean"] == pytest.approx(np.mean(SEEDS["lenet"]))
    text = comparison_text(found, "text")
    foot = text[text.index("Not in the table:") :]
    assert "other classes than the table's: 0, 1, 2, 3, ... (10)" in foot
    assert str(odd) in foot


@pytest.mark.parametrize(
    "odd",
    [
        {"settings": {"data.limit": 100}},
        {"change": {"data": {"sha256": "other"}}},
        {"change": {"results": {"selection": "test"}}},
    ],
)
def test_other_test_images_and_epochs_chosen_on_test_are_not_judged(
    odd: dict[str, Any], tmp_path: Path
) -> None:
    write(tmp_path, {"lenet": SEEDS["lenet"], "nin": SEEDS["nin"]})
    write(tmp_path, {"mlp": [0.99] * 6}, **odd)
    found = compare_runs([tmp_path], margin=0)
    verdicts = by_model(found)
    assert verdicts["mlp"]["verdict"] is None
    assert {verdicts["lenet"]["verdict"], verdicts["nin"]["verdict"]} == {"best", "undecided"}
    assert found.tables[0].notes[0].startswith("Not judged: row 1: ")
    assert found.tables[0].sentences[0].startswith("Most accurate: lenet, 0.9017 (")
    # As the baseline, it is the others that cannot be set beside it.
    verdicts = by_model(compare_runs([tmp_path], baseline="mlp"))
    assert (verdicts["mlp"]["verdict"], verdicts["nin"]["verdict"]) == ("baseline", None)


def test_the_margin(tmp_path: Path) -> None:
    pair = {"lenet": SEEDS["lenet"], "nin": SEEDS["nin"]}
    write(tmp_path, pair, change={"data": {"num_test": 1000}})
    found = compare_runs([tmp_path], margin=0.01)
    assert by_model(found)["nin"]["verdict"] == "equivalent"
    assert "Equivalent to it within 0.01: nin." in found.tables[0].sentences
    assert compare_runs([tmp_path]).tables[0].margin == 0.002
    assert "within a margin of 0.01 (" in " ".join(comparison_text(found, "text").split())
    found = compare_runs([tmp_path], margin=0.0001)
    assert "less than one of the 1,000 test images (0.001)" in found.tables[0].notes[0]
    # What differs by little is both, and both are said.
    write(tmp_path, {"mlp": [value - 0.003 for value in SEEDS["lenet"]]})
    sentences = compare_runs([tmp_path], margin=0.01, baseline="lenet").tables[0].sentences
    assert "Worse than the baseline: mlp." in sentences
    assert "All the same within 0.01 of the baseline: mlp." in sentences


def test_the_verdict_in_words(tmp_path: Path) -> None:
    write(tmp_path, SEEDS)
    head, *rest = compare_runs([tmp_path]).tables[0].sentences
    assert head.startswith("Most accurate: lenet, 0.9017 (0.")
    assert head.endswith(", 6 seeds).")
    assert rest[:2] == ["Not distinguishable from it: nin.", "Worse than it: mlp."]
    assert rest[2] == "Smallest of these: lenet (1,000 parameters)."
    assert "would" in rest[3]
    assert rest[-1] == "This rests on exact sign flips of paired seeds."
    head, *rest = compare_runs([tmp_path], baseline="mlp").tables[0].sentences
    assert head.startswith("Baseline: mlp, 0.8813")
    assert rest[0].startswith("Largest mean: lenet, 0.9017")
    assert rest[1] == "Better than the baseline: lenet, nin."
    # What JSON has is what the tables say.
    assert cnnbench.compare(tmp_path)["tables"][0]["conclusion"][1] == (
        "Not distinguishable from it: nin."
    )


def test_rows_that_cost_the_same_are_named_together(tmp_path: Path) -> None:
    write(tmp_path, {"lenet": SEEDS["lenet"]})
    write(tmp_path, {"nin": SEEDS["nin"]})
    for seed, value in enumerate(SEEDS["nin"]):
        write_run(tmp_path, model="alexnet", seed=seed, test=value, num_params=2000)
    sentences = compare_runs([tmp_path], margin=0.01).tables[0].sentences
    assert "Smallest of these: lenet, nin (1,000 parameters)." in sentences


def test_rows_of_one_model_are_named_by_what_sets_them_apart(tmp_path: Path) -> None:
    write(tmp_path, {"lenet": SEEDS["lenet"]})
    write(tmp_path, {"lenet": SEEDS["mlp"], "nin": SEEDS["nin"]}, settings={"optimizer.lr": 0.5})
    sentences = compare_runs([tmp_path]).tables[0].sentences
    assert sentences[0].startswith("Most accurate: lenet optimizer.lr=0.001, ")
    assert "Worse than it: lenet optimizer.lr=0.5." in sentences


def test_settings_that_only_follow_from_the_choice_of_network_have_no_column(
    tmp_path: Path,
) -> None:
    for model in ("lenet", "vgg16", "nin"):
        write_run(tmp_path, model=model)
    first = compare_runs([tmp_path])
    records = [row.records[0].settings for row in first.tables[0].rows]
    assert len({settings["optimizer.lr"] for settings in records}) > 1
    assert len({settings["model.init"] for settings in records}) > 1
    assert first.tables[0].settings == []
    # One that someone set is shown, and so is one beside a network that nobody ships.
    write_run(tmp_path, model="mlp", settings={"optimizer.lr": 0.25})
    assert compare_runs([tmp_path]).tables[0].settings == ["optimizer.lr"]


def test_one_row_is_named_and_not_compared(tmp_path: Path) -> None:
    write(tmp_path, {"lenet": SEEDS["lenet"]})
    [table] = compare_runs([tmp_path]).tables
    assert len(table.sentences) == 1
    assert table.sentences[0].startswith("lenet, 0.9017 (0.")


def test_the_self_test_counts_false_calls_of_one_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cnnbench.analysis.statistics import self_test as module
    from cnnbench.cli import main as cli

    monkeypatch.setattr(
        module.self_test,
        "__kwdefaults__",
        {**(module.self_test.__kwdefaults__ or {}), "tables": 40},
    )
    draw = np.random.default_rng(0)
    for seed in range(12):
        accuracy = round(0.9 + 0.01 * draw.normal(), 2)
        write_predictions(write_run(tmp_path, seed=seed, test=accuracy), correct(accuracy, seed))
    argv = ["compare", str(tmp_path), "--self-test"]
    assert cli.run([*argv, "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {(row["basis"], row["num_rows"], row["num_seeds"]) for row in rows} == {
        *(("seeds", size, 6) for size in (2, 6, 12)),
        *(("seeds-normal", size, seeds) for size in (2, 6, 12) for seeds in (3, 5)),
        *(("images", 2, seeds) for seeds in (1, 2)),
    }
    assert all(row["rate"] == row["false"] / 40 <= row["upper"] for row in rows)
    assert all(row["rate"] < 0.2 for row in rows if row["basis"] == "seeds")
    assert cli.run(argv) == 0
    assert "should be .05 at most" in capsys.readouterr().out
    write_run(tmp_path, model="mlp")
    assert cli.run(argv) == 2
    assert "--self-test: 2 rows of runs; expected at least 12" in capsys.readouterr().err
    assert cli.run([*argv, "--where", "model=mlp"]) == 2
    assert "1 runs of one recipe" in capsys.readouterr().err
