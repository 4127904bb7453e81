"""Tables over runs: what is folded, shown, marked and left out, and what the numbers are."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

import cnnbench
from cnnbench.analysis.compare.plots import interval, pareto_front, plot_comparison
from cnnbench.analysis.compare.tables import Comparison, compare_runs
from cnnbench.analysis.compare.where import parse_where
from cnnbench.errors import UsageError
from tests.recorded_runs import write_run
from tests.tiny import train

TEST = {"lenet": [0.80, 0.82, 0.87], "mlp": [0.78, 0.83, 0.81]}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two networks, three seeds each."""
    for model, values in TEST.items():
        for seed, value in enumerate(values):
            write_run(tmp_path / "o", model=model, seed=seed, test=value, val=value + 0.01)
    return tmp_path / "o"


def rows_of(found: Comparison) -> list[Any]:
    return [row for table in found.tables for row in table.rows]


def test_seeds_fold_into_mean_and_sample_deviation(root: Path) -> None:
    found = compare_runs([root])
    assert found.left_out == []
    rows = rows_of(found)
    assert [row.values["model"] for row in rows] == ["lenet", "mlp"]
    for row in rows:
        wanted = TEST[row.values["model"]]
        assert [record.seed for record in row.records] == [0, 1, 2]
        assert row.metric("test/accuracy")["mean"] == pytest.approx(np.mean(wanted))
        assert row.metric("test/accuracy")["std"] == pytest.approx(np.std(wanted, ddof=1))
        assert row.metric("epoch_seconds") == {"mean": 3.0, "std": 1.0}
        assert row.not_comparable == []
    # One seed has no spread, and says so.
    single = rows_of(compare_runs([rows[0].records[0].path]))[0]
    assert single.metric("test/accuracy") == {"mean": 0.80, "std": None}


def test_only_settings_that_differ_get_columns(root: Path) -> None:
    # That only lenet has an activation and only mlp has hidden layers distinguishes nothing.
    assert compare_runs([root]).tables[0].settings == []
    write_run(root, settings={"model.activation": "tanh"})
    assert compare_runs([root]).tables[0].settings == ["model.activation"]
    write_run(root, model="mlp", settings={"optimizer.lr": 0.5})
    write_run(root, model="mlp", settings={"output_root": "elsewhere", "data.root": "x"}, seed=9)
    found = compare_runs([root])
    assert found.tables[0].settings == ["model.activation", "optimizer.lr"]
    assert len(rows_of(found)) == 4


def test_test_images_that_were_read_later_make_no_other_row(root: Path) -> None:
    """Of a run with evaluate_test=false, once it has been evaluated."""
    later = write_run(root, seed=3, test=0.84, settings={"evaluate_test": False})
    found = compare_runs([root])
    assert found.tables[0].settings == []
    lenet, mlp = rows_of(found)
    assert [record.seed for record in lenet.records] == [0, 1, 2, 3]
    assert lenet.metric("test/accuracy")["mean"] == pytest.approx(np.mean([*TEST["lenet"], 0.84]))
    # Unread, it stands apart: a mean over a part of a row would say nothing.
    record = json.loads((later / "run.json").read_text())
    kept = {k: v for k, v in record["results"].items() if not k.startswith("test/")}
    (later / "run.json").write_text(json.dumps({**record, "results": kept}))
    found = compare_runs([root])
    assert [len(row.records) for row in rows_of(found)] == [3, 3, 1]
    assert found.tables[0].settings == ["evaluate_test"]
    assert mlp.values["evaluate_test"] is True


