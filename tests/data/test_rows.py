"""Tables: what is read, what is refused with line and column, and runs on them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.metrics import mean_absolute_error, r2_score
from tiny import info, same, weights

import cnnbench
from cnnbench.config.command import single_config
from cnnbench.config.compose import Composer
from cnnbench.data.readers.rows import read_csv, read_values
from cnnbench.data.readers.tables import TABLES
from cnnbench.errors import CnnbenchError, DataError, UsageError
from cnnbench.training.data import read_splits

GOOD = "age,bmi,ill\n" + "".join(f"{i},{i * 0.5},{i % 2}\n" for i in range(1, 21))
QUICK = ("num_epochs=2", "device=cpu", "device.num_threads=1")


def write(folder: Path, text: str, name: str = "table.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "args", "columns", "classes"),
    [
        (GOOD, {}, ("age", "bmi"), ("0", "1")),
        (GOOD, {"target": 3}, ("age", "bmi"), ("0", "1")),
        ("\ufeff" + GOOD.replace(",", ";"), {}, ("age", "bmi"), ("0", "1")),
        (GOOD.replace(",", "\t") + "\n\n", {"target": "ill"}, ("age", "bmi"), ("0", "1")),
        ("no,1\nyes,2\nno,3\n", {"target": 1}, ("column 2",), ("no", "yes")),
        ("1,2,10\n3,4,9\n1,1,10.0\n", {}, ("column 1", "column 2"), ("9", "10")),
        ("2019,2020\n1,0\n2,1\n", {"header": True}, ("2019",), ("0", "1")),
        # Numbers that name columns, as pandas writes a frame without names.
        ("0,1,label\n5,2,0\n3,1,1\n", {}, ("0", "1"), ("0", "1")),
        ("0,1,kind\n5,2,cat\n3,1,dog\n", {}, ("0", "1"), ("cat", "dog")),
        ("5,2,cat\n3,1,dog\n4,1,cat\n", {}, ("column 1", "column 2"), ("cat", "dog")),
        ("0,1,cat\n3,1,dog\n4,1,cat\n", {}, ("column 1", "column 2"), ("cat", "dog")),
        # Whole numbers are classes to the last digit, and codes with leading zeros are words.
        (
            "a,day\n1,20260101\n2,20260102\n3,20260101.0\n",
            {},
            ("a",),
            ("20260101", "20260102"),
        ),
        ("a,b\n1,90071992547409931\n2,90071992547409932\n", {}, ("a",), None),
        ("a,b\n1,007\n2,7\n3,08\n", {}, ("a",), ("007", "08", "7")),
        ("a,b\n1,1e6\n2,1000000\n3,-2\n", {}, ("a",), ("-2", "1000000")),
    ],
)
def test_a_table_is_read(
    text: str,
    args: dict[str, object],
    columns: tuple[str, ...],
    classes: tuple[str, ...] | None,
    tmp_path: Path,
) -> None:
    arrays = read_csv(write(tmp_path, text), args)
    assert arrays.columns == columns
    assert arrays.class_names == (classes or ("90071992547409931", "90071992547409932"))


def test_columns_of_test_rows_are_found_by_their_names(tmp_path: Path) -> None:
    train = write(tmp_path, "a,b,y\n1,10,no\n2,20,yes\n9,30,no\n")
    for text, note in (
        ("b,a,y\n40,4,yes\n", None),
        ("y,b,a\nyes,40,4\n", None),
        ("id,b,a,y\n8,40,4,yes\n", "test.csv: passed over, as .* has none: id"),
        ("4,40,yes\n", "order counts"),
    ):
        test = write(tmp_path, text, "test.csv")
        arrays = read_csv(train, {"test_root": str(test)})
        assert np.concatenate(list(arrays.test.chunks())).ravel().tolist() == [4, 40], text
        assert arrays.test.targets.tolist() == [1]
        assert bool(arrays.notes) == bool(note)
        if note:
            assert re.search(note, arrays.notes[0])
    for text, message in (
        ("c,a,y\n40,4,yes\n", "no column is named 'b', as in"),
        ("a,b,z\n4,40,yes\n", "data.target=y: no column"),
        ("4,yes\n", "has 1 columns of numbers, expected those of .*: 2"),
    ):
        with pytest.raises(DataError, match=message):
            read_csv(train, {"test_root": str(write(tmp_path, text, "test.csv"))})


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("0,1,2\n5,6,0\n7,9,1\n", r"line 1, 0,1,2, is a row; .*data\.header=true"),
        (",a,y\n0,6,0\n1,9,0\n2,2,1\n", "column '' counts the rows"),
        ("id,a,y\n7,6,0\n8,9,0\n9,2,1\n", "column 'id' counts the rows"),
    ],
)
def test_what_may_be_meant_otherwise_is_told(text: str, note: str, tmp_path: Path) -> None:
    assert re.search(note, read_csv(write(tmp_path, text), {}).notes[0])


@pytest.mark.parametrize(
    ("columns", "text", "expected"),
    [
        (("0", "2", "1"), "2,1,0\n7,8,9\n", [9, 7, 8]),
        (("a", "b"), "b,x,a\n7,8,9\n", [9, 7]),
        (("a", "b"), "7,8\n", [7, 8]),
        (("column 1", "column 3"), "7,cat,9\n", [7, 9]),
        (("column 2", "column 3"), "cat,7,9\n", [7, 9]),
        (("column 2", "column 3"), "7,9\n", [7, 9]),
        (("column 1", "column 2"), "a,b,label\n7,9,cat\n", [7, 9]),
    ],
)
def test_rows_to_predict_are_found_by_the_names_of_training(
    columns: tuple[str, ...], text: str, expected: list[float], tmp_path: Path
) -> None:
    _, values = read_values(write(tmp_path, text), columns)
    assert values.tolist() == [expected]


@pytest.mark.parametrize(
    ("text", "args", "message"),
    [
        ("a,b\n1,0\nx,1\n", {}, r"line 3, column 'a': 'x', expected a number"),
        ("a,b\n1,0\n,1\n", {}, r"line 3, column 'a': '' is a missing value"),
        ("a,b\n1,0\nNA,1\n", {}, r"line 3, column 'a': 'NA' is a missing value"),
        ("a,b\n1,0\ninf,1\n", {}, r"line 3, column 'a': 'inf', expected a finite"),
        ("a;b\n1,5;0\n2;1\n", {}, r"line 2, column 'a': '1,5'.*decimals have a point"),
        ("a,b\n1,0\n2\n", {}, r"line 3: has 1 cells, expected 2"),
        ("a,b\n1,0\n2,\n", {}, r"line 3, column 'b': '' is a missing target"),
        ("a,b\n1,0\n2,0\n", {}, r"column 'b' has one class, 0"),
        ("?,1,0\n1,2,1\n", {}, r"line 1, column 'column 1': '\?' is a missing value"),
        ("a,b\n1,1\n2,inf\n", {}, r"line 3, column 'b': a number that is no class"),
        ("a,b\n1,0\n2,1.5\n", {}, r"line 3, column 'b': a number that is no class.*loss=mse"),
        ("a,b\n1,x\n2,y\n", {"is_number": True}, r"line 2, column 'b': 'x', expected a number"),
        ("a,a\n1,0\n2,1\n", {}, r"line 1: two columns are named 'a'"),
        ("a,b\n", {}, r"no row of numbers"),
        ("a\n1\n2\n", {}, r"has one column"),
        ("", {}, r"is empty"),
        (GOOD, {"target": "sick"}, r"data\.target=sick: no column.*age, bmi, ill"),
        (GOOD, {"target": 9}, r"data\.target=9: .*columns 1 to 3"),
    ],
)
def test_what_is_no_table_is_refused_with_its_place(
    text: str, args: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        read_csv(write(tmp_path, text), args)


def test_other_files_are_refused(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "absent.csv", "there is no such file"), (tmp_path, "directory")):
        with pytest.raises(DataError, match=why):
            read_csv(path, {})
    (tmp_path / "bytes.csv").write_bytes(b"a,b\n\xff\xfe,1\n")
    with pytest.raises(DataError, match="no text in UTF-8"):
        read_csv(tmp_path / "bytes.csv", {})


def test_scikit_learns_tables_are_its_own() -> None:
    for name, expected in (
        ("breast_cancer", load_breast_cancer()),
        ("diabetes", load_diabetes(scaled=False)),
    ):
        rows, _ = TABLES[name]()
        np.testing.assert_array_equal(rows.values, expected.data)
        if name == "breast_cancer":
            assert rows.targets == tuple(expected.target_names[expected.target])
        else:
            assert [float(target) for target in rows.targets] == expected.target.tolist()


def test_two_classes_of_an_own_table(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    run = cnnbench.train(
        [
            "experiment=sigmoid_mlp",
            "data=csv",
            f"data.root={path}",
            f"output_root={tmp_path}/o",
            *QUICK,
        ]
    )
    facts = info(run)
    # 2 columns: 2*6+6, 6*4+4, 4+1.
    assert facts["model"]["num_params"] == 18 + 28 + 5
    state = torch.load(run / "checkpoints" / "epoch_0002.pt", weights_only=True)  # noqa: TID251
    train = facts["data"]["num_train"]
    assert train + facts["data"]["num_val"] + facts["data"]["num_test"] == 20
    assert state["preprocessing"]["columns"] == ["age", "bmi"]
    result = cnnbench.evaluate(run)
    assert result["accuracy"] == facts["results"]["test/accuracy"]
    new = write(tmp_path, "ill,bmi,age\n0,2.5,5\n,3,6\n", "new.csv")
    rows = cnnbench.predict(run, new)
    assert [row["line"] for row in rows] == [2, 3]
    module = cnnbench.load(run)
    mean, std = (np.array(state["preprocessing"][k]) for k in ("mean", "std"))
    inputs = torch.tensor((np.array([[5, 2.5], [6, 3]]) - mean) / std).float()
    logits = module(inputs[..., None, None])
    for row, logit in zip(rows, logits.detach()[:, 0], strict=True):
        likely = float(torch.sigmoid(logit))
        assert row["probability"] == pytest.approx(max(likely, 1 - likely), abs=1e-6)
        assert row["class"] == str(int(likely > 0.5))
    assert (
        cnnbench.predict(run, torch.tensor([[5.0, 2.5]]).double())[0]["class"] == rows[0]["class"]
    )
    for message, call in (
        ("rows of 2 numbers", lambda: cnnbench.features([run], ["x.png"])),
        ("rows of 2 numbers", lambda: cnnbench.evaluate(run, robustness=True)),
        (
            "no column is named 'bmi'",
            lambda: cnnbench.predict(run, write(tmp_path, "a,age\n1,2\n")),
        ),
    ):
        with pytest.raises(CnnbenchError, match=message):
            call()


def test_a_number_of_a_table(tmp_path: Path) -> None:
    settings = ["model=linear", "data=diabetes", "loss=mse", f"output_root={tmp_path}", *QUICK]
    run = cnnbench.train(settings)
    facts = info(run)
    assert facts["results"]["selection"] == "val/loss"
    assert "test/accuracy" not in facts["results"]
    result = cnnbench.evaluate(run)
    for name in ("r2", "mae", "loss"):
        assert result[name] == pytest.approx(facts["results"][f"test/{name}"])
    from cnnbench.data.readers.tables import read_table

    test = read_table("diabetes", True).test
    values = torch.from_numpy(test.images[:, :, 0, 0])
    found = [row["progression"] for row in cnnbench.predict(run, values)]
    assert result["r2"] == pytest.approx(r2_score(test.targets, found), abs=1e-5)
    assert result["mae"] == pytest.approx(mean_absolute_error(test.targets, found), rel=1e-5)
    [row] = cnnbench.compare(run)["rows"]
    assert row["test/r2"]["mean"] == pytest.approx(result["r2"])
    with pytest.raises(UsageError, match="predicts a number"):
        cnnbench.evaluate(run, plots=True)


def test_a_run_on_a_table_is_resumed_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tiny import stop_when

    from cnnbench.errors import Interrupted

    settings = ["model=mlp", "model.hidden=[4]", "data=diabetes", "loss=mse", *QUICK]
    whole = cnnbench.train([*settings, f"output_root={tmp_path}/whole"])
    with monkeypatch.context() as patch:
        stop_when(patch, lambda training: training.state.global_step >= 27)
        with pytest.raises(Interrupted) as stopped:
            cnnbench.train([*settings, f"output_root={tmp_path}/parts"])
    [run] = [file.parent for file in (tmp_path / "parts").rglob("run.json")]
    assert str(run) in str(stopped.value)
    cnnbench.train([f"resume={run}"])
    assert same(weights(whole), weights(run))
    ours, theirs = (
        {k: v for k, v in info(path)["results"].items() if k != "train_seconds"}
        for path in (whole, run)
    )
    assert ours == theirs


def test_constants_are_those_of_the_training_rows_alone() -> None:
    from cnnbench.config.command import single_config
    from cnnbench.config.compose import Composer
    from cnnbench.training.data import read_arrays, read_splits

    composer = Composer()
    settings = ["data=diabetes", "model=linear", "loss=mse", "data.val_fraction=0.4"]
    config = single_config(composer, composer.parse(settings))
    splits = read_splits(config, print)
    rows, targets = splits.parts["train"][torch.arange(splits.num_train)]
    np.testing.assert_allclose(splits.mean, rows[:, :, 0, 0].double().mean(0), rtol=1e-12)
    inputs, _ = splits.prepare(rows, targets)
    torch.testing.assert_close(inputs.mean(0), torch.zeros(10, 1, 1), atol=1e-5, rtol=0)
    assert abs(float(targets.mean())) < 1e-5
    assert float(targets.std(correction=0)) == pytest.approx(1, abs=1e-5)
    assert len(read_arrays(config, print).train) == splits.num_train + splits.num_val


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model=lenet"], "model=lenet: looks at images.*linear, mlp|softmax"),
        (["augment=crop_flip"], "rows of numbers, which are not moved"),
        (["data.image_size=28"], "rows of numbers have no sides"),
        (["loss=mse", "selection=val/accuracy"], "which have no accuracy"),
        (["data=diabetes", "loss=bce"], "has 214; .*, or loss=mse where its target is a number"),
    ],
)
def test_what_rows_are_not_for_is_refused(settings: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        cnnbench.train(["data=breast_cancer", "model=mlp", *settings])


def test_a_price_is_no_class(tmp_path: Path) -> None:
    text = "a,price\n" + "".join(f"{n * n},{1000 + 7 * n}\n" for n in range(90))
    settings = ["data=csv", f"data.root={write(tmp_path, text)}", "model=mlp"]
    with pytest.raises(UsageError, match="or loss=mse where the target is a number"):
        cnnbench.train([*settings, f"output_root={tmp_path}/o"])


def test_classes_that_may_be_numbers_are_told() -> None:
    composer = Composer()
    config = single_config(composer, composer.parse(["data=diabetes", "model=mlp"]))
    told = list(read_splits(config, print).notes)
    assert "214 classes of 1 to 4 training rows" in told
    assert "if the target is a number, loss=mse predicts it" in told
