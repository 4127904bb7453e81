"""Run directories: made once, described by one file, written by one process."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from recorded_runs import write_run
from tiny import info, started, tiny, train

from cnnbench.errors import CheckpointError, DiskError, UsageError
from cnnbench.runs.directory import RunDir, find_runs, open_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("run"), "num_epochs=1")


@pytest.fixture
def made(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path / "a" / "b")


def test_a_directory_is_made_once(made: RunDir) -> None:
    assert made.checkpoints.is_dir()
    with pytest.raises(UsageError, match="exists"):
        RunDir.create(made.path)


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    with pytest.raises(UsageError, match="in its way"):
        RunDir.create(tmp_path / "a" / "b")


def test_a_new_runs_name_has_its_time(run: Path) -> None:
    assert re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{6}", run.name)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_epochs": "many"}, "num_epochs"),
        ({"num_epoch": 3}, "num_epoch"),
        ({"seed": -1}, "seed"),
        ({"model": {"name": "lenet", "_target_": "os.system"}}, "_target_"),
        ({"output_root": "${oc.env:HOME}", "seed": "${now:}"}, "seed"),
    ],
)
def test_a_foreign_config_is_checked_and_never_resolved(
    change: dict[str, Any], words: str, run: Path, made: RunDir
) -> None:
    tree = info(run)
    tree["config"] |= change
    made.record_file.write_text(json.dumps(tree))
    with pytest.raises(CheckpointError, match="not a config of ours") as caught:
        _ = made.config
    assert words in str(caught.value)


def test_the_recorded_config_is_the_runs(run: Path) -> None:
    config = open_run(run).config
    assert (config.num_epochs, config.data.batch_size) == (1, 16)
    assert config.model.name == "basic_cnn"


def test_no_run_and_what_is_near(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no such directory") as caught:
        open_run(tmp_path / "none")
    assert caught.value.exit_code == 2
    with pytest.raises(UsageError, match=r"holds no run\.json") as caught:
        open_run(run.parent)
    assert f"a run below it is {run}" in str(caught.value)


def test_runs_are_found_in_order_and_links_are_not_followed(tmp_path: Path) -> None:
    for name in ("b/x", "a/y", "a/x"):
        RunDir.create(tmp_path / name).record_file.touch()
    RunDir.create(tmp_path / "a" / "x" / "inside").record_file.touch()
    (tmp_path / "c").symlink_to(tmp_path / "a")
    found = [str(found.path.relative_to(tmp_path)) for found in find_runs(tmp_path)]
    assert found == ["a/x", "a/y", "b/x"]


def test_one_writer_at_a_time(made: RunDir) -> None:
    assert not made.is_held()
    with made.lock():
        assert made.is_held()
        with pytest.raises(UsageError, match="another process is writing"), made.lock():
            pass
    assert not made.is_held()
    with made.lock():
        pass


def test_a_lock_clears_what_a_dead_writer_left_and_nothing_of_the_users(made: RunDir) -> None:
    ours = ("run.json.tmp-123", "config.yaml.tmp-9", "metrics.jsonl.tmp-1", "predictions.npz.tmp-7")
    ours_below = ("manifest.json.tmp-7", "epoch_0001.state.pt.tmp-123", "step_00000012.pt.tmp-5")
    mine = ("notes.tmp-idea.txt", "x.tmp-123", "run.json.tmp-old", "run.json.tmp-12.bak")
    for name in (*ours, *mine):
        (made.path / name).write_text("half")
    for name in (*ours_below, *mine, "my_best_model.pt", "my_epoch_0001.pt.tmp-1"):
        (made.checkpoints / name).write_text("half")
    with made.lock():
        left = {path.name for path in made.path.iterdir()}
        below = {path.name for path in made.checkpoints.iterdir()}
    assert left == {*mine, "checkpoints", ".lock"}
    assert below == {*mine, "my_best_model.pt", "my_epoch_0001.pt.tmp-1"}


def test_the_lock_of_a_process_that_died_is_free(made: RunDir, tmp_path: Path) -> None:
    preamble = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from cnnbench.runs.directory import RunDir\n"
        f"with RunDir(Path({str(made.path)!r})).lock():\n"
        "    print('held', flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = started(cwd=tmp_path, preamble=preamble)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    assert made.is_held()
    process.kill()
    process.communicate()
    assert not made.is_held()


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *args: Any, **keywords: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(DiskError, match="permission denied") as caught:
        RunDir.create(tmp_path / "a")
    assert caught.value.exit_code == 74


def test_a_file_as_output_root_is_refused_plainly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from cnnbench.cli.main import run as cli

    (tmp_path / "file").write_text("x")
    assert cli(["train", *tiny(tmp_path / "file")]) == 2
    assert "a file in its way" in capsys.readouterr().err


def test_config_yaml_is_plain_yaml(run: Path) -> None:
    import yaml

    assert yaml.safe_load((run / "config.yaml").read_text()) == json.loads(
        json.dumps(info(run)["config"])
    )


def test_keys_that_came_later_are_as_the_run_was_without_them(tmp_path: Path) -> None:
    run = train(
        tmp_path,
        *("model=vgg19", "model.norm=none", "model.width_multiplier=1/32"),
        *("data.image_size=32", "num_epochs=1"),
    )
    earlier = info(run)
    del earlier["config"]["model"]["norm"], earlier["config"]["device"]["compile"]
    (run / "run.json").write_text(json.dumps(earlier))
    config = open_run(run).config
    assert config.model.args["norm"] == "none"
    assert not config.device.compile


def test_latest_and_a_piece_of_a_path_stand_for_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="latest: not a run: no run is below outputs;"):
        open_run("latest")
    root = tmp_path / "outputs"
    old, new, other = (
        write_run(root, model=model, seed=seed)
        for model, seed in [("lenet", 1), ("mlp", 30), ("lenet", 2)]
    )
    foreign = root / "x" / "y" / "z"
    foreign.mkdir(parents=True)
    (foreign / "run.json").write_text("{}")
    # The latest began last, whatever its path.
    assert open_run("latest").path == new
    assert [
        open_run(name).path for name in ("mlp", "ts/fashion_mnist/mlp/r", "lenet/run-0001")
    ] == [
        new,
        new,
        other,
    ]
    with pytest.raises(
        UsageError, match="lenet: is a piece of the paths of 2 runs, such as"
    ) as told:
        open_run("lenet")
    assert str(old.relative_to(tmp_path)) in str(told.value)
    with pytest.raises(UsageError, match="vgg: not a run: there is no such directory"):
        open_run("vgg")
    # What is there is taken as it is.
    (tmp_path / "mlp").mkdir()
    with pytest.raises(UsageError, match="mlp: not a run: holds no"):
        open_run("mlp")