def test_another_machine_is_another_row(root: Path) -> None:
    process = {
        "started": "2026-01-01T00:00:00+0000",
        "effective": {"device_name": "a gpu", "precision": "fp32"},
    }
    write_run(root, seed=3, change={"provenance": {"processes": [process]}})
    found = compare_runs([root])
    assert [len(row.records) for row in rows_of(found)] == [1, 3, 3]
    assert found.tables[0].settings == ["device", "device.num_threads"]


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"settings": {"data.split_seed": 7}}, "data.split_seed 7, not 0"),
        ({"settings": {"data.val_fraction": 0.2}}, "data.val_fraction 0.2, not 0.1"),
        ({"settings": {"data.limit": 100}}, "data.limit 100, not null"),
        ({"settings": {"num_epochs": 2}}, "num_epochs 2, not "),
        ({"precision": "bf16"}, "device.precision bf16, not fp32"),
        ({"change": {"data": {"sha256": "feedfeedfeedfeed"}}}, "other data: SHA-256 feedfeedfeed"),
        ({"change": {"results": {"selection": "test"}}}, "epoch selected on test"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_comparable_says_why(root: Path, more: dict[str, Any], reason: str) -> None:
    odd = write_run(root, seed=5, **more)
    rows = rows_of(compare_runs([root]))
    marked = [row for row in rows if row.not_comparable]
    assert [[record.path for record in row.records] for row in marked] == [[odd]]
    assert len(marked[0].not_comparable) == 1
    assert marked[0].not_comparable[0].startswith(reason)
    # Against that run as the baseline, it is the others that differ; test selection stays marked.
    rows = rows_of(compare_runs([root], baseline=str(odd)))
    selected = "selected on test" in reason
    assert [bool(row.not_comparable) for row in rows if row.records[0].path == odd] == [selected]
    assert sum(bool(row.not_comparable) for row in rows) == (1 if selected else 2)


def test_code_versions_are_marked_and_not_split(root: Path) -> None:
    def version(text: str) -> dict[str, Any]:
        effective = {"device_name": "a cpu", "precision": "fp32", "num_threads": 2}
        process = {"started": "2026-01-01T00:00:00+0000", "effective": effective}
        return {"provenance": {"code_version": text, "processes": [process]}}

    new = write_run(root, seed=7, change=version("0.2.0+\x1babc"))
    write_run(root, model="nin", seed=0, change=version("0.3.0"))
    nin, lenet, mlp = rows_of(compare_runs([root]))
    assert len(lenet.records) == 4
    assert lenet.not_comparable == ["code version 0.2.0+\\u001babc, not unknown (1 of 4 runs)"]
    assert mlp.not_comparable == []
    assert nin.not_comparable == ["code version 0.3.0, not unknown (1 of 1 run)"]
    # Against a baseline, it is the version that most of its runs have.
    nin, _, mlp = rows_of(compare_runs([root], baseline="nin"))
    assert mlp.not_comparable == ["code version unknown, not 0.3.0 (3 of 3 runs)"]
    assert nin.not_comparable == []
    assert rows_of(compare_runs([new]))[0].not_comparable == []


def _processes(*changes: dict[str, Any]) -> dict[str, Any]:
    """Return the provenance of a run that was resumed, by what each process had otherwise."""
    effective = {"device_name": "a cpu", "precision": "fp32", "num_threads": 2}
    common = {"started": "2026-01-01T00:00:00+0000", "code_version": "1", "machine": {"torch": "2"}}
    processes = [{**common, **change} for change in changes]
    for process in processes:
        process["effective"] = {**effective, **process.get("effective", {})}
    return {"provenance": {"processes": processes}}


@pytest.mark.parametrize(
    ("first", "words"),
    [
        ({"code_version": "0"}, "code 0, then 1"),
        ({"machine": {"torch": "1.9"}}, "torch 1.9, then 2"),
        ({"effective": {"num_threads": 1}}, "device.num_threads 1, then 2"),
        ({"effective": {"precision": "bf16"}}, "device.precision bf16, then fp32"),
        ({"model_files": {"weights": "a" * 64}}, ""),
        ({"machine": {}}, ""),
        ({"started": "2025-01-01T00:00:00+0000"}, ""),
    ],
)
def test_a_run_resumed_with_something_else_is_marked(
    root: Path, first: dict[str, Any], words: str
) -> None:
    write_run(root, seed=7, change=_processes(first, {}))
    [row, *others] = rows_of(compare_runs([root]))
    assert len(row.records) == 4
    wanted = [f"resumed with other {words} (1 of 4 runs)"] if words else []
    assert [text for text in row.not_comparable if not text.startswith("code version")] == wanted
    assert all(not other.not_comparable for other in others)


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("2026-10-25T02:30:00+0200", "2026-10-25T02:10:00+0100"),  # the hour that comes twice
        ("2026-03-01T23:00:00+0900", "2026-03-01T15:00:00+0000"),
        ("2026-03-01T09:00:00-0800", "2026-03-01T17:00:00.001+00:00"),
    ],
)
def test_of_two_runs_of_a_seed_the_later_one_counts_wherever_its_clock_was(
    tmp_path: Path, older: str, newer: str
) -> None:
    effective = {"device_name": "a cpu", "precision": "fp32", "num_threads": 2}

    def started(text: str) -> dict[str, Any]:
        return {"provenance": {"processes": [{"started": text, "in_force": effective}]}}

    late = write_run(tmp_path, change=started(newer))
    early = write_run(tmp_path, change=started(older))
    found = compare_runs([tmp_path])
    assert [record.path for record in rows_of(found)[0].records] == [late]
    assert [run.path for run in found.left_out] == [early]


