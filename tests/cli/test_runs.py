"""``cnnbench runs``: what is listed, thinned and removed, and what never is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import cnnbench
from cnnbench.cli import main as cli
from cnnbench.runs.checkpoint import Checkpoints
from cnnbench.runs.directory import RunDir
from tests.recorded_runs import write_run
from tests.tiny import train, weights

Capture = pytest.CaptureFixture[str]


def call(capsys: Capture, *argv: str) -> tuple[int, str, str]:
    capsys.readouterr()  # what came before
    code = cli.run(["runs", *argv])
    return code, *capsys.readouterr()


def answer(monkeypatch: pytest.MonkeyPatch, text: str | None) -> None:
    def reply(prompt: str) -> str:
        if text is None:
            raise EOFError
        return text

    monkeypatch.setattr("builtins.input", reply)


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.name != ".lock"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """One run of each kind."""
    root = tmp_path / "outputs"
    write_run(root, model="lenet")
    write_run(root, model="mlp", status="failed")
    write_run(root, model="nin", status="running")
    write_run(root, model="alexnet", status="interrupted")
    write_run(root, model="softmax", status="failed", change={"format": 99})
    return root


def run_of(root: Path, model: str) -> Path:
    return root / "fashion_mnist" / model / "run-0000"


def test_rm_of_a_root_takes_failed_and_dead_runs_alone(
    root: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, "y")
    code, out, err = call(capsys, "rm", str(root))
    assert (code, err) == (0, "")
    assert "2 whole runs" in out
    assert "freed 2 of 2" in out
    left = {path.parent.parent.name for path in root.rglob("run.json")}
    assert left == {"lenet", "alexnet", "softmax"}
    assert not run_of(root, "mlp").exists()
    assert call(capsys, "rm", str(root)) == (0, "nothing to free\n", "")


@pytest.mark.parametrize("action", ["rm", "prune"])
def test_nothing_goes_without_a_yes(
    root: Path, action: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(root, "num_epochs=4")
    before = files(root)
    answer(monkeypatch, "")
    code, out, _ = call(capsys, action, str(root))
    assert (code, out.splitlines()[-1]) == (0, "nothing was removed")
    code, out, _ = call(capsys, action, str(root), "--dry-run")
    assert code == 0
    assert "MB in all" in out.splitlines()[-1]
    answer(monkeypatch, None)
    code, _, err = call(capsys, action, str(root))
    assert code == 2
    assert "nobody answered; --yes answers" in err
    assert files(root) == before


def test_rm_of_a_named_run_takes_it_whatever_its_status(root: Path, capsys: Capture) -> None:
    code, out, _ = call(capsys, "rm", str(run_of(root, "lenet")), "--yes")
    assert code == 0
    assert str(run_of(root, "lenet")) in out
    assert not run_of(root, "lenet").exists()
    assert len(list(root.rglob("run.json"))) == 4


def test_rm_takes_the_empty_directories_of_a_run_and_no_other(
    tmp_path: Path, capsys: Capture
) -> None:
    root = tmp_path / "outputs"
    lost = write_run(root, model="lenet", status="failed")
    kept = write_run(root, model="mlp")
    (root / "fashion_mnist" / "lenet" / "notes.txt").write_text("mine")
    assert call(capsys, "rm", str(root), "--yes")[0] == 0
    assert (root / "fashion_mnist" / "lenet" / "notes.txt").exists()
    (root / "fashion_mnist" / "lenet" / "notes.txt").unlink()
    lost = write_run(root, model="lenet", status="failed")
    assert call(capsys, "rm", str(root), "--yes")[0] == 0
    assert not lost.parent.exists()
    assert kept.exists()
    # The last one takes the directory of the data with it, never the root.
    assert call(capsys, "rm", str(kept), "--yes")[0] == 0
    assert list(root.iterdir()) == []
    # Directories of other names were not made for the run.
    moved = tmp_path / "mine" / "best" / "run"
    moved.parent.mkdir(parents=True)
    write_run(root).rename(moved)
    assert call(capsys, "rm", str(moved), "--yes")[0] == 0
    assert (moved.exists(), moved.parent.exists()) == (False, True)
    # Of a run right below its network's directory alone, the root would be the data's.
    flat = root / "lenet" / "run"
    flat.parent.mkdir(exist_ok=True)
    write_run(root).rename(flat)
    assert call(capsys, "rm", str(flat), "--yes")[0] == 0
    assert flat.parent.exists()


def test_what_is_no_run_is_left_alone(root: Path, capsys: Capture) -> None:
    before = files(root)
    code, _, err = call(capsys, "rm", str(run_of(root, "softmax")), "--yes")
    assert (code, "not a run this version can read" in err) == (65, True)
    (root / "plain").mkdir()
    (root / "plain" / "notes.txt").write_text("mine")
    for action in ("rm", "prune"):
        code, _, err = call(capsys, action, str(root / "plain"), "--yes")
        assert (code, "not a run" in err) == (2, True)
        code, _, err = call(capsys, action, str(root / "nowhere"), "--yes")
        assert (code, "there is no such directory" in err) == (2, True)
    assert files(root) == {*before, "plain", "plain/notes.txt"}
    # A stray run.json above other runs would take them with it.
    (root / "run.json").write_text((run_of(root, "mlp") / "run.json").read_text())
    code, _, err = call(capsys, "rm", str(root), "--yes")
    assert (code, "another run is in it" in err) == (2, True)
    assert call(capsys, "rm", str(root.parent), "--yes")[1] == "nothing to free\n"
    assert files(root) == {*before, "plain", "plain/notes.txt", "run.json"}


@pytest.mark.parametrize("action", ["rm", "prune"])
def test_a_held_run_is_left_alone(root: Path, action: str, capsys: Capture) -> None:
    path = train(root, "num_epochs=4")
    info = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps({**info, "status": "failed"}))
    with RunDir(path).lock():
        before = files(path)
        came = call(capsys, action, str(path), "--yes")
        held = f"cnnbench: {path}: another process is writing to this run\n"
        assert came == ((2, "", held) if action == "rm" else (0, "nothing to free\n", ""))
        code, out, _ = call(capsys, action, str(path.parent), "--yes")
        assert (code, out) == (0, "nothing to free\n")
        assert files(path) == before


def test_a_run_that_is_taken_after_the_question_is_left_alone(
    root: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    locks = []

    def reply(prompt: str) -> str:
        lock = RunDir(run_of(root, "mlp")).lock()
        lock.__enter__()
        locks.append(lock)
        return "yes"

    monkeypatch.setattr("builtins.input", reply)
    code, out, err = call(capsys, "rm", str(root))
    locks[0].__exit__(None, None, None)
    assert code == 0
    assert out.endswith("freed 1 of 2\n")
    assert "left alone" in err
    assert (run_of(root, "mlp") / "run.json").exists()


def test_a_run_that_changed_after_the_question_is_left_alone(
    root: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = run_of(root, "mlp") / "run.json"

    def reply(prompt: str) -> str:
        file.write_text(json.dumps({**json.loads(file.read_text()), "status": "done"}))
        return "yes"

    monkeypatch.setattr("builtins.input", reply)
    code, out, err = call(capsys, "rm", str(root))
    assert (code, "freed 1 of 2" in out) == (0, True)
    assert "was changed meanwhile" in err
    assert file.exists()


def test_links_are_not_followed(root: Path, tmp_path: Path, capsys: Capture) -> None:
    outside = tmp_path / "outside"
    theirs = write_run(outside, status="failed")
    (outside / "image.png").write_text("mine")
    (root / "linked").symlink_to(outside)
    run = run_of(root, "mlp")
    (run / "link").symlink_to(outside)
    (run / "file").symlink_to(outside / "image.png")
    code, out, _ = call(capsys, "rm", str(root), "--yes")
    assert (code, str(outside) in out) == (0, False)
    assert not run.exists()
    assert (theirs / "run.json").exists()
    assert (outside / "image.png").read_text() == "mine"
    for path in (root / "linked", root / "linked" / "fashion_mnist" / "lenet"):
        code, _, err = call(capsys, "rm", str(path), "--dry-run")
        if path.is_symlink():
            assert (code, "is a link" in err) == (2, True)
    # Checkpoints that lie elsewhere are not thinned.
    path = train(root, "num_epochs=4")
    (path / "checkpoints").rename(tmp_path / "elsewhere")
    (path / "checkpoints").symlink_to(tmp_path / "elsewhere")
    before = files(tmp_path / "elsewhere")
    assert call(capsys, "prune", str(path), "--yes")[:2] == (0, "nothing to free\n")
    assert files(tmp_path / "elsewhere") == before


def test_prune_keeps_best_and_last_and_the_run_still_works(tmp_path: Path, capsys: Capture) -> None:
    # By the last epoch alone best is last; by validation here it is an earlier one.
    settings = ("num_epochs=5", "optimizer.lr=0.3", "optimizer=sgd", "scheduler=constant")
    path = train(tmp_path / "o", *settings)
    checkpoints = Checkpoints(path / "checkpoints")
    before = checkpoints.manifest()
    best, last = weights(path, "best"), weights(path, "last")
    metrics = cnnbench.evaluate(path)
    plan = checkpoints.thin(dry_run=True)
    size = sum(file.stat().st_size for file in plan)
    code, out, _ = call(capsys, "prune", str(tmp_path / "o"), "--yes")
    assert code == 0
    assert f"1 runs' older checkpoints, {size / 1e6:.1f} MB in all" in out
    after = checkpoints.manifest()
    assert (after["best"], after["last"]) == (before["best"], before["last"])
    names = {f"{after['best']}.pt", f"{after['last']}.pt", f"{after['last']}.state.pt"}
    assert {file.name for file in (path / "checkpoints").glob("*.pt")} == names
    assert plan
    assert not any(file.exists() for file in plan)
    for name, wanted in (("best", best), ("last", last)):
        came = weights(path, name)
        assert all(bool((came[key] == wanted[key]).all()) for key in wanted)
    again = cnnbench.evaluate(path)
    assert again["confusion_matrix"] == metrics["confusion_matrix"]
    assert call(capsys, "prune", str(path), "--yes")[1] == "nothing to free\n"
    longer = cnnbench.train([f"resume={path}", "extend_epochs=1"])
    assert Checkpoints(longer / "checkpoints").manifest()["last"] == "epoch_0006"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["list", "a", "b"], "unexpected 'b'"),
        (["list", "--yes"], "--yes and --dry-run go with prune and rm"),
        (["rm", "--yes", "--dry-run"], "one of them"),
        (["rm", "--format", "json"], "asks, in text alone"),
        (["prnue"], "did you mean 'prune'"),
    ],
)
def test_wrong_use(argv: list[str], words: str, capsys: Capture) -> None:
    code, out, err = call(capsys, *argv)
    assert (code, out) == (2, "")
    assert words in err


def test_without_a_path_it_is_outputs(
    root: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root.parent)
    assert "2 whole runs" in call(capsys, "rm", "--dry-run")[1]
    monkeypatch.chdir(root)
    assert call(capsys, "rm", "--dry-run") == (0, "nothing to free\n", "")
