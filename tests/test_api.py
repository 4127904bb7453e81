"""The public functions: one list, documented, and their examples run as they are printed."""

from __future__ import annotations

import ast
import doctest
import inspect
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cnnbench
from cnnbench import api
from cnnbench.analysis import bench_jobs
from cnnbench.cli.main import VERBS
from cnnbench.errors import UsageError

FUNCTIONS = list(api.__all__)
SMALL_RUN = ("model=lenet", "data=digits", "debug=smoke", "device=cpu", "device.num_threads=1")


def test_the_package_and_the_api_have_the_same_names() -> None:
    assert set(cnnbench.__all__) == {*api.__all__, "Run", "Sweep", "__version__"}
    assert all(getattr(cnnbench, name) is getattr(api, name) for name in FUNCTIONS)
    with pytest.raises(AttributeError):
        _ = cnnbench.trian  # type: ignore[attr-defined]


def test_every_verb_but_those_that_manage_files_is_a_function() -> None:
    verbs = {verb.replace("-", "_") for verb in VERBS}
    assert verbs - {"data", "runs", "doctor", "ls", "completion"} <= set(FUNCTIONS)


def test_no_folder_bears_a_function_s_name() -> None:
    """Importing it would replace the function."""
    top = {path.stem for path in Path(cnnbench.__file__).parent.iterdir()}
    assert not top & set(FUNCTIONS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_is_documented(name: str) -> None:
    function = getattr(api, name)
    text = inspect.getdoc(function) or ""
    for part in ("Args:", "Returns:", "Raises:", "Example:"):
        assert f"\n{part}\n" in text, part
    for parameter in inspect.signature(function).parameters.values():
        assert f"\n    {parameter.name}: " in text, parameter.name
        assert parameter.annotation is not inspect.Parameter.empty


def test_every_result_is_shown_by_a_notebook() -> None:
    """Plain dicts, and lists of them, are not; `cnnbench.analysis.results` has what is."""
    for name in FUNCTIONS:
        returned = str(inspect.signature(getattr(api, name)).return_annotation)
        assert not re.match(r"(dict|list)\[(?!str)", returned), name


def test_models_are_listed_and_built_with_other_weights() -> None:
    names = cnnbench.list_models()
    assert {"lenet", "resnet18", "vgg11"} <= set(names)
    assert "custom" not in names
    assert cnnbench.list_models("no such*") == []
    weight = next(cnnbench.create_model("lenet", init="constant").parameters())
    assert torch.equal(weight, torch.ones_like(weight))
    with pytest.raises(UsageError, match="kaiming_normal"):
        cnnbench.create_model("lenet", init="kaiming")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cnnbench.train([*SMALL_RUN, f"output_root={tmp_path_factory.mktemp('runs')}"])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_example_runs(
    name: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CNNBENCH_DATA", str(tmp_path))
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save("digit.png")
    # The machine's peak takes long, and a process of its own for each job too.
    monkeypatch.setattr("cnnbench.analysis.bench.PEAK_SIDES", (64,))
    monkeypatch.setattr(bench_jobs, "_measure_apart", bench_jobs.measure_one)
    names = {"cnnbench": cnnbench, "run": run, "torch": torch}
    [example] = doctest.DocTestFinder(recurse=False).find(
        getattr(api, name), name, module=False, globs=names
    )
    assert example.examples
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    written: list[str] = []
    runner.run(example, out=written.append)
    assert not runner.failures, "".join(written)


WRONG: dict[str, Callable[[Path], object]] = {
    "--top 2.5": lambda run: cnnbench.predict(run, torch.zeros(2, 8, 8), top=2.5),
    "--top 'a'": lambda run: cnnbench.predict(run, torch.zeros(2, 8, 8), top="a"),
    "--margin 'x'": lambda run: cnnbench.compare(run, margin="x"),
    "--margin '.1'": lambda run: cnnbench.pack(run, "paper.zip", margin=".1"),
    "--seconds 'x'": lambda run: cnnbench.bench("data=digits", seconds="x"),
    "--seconds None": lambda run: cnnbench.bench_sweep(
        "data=digits seed=0,1",
        seconds=None,
    ),
    "--low 'x'": lambda run: cnnbench.find_lr("data=digits", low="x"),
    "--high None": lambda run: cnnbench.find_lr("data=digits", high=None),
    "--steps 20.5": lambda run: cnnbench.find_lr("data=digits", num_steps=20.5),
    "depth='x'": lambda run: cnnbench.summary("model=lenet", depth="x"),
    "depth=1.5": lambda run: cnnbench.summary("model=lenet", depth=1.5),
    "input_shape=(1, 2)": lambda run: cnnbench.summary(torch.nn.Flatten(), (1, 2)),
    "input_shape=5": lambda run: cnnbench.summary(torch.nn.Flatten(), 5),
    "input_shape: 'a'": lambda run: cnnbench.summary(torch.nn.Flatten(), ("a", 1, 2)),
    "lenet: image_size='x'": lambda run: cnnbench.create_model("lenet", image_size="x"),
    "lenet: image_size=28.5": lambda run: cnnbench.create_model("lenet", image_size=28.5),
}


@pytest.mark.parametrize("said", WRONG)
def test_a_number_of_another_type_is_refused_in_a_sentence(
    said: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=f"^{re.escape(said)}: expected "):
        WRONG[said](run)


@pytest.mark.parametrize("name", [None, 5])
def test_a_name_of_another_type_is_refused_in_a_sentence(name: object, run: Path) -> None:
    calls: list[Callable[[], object]] = [
        lambda: cnnbench.evaluate(run, split=name),
        lambda: cnnbench.export(run, to=name),
        lambda: cnnbench.compare(run, sort=name or 1),
        lambda: cnnbench.create_model(name),
    ]
    for call in calls:
        with pytest.raises(UsageError, match=r"unknown.*[Kk]nown: "):
            call()


def test_numbers_of_numpy_are_numbers(run: Path) -> None:
    [row] = cnnbench.predict(run, torch.zeros(1, 8, 8), top=np.int64(2))
    assert len(row["top"]) == 2
    assert cnnbench.compare(run, margin=np.float32(0.5))["tables"][0]["margin"] == 0.5


@pytest.mark.parametrize("path", sorted((Path(api.__file__).parent / "cli").glob("[a-z]*.py")))
def test_verbs_parse_call_and_print(path: Path) -> None:
    """What a verb does is below it, where Python reaches it too."""
    rooms = {
        node.module.split(".")[1]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cnnbench.")
    }
    assert not rooms & {"training", "engine", "models", "layers", "geometry", "optim", "device"}