def test_numbers_that_would_overflow_a_variance_are_none(root: Path) -> None:
    for seed in (7, 8):
        write_run(root, seed=seed, change={"results": {"test/loss": 1e308}})
    row = rows_of(compare_runs([root]))[0]
    assert len(row.records) == 5
    assert row.metric_values("test/loss") == pytest.approx([0.2, 0.18, 0.13])


def test_what_cannot_be_averaged_is_left_out_with_the_reason(root: Path) -> None:
    before = compare_runs([root])
    wanted = {
        write_run(root, seed=7, test=0.0, status="failed", change={"reason": "killed\nhere"}): (
            "failed",
            "killed",
        ),
        write_run(root, seed=7, test=0.0, status="interrupted"): ("interrupted", "is interrupted"),
        write_run(root, seed=7, test=0.0, status="running"): ("dead", "no process holds it"),
        write_run(root, seed=7, test=0.0, change={"format": 99}): ("foreign", "format is 99"),
        write_run(root, seed=7, test=0.0, change={"provenance": {"processes": []}}): (
            "foreign",
            "processes is empty",
        ),
        write_run(root, seed=7, change={"results": {"test/accuracy": "good"}}): (
            "foreign",
            "lack test/accuracy",
        ),
        write_run(root, seed=7, change={"results": {"test/accuracy": float("nan")}}): (
            "foreign",
            "not finite",
        ),
        write_run(root, change={"data": {"class_names": list("0123456789"), "sha256": "x"}}): (
            "done",
            "other classes than the table's: 0, 1",
        ),
    }
    older = rows_of(before)[0].records[0].path
    write_run(root, seed=0, test=0.80, val=0.81, change={"provenance": _later()})
    wanted[older] = ("done", "seed 0 was run again")
    found = compare_runs([root])
    came = {run.path: run for run in found.left_out}
    assert came.keys() == wanted.keys()
    for path, (status, reason) in wanted.items():
        assert came[path].status == status
        assert reason in came[path].reason
        assert "\n" not in came[path].reason
    means = [row.metric("test/accuracy") for row in rows_of(found)]
    assert means == [row.metric("test/accuracy") for row in rows_of(before)]


def test_the_reason_of_a_stopped_run_does_not_lead_to_a_command_that_is_not_there(
    root: Path,
) -> None:
    reason = "interrupted after epoch 1, step 5; the state is saved. Resume with:\ncnnbench train x"
    write_run(root, seed=7, status="interrupted", change={"reason": reason})
    [left] = compare_runs([root]).left_out
    assert left.reason == "interrupted after epoch 1, step 5; the state is saved."


def _later() -> dict[str, Any]:
    effective = {"device_name": "a cpu", "precision": "fp32", "num_threads": 2}
    return {"processes": [{"started": "2027-01-01T00:00:00+0000", "in_force": effective}]}


@pytest.mark.parametrize(
    "change",
    [
        {"config": {"num_epochs": [1, {}]}},
        {"config": {"data": {"name": "fashion_mnist", "limit": {"a": "\x1b[31m"}}}},
        {"config": {"model": {"name": ["lenet"]}}},
        {"config": {"num_epochs": json.loads("[" * 700 + "]" * 700)}},
        {"model": {"name": "mlp", "args": {"hidden": json.loads("[" * 700 + "]" * 700)}}},
        {"test_confusion": [["1"] * 10] * 10, "command": [{"a": "\x1b"}]},
        {"config": {"model": "lenet"}},
        {"model": "lenet"},
        {"model": {"num_params": "many", "macs": 10**30}},
        {"seed": "x"},
        {"data": {"class_names": [["a"], 1]}},
        {"results": {"best_epoch": 10**400}},
        {"provenance": {"processes": [{"in_force": []}], "model_files": 3}},
    ],
    ids=lambda change: str(change)[:50],
)
def test_a_strangers_run_breaks_nothing(root: Path, change: dict[str, Any]) -> None:
    write_run(root, seed=7, change=change)
    from cnnbench.analysis.compare.formats import FORMATS, comparison_text
    from cnnbench.analysis.compare.report import render_report

    for group in (None, "num_epochs"):
        found = compare_runs([root], group=group)
        for output_format in FORMATS:
            assert "\x1b" not in comparison_text(found, output_format)
        assert "\x1b" not in render_report(found)
    num_runs = sum(len(row.records) for row in rows_of(found)) + len(found.left_out)
    assert num_runs == 7


def test_old_runs_without_class_names_are_of_their_data(root: Path) -> None:
    write_run(root, seed=4, change={"data": {"class_names": None}})
    assert len(rows_of(compare_runs([root]))[0].records) == 4


def test_a_torn_or_foreign_line_of_metrics_is_passed_over(root: Path) -> None:
    run = rows_of(compare_runs([root]))[0].records[0].path
    with (run / "metrics.jsonl").open("a") as file:
        file.write('["train/loss"]\n{"train/loss": 1}\n{"epoch": 1e999, "train/loss": 1}\n')
        file.write('{"epoch": 9, "train/loss": NaN, "perf/epoch')
    assert rows_of(compare_runs([run]))[0].metric("epoch_seconds")["mean"] == 2.0
    (run / "metrics.jsonl").unlink()
    row = rows_of(compare_runs([run]))[0]
    assert row.metric("epoch_seconds") == {"mean": None, "std": None}


def test_baseline_differences_are_paired_by_seed(root: Path) -> None:
    write_run(root, seed=8, test=0.9)  # a seed that mlp does not have
    for baseline in ("1", "lenet", str(root / "fashion_mnist/lenet/run-0001")):
        found = compare_runs([root], baseline=baseline)
        base, other = rows_of(found)
        assert found.baseline is base
        assert base.differences == {}
        came = other.differences["test/accuracy"]
        differences = np.subtract(TEST["mlp"], TEST["lenet"])
        assert came["n"] == 3
        assert came["mean"] == pytest.approx(differences.mean())
        assert came["std"] == pytest.approx(differences.std(ddof=1))
        t = differences.mean() / (differences.std(ddof=1) / 3**0.5)
        assert came["p"] == pytest.approx(2 * stats.t.sf(abs(t), 2))
    # The same difference for every seed, one common seed, or none: no test, and no warning.
    for seed in (0, 1, 2):
        write_run(root, model="nin", seed=seed, test=TEST["lenet"][seed] + 0.01)
    write_run(root, model="vgg11", seed=0, test=0.9)
    write_run(root, model="alexnet", seed=77, test=0.9)
    rows = rows_of(compare_runs([root], baseline="lenet"))
    came = {row.values["model"]: row.differences.get("test/accuracy") for row in rows}
    assert came["nin"]["p"] is None
    assert came["nin"]["mean"] == pytest.approx(0.01)
    assert (came["vgg11"]["n"], came["vgg11"]["std"], came["vgg11"]["p"]) == (1, None, None)
    assert came["alexnet"] == {"mean": None, "std": None, "n": 0, "p": None}


def test_a_baseline_is_a_number_a_run_or_a_name_of_one(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = root / "fashion_mnist/mlp/run-0000"
    (tmp_path / "link").symlink_to(run)
    (tmp_path / "outputs").symlink_to(root)
    (tmp_path / "mlp").mkdir()  # a directory of a model's name is not in the way
    record = json.loads((run / "run.json").read_text())
    for process in record["provenance"]["processes"]:
        process["started"] = "2027-01-01T00:00:00+0000"
    (run / "run.json").write_text(json.dumps(record))
    monkeypatch.chdir(tmp_path)
    given = (2, run, cnnbench.Run(run), Path("link"), "link", "latest", "mlp/run-0000", "mlp")
    for baseline in given:
        found = compare_runs([root], baseline=baseline)
        assert found.baseline is not None, baseline
        assert found.baseline.values["model"] == "mlp", baseline
    assert cnnbench.compare(root, baseline=2)["baseline"] == 2
    with pytest.raises(UsageError, match="expected a run in the table"):
        compare_runs([root], baseline=tmp_path)


def test_a_link_to_a_run_is_that_run(root: Path, tmp_path: Path) -> None:
    run = root / "fashion_mnist/lenet/run-0000"
    (tmp_path / "link").symlink_to(run)
    (tmp_path / "all").symlink_to(root)
    for first, second in ((run, tmp_path / "link"), (tmp_path / "link", run)):
        found = compare_runs([first, second])
        assert (found.left_out, len(found.tables[0].rows)) == ([], 1)
        assert [record.path for record in found.tables[0].rows[0].records] == [first]
    assert compare_runs([root, tmp_path / "all"]).left_out == []


@pytest.mark.parametrize(
    ("baseline", "words"),
    [
        ("9", "there are 2 rows"),
        ("lenett", "did you mean 'lenet'"),
        ("nowhere/run", "expected the number of a row"),
    ],
)
def test_a_wrong_baseline(root: Path, baseline: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        compare_runs([root], baseline=baseline)
    write_run(root, settings={"model.activation": "tanh"})
    with pytest.raises(UsageError, match="several rows have this model; give one of 1, 2"):
        compare_runs([root], baseline="lenet")


def test_sort_and_group(root: Path) -> None:
    write_run(root, data="digits", test=0.99)
    write_run(root, data="digits", model="mlp", test=0.5)

    def shown(**flags: Any) -> list[tuple[str, str]]:
        return [
            (row.values["data"], row.values["model"])
            for row in rows_of(compare_runs([root], **flags))
        ]

    # Several data sets make a table each, the most accurate row first.
    wanted = [(data, model) for data in ("digits", "fashion_mnist") for model in ("lenet", "mlp")]
    assert shown() == wanted
    assert shown(sort="test/accuracy")[0][1] == "mlp"
    assert shown(sort="test/accuracy", descending=True)[0][1] == "lenet"
    assert shown(sort="model", descending=True)[0][1] == "mlp"
    found = compare_runs([root], group="data", sort="test/accuracy")
    assert [table.title for table in found.tables] == ["data = digits", "data = fashion_mnist"]
    assert found.left_out == []
    assert [row.number for row in rows_of(found)] == [1, 2, 3, 4]
    assert [row.values["model"] for row in rows_of(found)] == ["mlp", "lenet", "mlp", "lenet"]
    for flag in ("sort", "group"):
        with pytest.raises(UsageError, match="unknown column; did you mean 'test/accuracy'"):
            shown(**{flag: "test/acuracy"})


ROW = {
    "model": "lenet",
    "data": "fashion_mnist",
    "num_params": 61706,
    "test/accuracy": 0.9,
    "optimizer.betas": [0.9, 0.999],
    "data.limit": None,
    "data.shuffle": True,
    "model.width_multiplier": 0.0625,
    "note": "two words",
    "and": 1,
}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("data=fashion_mnist and num_params<1e6", True),
        ("data == fashion_mnist and num_params > 1e6", False),
        ("data=mnist or model=lenet", True),
        ("data=mnist or model=lenet and num_params<1", False),
        ("(data=mnist or model=lenet) and not num_params<1", True),
        ("not not model=lenet", True),
        ("model!=lenet", False),
        ("num_params>=61706 and num_params<=61706", True),
        ("test/accuracy=.9", True),
        ("data.limit=null and data.shuffle=true", True),
        ("data.limit!=null", False),
        ("data.limit<5", False),
        ("data.limit=5", False),
        ("data.limit!=5", True),
        ("absent=null", True),
        ("model.width_multiplier=1/16", True),
        ("optimizer.betas=[0.9,0.999]", True),
        ("note='two words'", True),
        ('note!="two words"', False),
        ("model='and'", False),
    ],
)
def test_where(text: str, wanted: bool) -> None:
    assert parse_where(text, [*ROW, "absent"])(ROW) is wanted


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nun_params<3", "unknown column 'nun_params'; did you mean 'num_params'?"),
        ("model", "expected one of = == != < <= > >= after 'model', came to the end"),
        ("model lenet", "after 'model', came to 'lenet'"),
        ("model=", "expected a value after 'model='"),
        ("model= and data=x", "expected a value after 'model=', came to 'and'"),
        ("", "expected a column, came to the end"),
        ("and=1", "expected a column, came to 'and'"),
        ("(model=lenet", "expected '\\)'"),
        ("model=lenet)", "expected 'and', 'or' or the end, came to '\\)'"),
        ("model=lenet data=x", "came to 'data'"),
        ("model='lenet", "cannot be read from ''lenet'"),
        ("model<3", "model<3 has no order: model is lenet"),
        ("num_params<many", "num_params<many has no order"),
        ("not " * 100 + "model=lenet", "more than 50"),
        ("__import__('os')=1", "unknown column '__import__'"),
    ],
)
def test_a_wrong_condition(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_where(text, ROW)(ROW)


def test_a_thousand_runs_in_seconds(tmp_path: Path) -> None:
    """Three seconds is what is wanted; the bound leaves room for a busy machine."""
    run = write_run(tmp_path / "o", steps=100)
    files = {name: (run / name).read_text() for name in ("run.json", "metrics.jsonl")}
    for number in range(999):
        info = json.loads(files["run.json"])
        info["config"]["seed"] = info["seed"] = number % 10 + 1
        info["config"]["optimizer"]["lr"] = 0.001 * (number // 10 + 1)
        copy = tmp_path / "o" / f"run{number}"
        copy.mkdir()
        (copy / "run.json").write_text(json.dumps(info))
        (copy / "metrics.jsonl").write_text(files["metrics.jsonl"])
    started = time.process_time()
    found = compare_runs([tmp_path / "o"], where="optimizer.lr<1", sort="test/accuracy")
    assert time.process_time() - started < 6
    assert sum(len(row.records) for row in rows_of(found)) == 1000


def brute_front(points: dict[int, tuple[float, float]]) -> set[int]:
    def beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
        return a[0] <= b[0] and a[1] >= b[1] and a != b

    return {
        key
        for key, point in points.items()
        if not any(beats(other, point) for other in points.values())
    }


def test_pareto_front_is_what_nothing_beats() -> None:
    draw = np.random.default_rng(0)
    for _ in range(200):
        values = draw.integers(0, 6, size=(8, 2))
        points = {key: (float(x), float(y)) for key, (x, y) in enumerate(values)}
        assert set(pareto_front(points)) == brute_front(points)


def test_interval_is_students(root: Path) -> None:
    row = rows_of(compare_runs([root]))[0]
    low, high = stats.t.interval(0.95, 2, np.mean(TEST["lenet"]), stats.sem(TEST["lenet"]))
    assert interval(row, "test/accuracy") == pytest.approx((low, high))


def test_plots_are_whole_and_the_same_each_time(root: Path, tmp_path: Path) -> None:
    from PIL import Image

    write_run(root, settings={"selection": "test", "num_epochs": 1}, seed=1)
    # A network without parameters has no place on an axis of parameters.
    write_run(root, model="nin", change={"model": {"num_params": 0}})
    stems = {
        "learning_curves",
        "accuracy_dots",
        "accuracy_over_work",
        "accuracy_num_params",
        "accuracy_macs",
        "accuracy_train_seconds",
    }
    files = plot_comparison(compare_runs([root]), tmp_path / "a" / "b")
    assert {file.name for file in files} == {
        f"{s}.{kind}" for s in stems for kind in ("png", "svg")
    }
    for file in files:
        if file.suffix == ".png":
            image = np.asarray(Image.open(file).convert("L"))
            assert image.min() < 60
            assert 0.001 < (image < 200).mean() < 0.6
        else:
            assert b"<dc:date>" not in file.read_bytes()
    again = plot_comparison(compare_runs([root]), tmp_path / "c")
    for one, two in zip(files, again, strict=True):
        assert one.read_bytes() == two.read_bytes(), one.name


def test_no_plot_shows_an_accuracy_that_nobody_measured(tmp_path: Path) -> None:
    unread = train(tmp_path / "runs", "num_epochs=1", "evaluate_test=false")
    files = plot_comparison(compare_runs([unread]), tmp_path / "p")
    assert {file.stem for file in files} == {"learning_curves", "accuracy_over_work"}
    train(tmp_path / "runs", "num_epochs=1", "seed=3", "optimizer.lr=0.02")
    plot_comparison(compare_runs([tmp_path / "runs"]), tmp_path / "q")
    drawn = (tmp_path / "q" / "accuracy_dots.svg").read_text()
    assert "optimizer.lr=0.02" in drawn
    assert "2 basic_cnn" not in drawn


def test_plots_speak_of_intervals_where_a_row_has_one(root: Path, tmp_path: Path) -> None:
    for model in ("lenet", "mlp"):
        write_run(tmp_path / "single", model=model, test=0.9)
    for runs, is_shown in ((root, True), (tmp_path / "single", False)):
        plot_comparison(compare_runs([runs]), tmp_path / "p")
        for name in ("accuracy_dots", "accuracy_macs"):
            drawn = (tmp_path / "p" / f"{name}.svg").read_text()
            assert ("95 %" in drawn) is is_shown, name
        drawn = (tmp_path / "p" / "learning_curves.svg").read_text()
        assert ("standard deviation" in drawn) is is_shown


def test_plots_of_groups_have_their_own_directories(root: Path, tmp_path: Path) -> None:
    found = compare_runs([root], group="model")
    files = plot_comparison(found, tmp_path / "p")
    names = {file.parent.name for file in files}
    assert names == {"01_model_=_lenet", "02_model_=_mlp"}
    assert len(files) == 24
